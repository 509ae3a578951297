"""Operations that are linear or affine as they stand, and products of the input with constants."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from linmap.interpret.linearscope.rules.call import Answer, Call, Frozen, Refusal, Rule, constant

aten = torch.ops.aten
ALL = tuple(range(8))


def linear_in(*positions: int, keep_mark: bool = True, function: Callable[..., Any] | None = None) -> Rule:
    """An operation that is jointly linear in the arguments at `positions` and fixed in the others.

    Constants at those positions make the offset: f(x, c) = f(x, 0) + f(0, c). `function` replays the operation where
    the operation itself would depend on strides.
    """

    def rule(call: Call) -> Answer:
        leaves, tree = pytree.tree_flatten((call.args, call.kwargs))
        paths, _ = pytree.tree_flatten_with_path((call.args, call.kwargs))
        joint = [path[0].idx == 0 and path[1].idx in positions for path, _ in paths]  # pyright: ignore
        slots = [i for i, leaf in enumerate(leaves) if call.is_tracked(leaf)]
        if not all(joint[i] for i in slots):
            return Refusal("an argument that the operation is not linear in depends on the input")
        apply, inputs = function or call.op, tuple(leaves[i] for i in slots)
        zeros, others = list(map(constant, leaves)), list(map(constant, leaves))
        for i, leaf in enumerate(leaves):
            if i in slots:
                others[i] = torch.zeros_like(leaf)
            elif joint[i] and _is_number(leaf):
                zeros[i] = torch.zeros_like(leaf) if isinstance(leaf, Tensor) else 0.0

        def replay(*probes: Tensor) -> Any:
            filled = list(zeros)
            for slot, probe in zip(slots, probes, strict=True):
                filled[slot] = probe
            args, kwargs = pytree.tree_unflatten(filled, tree)
            return apply(*args, **kwargs)

        has_constants = any(joint[i] and _is_number(leaf) and i not in slots for i, leaf in enumerate(leaves))
        offset: Any = None
        if has_constants:
            args, kwargs = pytree.tree_unflatten(others, tree)
            offset = apply(*args, **kwargs)
        marks = {call.mark(tensor) for tensor in inputs}
        mark = marks.pop() if keep_mark and len(marks) == 1 else None
        if isinstance(call.output, tuple | list):
            return [
                Frozen(inputs, _pick(replay, i), None if offset is None else offset[i], mark)
                for i in range(len(call.output))
            ]
        return Frozen(inputs, replay, offset, mark)

    return rule


def _is_number(leaf: Any) -> bool:
    """Whether a leaf is a floating-point constant, which a jointly linear argument contributes to the offset."""
    return (isinstance(leaf, Tensor) and leaf.is_floating_point()) or (
        isinstance(leaf, float | int) and not isinstance(leaf, bool) and leaf != 0
    )


def _pick(replay: Callable[..., Any], i: int) -> Callable[..., Tensor]:
    return lambda *probes: replay(*probes)[i]


def identity(call: Call) -> Answer:
    """Copies and casts."""
    kind, shape = call.output.dtype, call.output.shape
    if not call.output.is_floating_point():
        return Refusal("complex numbers are not followed") if call.output.is_complex() else None
    source = call.args[0]
    if call.name == "copy":  # copy(destination, source)
        source = call.args[1]
        if not call.is_tracked(source):
            return None
        return Frozen((source,), lambda p: p.to(kind).expand(shape), None, call.mark(source))
    return Frozen((source,), lambda p: p.to(kind), None, call.mark(source))


def add(sign: int) -> Rule:
    """a ± alpha b."""

    def rule(call: Call) -> Answer:
        a, b = call.args[:2]
        alpha = sign * call.argument(2, "alpha", 1)
        shape = call.output.shape
        if call.is_tracked(a) and call.is_tracked(b):
            mark = call.mark(a) if call.mark(a) == call.mark(b) else None
            return Frozen((a, b), lambda p, q: torch.add(p, q, alpha=alpha), None, mark)
        if call.is_tracked(a):
            return Frozen((a,), lambda p: p.expand(shape), _offset(alpha * constant(b), a), call.mark(a))
        return Frozen((b,), lambda q: (alpha * q).expand(shape), _offset(constant(a), b), call.mark(b))

    return rule


def reversed_subtract(call: Call) -> Answer:
    """rsub(a, b, alpha) = b - alpha a."""
    a, b = call.args[:2]
    alpha = call.argument(2, "alpha", 1)
    turned = Call(aten.sub.Tensor, (b, a), {"alpha": alpha}, call.output, call.options, call.is_tracked, call.mark)
    return add(-1)(turned)


def _offset(number: Any, like: Tensor) -> Tensor:
    return (
        number.to(like.dtype)
        if isinstance(number, Tensor)
        else torch.full((), number, dtype=like.dtype, device=like.device)
    )


def scale(call: Call) -> Answer:
    """a * c, c * a, and the product of two tensors that both depend on the input (one is a gate)."""
    a, b = call.args[:2]
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


def gating_side(call: Call, left: Tensor, right: Tensor) -> str | Refusal:
    """Which of two factors is the decision: the one that went through sigmoid or softmax last, else the user's word."""
    marked = [side for side, factor in (("left", left), ("right", right)) if call.mark(factor) == "gate"]
    if len(marked) == 1:
        return marked[0]
    if call.options.gate is not None:
        return call.options.gate
    which = "neither" if not marked else "both"
    return Refusal(
        f"both factors depend on the input and {which} of them went through sigmoid or softmax last; say which one "
        f'gates (is frozen to its value on x): gate="left" or gate="right"'
    )


