"""Units: operations that take a decision on x0, and the affine form that the decision leaves of them.

Notation: z is the unit's input on x0, u(z) its output, p its input on a probe.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from linmap.interpret.linearscope.rules.affine import normalise
from linmap.interpret.linearscope.rules.call import Answer, Call, Frozen, Refusal, Rule, constant
from linmap.interpret.linearscope.rules.selections import SELECTIONS

aten = torch.ops.aten
NEAR_ZERO = 1e-6  # |z| below which a secant slope is the derivative


def piece(z: Tensor, slope: Tensor, offset: Tensor | None = None, mark: str | None = None) -> Frozen:
    """slope * p + offset, elementwise; a slope that is a mask is kept in one byte an element."""
    if offset is not None and not bool(offset.any()):
        offset = None
    if not bool(z.isfinite().all()):
        return Frozen((z,), held(slope), offset, mark, unit=True)
    if slope.dtype == torch.bool:
        mask = slope.to(torch.uint8)
        return Frozen((z,), lambda p: p * mask.to(p.dtype), offset, mark, unit=True)
    slope = slope.to(z.dtype)
    return Frozen((z,), lambda p: p * slope, offset, mark, unit=True)


def held(slope: Tensor) -> Callable[[Tensor], Tensor]:
    """slope * p where p may be infinite: 0 where the slope is 0, as a ReLU of minus infinity is."""
    flat = slope == 0
    return lambda p: (p * slope.to(p.dtype)).masked_fill(flat, 0)


def either(mask: Tensor, yes: Any, no: Any, z: Tensor) -> Tensor:
    """torch.where in the precision of z."""
    return torch.where(
        mask, torch.as_tensor(yes, dtype=z.dtype, device=z.device), torch.as_tensor(no, dtype=z.dtype, device=z.device)
    )


# -- piecewise linear: the slope and the offset of the active piece ------------------------------------------------


def relu(call: Call) -> Answer:
    z = call.args[0]
    return piece(z, z > 0)


def leaky_relu(call: Call) -> Answer:
    z, slope = call.args[0], call.argument(1, "negative_slope", 0.01)
    return piece(z, either(z > 0, 1, slope, z))


def prelu(call: Call) -> Answer:
    z, weight = call.args[:2]
    if call.is_tracked(weight):
        return Refusal("the slopes depend on the input")
    return piece(z, either(z > 0, 1, constant(weight), z))


def rrelu(call: Call) -> Answer:
    z, lower, upper = call.args[0], call.argument(2, "lower", 0.125), call.argument(3, "upper", 1 / 3)
    if call.argument(4, "training", False):
        return Refusal("it draws random slopes: it is in training mode")
    return piece(z, either(z > 0, 1, (lower + upper) / 2, z))


def bounded(z: Tensor, low: Any, high: Any, inside: Tensor, mark: str | None) -> Frozen:
    """z between its bounds, the bound outside."""
    return piece(z, inside, either(inside, 0, z.clamp(low, high), z), mark)


def hardtanh(call: Call) -> Answer:
    z, low, high = call.args[0], call.argument(1, "min_val", -1.0), call.argument(2, "max_val", 1.0)
    return bounded(z, low, high, (z > low) & (z < high), None)


def clamp(call: Call) -> Answer:
    z, low, high = call.args[0], call.argument(1, "min"), call.argument(2, "max")
    if call.name == "clamp_max":
        low, high = None, call.argument(1, "max")
    if call.is_tracked(low) or call.is_tracked(high) or not call.is_tracked(z):
        return Refusal("its bounds depend on the input; use torch.minimum and torch.maximum")
    inside = torch.ones_like(z, dtype=torch.bool)  # the bounds themselves are inside, as in PyTorch's gradient
    inside &= inside if low is None else z >= low
    inside &= inside if high is None else z <= high
    return bounded(z, low, high, inside, call.mark(z))


def hardsigmoid(call: Call) -> Answer:
    z = call.args[0]
    inside = (z > -3) & (z < 3)
    offset = either(inside, 0.5, (z >= 3).to(z.dtype), z)
    return piece(z, inside.to(z.dtype) / 6, offset, "gate")


def threshold(call: Call) -> Answer:
    z, level, value = call.args[:3]
    return piece(z, z > level, either(z > level, 0, value, z))


def hardshrink(call: Call) -> Answer:
    z, lambd = call.args[0], call.argument(1, "lambd", 0.5)
    return piece(z, z.abs() > lambd)


def softshrink(call: Call) -> Answer:
    z, lambd = call.args[0], call.argument(1, "lambd", 0.5)
    outside = z.abs() > lambd
    return piece(z, outside, either(outside, -lambd * z.sign(), 0, z))


def absolute(call: Call) -> Answer:
    z = call.args[0]
    return piece(z, z.sign())


def larger_of_two(sign: int) -> Rule:
    """max (sign 1) and min (sign -1) of two tensors: the piece of x0, halves on ties as in PyTorch's gradient."""

    def rule(call: Call) -> Answer:
        a, b = call.args[:2]
        first = torch.where(a == b, 0.5, ((a > b) if sign > 0 else (a < b)).to(call.output.dtype))
        finite = bool((a * 0 == 0).all() and (b * 0 == 0).all())
        of_a, of_b = (partial(torch.mul, factor) if finite else held(factor) for factor in (first, 1 - first))
        if call.is_tracked(a) and call.is_tracked(b):
            return Frozen((a, b), lambda p, q: of_a(p) + of_b(q), unit=True)
        if call.is_tracked(a):
            return Frozen((a,), of_a, of_b(constant(b)), call.mark(a), unit=True)
        return Frozen((b,), of_b, of_a(constant(a)), call.mark(b), unit=True)

    return rule


