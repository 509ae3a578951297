"""A reading in words."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from linmap.interpret.linearscope import LinearScope, bias_share_in_words, class_names, output_in_words


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        ({"config": SimpleNamespace(id2label={0: "cat", "1": "dog"})}, {0: "cat", 1: "dog"}),
        ({"config": SimpleNamespace(id2label={0: "LABEL_0", 1: "LABEL_1"})}, {}),
        ({"pretrained_cfg": {"label_names": ["cat", "dog"]}}, {0: "cat", 1: "dog"}),
        ({"classes": ("cat", "dog")}, {0: "cat", 1: "dog"}),
        ({"class_names": ["cat", "dog", "bird"]}, {}),
        ({}, {}),
    ],
)
def test_classes_are_named_where_the_model_names_them(attributes: dict, expected: dict[int, str]):
    model = nn.Linear(3, 2)
    for name, value in attributes.items():
        setattr(model, name, value)
    assert class_names(model, 2) == expected


def test_shares_are_said_in_words():
    assert "31% as long as the output" in bias_share_in_words(0.31)
    assert "1.97 times as long as the output" in bias_share_in_words(1.97)
    net = nn.Linear(2, 2)
    with torch.no_grad():
        net.weight.copy_(torch.tensor([[1.0, 0.0], [0.0, -1.0]]))
        net.bias.copy_(torch.tensor([3.0, 3.0]))
    interp = LinearScope(net.eval()).at(torch.tensor([[1.0, 1.0]]))
    assert output_in_words(interp, 0, "cat") == (
        "output 0 (cat) is 4: 3 of it comes from the biases whatever the input (75%), 1 from the input's elements (25%)"
    )
    assert output_in_words(interp, 1) == (
        "output 1 is 2: the biases alone give 3 whatever the input, and the input's elements move it by -1"
    )
