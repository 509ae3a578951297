"""Uniform quantisers of activations (a scale for each token) and of weights (a scale for each row).

Symmetric: q = clamp(round(x / s), -2^(b-1), 2^(b-1) - 1), s = max |x| / (2^(b-1) - 1). Asymmetric: s = (max(x, 0) -
min(x, 0)) / (2^b - 1), z = round(-min(x, 0) / s), q = clamp(round(x / s) + z, 0, 2^b - 1). The value is s (q - z), and
rounding is half to even. Learnable clipping (section 3.1) shrinks the range by sigmoids of two logits.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, no_type_check

import torch
from jaxtyping import Float, Integer, Shaped, UInt8
from torch import Tensor

Per = Literal["token", "row"]
BITS = (2, 3, 4, 5, 6, 7, 8, 16)
CLIP_LOGIT = 4.0
"""Where the logits of clipping start: 0.982 of the range is kept."""
SMALLEST_RANGE = 1e-5  # of a row of weights
BLOCK = 2**17  # numbers that are worked on at once: no new memory from the system, and they stay in the cache


def check_bits(bits: int, name: str = "bits") -> int:
    """The number of bits, if there is a quantiser for it.

    Raises
    ------
    ValueError
        If it is none of 2 to 8 and 16.
    """
    if isinstance(bits, bool) or bits not in BITS:
        raise ValueError(f"{name} must be one of {', '.join(map(str, BITS))} (16: off), got {bits!r}.")
    return bits


def fake_quantize(
    x: Float[Tensor, "*batch n"],
    bits: int,
    symmetric: bool,
    max_logit: Float[Tensor, "*_"] | None = None,
    min_logit: Float[Tensor, "*_"] | None = None,
    per: Per = "token",
) -> tuple[Float[Tensor, "*batch n"], Float[Tensor, "*batch 1"], Float[Tensor, "*batch 1"]]:
    """x rounded to the values of a b-bit quantiser, differentiable: straight through the rounding, as it is elsewhere.

    Per token, both ends of the range, which contains 0, shrink by the sigmoids of two scalars, and values beyond are
    clipped to the outermost codes; a token of zeros has the scale 1. Per row, x is first clamped between the shrunk
    smallest and largest value of the row, then quantised over the range that is left, which is at least 1e-5. The
    gradient of the largest value is shared equally where several are equal, as that of `torch.amax`.

    Parameters
    ----------
    x : (..., n)
        Half precision is computed in float32.
    bits
        2 to 8; 16 returns x itself, whatever the logits.
    symmetric
        Whether the zero point is 0.
    max_logit, min_logit : () or (1,) per token; (rows,) or (rows, 1) per row
        None: that end is not clipped.
    per
        "token" for activations, "row" for weights.

    Returns
    -------
    y : (..., n)
        In the dtype of x.
    scale, zero : (..., 1)
        y = scale (codes - zero); in at least float32.

    Raises
    ------
    ValueError
        For other bits or `per`, or logits of another size.
    """
    if check_bits(bits) == 16:
        ones = x.new_ones(*x.shape[:-1], 1)
        return x, ones, torch.zeros_like(ones)
    a, b = _shaped(max_logit, x, per, "max_logit"), _shaped(min_logit, x, per, "min_logit")
    y, scale, zero = FakeQuantize.apply(x.reshape(-1, x.shape[-1]), a, b, bits, symmetric, per)  # pyright: ignore
    return y.reshape(x.shape), scale.reshape(*x.shape[:-1], 1), zero.reshape(*x.shape[:-1], 1)


@torch.no_grad()
def quantize(
    x: Float[Tensor, "*batch n"],
    bits: int,
    symmetric: bool,
    max_logit: Float[Tensor, "*_"] | None = None,
    min_logit: Float[Tensor, "*_"] | None = None,
    per: Per = "token",
) -> tuple[Integer[Tensor, "*batch n"], Float[Tensor, "*batch 1"], Float[Tensor, "*batch 1"] | None]:
    """The codes of `fake_quantize`, int8 if symmetric and uint8 if not, with scales and zero points (None: all 0).

    Raises
    ------
    ValueError
        For other bits than 2 to 8 or another `per`, or logits of another size.
    """
    if check_bits(bits) == 16:
        raise ValueError("16 bits are not quantised, so there are no codes; bits must be 2 to 8.")
    a, b = _shaped(max_logit, x, per, "max_logit"), _shaped(min_logit, x, per, "min_logit")
    rows = x.reshape(-1, x.shape[-1])
    grid = _grid(*_extremes(rows), a, b, bits, symmetric, per)
    codes = torch.empty_like(rows, dtype=torch.int8 if symmetric else torch.uint8)
    for block in _blocks(rows):
        codes[block] = _steps(rows[block], _part(grid, block)).add_(grid.zero[block])
    shape = (*x.shape[:-1], 1)
    return codes.reshape(x.shape), grid.scale.reshape(shape), None if symmetric else grid.zero.reshape(shape)


def dequantize(
    codes: Shaped[Tensor, "*batch n"],
    scale: Float[Tensor, "*#batch 1"],
    zero: Shaped[Tensor, "*#batch 1"] | None = None,
) -> Float[Tensor, "*batch n"]:
    """scale (codes - zero), in the dtype of the scale."""
    return (codes.to(scale.dtype) if zero is None else codes.to(scale.dtype) - zero) * scale


def pack_int4(codes: Shaped[Tensor, "*batch n"]) -> UInt8[Tensor, "*batch bytes"]:
    """Two codes to a byte, even index in the low nibble; signed codes in two's complement.

    Raises
    ------
    ValueError
        If the last dimension is odd, or a code does not fit into four bits.
    TypeError
        If the codes are not integers.
    """
    if codes.is_floating_point() or codes.is_complex() or codes.dtype == torch.bool:
        raise TypeError(f"codes must be integers, got {codes.dtype}; `quantize` returns some.")
    if codes.shape[-1] % 2:
        raise ValueError(
            f"two codes share a byte, but the last dimension is {codes.shape[-1]}; append a code of 0 and cut it off "
            "after `unpack_int4`."
        )
    low, high = (0, 15) if codes.dtype == torch.uint8 else (-8, 15)
    if codes.numel() and not (low <= int(codes.min()) and int(codes.max()) <= high):
        raise ValueError(f"codes of 4 bits are -8..7 or 0..15, got {int(codes.min())}..{int(codes.max())}.")
    return join_nibbles(codes)


def join_nibbles(codes: Shaped[Tensor, "*batch n"]) -> UInt8[Tensor, "*batch bytes"]:
    """`pack_int4` of codes that are known to fit: without looking at them, which would wait for a GPU."""
    nibbles = codes.to(torch.uint8) & 15
    return nibbles[..., ::2] | nibbles[..., 1::2] << 4


def unpack_int4(packed: UInt8[Tensor, "*batch bytes"], signed: bool = True) -> Integer[Tensor, "*batch n"]:
    """What `pack_int4` packed: int8 codes in -8..7 if signed, uint8 codes in 0..15 if not.

    Raises
    ------
    TypeError
        If the bytes are not uint8.
    """
    if packed.dtype != torch.uint8:
        raise TypeError(f"packed must be uint8, got {packed.dtype}; `pack_int4` returns it.")
    nibbles = torch.stack([packed & 15, packed >> 4], dim=-1).flatten(-2)
    return (nibbles ^ 8).to(torch.int8).sub_(8) if signed else nibbles  # the sign bit counts -8


class Grid(NamedTuple):
    """The quantiser of each row; `codes` are the first and the last, None where rounding cannot pass them."""

    scale: Tensor
    zero: Tensor
    high: Tensor | None  # bounds of the clamp before, of weights
    low: Tensor | None
    codes: tuple[int, int] | None


def _grid(
    largest: Tensor, smallest: Tensor, max_logit: Tensor | None, min_logit: Tensor | None,
    bits: int, symmetric: bool, per: Per,
) -> Grid:  # fmt: skip
    """From the extremes of each row and the logits."""
    nothing = torch.zeros_like(largest)
    clips = max_logit is not None or min_logit is not None
    high = largest if max_logit is None else largest * max_logit.sigmoid()
    low = smallest if min_logit is None else smallest * min_logit.sigmoid()
    clamps = clips and per == "row"
    if clamps:
        largest, smallest = torch.clamp(largest, low, high), torch.clamp(smallest, low, high)
    else:
        largest, smallest = high, low
    largest, smallest = torch.maximum(largest, nothing), torch.minimum(smallest, nothing)
    span = torch.maximum(largest, -smallest) if symmetric else largest - smallest
    if per == "row":
        span = span.clamp(min=SMALLEST_RANGE)
    scale = span / (2 ** (bits - 1) - 1 if symmetric else 2**bits - 1)
    scale = scale.where(scale > 0, 1)  # a token of zeros
    if symmetric:
        codes = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if clips and not clamps else None
        return Grid(scale, nothing, *((high, low) if clamps else (None, None)), codes)
    # the zero point is rounded, so that the last code can be passed without clipping too
    zero = (-smallest / scale).round()
    return Grid(scale, zero, *((high, low) if clamps else (None, None)), (0, 2**bits - 1))


def _extremes(x: Tensor) -> tuple[Tensor, Tensor]:
    return _at_least_float32(x.amax(-1, keepdim=True)), _at_least_float32(x.amin(-1, keepdim=True))


def _blocks(x: Tensor) -> list[slice]:
    """Rows of x that stay in the cache of a CPU together."""
    whole = x.device.type != "cpu" or torch.compiler.is_compiling()
    rows = len(x) if whole else BLOCK // x.shape[-1]
    return [slice(i, i + max(1, rows)) for i in range(0, max(1, len(x)), max(1, rows))]


def _part(grid: Grid, block: slice) -> Grid:
    high, low = (None if bound is None else bound[block] for bound in (grid.high, grid.low))
    return Grid(grid.scale[block], grid.zero[block], high, low, grid.codes)


def _clamped(x: Tensor, grid: Grid) -> Tensor:
    """x between the bounds of its row: `torch.clamp`, several times faster."""
    if grid.high is None or grid.low is None:
        return x
    return torch.maximum(x, grid.low).minimum(grid.high)


@no_type_check  # Dynamo traces the methods, but no run-time checks around them
class FakeQuantize(torch.autograd.Function):
    """`fake_quantize` of a matrix in few passes, block by block. The scalars of the rows are left to autograd.

    With u = x / s, and K = 1 where q is not clipped, 0 elsewhere: dy = K dx + (q - z - K u) ds.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, max_logit: Tensor | None, min_logit: Tensor | None, bits: int, symmetric: bool, per: Per
    ) -> tuple[Tensor, Tensor, Tensor]:
        largest, smallest = _extremes(x)
        grid = _grid(largest, smallest, max_logit, min_logit, bits, symmetric, per)
        ctx.quantiser = bits, symmetric, per
        ctx.save_for_backward(x, largest, smallest, max_logit, min_logit)
        ctx.mark_non_differentiable(grid.zero)
        ctx.set_materialize_grads(False)
        y = torch.empty_like(x)
        for block in _blocks(x):
            part = _part(grid, block)
            y[block] = _steps(x[block], part).mul_(part.scale)
        return y, grid.scale, grid.zero

    @staticmethod
    def backward(ctx: Any, grad: Any, grad_scale: Any, _: None) -> tuple[Any, ...]:
        x, *scalars = ctx.saved_tensors
        scalars: list[Any] = [None if scalar is None else scalar.detach().requires_grad_() for scalar in scalars]
        with torch.enable_grad():
            grid = _grid(*scalars, *ctx.quantiser)
        grad = torch.zeros_like(x) if grad is None else grad
        grad_x = torch.empty_like(x, dtype=grid.scale.dtype)
        blocks, grads = _blocks(x), []
        with torch.no_grad():
            for block in blocks:
                grads.append(_gradients(grad[block], x[block], _part(grid, block), grad_x[block]))
        grads = [None if parts[0] is None else torch.cat(parts) for parts in zip(*grads, strict=True)]
        if grad_scale is not None:
            grads[0] += grad_scale
        of_scalars: list[Any] = _backward([grid.scale, grid.high, grid.low], grads, scalars)
        for extreme, g in zip(scalars[:2], of_scalars[:2], strict=True):
            for block in blocks:
                places = _equal(_at_least_float32(x[block]), extreme[block])
                grad_x[block].addcmul_(places, g[block] / places.sum(-1, keepdim=True))
        return grad_x.to(x.dtype), *of_scalars[2:], None, None, None


