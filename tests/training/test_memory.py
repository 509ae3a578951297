"""What a forward pass keeps for its backward pass."""

import torch
from torch import nn

from linmap.training.memory import KeptForBackward


def test_what_is_kept_for_backward_is_counted_once_and_without_the_weights() -> None:
    first, second = nn.Linear(5, 3, bias=False), nn.Linear(5, 3, bias=False)
    model = nn.ModuleList([first, second])
    x = torch.randn(7, 5)
    with KeptForBackward(model) as kept:
        (first(x) + second(x)).sum()
    assert kept.total == x.nbytes  # x, for both weights; the weights themselves are the model's
    with KeptForBackward(model) as kept, torch.no_grad():
        (first(x) + second(x)).sum()
    assert kept.total == 0