# -- smooth: the secant from the origin, or the tangent ------------------------------------------------------------


def smooth(at_zero: Callable[[Call], float], derivative: Callable[[Call], Tensor], mark: str | None = None) -> Rule:
    """u with u(0) = c: slope (u(z) - c) / z and offset c; with smooth="taylor" u'(z) and u(z) - u'(z) z."""

    def rule(call: Call) -> Answer:
        z, c = call.args[0], at_zero(call)
        u = call.output[0] if isinstance(call.output, tuple) else call.output
        tangent = derivative(call)
        if call.options.smooth == "taylor":
            frozen = piece(z, tangent, u - tangent * z, mark)
        else:
            exact = call.op(z.double(), *call.args[1:], **call.kwargs)  # no cancellation in float32
            exact = exact[0] if isinstance(exact, tuple) else exact
            slope = ((exact - c) / z.double()).to(z.dtype)
            slope = torch.where(z.abs() < NEAR_ZERO, tangent, slope)
            frozen = piece(z, slope, None if c == 0 else torch.full((), c, dtype=z.dtype, device=z.device), mark)
        return [frozen, None] if isinstance(call.output, tuple) else frozen

    return rule


def sigmoid(call: Call) -> Answer:
    z, s = call.args[0], call.output
    if call.options.sigmoid == "ratio" and call.options.smooth == "secant":
        if bool((z == 0).any()):
            return Refusal('the ratio sigmoid(z) / z has a pole at z = 0, which occurs here; use sigmoid="secant"')
        return piece(z, s / z, mark="gate")
    return smooth(lambda _: 0.5, lambda call: s * (1 - s), "gate")(call)


def _ones(call: Call) -> Tensor:
    return torch.ones_like(call.args[0])


def _elu_derivative(call: Call) -> Tensor:
    z = call.args[0]
    if call.name == "celu":
        alpha = call.argument(1, "alpha", 1.0)
        return either(z > 0, 1, (z / alpha).exp(), z)
    alpha, scale = call.argument(1, "alpha", 1.0), call.argument(2, "scale", 1.0)
    return either(z > 0, 1, alpha * (z * call.argument(3, "input_scale", 1.0)).exp(), z) * scale


