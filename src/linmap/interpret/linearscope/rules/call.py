"""One operation as the trace meets it, and what a rule may answer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import torch
from torch import Tensor

from linmap.interpret.linearscope.tape import Frozen


@dataclass(frozen=True)
class Options:
    """What the user decided about units that have more than one frozen form."""

    smooth: Literal["secant", "taylor"] = "secant"
    sigmoid: Literal["secant", "ratio"] = "secant"
    gate: Literal["left", "right"] | None = None
    allow_secant: bool = False
    softmax: Literal["value", "full"] = "value"


@dataclass(frozen=True)
class Refusal:
    """Why an operation has no frozen form; an error only if the output depends on it."""

    reason: str


@dataclass(frozen=True)
class Call:
    """An operation with its arguments and its output on x0."""

    op: torch._ops.OpOverload
    """In its form that writes nothing."""
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    output: Any
    options: Options
    is_tracked: Callable[[Any], bool]
    """Whether a leaf is a tensor that depends on the input through frozen operations."""
    mark: Callable[[Tensor], str | None]

    @property
    def name(self) -> str:
        name = self.op.name().removeprefix("aten::").split(".")[0]
        return name.removesuffix("_") if self.op._schema.is_mutable else name

    def argument(self, position: int, name: str, default: Any = None) -> Any:
        """An argument given by position or by name."""
        return self.args[position] if len(self.args) > position else self.kwargs.get(name, default)


@cache
def plain(op: torch._ops.OpOverload) -> torch._ops.OpOverload:
    """The form of an operation that writes nothing: of `neg_` and of `neg.out` it is `neg`."""
    if not op._schema.is_mutable:
        return op
    wanted = [(a.name, str(a.type)) for a in op._schema.arguments if not a.is_out]
    packet = getattr(torch.ops.aten, op.name().removeprefix("aten::").split(".")[0].removesuffix("_"), None)
    for overload in packet.overloads() if packet is not None else ():
        form = getattr(packet, overload)
        same = [(a.name, str(a.type)) for a in form._schema.arguments] == wanted
        if same and not form._schema.is_mutable:
            return form
    return op


Answer = Frozen | Refusal | None | list[Frozen | Refusal | None]
Rule = Callable[[Call], Answer]


def constant(tensor: Any) -> Any:
    """A tensor as the tape keeps it: outside autograd, and not of inference mode, which no adjoint could be read of."""
    if not isinstance(tensor, Tensor):
        return tensor
    return tensor.clone() if tensor.is_inference() else tensor.detach()