def bilinear(left: int, right: int) -> Rule:
    """A matrix product or a contraction, linear in the arguments `left` and `right`, with an additive one before."""

    def rule(call: Call) -> Answer:
        a, b = call.args[left], call.args[right]
        frozen = None
        if call.is_tracked(a) and call.is_tracked(b):
            frozen = gating_side(call, a, b)
            if isinstance(frozen, Refusal):
                return frozen
        gated = right if frozen == "right" or not call.is_tracked(b) else left
        tracked = right if gated == left else left
        factor, op = constant(call.args[gated]), call.op
        ordered = (lambda p: op(factor, p)) if gated == left else (lambda p: op(p, factor))
        return Frozen((call.args[tracked],), ordered, None, None, unit=frozen is not None)

    return rule


def matrix_product_plus(product: Callable[..., Tensor]) -> Rule:
    """addmm and its kin: beta c + alpha (a @ b)."""

    def rule(call: Call) -> Answer:
        c, a, b = call.args[:3]
        alpha, beta = call.kwargs.get("alpha", 1), call.kwargs.get("beta", 1)
        if call.is_tracked(c) or (call.is_tracked(a) and call.is_tracked(b)):
            return Refusal("more than one argument depends on the input")
        if call.is_tracked(a):
            factor = alpha * constant(b)
            return Frozen((a,), lambda p: product(p, factor), beta * constant(c))
        factor = alpha * constant(a)
        return Frozen((b,), lambda p: product(factor, p), beta * constant(c))

    return rule


def divide(call: Call) -> Answer:
    """a / c; by the norm of x0 where c is a norm; by anything else of the input only if secants are allowed."""
    a, b = call.args[:2]
    if call.kwargs.get("rounding_mode"):
        return None  # a piecewise constant function is a decision
    if not call.is_tracked(b):
        divisor = constant(b)
        return Frozen((a,), lambda p: p / divisor, None, call.mark(a))
    if call.is_tracked(a) and (call.mark(b) == "norm" or call.options.allow_secant):
        divisor = constant(b)
        return Frozen((a,), lambda p: p / divisor, None, None, unit=True)
    if call.options.allow_secant:
        slope = constant(call.output) / constant(b)  # c / z has no value at 0: the ratio instead of the secant
        return Frozen((b,), lambda p: p * slope, None, call.mark(b), unit=True)
    return Refusal("the divisor depends on the input and is not a norm; allow_secant=True freezes it to its value on x")


def convolve(call: Call) -> Answer:
    """Convolution and transposed convolution with fixed weights; the bias is the offset."""
    x, weight, bias = call.args[:3]
    if call.is_tracked(weight) or call.is_tracked(bias):
        return Refusal("the weights of the convolution depend on the input")
    kernel, options = constant(weight), tuple(call.args[3:])
    offset = None if bias is None else constant(bias).reshape(-1, *[1] * (x.ndim - 2))
    return Frozen((x,), lambda p: torch.convolution(p, kernel, None, *options), offset)