def _steps(x: Tensor, grid: Grid) -> Tensor:
    """q - z."""
    return _kept(_clamped(_at_least_float32(x), grid).div(grid.scale).round_(), grid)


def _kept(rounded: Tensor, grid: Grid) -> Tensor:
    """q - z from round(x / s), in place."""
    if grid.codes is None:
        return rounded
    return rounded.add_(grid.zero).clamp_(*grid.codes).sub_(grid.zero)


def _gradients(grad: Tensor, x: Tensor, grid: Grid, grad_x: Tensor) -> tuple[Any, Any, Any]:
    """Those of scale, high and low; that of x with these fixed goes into `grad_x`."""
    grad, x = _at_least_float32(grad), _at_least_float32(x)
    inner = _clamped(x, grid)
    u = inner / grid.scale
    steps = u.round()
    grad_inner = grad_x.copy_(grad)
    if grid.codes is not None:
        rounded = steps.clone()
        K = _equal(rounded, _kept(steps, grid))
        grad_inner.mul_(K)
        u.mul_(K)
    grad_scale = steps.sub_(u).mul_(grad).sum(-1, keepdim=True)
    if grid.high is None or grid.low is None:
        return grad_scale, None, None
    outside = torch.ne(inner, x, out=u).mul_(grad_inner)
    grad_x.sub_(outside)
    total = outside.sum(-1, keepdim=True)
    above = torch.gt(x, grid.high, out=inner).mul_(outside).sum(-1, keepdim=True)
    # torch.clamp returns `high` everywhere if high <= low
    grad_high = above.where(grid.low <= grid.high, total)
    return grad_scale, grad_high, (total - above).where(grid.low < grid.high, 0)


