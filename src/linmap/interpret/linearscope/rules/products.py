"""Products: linear in each factor. One factor may depend on the input; of two, one is a decision."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from linmap.interpret.linearscope.rules.call import Answer, Call, Frozen, Refusal, Rule, constant


def gating_side(call: Call, left: Tensor, right: Tensor) -> str | Refusal:
    """Which of two factors is the decision.

    The one that went through sigmoid or softmax last; where neither or both did, the one that went through an
    activation last (the gate of SwiGLU and its kin); else the user's word.
    """
    marks = {"left": call.mark(left), "right": call.mark(right)}
    for kinds in (("gate", "softmax"), ("activation",)):
        marked = [side for side, mark in marks.items() if mark in kinds]
        if len(marked) == 1:
            return marked[0]
        if marked:
            break
    if call.options.gate is not None:
        return call.options.gate
    which = "neither" if not any(marks.values()) else "both"
    return Refusal(
        f"both factors depend on the input and {which} of them went through sigmoid, softmax or an activation last; "
        "say which one gates (is frozen to its value on x): gate='left' or gate='right'"
    )


def follows_attention(call: Call, a: Tensor, b: Tensor) -> bool:
    """Whether a matrix product of two tensors of the input belongs to an attention that is followed on both sides.

    A softmax that multiplies elementwise (the router of a mixture of experts) is no attention, and is held.
    """
    return call.options.softmax == "full" and "gate" not in (call.mark(a), call.mark(b))


def tangent(a: Tensor, b: Tensor, product: Callable[[Any, Any], Tensor]) -> Frozen:
    """The tangent of a product at (a, b): p b + a q - a b."""
    left, right = constant(a), constant(b)

    def linear(p: Tensor, q: Tensor) -> Tensor:
        return product(p, like(p, right)) + product(like(q, left), q)

    return Frozen((a, b), linear, -product(left, right), unit=True)


def scale(call: Call) -> Answer:
    """a * c, c * a, and the product of two tensors that both depend on the input (one is a gate)."""
    a, b = call.args[:2]
    if a is b and call.options.allow_secant:  # z * z, the square
        return Frozen((a,), _times(constant(a)), unit=True)
    if call.is_tracked(a) and call.is_tracked(b):
        side = gating_side(call, a, b)
        if isinstance(side, Refusal):
            return side
        factor, other = (a, b) if side == "left" else (b, a)
        return Frozen((other,), _times(constant(factor)), None, call.mark(other), unit=True)
    tracked, factor = (a, b) if call.is_tracked(a) else (b, a)
    return Frozen((tracked,), _times(constant(factor)), None, call.mark(tracked))


def _times(factor: Any) -> Callable[[Tensor], Tensor]:
    return lambda probe: probe * factor


def like(probe: Tensor, held: Any) -> Any:
    """A constant in the precision of a probe, which is that of the map, where the network computes in a lower one."""
    return held.to(probe.dtype) if isinstance(held, Tensor) and held.is_floating_point() else held


def multilinear(*positions: int) -> Rule:
    """An operation that is linear in each argument at `positions` while the others are held."""

    def rule(call: Call) -> Answer:
        tracked = [i for i in positions if i < len(call.args) and call.is_tracked(call.args[i])]
        if len(tracked) > 2 or not tracked:
            return Refusal("more than two of its factors depend on the input" if tracked else _NOT_A_FACTOR)
        unit = len(tracked) == 2
        if unit:
            a, b = call.args[:2]
            if len(positions) == 2 and follows_attention(call, a, b):
                return tangent(a, b, partial(call.op, **call.kwargs))
            side = gating_side(call, *(call.args[i] for i in tracked))
            if isinstance(side, Refusal):
                return side
            tracked.pop(0 if side == "left" else 1)
        place, op, options = tracked[0], call.op, call.kwargs
        before, behind = (list(map(constant, part)) for part in (call.args[:place], call.args[place + 1 :]))

        def replay(probe: Tensor) -> Any:
            return op(*(like(probe, a) for a in before), probe, *(like(probe, a) for a in behind), **options)

        return Frozen((call.args[place],), replay, None, None, unit=unit)

    return rule


_NOT_A_FACTOR = "an argument that is no factor depends on the input"


def plus_product(product: Callable[[Any, Any], Tensor]) -> Rule:
    """beta c + alpha (a @ b) of addmm and its kin, c + value a b of addcmul; c may depend on the input as well."""

    def rule(call: Call) -> Answer:
        c, a, b = call.args[:3]
        alpha, beta = call.kwargs.get("alpha", call.kwargs.get("value", 1)), call.kwargs.get("beta", 1)
        held = None
        if call.is_tracked(a) and call.is_tracked(b):
            held = gating_side(call, a, b)
            if isinstance(held, Refusal):
                return held
        inputs: list[Tensor] = []
        forms: list[Callable[[Tensor], Tensor]] = []
        offset: Any = 0
        if call.is_tracked(c):
            inputs, forms = [c], [lambda p: beta * p]
        elif beta != 0:
            offset = _scaled(c, beta)
        if call.is_tracked(a) and held != "left":
            right = _scaled(b, alpha)
            inputs, forms = [*inputs, a], [*forms, lambda p: product(p, like(p, right))]
        elif call.is_tracked(b):
            left = _scaled(a, alpha)
            inputs, forms = [*inputs, b], [*forms, lambda p: product(like(p, left), p)]
        else:
            offset = offset + product(_scaled(a, alpha), constant(b))
        shape = call.output.shape

        def replay(*probes: Tensor) -> Tensor:
            terms = [form(p) for form, p in zip(forms, probes, strict=True)]
            return sum(terms[1:], terms[0]).expand(shape)

        constants = offset if isinstance(offset, Tensor) else None
        return Frozen(tuple(inputs), replay, constants, None, unit=held is not None)

    return rule


def _scaled(tensor: Any, factor: Any) -> Any:
    """factor * tensor as a constant; the tensor itself, not a copy of a weight, where the factor is 1."""
    return constant(tensor) if factor == 1 else factor * constant(tensor)


def divided_product(call: Call) -> Answer:
    """addcdiv: c + value a / b, with b held where it does not depend on the input."""
    if call.is_tracked(call.args[2]):
        return Refusal("the divisor depends on the input; write the division by itself")
    c, a, b = call.args[:3]
    value = call.kwargs.get("value", 1)
    return plus_product(torch.mul)(replace(call, args=(c, a, value / constant(b)), kwargs={}))
