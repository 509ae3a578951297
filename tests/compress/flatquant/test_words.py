"""Words of memory that tell of changes, and tensors that move into large pages."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from linmap.compress.flatquant import large_pages, words
from linmap.compress.flatquant.words import Words


class Other(nn.Linear):
    pass


def exchanged(layer: nn.Linear) -> None:
    layer.weight = nn.Parameter(torch.zeros(3, 2))


def other_data(layer: nn.Linear) -> None:
    layer.weight.data = torch.zeros(3, 2)


def other_memory(layer: nn.Linear) -> None:
    layer.weight.untyped_storage().resize_(4096)


def other_place(layer: nn.Linear) -> None:
    layer.weight.data = layer.weight.data.as_strided((3, 2), (2, 1), 6)


def other_strides(layer: nn.Linear) -> None:
    layer.weight.data = layer.weight.data[:1].expand(3, 2)


def other_type(layer: nn.Linear) -> None:
    layer.weight.data = layer.weight.data.view(torch.int32).view(torch.float32).neg().contiguous()


def swapped(layer: nn.Linear) -> None:
    torch.utils.swap_tensors(layer.weight, nn.Parameter(torch.zeros(3, 2)))


def other_table(layer: nn.Linear) -> None:
    layer._forward_hooks = OrderedDict()  # pyright: ignore[reportIncompatibleVariableOverride]


def other_attributes(layer: nn.Linear) -> None:
    layer.__dict__ = dict(layer.__dict__)


def other_class(layer: nn.Linear) -> None:
    layer.__class__ = Other


def evaluated(layer: nn.Linear) -> None:
    layer.eval()


def heard(layer: nn.Linear) -> None:
    layer.register_forward_hook(lambda module, args, y: y)


def own_forward(layer: nn.Linear) -> None:
    layer.forward = lambda x: x  # type: ignore[method-assign]


def taken_away(layer: nn.Linear) -> None:
    del layer.bias


CHANGES = [
    exchanged, other_data, other_memory, other_place, other_strides, other_type, swapped, other_table, other_attributes,
    other_class, evaluated, heard, own_forward, taken_away,
]  # fmt: skip


def of(layer: nn.Linear) -> Words:
    tables = [vars(layer), layer._parameters, layer._buffers, layer._forward_hooks]
    return Words([layer], tables, [layer.weight, layer.bias])


@pytest.mark.skipif(words.places() is None, reason="this Python's dictionaries have no version")
@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_a_change_is_told(change: Callable[[nn.Linear], None]) -> None:
    layer = nn.Linear(2, 3)
    layer.weight.data = torch.ones(2, 3, 2)[0]
    kept = layer.weight, layer.bias  # whoever has words holds the objects
    told = of(layer)
    layer(torch.ones(2))
    layer.weight.sum().backward()
    assert all(told.hold() for _ in range(3))
    change(layer)
    assert not told.hold()
    del kept


def test_nothing_is_told_where_words_stand_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(words, "places", lambda: None)
    assert not of(nn.Linear(2, 3)).hold()


def test_tensors_in_large_pages_are_what_they_were(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(large_pages, "PAGE", 2**12)
    torch.manual_seed(0)
    first, second = nn.BatchNorm1d(700), nn.BatchNorm1d(300)
    second.running_mean = first.running_mean  # one tensor of two modules stays one
    for part in (first.running_mean, first.running_var, second.running_var):
        assert isinstance(part, Tensor)
        part.normal_()
    before = {name: (value, value.clone()) for name, value in nn.ModuleList([first, second]).named_buffers()}
    large_pages.use_large_pages([first, second])
    assert first.running_mean is second.running_mean
    for name, value in nn.ModuleList([first, second]).named_buffers():
        assert value is before[name][0]
        assert torch.equal(value, before[name][1])
        assert value.data_ptr() % large_pages.LINE == 0
    spans = sorted((t.data_ptr(), t.data_ptr() + t.nbytes) for t in {id(t): t for t, _ in before.values()}.values())
    assert all(end <= start for (_, end), (start, _) in pairwise(spans))
