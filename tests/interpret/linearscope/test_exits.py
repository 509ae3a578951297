"""Values that leave PyTorch inside a network: F follows them or the reading is refused, never a silent constant."""

from __future__ import annotations

import copy
import ctypes
import io
import pickle
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch._higher_order_ops.out_dtype import out_dtype
from torch.utils import dlpack

from linmap.interpret.linearscope import InexactReadingError, LinearScope, UnknownOperationError


class Side(nn.Module):
    """A linear layer and a side path, whose slope is 2 at every element."""

    def __init__(self, side: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer, self.side = nn.Linear(6, 6), side

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) + self.side(x)


def reading(side: Callable[[Tensor], Tensor], **options):
    net = Side(side).eval().requires_grad_(False)
    return LinearScope(net, **options).at(torch.linspace(-1, 2, 6)[None]), net


def in_a_thread(x: Tensor) -> Tensor:
    found: list[Tensor] = []
    worker = threading.Thread(target=lambda: found.append(x * 2))
    worker.start()
    worker.join()
    return found[0]


def in_a_pool(x: Tensor) -> Tensor:
    with ThreadPoolExecutor(1) as pool:
        return sum(pool.map(torch.neg, [x, -3 * x]), start=torch.zeros(1, 6))


def number_from_a_thread(x: Tensor) -> Tensor:
    found: list[float] = []
    worker = threading.Thread(target=lambda: found.append(x[0, 0].item()))
    worker.start()
    worker.join()
    return x.new_ones(1, 6) * found[0]


def through_a_file(x: Tensor) -> Tensor:
    file = io.BytesIO()
    torch.save(x, file)
    return torch.load(io.BytesIO(file.getvalue())) * 2


def through_an_address(x: Tensor) -> Tensor:
    return torch.tensor(list((ctypes.c_float * 6).from_address(x.data_ptr())))[None] * 2


def into_a_buffer(x: Tensor) -> Tensor:
    y = torch.empty(1, 6)
    np.multiply(x.numpy(), 2, out=y.numpy())
    return y


WATCHED = {
    r"Tensor\.numpy\(\)": lambda x: torch.from_numpy(x.detach().cpu().numpy() * 2),
    r"np\.asarray\(\)": lambda x: torch.as_tensor(np.asarray(x) * 2),
    r"Tensor\.tolist\(\)": lambda x: torch.tensor(x.tolist()) * 2,
    r"from_dlpack\(\)": lambda x: torch.from_dlpack(x) * 2,
    r"Tensor\.data_ptr\(\)": through_an_address,
    r"Tensor\.map_\(\)": lambda x: torch.empty(1, 6).map_(x, lambda _, b: 2 * b),
    r"Tensor\.apply_\(\)": lambda x: x.clone().apply_(lambda v: 2 * v),
    r"_local_scalar_dense": lambda x: torch.full((1, 6), 2 * float(x[0, 0])),
    r"view\.dtype": lambda x: x.view(torch.int32).view(torch.float32) * 2,
}


@pytest.mark.parametrize("way", WATCHED)
@pytest.mark.parametrize("mode", ["record", "parallel"])
def test_a_watched_exit_is_refused_with_its_name_and_line(way: str, mode: str):
    with pytest.raises(UnknownOperationError, match=rf"{way}.*test_exits\.py:\d+"):
        reading(WATCHED[way], mode=mode)


def test_numpy_written_in_place_is_refused():
    with pytest.raises(UnknownOperationError, match=r"Tensor\.numpy"):
        reading(into_a_buffer)


UNWATCHED = {
    "thread": in_a_thread,
    "pool": in_a_pool,
    "number of a thread": number_from_a_thread,
    "pickle": lambda x: pickle.loads(pickle.dumps(x)) * 2,
    "torch.save": through_a_file,
    "old dlpack": lambda x: dlpack.from_dlpack(dlpack.to_dlpack(x)) * 2,
    "bytes": lambda x: torch.frombuffer(bytearray(bytes(x.untyped_storage())), dtype=torch.float32)[None] * 2,
}


@pytest.mark.parametrize("way", UNWATCHED)
def test_what_comes_back_from_elsewhere_is_refused(way: str):
    with pytest.raises(InexactReadingError, match=r"test_exits\.py:\d+.* takes a tensor or a number that no operation"):
        reading(UNWATCHED[way])