def _equal(a: Tensor, b: Tensor) -> Tensor:
    """1 where a = b, 0 elsewhere, as numbers: much faster than booleans."""
    return torch.eq(a, b, out=torch.empty_like(a))


def _backward(
    ends: list[Tensor | None], grads: list[Tensor | None], starts: list[Tensor | None]
) -> list[Tensor | None]:
    """Gradients of `starts`, where those are tensors."""
    pairs = [(end, g) for end, g in zip(ends, grads, strict=True) if end is not None and g is not None]
    wanted = [start for start in starts if start is not None]
    found = iter(torch.autograd.grad([end for end, _ in pairs], wanted, [g for _, g in pairs]))
    return [None if start is None else next(found) for start in starts]


def _at_least_float32(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _shaped(logit: Tensor | None, x: Tensor, per: Per, name: str) -> Tensor | None:
    """A logit that broadcasts against the scalars of the rows of x as a matrix."""
    if per not in ("token", "row"):
        raise ValueError(f"per must be 'token' (activations) or 'row' (weights), got {per!r}.")
    if logit is None:
        return None
    shape = () if per == "token" else (x.shape[:-1].numel(), 1)
    if logit.numel() != torch.Size(shape).numel():
        expected = "one logit" if per == "token" else f"one logit for each of the rows, of shape {shape},"
        raise ValueError(f"{name}: {expected} is expected for x of shape {tuple(x.shape)}, got {tuple(logit.shape)}.")
    return logit.reshape(shape).to(torch.promote_types(x.dtype, torch.float32))
