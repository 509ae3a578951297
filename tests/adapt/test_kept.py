"""W' is kept in evaluation, and never served when something that it was made from has changed."""

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from linmap.adapt import BoneConv2d, BoneLinear, SaltConv2d, SaltLinear
from linmap.adapt.kept import checksum, content_of
from linmap.adapt.layer import AdapterLayer
from linmap.adapt.salt.basis import basis_of

LAYERS: dict[str, Callable[[], AdapterLayer]] = {
    "bat": lambda: BoneLinear(nn.Linear(8, 12), r=4, mode="bat"),
    "salt all": lambda: SaltLinear(nn.Linear(8, 12), ratio=0.3, r=2),
    "salt diag": lambda: SaltLinear(nn.Linear(8, 12), ratio=0.3, r=2, relu="diag"),
    "add, convolution": lambda: BoneConv2d(nn.Conv2d(4, 8, 3, padding=1), r=3, mode="add"),
    "salt, convolution": lambda: SaltConv2d(nn.Conv2d(4, 8, 3, padding=1), ratio=0.3, r=2),
}
every_layer = pytest.mark.parametrize("kind", LAYERS)


def made(kind: str, dtype: torch.dtype = torch.float64) -> AdapterLayer:
    torch.manual_seed(0)
    layer = LAYERS[kind]().to(dtype).eval()
    for parameter in layer.adapters.parameters():
        parameter.data.add_(0.2 * torch.randn_like(parameter))
    return layer


def inputs(kind: str) -> torch.Tensor:
    return torch.randn(*((2, 4, 5, 5) if "conv" in kind else (5, 8)), dtype=torch.float64)


def through_data(tensor: torch.Tensor, change: str) -> None:
    if change == "one entry":
        tensor.data.view(-1)[-1:] += 0.5
    elif change == "signs":
        tensor.data.neg_()
    elif change == "places":
        tensor.data.copy_(tensor.data.flip(tuple(range(tensor.ndim))))
    else:
        tensor.data.mul_(0.9).add_(0.1)


def other_values(layer: AdapterLayer) -> dict[str, torch.Tensor]:
    state = layer.state_dict()
    return {name: tensor + 0.3 if tensor.is_floating_point() else tensor for name, tensor in state.items()}


def assign(layer: AdapterLayer) -> None:
    layer.load_state_dict(other_values(layer), assign=True)


def replace(layer: AdapterLayer) -> None:
    layer.base_layer.weight = nn.Parameter(layer.base_layer.weight.detach() * 1.5, requires_grad=False)


def step_fused(layer: AdapterLayer) -> None:
    parameters = list(layer.adapters.parameters())
    optimizer = torch.optim.SGD(parameters, lr=0.1, fused=True)
    for parameter in parameters:
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()


def load(layer: AdapterLayer) -> None:
    layer.load_state_dict(other_values(layer))


WRITES: dict[str, Callable[[AdapterLayer], None]] = {
    "load_state_dict": load,
    "assign=True": assign,
    "a new parameter": replace,
    "a fused optimiser": step_fused,
}


def check_answers_as_a_copy_does(layer: AdapterLayer, x: torch.Tensor, before: torch.Tensor) -> None:
    """A copy keeps nothing, so that its answer is made from what is there now."""
    with torch.no_grad():
        after = layer(x)
        torch.testing.assert_close(after, copy.deepcopy(layer)(x), rtol=1e-9, atol=1e-9)
    assert (after - before).abs().max() > 1e-6


@every_layer
@pytest.mark.parametrize("change", ["one entry", "signs", "places", "all entries"])
def test_a_write_through_data_to_any_tensor_is_seen(kind, change):
    layer, x = made(kind), inputs(kind)
    for tensor in [layer.base_layer.weight, *layer.adapters.parameters()]:
        if change == "signs" and tensor is layer.base_layer.weight and "salt" in kind:
            continue
        with torch.no_grad():
            before = layer(x)
        original = tensor.detach().clone()
        through_data(tensor, change)
        if not torch.equal(tensor, original):
            check_answers_as_a_copy_does(layer, x, before)


@every_layer
@pytest.mark.parametrize("way", WRITES)
def test_every_other_way_to_write_is_seen(kind, way):
    layer, x = made(kind), inputs(kind)
    with torch.no_grad():
        before = layer(x)
    WRITES[way](layer)
    check_answers_as_a_copy_does(layer, x, before)


