"""Which rule an operation goes by, and the user's own rules."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from linmap.errors import ArgumentTypeError
from linmap.interpret.linearscope.rules.affine import AFFINE
from linmap.interpret.linearscope.rules.call import Answer, Call, Frozen, Refusal, Rule
from linmap.interpret.linearscope.rules.units import UNITS, piece

UserRule = Callable[..., "tuple[Tensor, Tensor | float] | Callable[..., Tensor]"]

_REGISTERED: dict[str, Rule] = {}


def find_rule(call: Call, own: Mapping[str, Rule]) -> Rule | None:
    """The rule of an operation: the scope's own, the registered, the built-in; None for an unknown operation."""
    for rules in (own, _REGISTERED, UNITS, AFFINE):
        if call.name in rules:
            return rules[call.name]
    return None


def register_rule(op: Any, fn: UserRule) -> None:
    """Teach every `LinearScope` the frozen form of an operation, instead of a built-in form if it has one.

    Parameters
    ----------
    op
        The operation as the error names it (`"erf"`), as an ATen operation (`torch.ops.aten.erf`, or one of a custom
        library) or as the function of `torch` with that name (`torch.erf`).
    fn
        `fn(*args, **kwargs)` receives the operation's arguments on x0. For an elementwise operation u it returns
        `(slope, offset)` with slope * z + offset = u(z). For any other it returns a function of the probes of those
        arguments that depend on the input (in order), affine in them and equal to the operation on x0.

    Raises
    ------
    TypeError
        If `op` names no operation or `fn` is not a function.

    Examples
    --------
    >>> import torch
    >>> from linmap.interpret.linearscope import register_rule
    >>> register_rule(torch.sin, lambda z: (torch.sinc(z / torch.pi), 0.0))  # the secant sin(z) / z
    """
    _REGISTERED[operation_name(op)] = user_rule(fn)


def user_rule(fn: UserRule) -> Rule:
    """The rule that a function given to `register_rule` stands for."""
    if not callable(fn):
        raise ArgumentTypeError(
            f"register_rule: fn must be a function of the operation's arguments, got {type(fn).__name__}."
        )

    def rule(call: Call) -> Answer:
        inputs = tuple(filter(call.is_tracked, [*call.args, *call.kwargs.values()]))
        answer = fn(*call.args, **call.kwargs)
        if callable(answer):
            zero = answer(*map(torch.zeros_like, inputs))
            frozen = Frozen(inputs, lambda *probes: answer(*probes) - zero, zero, unit=True)
        elif isinstance(answer, tuple) and len(answer) == 2 and len(inputs) == 1:
            slope, offset = (torch.as_tensor(part, dtype=inputs[0].dtype, device=inputs[0].device) for part in answer)
            frozen = piece(inputs[0], slope, offset)
        else:
            return Refusal("the rule registered for it returned neither (slope, offset) nor a function of the probes")
        value = frozen.linear(*inputs) + (0 if frozen.offset is None else frozen.offset)
        if value.shape != call.output.shape or not torch.allclose(value, call.output, rtol=1e-4, atol=1e-6):
            return Refusal("the rule registered for it does not reproduce the operation on x")
        return frozen

    return rule


def operation_name(op: Any) -> str:
    """The name that rules go by: ATen's without overload, `library::name` elsewhere."""
    if isinstance(op, str):
        return op.removeprefix("aten.").removeprefix("aten::").split(".")[0]
    if isinstance(op, torch._ops.OpOverload):
        return op.name().removeprefix("aten::").split(".")[0]
    if isinstance(op, torch._ops.OpOverloadPacket):
        return op._qualified_op_name.removeprefix("aten::")
    name = getattr(op, "__name__", None)
    if name is None or not hasattr(torch.ops.aten, name):
        raise ArgumentTypeError(
            f"register_rule: {op!r} is not an operation; give its name, torch.ops.aten.<name> or torch.<name>."
        )
    return name