def batch_norm(call: Call) -> Answer:
    """A fixed affine map per channel in eval mode; where statistics of the batch are used, those of x0 are."""
    x, weight, bias, mean, variance, training, _, eps = call.args[:8]
    axes = [axis for axis in range(x.ndim) if axis != 1]
    if call.is_tracked(weight) or call.is_tracked(bias):
        return Refusal("its weights depend on the input")
    if training:
        mean, variance = x.mean(axes), x.var(axes, correction=0)
    return [
        normalise(x, mean, variance, eps, weight, bias, (1, -1, *[1] * (x.ndim - 2)), unit=bool(training)),
        None,
        None,
    ]


def normalise(
    x: Tensor, mean: Tensor, variance: Tensor, eps: float, weight: Any, bias: Any, shape: tuple[int, ...], unit: bool
) -> Frozen:
    """gamma (z - mean) / sqrt(variance + eps) + beta with constants that are reshaped to `shape`."""
    slope = torch.rsqrt(constant(variance) + eps)
    slope = slope if weight is None else slope * constant(weight)
    offset = -constant(mean) * slope if bias is None else constant(bias) - constant(mean) * slope
    slope, offset = slope.reshape(shape), offset.reshape(shape)
    return Frozen((x,), lambda p: p * slope, offset.to(x.dtype), unit=unit)


def reshape(call: Call) -> Answer:
    x, shape = call.args[0], call.output.shape
    return Frozen((x,), lambda p: p.reshape(shape), None, call.mark(x))


_FIRST = [
    "alias",
    "permute",
    "transpose",
    "t",
    "expand",
    "squeeze",
    "unsqueeze",
    "slice",
    "select",
    "split",
    "split_with_sizes",
    "unbind",
    "unfold",
    "diagonal",
    "sum",
    "mean",
    "cumsum",
    "neg",
    "flip",
    "roll",
    "tril",
    "triu",
    "trace",
    "repeat",
    "constant_pad_nd",
    "reflection_pad1d",
    "reflection_pad2d",
    "reflection_pad3d",
    "replication_pad1d",
    "replication_pad2d",
    "replication_pad3d",
    "avg_pool1d",
    "avg_pool2d",
    "avg_pool3d",
    "_adaptive_avg_pool2d",
    "_adaptive_avg_pool3d",
    "upsample_nearest1d",
    "upsample_nearest2d",
    "upsample_nearest3d",
    "_upsample_nearest_exact1d",
    "_upsample_nearest_exact2d",
    "_upsample_nearest_exact3d",
    "upsample_linear1d",
    "upsample_bilinear2d",
    "upsample_trilinear3d",
    "upsample_bicubic2d",
    "_upsample_bilinear2d_aa",
    "_upsample_bicubic2d_aa",
    "pixel_shuffle",
    "pixel_unshuffle",
    "channel_shuffle",
    "im2col",
    "col2im",
    "index",
    "index_select",
    "gather",
    "grid_sampler_2d",
    "grid_sampler_3d",
]

AFFINE: dict[str, Rule] = {
    **{name: linear_in(0) for name in _FIRST},
    "constant_pad_nd": linear_in(0, 2),
    "cat": linear_in(0),
    "stack": linear_in(0),
    "where": linear_in(1, 2),
    "lerp": linear_in(0, 1),
    "masked_fill": linear_in(0, 2),
    "index_put": linear_in(0, 2),
    "index_add": linear_in(0, 3),
    "scatter": linear_in(0, 3),
    "scatter_add": linear_in(0, 3),
    "slice_scatter": linear_in(0, 1),
    "select_scatter": linear_in(0, 1),
    "diagonal_scatter": linear_in(0, 1),
    "add": add(1),
    "sub": add(-1),
    "rsub": reversed_subtract,
    "mul": scale,
    "div": divide,
    "mm": bilinear(0, 1),
    "bmm": bilinear(0, 1),
    "mv": bilinear(0, 1),
    "dot": bilinear(0, 1),
    "addmm": matrix_product_plus(torch.mm),
    "baddbmm": matrix_product_plus(torch.bmm),
    "addmv": matrix_product_plus(torch.mv),
    "convolution": convolve,
    "native_batch_norm": batch_norm,
    **dict.fromkeys(("view", "_unsafe_view", "reshape", "_reshape_alias", "view_copy"), reshape),
    **dict.fromkeys(("clone", "detach", "lift_fresh", "_to_copy", "copy", "contiguous"), identity),
}
