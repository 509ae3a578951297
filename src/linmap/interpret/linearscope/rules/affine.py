"""Operations that are linear or affine as they stand, and products of the input with constants."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from linmap.interpret.linearscope.arguments import Layout, leaves
from linmap.interpret.linearscope.rules.call import Answer, Call, Frozen, Refusal, Rule, constant
from linmap.interpret.linearscope.rules.moves import moves, packs, strided, writes
from linmap.interpret.linearscope.rules.products import divided_product, like, multilinear, plus_product, scale

aten = torch.ops.aten
ALL = tuple(range(8))


def linear_in(*positions: int, keep_mark: bool = True, function: Callable[..., Any] | None = None) -> Rule:
    """An operation that is jointly linear in the arguments at `positions` and fixed in the others.

    Constants at those positions make the offset: f(x, c) = f(x, 0) + f(0, c). `function` replays the operation where
    the operation itself would depend on strides.
    """

    def rule(call: Call) -> Answer:
        layout = Layout.of(call.args, call.kwargs)
        elements = leaves(call.args, call.kwargs)
        joint = [owner in positions for owner in layout.owners]
        slots = [i for i, leaf in enumerate(elements) if call.is_tracked(leaf)]
        if not all(joint[i] for i in slots):
            return Refusal("an argument that the operation is not linear in depends on the input")
        apply, inputs = function or call.op, tuple(elements[i] for i in slots)
        zeros: list[Any] = list(map(constant, elements))
        others, has_constants = list(zeros), False
        for i, leaf in enumerate(elements):
            if i in slots:
                others[i], zeros[i] = torch.zeros_like(leaf), None  # the tape must not keep activations alive
            elif joint[i] and _is_number(leaf):
                zeros[i], has_constants = (torch.zeros_like(leaf) if isinstance(leaf, Tensor) else 0.0), True

        def replay(*probes: Tensor) -> Any:
            filled = list(zeros)
            for slot, probe in zip(slots, probes, strict=True):
                filled[slot] = probe
            return layout.call(apply, filled)

        offset: Any = layout.call(apply, others) if has_constants else None
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
    """Copies and casts; the trace sees to the precision."""
    shape = call.output.shape
    if not call.output.is_floating_point():
        return Refusal("complex numbers are not followed") if call.output.is_complex() else None
    source = call.args[0]
    if call.name == "copy":  # copy(destination, source)
        source = call.args[1]
        if not call.is_tracked(source):
            return None
        return Frozen((source,), lambda p: p.expand(shape), None, call.mark(source))
    return Frozen((source,), lambda p: p, None, call.mark(source))


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
    return add(-1)(replace(call, op=aten.sub.Tensor, args=(b, a), kwargs={"alpha": alpha}))


def _offset(number: Any, like: Tensor) -> Tensor:
    return (
        number.to(like.dtype)
        if isinstance(number, Tensor)
        else torch.full((), number, dtype=like.dtype, device=like.device)
    )


def divide(call: Call) -> Answer:
    """a / c; by the norm of x0 where c is a norm or a sum of probabilities; by others only if secants are allowed."""
    a, b = call.args[:2]
    if call.kwargs.get("rounding_mode"):
        return None  # a piecewise constant function is a decision
    if not call.is_tracked(b):
        divisor = constant(b)
        return Frozen((a,), lambda p: p / divisor, None, call.mark(a))
    if call.is_tracked(a) and (call.mark(b) in ("norm", "softmax") or call.options.allow_secant):
        divisor, mark = constant(b), "softmax" if call.mark(a) == "softmax" else None
        return Frozen((a,), lambda p: p / divisor, None, mark, unit=True)
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
    return Frozen((x,), lambda p: torch.convolution(p, like(p, kernel), None, *options), offset)


def _batch_norm_arguments(call: Call) -> tuple[Any, ...]:
    """(x, weight, bias, running mean, running variance, training, momentum, eps), as native_batch_norm orders them."""
    args = call.args
    if call.op._overloadname == "no_stats":
        return (*args[:3], None, None, *args[3:])
    if call.name == "_native_batch_norm_legit_no_training":
        return (*args[:5], False, *args[5:])
    return args[:8]


def time_convolve(call: Call) -> Answer:
    """conv_tbc: a convolution over (time, batch, channels) with fixed weights."""
    x, weight, bias, padding = call.args[0], *map(constant, call.args[1:3]), call.argument(3, "pad", 0)
    if call.is_tracked(call.args[1]) or call.is_tracked(call.args[2]):
        return Refusal("the weights of the convolution depend on the input")
    without = torch.zeros_like(bias)
    return Frozen((x,), lambda p: torch.conv_tbc(p, weight, without, padding), bias)


def solve(call: Call) -> Answer:
    """A^-1 b with a fixed matrix; the factors of A that come with it are constants."""
    matrix, right = call.args[:2]
    if call.is_tracked(matrix):
        return Refusal("the matrix depends on the input")
    held, op, options = constant(matrix), call.op, call.kwargs
    return [Frozen((right,), lambda p: op(held, p, **options)[0]), *[None] * (len(call.output) - 1)]


def summing(rule: Rule) -> Rule:
    """A reduction into places is linear if it adds or takes the mean."""

    def summed(call: Call) -> Answer:
        reduce = call.kwargs.get("reduce") or next((a for a in call.args if isinstance(a, str)), "add")
        if reduce not in ("add", "sum", "mean"):
            return Refusal(f"reduce={reduce!r} is not linear")
        return rule(call)

    return summed


def placed(values: int) -> Rule:
    """Elements put into places, some perhaps twice: then the one that stays counts, in F^T as well as in F."""

    def rule(call: Call) -> Answer:
        follow = writes(values) if call.is_tracked(call.args[values]) else linear_in(0, values)
        return follow(call)

    return rule


def index_put(call: Call) -> Answer:
    """Elements put into places, or added there."""
    return linear_in(0, 2)(call) if call.argument(3, "accumulate", False) else placed(2)(call)


def scatter(call: Call) -> Answer:
    """Elements put into places, or added there."""
    reduce = call.kwargs.get("reduce")
    if reduce is None:
        return placed(3)(call)
    if reduce != "add" or not isinstance(call.args[3], Tensor):
        return Refusal(f"reduce={reduce!r} is not followed")
    return linear_in(0, 3)(replace(call, op=aten.scatter_add.default, kwargs={}))


def under_another_name(name: str) -> Rule:
    """An operation that differs from the operation `name` in what it does with memory only."""

    def rule(call: Call) -> Answer:
        op = getattr(getattr(aten, name), call.op._overloadname or "default")
        return AFFINE[name](replace(call, op=op))

    return rule


def without_nan(call: Call) -> Answer:
    """nansum: the sum of what is a number on x0."""
    missing, options = call.args[0].isnan(), call.kwargs
    rest = call.args[1:]
    return Frozen((call.args[0],), lambda p: p.masked_fill(missing, 0).sum(*rest, **options))


def batch_norm(call: Call) -> Answer:
    """A fixed affine map per channel in eval mode; where statistics of the batch are used, those of x0 are."""
    x, weight, bias, mean, variance, training, _, eps = _batch_norm_arguments(call)
    axes = [axis for axis in range(x.ndim) if axis != 1]
    if call.is_tracked(weight) or call.is_tracked(bias):
        return Refusal("its weights depend on the input")
    if training:
        mean, variance = x.mean(axes), x.var(axes, correction=0)
    return [
        normalise(x, mean, variance, eps, weight, bias, (1, -1, *[1] * (x.ndim - 2)), unit=bool(training)),
        *[None] * (len(call.output) - 1),
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
    if call.op._overloadname == "dtype":
        return Refusal("it reads the bits of numbers")
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
    "_upsample_lanczos2d_aa",
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
    "affine_grid_generator",
    "deg2rad",
    "rad2deg",
    "ldexp",
    "embedding",
    "diag_embed",
    "rot90",
    "block_diag",
    "_unsafe_index",
    "_neg_view",
]
"""Linear in their first argument."""

_COPIES = (
    "alias as_strided detach diagonal expand lift_fresh permute select slice split split_with_sizes squeeze t "
    "transpose unbind unfold unsqueeze _reshape_alias _neg_view"
)
"""Views that have a copying form, `<name>_copy`, with the same arguments."""

AFFINE: dict[str, Rule] = {
    **{name: linear_in(0) for name in _FIRST},
    "constant_pad_nd": linear_in(0, 2),
    "cat": linear_in(0),
    "stack": linear_in(0),
    "where": linear_in(1, 2),
    "lerp": linear_in(0, 1),
    "masked_fill": linear_in(0, 2),
    **dict.fromkeys(("index_put", "_unsafe_index_put", "_index_put_impl"), index_put),
    "index_add": linear_in(0, 3),
    "index_fill": linear_in(0, 3),
    "scatter": scatter,
    "narrow_copy": linear_in(0, function=torch.narrow),
    "scatter_reduce": summing(linear_in(0, 3)),
    "index_reduce": summing(linear_in(0, 3)),
    "scatter_add": linear_in(0, 3),
    "_stack": linear_in(0, function=torch.stack),
    "as_strided": strided,
    **dict.fromkeys(("take", "masked_select"), moves),
    "_pack_padded_sequence": packs,
    "masked_scatter": writes(2),
    "put": writes(2),
    "index_copy": writes(3),
    "as_strided_scatter": writes(1),
    "nansum": without_nan,
    "linalg_solve_triangular": linear_in(1),
    "_linalg_solve_ex": solve,
    "linalg_lu_solve": linear_in(2),
    "cholesky_solve": linear_in(0),
    "xlogy": linear_in(0),
    "slice_scatter": linear_in(0, 1),
    "select_scatter": linear_in(0, 1),
    "diagonal_scatter": linear_in(0, 1),
    "add": add(1),
    "sub": add(-1),
    "rsub": reversed_subtract,
    "mul": scale,
    "div": divide,
    **dict.fromkeys(("mm", "bmm", "mv", "dot", "vdot", "linalg_cross", "_grouped_mm"), multilinear(0, 1)),
    "_trilinear": multilinear(0, 1, 2),
    "addmm": plus_product(torch.mm),
    "baddbmm": plus_product(torch.bmm),
    "addmv": plus_product(torch.mv),
    "addr": plus_product(torch.outer),
    "addbmm": plus_product(lambda a, b: torch.bmm(a, b).sum(0)),
    "addcmul": plus_product(torch.mul),
    "addcdiv": divided_product,
    "convolution": convolve,
    "conv_tbc": time_convolve,
    **dict.fromkeys(
        ("native_batch_norm", "_native_batch_norm_legit", "_native_batch_norm_legit_functional"), batch_norm
    ),
    **dict.fromkeys(("_native_batch_norm_legit_no_training", "cudnn_batch_norm", "miopen_batch_norm"), batch_norm),
    **dict.fromkeys(("view", "_unsafe_view", "_reshape_alias", "view_copy"), reshape),
    **dict.fromkeys(("clone", "detach", "lift_fresh", "lift", "_to_copy", "copy"), identity),
    **dict.fromkeys(("_lazy_clone", "_pin_memory"), identity),
}
AFFINE |= {f"{name}_copy": under_another_name(name) for name in _COPIES.split()}
AFFINE |= {f"unsafe_{name}": under_another_name(name) for name in ("split", "split_with_sizes")}