@every_layer
def test_a_move_to_another_precision_and_back_is_seen(kind):
    layer, x = made(kind), inputs(kind)
    with torch.no_grad():
        exact = layer(x)
        assert layer.float()(x.float()).dtype == torch.float32
        torch.testing.assert_close(layer(x.float()).double(), exact, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(layer.double()(x), copy.deepcopy(layer)(x), rtol=1e-12, atol=1e-12)


@every_layer
def test_an_adapter_that_takes_the_place_of_a_deleted_one_answers_itself(kind):
    """Its tensors may get the addresses of the deleted one's, and be written as often."""
    layer, x = made(kind), inputs(kind)
    settings: dict[str, dict[str, Any]] = {"bat": {"r": 4, "mode": "bat"}, "add": {"r": 3, "mode": "add"}}
    options = settings.get(kind[:3], {"ratio": 0.3, "r": 2})
    for seed in range(6):
        layer.add_adapter("user", **options)
        layer.double()
        generator = torch.Generator().manual_seed(seed)
        for parameter in layer.adapters["user"].parameters():
            parameter.data.add_(0.2 * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype))
        layer.set_adapter("user")
        with torch.no_grad():
            torch.testing.assert_close(layer(x), copy.deepcopy(layer)(x), rtol=1e-12, atol=1e-12)
        layer.set_adapter("default")
        layer.delete_adapter("user")
        assert layer._cache is None


@pytest.mark.parametrize("kind", ["bat", "salt all", "salt diag"])
def test_the_weight_is_built_once_as_long_as_nothing_changes(kind, monkeypatch):
    layer, x, built = made(kind), inputs(kind), []
    adapter = layer.adapters["default"]
    weight = type(adapter).weight
    monkeypatch.setattr(type(adapter), "weight", lambda *args: built.append(1) or weight(*args))
    with torch.no_grad():
        for _ in range(4):
            layer(x)
    assert len(built) == 1


def test_a_single_token_compares_nothing():
    layer = made("bat")
    with torch.no_grad():
        layer(inputs("bat")[:1])
    assert layer._cache is None


def test_pickles_and_copies_hold_no_kept_weight():
    layer, x = made("bat"), inputs("bat")
    with torch.no_grad():
        y = layer(x)
        assert layer._cache is not None
        for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
            assert other._cache is None
            assert torch.equal(other(x), y)


@pytest.mark.parametrize("kind", ["bat", "salt all", "add, convolution"])
@torch.no_grad()
def test_many_models_at_once_under_vmap_leave_nothing_behind(kind):
    layers, x = [made(kind) for _ in range(3)], inputs(kind)
    for i, layer in enumerate(layers):
        for parameter in layer.adapters.parameters():
            parameter.mul_(i + 1)
    stacked = torch.func.stack_module_state(list[nn.Module](layers))

    def one(parameters: dict[str, torch.Tensor], buffers: dict[str, torch.Tensor]) -> torch.Tensor:
        return torch.func.functional_call(layers[0], (parameters, buffers), (x,))

    together = torch.vmap(one)
    for _ in range(2):
        torch.testing.assert_close(together(*stacked), torch.stack([layer(x) for layer in layers]))


tensors = st.tuples(
    st.sampled_from([torch.float64, torch.float32, torch.float16, torch.bfloat16]),
    st.lists(st.integers(0, 7), max_size=3),
    st.integers(0, 2**31),
)


@given(tensors, st.sampled_from(["one entry", "signs", "places", "all entries"]))
def test_both_sums_change_with_any_change_of_the_values(tensor, change):
    dtype, shape, seed = tensor
    x = torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)
    y = x.clone()
    assert content_of(y) == content_of(x)
    assert checksum(y) == checksum(x)
    through_data(y, change)
    if not torch.equal(x, y):
        assert content_of(y) != content_of(x)
        assert checksum(y) != checksum(x)


def test_a_kept_singular_basis_that_was_written_to_is_found_again():
    W = torch.randn(6, 5, generator=torch.Generator().manual_seed(3))
    first = basis_of(W)
    expected = [part.clone() for part in first]
    first.U.data.zero_()
    again = basis_of(W)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(again, expected, strict=True))
    assert basis_of(W).U is again.U