FOLLOWED = {
    "deepcopy": lambda x: copy.deepcopy(x) * 2,
    "copy": lambda x: copy.copy(x) * 2,
    "parameter": lambda x: nn.Parameter(x) * 2,
    "data": lambda x: x.data * 2,
    "subclass": lambda x: torch.Tensor._make_subclass(torch.Tensor, x) * 2,
    "constructor": lambda x: torch.Tensor(x) * 2,
    "storage": lambda x: cast(Any, torch.empty(0)).set_(x.untyped_storage(), 0, (1, 6)) * 2,
    "vmap": lambda x: torch.vmap(lambda row: row * 2)(x),
    "printed": lambda x: (repr(x), x * 2)[1],
}


@pytest.mark.parametrize("way", FOLLOWED)
def test_copies_and_other_handles_of_a_tensor_are_followed(way: str):
    interp, net = reading(FOLLOWED[way])
    torch.testing.assert_close(interp.dense(), net.layer.weight + 2 * torch.eye(6))


def test_decisions_may_leave():
    interp, net = reading(lambda x: 2 * x if x.argmax().item() == 5 and np.asarray(x > 0).any() else -x)
    torch.testing.assert_close(interp.dense(), net.layer.weight + 2 * torch.eye(6))


def test_without_strict_an_exit_is_a_constant_and_named():
    for way, name in ((WATCHED[r"Tensor\.numpy\(\)"], "numpy"), (in_a_thread, "no operation of the pass")):
        with pytest.warns(UserWarning, match=name):
            interp, net = reading(way, strict=False)
        torch.testing.assert_close(interp.dense(), net.layer.weight)
        assert name in interp.report()["ignored"][0]


@pytest.mark.usefixtures("annotations_unchecked")
def test_an_output_of_constants_alone_says_what_was_taken_as_one():
    class Outside(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.from_numpy(x.numpy() * 2)

    with pytest.raises(ValueError, match=r"any operation with a slope\. Taken as constants of x: Tensor\.numpy"):
        LinearScope(Outside().eval(), strict=False).at(torch.ones(1, 6))


def test_probes_are_followed_one_by_one_where_pytorch_does_not_batch_an_operation():
    name = "linmap_tests::doubled"

    @torch.library.custom_op(name, mutates_args=())
    def doubled(x: Tensor) -> Tensor:
        return x * 2

    doubled.register_autograd(lambda ctx, grad: grad * 2)
    scope = LinearScope(Side(lambda x: doubled(x)).eval().requires_grad_(False))
    scope.register_rule(name, lambda z: doubled)
    interp = scope.at(torch.linspace(-1, 2, 6)[None])
    torch.testing.assert_close(interp.dense(), scope.model.get_parameter("layer.weight") + 2 * torch.eye(6))


def test_constants_from_python_and_numpy_are_no_exits():
    table = np.arange(6, dtype=np.float32)
    interp, net = reading(lambda x: 2 * x + torch.from_numpy(table) + torch.tensor([0.5]) * 3.0)
    torch.testing.assert_close(interp.dense(), net.layer.weight + 2 * torch.eye(6))


# -- against the network itself ------------------------------------------------------------------------------------


def test_a_network_that_answers_twice_in_different_ways_is_refused():
    calls = iter(range(100))
    with pytest.raises(InexactReadingError, match="another"):
        reading(lambda x: 2 * x + torch.full((1, 6), next(calls)))


@pytest.mark.parametrize("mode", ["record", "parallel"])
def test_a_rule_that_is_wrong_is_found_on_every_reading(mode: str, monkeypatch: pytest.MonkeyPatch):
    from linmap.interpret.linearscope.rules import UNITS
    from linmap.interpret.linearscope.rules.units import piece

    monkeypatch.setitem(UNITS, "relu", lambda call: piece(call.args[0], call.args[0] > 0.5))
    with pytest.raises(InexactReadingError, match=r"F x \+ r misses the network's output"):
        reading(torch.relu, mode=mode)
    interp, _ = reading(torch.relu, mode=mode, strict=False)
    assert interp.exactness() > 1e-2


class Hidden(nn.Module):
    """An operator of higher order, which PyTorch does not take apart."""

    def forward(self, x: Tensor) -> Tensor:
        return out_dtype(torch.ops.aten.mm.default, torch.float32, x, x)


def test_operators_that_hide_others_are_refused_by_name():
    with pytest.raises(UnknownOperationError, match=r"out_dtype in the model .* hides what it computes"):
        LinearScope(Hidden().eval(), batched=False).at(torch.randn(3, 3))