def _softplus_derivative(call: Call) -> Tensor:
    z, beta = call.args[0], call.argument(1, "beta", 1.0)
    return either(z * beta > call.argument(2, "threshold", 20.0), 1, (z * beta).sigmoid(), z)


def gated(gate: Callable[[Call], Tensor], derivative: Callable[[Call], Tensor]) -> Rule:
    """u(z) = z g(z): the gate g(z) is frozen; with smooth="taylor" the tangent as for other smooth units."""

    def rule(call: Call) -> Answer:
        z = call.args[0]
        if call.options.smooth == "taylor":
            tangent = derivative(call)
            return piece(z, tangent, call.output - tangent * z)
        return piece(z, gate(call))

    return rule


def _gelu_gate(call: Call) -> Tensor:
    z = call.args[0]
    if call.argument(1, "approximate", "none") == "tanh":
        return 0.5 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (z + 0.044715 * z**3)))
    return 0.5 * torch.erfc(-z / math.sqrt(2))


def _hardswish_derivative(call: Call) -> Tensor:
    z = call.args[0]
    return either(z > 3, 1, either(z < -3, 0, z / 3 + 0.5, z), z)


def glu(call: Call) -> Answer:
    """a sigmoid(b), the two halves of z: the gate sigmoid(b) is frozen."""
    z, dim = call.args[0], call.argument(1, "dim", -1)
    half = z.shape[dim] // 2
    gate = z.narrow(dim, half, half).sigmoid()
    return Frozen((z,), lambda p: p.narrow(dim, 0, half) * gate, unit=True)


def with_secant(at_zero: Callable[[Call], float | None], position: int = 0) -> Rule:
    """exp, log, powers: only when the user allows secants; through the origin where u(0) is infinite.

    At z = 0 every slope reproduces u(0): it is 0 there, as that of a ReLU.
    """

    def rule(call: Call) -> Answer:
        if not call.options.allow_secant:
            return Refusal("it is frozen on request only: allow_secant=True takes its secant")
        z = call.args[position]
        if not call.is_tracked(z) or any(call.is_tracked(a) for i, a in enumerate(call.args) if i != position):
            return Refusal("its exponent depends on the input")
        c = at_zero(call)
        if c is None and bool((z == 0).any()):
            return Refusal("it is infinite at z = 0, which occurs here")
        slope = (call.output - (c or 0.0)) / z
        slope = torch.where(z == 0, torch.zeros_like(slope), slope)
        offset = torch.full((), c, dtype=z.dtype, device=z.device) if c else None
        mark = "norm" if call.name == "sqrt" and call.mark(z) == "norm" else None
        return piece(z, slope, offset, mark)

    return rule


def _power_at_zero(call: Call) -> float | None:
    """0^p."""
    exponent = call.args[1]
    smallest = float(exponent.min()) if isinstance(exponent, Tensor) else float(exponent)
    largest = float(exponent.max()) if isinstance(exponent, Tensor) else float(exponent)
    if smallest > 0:
        return 0.0
    return 1.0 if smallest == largest == 0 else None


def power(call: Call) -> Answer:
    """z^p and b^z."""
    if call.is_tracked(call.args[0]):
        return with_secant(_power_at_zero)(call)
    return with_secant(lambda _: 1.0, 1)(call)


def activation(rule: Rule) -> Rule:
    """The rule of an activation: what comes out may gate another factor (SwiGLU and its kin)."""

    def marked(call: Call) -> Answer:
        answer = rule(call)
        return replace(answer, mark=answer.mark or "activation") if isinstance(answer, Frozen) else answer

    return marked


def softmax(call: Call) -> Answer:
    """A decision: attention holds its probabilities a; with softmax="full" the tangent a * (p - sum of a p)."""
    if call.options.softmax == "value":
        return None
    z, a = call.args[0], constant(call.output)
    dim, never = call.args[1], a == 0  # masked places, where the scores may be minus infinity

    def jacobian(p: Tensor) -> Tensor:
        p = p.masked_fill(never, 0)
        return a * (p - (a * p).sum(dim, keepdim=True))

    return Frozen((z,), jacobian, a - jacobian(constant(z)), "softmax", unit=True)


