"""Every operation of ATen is followed, decides, or is refused for a reason; and the linear ones are linear."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

import linmap.interpret.linearscope.trace as tracing
from interpret.linearscope.networks import UNITS as NETWORKS
from interpret.linearscope.operations import LINEAR_OPERATIONS
from linmap.interpret.linearscope import LinearScope
from linmap.interpret.linearscope.rules import AFFINE, UNITS
from linmap.interpret.linearscope.rules.refused import reason_to_refuse


class Operation(nn.Module):
    def __init__(self, function) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def image(seed: int = 0) -> Tensor:
    return torch.randn(1, 4, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", LINEAR_OPERATIONS)
def test_a_linear_operation_is_its_own_map(name: str):
    function, x = LINEAR_OPERATIONS[name], image()
    interp = LinearScope(Operation(function).eval()).at(x)
    with torch.no_grad():
        expected = torch.stack([function(image(seed)).flatten() for seed in (1, 2)])
        zero = function(torch.zeros_like(x)).flatten()
    probes = torch.cat([image(1), image(2)])
    with torch.no_grad():
        torch.testing.assert_close(interp(probes).flatten(1), expected)
        torch.testing.assert_close(interp.residual.flatten(), zero)
    u = torch.randn(interp.out_features, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(interp.rmatvec(u) @ probes[0].flatten(), u @ (expected[0] - zero))


# -- the whole of ATen ---------------------------------------------------------------------------------------------

DECIDES = frozenset([
    "all", "any", "argmax", "argmin", "bitwise_and", "bitwise_left_shift", "bitwise_not", "bitwise_or",
    "bitwise_right_shift", "bitwise_xor", "bucketize", "count_nonzero", "eq", "ge", "gt", "isin", "isinf", "isnan",
    "isneginf", "isposinf", "le", "logical_and", "logical_not", "logical_or", "logical_xor", "lt", "ne",
    "searchsorted", "signbit"
])  # fmt: skip
"""Their outputs are no floating-point numbers, so they can only decide."""

ELSEWHERE = frozenset(["_grouped_mm", "_pin_memory", "cudnn_batch_norm", "miopen_batch_norm", "_upsample_lanczos2d_aa"])
"""Operations with a rule that a double-precision network on a CPU does not meet."""


def operations() -> Iterator[str]:
    """Names of the ATen operations on tensors that reach a dispatcher whole, as rules go by them."""
    for full in torch._C._dispatch_get_all_op_names():
        if not full.startswith("aten::") or torch._C._dispatch_has_kernel_for_dispatch_key(
            full, "CompositeImplicitAutograd"
        ):
            continue
        name, _, overload = full.removeprefix("aten::").partition(".")
        try:
            schema = getattr(getattr(torch.ops.aten, name), overload or "default")._schema
        except (AttributeError, RuntimeError):
            continue  # not callable from Python
        takes, gives = (any("Tensor" in str(v.type) for v in part) for part in (schema.arguments, schema.returns))
        if takes and gives and not overload.endswith("out"):
            yield name.removesuffix("_") if schema.is_mutable else name


def test_every_operation_is_followed_or_decides_or_is_refused_for_a_reason():
    names = set(operations())
    assert len(names) > 500
    unclassified = {name for name in names - set(AFFINE) - set(UNITS) - DECIDES if reason_to_refuse(name) is None}
    assert not unclassified, "say in rules/affine, rules/units or rules/refused what these are"


def test_every_rule_is_met_by_a_network_of_these_tests(monkeypatch: pytest.MonkeyPatch):
    met, find_rule = set(), tracing.find_rule

    def spy(call, own):
        met.add(call.name)
        return find_rule(call, own)

    monkeypatch.setattr(tracing, "find_rule", spy)
    monkeypatch.setattr(LinearScope, "_prove", lambda *_: None)  # proved in other tests
    monkeypatch.setattr(LinearScope, "_detours", lambda *_: [])
    pictures = torch.randn(1, 3, 8, 8, dtype=torch.float64)
    for unit in NETWORKS:
        LinearScope(unit.network(), **unit.options).at(pictures)
    for function in LINEAR_OPERATIONS.values():
        LinearScope(Operation(function).eval()).at(image())
    assert (set(AFFINE) | set(UNITS)) - met == ELSEWHERE
