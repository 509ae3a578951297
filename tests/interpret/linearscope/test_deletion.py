"""The deletion test on a classifier whose deciding pixels are known."""

import torch
from torch import nn

from linmap.interpret.linearscope import LinearScope, class_probabilities, gradient_of_top, probability_left


def corner() -> nn.Module:
    """Class 1 by the sum of the upper left quarter of a 4 x 4 image, class 0 by nothing."""
    layer = nn.Linear(16, 2)
    with torch.no_grad():
        layer.weight.zero_()
        layer.bias.zero_()
        layer.weight[1].view(4, 4)[:2, :2] = 1
    return nn.Sequential(nn.Flatten(), layer).eval()


def test_votes_name_the_pixels_that_decide() -> None:
    model, x = corner(), torch.ones(1, 1, 4, 4)
    p = class_probabilities(model, x)
    torch.testing.assert_close(p, torch.tensor([0.0, 4.0]).softmax(0))
    votes = LinearScope(model).at(x).votes(1).sum(0)
    assert probability_left(model, x, votes, 1, share=0.25) == 0.5
    assert probability_left(model, x, -votes, 1, share=0.25) == float(p[1])
    target, gradient = gradient_of_top(model, x)
    assert target == 1
    torch.testing.assert_close(gradient[0], votes)
    assert not x.requires_grad


def test_an_output_of_probabilities_is_taken_as_it_is() -> None:
    model, x = nn.Sequential(corner(), nn.Softmax(-1)), torch.ones(1, 1, 4, 4)
    torch.testing.assert_close(class_probabilities(model, x), class_probabilities(corner(), x))