def without_slope(call: Call) -> Answer:
    """log-softmax: z less its log-sum-exp on x0."""
    z, dim = call.args[:2]
    return Frozen((z,), lambda p: p, -z.logsumexp(dim, keepdim=True), unit=True)


# -- piecewise linear in more than one argument --------------------------------------------------------------------


def wrapped(call: Call) -> Answer:
    """fmod and remainder, z - k c: the number of times k that c goes into z is held."""
    z, c, u = *call.args[:2], call.output
    parts = [part for part in (z, c) if call.is_tracked(part)]
    k = torch.round((constant(z) - u) / constant(c))
    if len(parts) == 2:
        return Frozen((z, c), lambda p, q: p - k * q, unit=True)
    if call.is_tracked(z):
        return piece(z, torch.ones_like(u), u - z)
    return piece(c, -k, u + k * c)


def fraction(call: Call) -> Answer:
    """z less its whole part on x0."""
    z = call.args[0]
    return piece(z, torch.ones_like(z), call.output - z)


def finite_part(call: Call) -> Answer:
    """nan_to_num: what is finite on x0 stays, the rest is what it was replaced with."""
    z = call.args[0]
    lost = ~z.isfinite()
    return Frozen((z,), lambda p: p.masked_fill(lost, 0), call.output.masked_fill(~lost, 0), unit=True)


def copysign(call: Call) -> Answer:
    """|a| with the sign of b, which is a decision."""
    a, u = call.args[0], call.output
    if not call.is_tracked(a):
        return None
    return piece(a, torch.where(a == 0, torch.zeros_like(u), u.sign() * a.sign()))


# -- statistics: mean, variance and norm of x0 are constants -------------------------------------------------------


def layer_norm(call: Call) -> Answer:
    z, shape, weight, bias, eps = call.args[:5]
    if call.is_tracked(weight) or call.is_tracked(bias):
        return Refusal("its weights depend on the input")
    axes = list(range(z.ndim - len(shape), z.ndim))
    mean, variance = z.mean(axes, keepdim=True), z.var(axes, correction=0, keepdim=True)
    scale, gamma = torch.rsqrt(variance + eps), 1 if weight is None else constant(weight)
    offset = (0 if bias is None else constant(bias)) - mean * scale * gamma
    return [Frozen((z,), lambda p: p * scale * gamma, offset, unit=True), None, None]


def group_norm(call: Call) -> Answer:
    z, weight, bias, batch, channels, _, groups, eps = call.args[:8]
    if call.is_tracked(weight) or call.is_tracked(bias):
        return Refusal("its weights depend on the input")
    grouped = z.reshape(batch, groups, -1)
    per_channel = channels // groups
    mean = grouped.mean(-1).repeat_interleave(per_channel, 1)
    variance = grouped.var(-1, correction=0).repeat_interleave(per_channel, 1)
    return [normalise(z, mean, variance, eps, weight, bias, (batch, channels, *[1] * (z.ndim - 2)), True), None, None]


def norm(call: Call) -> Answer:
    """A norm or a deviation: dividing by it is dividing by a constant of x0; as a value in itself it is refused."""
    return Refusal("a norm or a deviation of the input has no frozen form other than as a divisor")


def deviation_and_mean(call: Call) -> Answer:
    """var_mean and std_mean: the mean is linear."""
    z, options = call.args[0], call.kwargs
    dims: Any = call.args[1] if len(call.args) > 1 and not isinstance(call.args[1], bool) else None
    keep = options.get("keepdim", False)
    answers: Any = [norm(call), Frozen((z,), lambda p: p.mean(dims, keepdim=keep))]
    return answers


def reciprocal_norm(call: Call) -> Answer:
    return Refusal("it has no frozen form other than as a factor that normalises; allow_secant=True does not cover it")


def fill(call: Call) -> Answer:
    """A tensor filled with one value."""
    value, shape = call.args[1], call.output.shape
    return Frozen((value,), lambda p: p.expand(shape)) if call.is_tracked(value) else None


def decision(call: Call) -> Answer:
    """A constant of x0: functions with zero slope everywhere, new tensors."""
    return None


DECISIONS = [
    "sign",
    "floor",
    "ceil",
    "round",
    "trunc",
    "sgn",
    "floor_divide",
    "heaviside",
    "_masked_softmax",
    "zero",
    "zeros_like",
    "ones_like",
    "full_like",
    "empty_like",
    "new_zeros",
    "new_ones",
    "new_full",
    "new_empty",
    "new_empty_strided",
]
SOFTMAXES = ("_softmax", "_safe_softmax", "_log_softmax")


MARKS = {
    **dict.fromkeys(("linalg_vector_norm", "norm", "std", "var", "std_mean", "var_mean"), "norm"),
    "rsqrt": "gate",  # x * rsqrt(mean square): RMS norm
    "erf": "gate",  # x * (1 + erf(x / sqrt 2)) / 2: GELU by hand
}
"""What a product or a division may still make of an operation's output, frozen or refused."""

UNITS: dict[str, Rule] = {
    "relu": activation(relu),
    "leaky_relu": activation(leaky_relu),
    "_prelu_kernel": activation(prelu),
    "rrelu_with_noise": activation(rrelu),
    "hardtanh": activation(hardtanh),
    "hardsigmoid": hardsigmoid,
    "threshold": threshold,
    "hardshrink": hardshrink,
    "softshrink": softshrink,
    "abs": absolute,
    **dict.fromkeys(("maximum", "fmax"), larger_of_two(1)),
    **dict.fromkeys(("minimum", "fmin"), larger_of_two(-1)),
    **dict.fromkeys(("clamp", "clamp_min", "clamp_max"), clamp),
    "sigmoid": sigmoid,
    "tanh": activation(smooth(lambda _: 0.0, lambda call: 1 - call.output**2)),
    **dict.fromkeys(("elu", "celu"), activation(smooth(lambda _: 0.0, _elu_derivative))),
    "softplus": activation(smooth(lambda call: math.log(2) / call.argument(1, "beta", 1.0), _softplus_derivative)),
    "log_sigmoid_forward": smooth(lambda _: -math.log(2), lambda call: (-call.args[0]).sigmoid()),
    "silu": activation(
        gated(lambda call: call.args[0].sigmoid(), lambda call: aten.silu_backward(_ones(call), call.args[0]))
    ),
    "gelu": activation(gated(_gelu_gate, lambda call: aten.gelu_backward(_ones(call), call.args[0], **call.kwargs))),
    "mish": activation(
        gated(
            lambda call: torch.nn.functional.softplus(call.args[0]).tanh(),
            lambda call: aten.mish_backward(_ones(call), call.args[0]),
        )
    ),
    "hardswish": activation(gated(lambda call: torch.nn.functional.hardsigmoid(call.args[0]), _hardswish_derivative)),
    "glu": glu,
    **dict.fromkeys(("exp", "exp2"), with_secant(lambda _: 1.0)),
    **dict.fromkeys(("expm1", "log1p", "sqrt"), with_secant(lambda _: 0.0)),
    **dict.fromkeys(("log", "log2", "log10", "reciprocal"), with_secant(lambda _: None)),
    "pow": power,
    "_log_softmax": without_slope,
    **dict.fromkeys(("_softmax", "_safe_softmax"), softmax),
    **dict.fromkeys(("fmod", "remainder"), wrapped),
    "frac": fraction,
    "nan_to_num": finite_part,
    "copysign": copysign,
    **SELECTIONS,
    "native_layer_norm": layer_norm,
    "native_group_norm": group_norm,
    **dict.fromkeys(("linalg_vector_norm", "norm", "std", "var"), norm),
    **dict.fromkeys(("var_mean", "std_mean"), deviation_and_mean),
    "rsqrt": reciprocal_norm,
    **dict.fromkeys(DECISIONS, decision),
    "fill": fill,
}
