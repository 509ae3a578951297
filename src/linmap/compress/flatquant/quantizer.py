"""Uniform quantisers of activations (a scale for each token) and of weights (a scale for each row).

Symmetric: q = clamp(round(x / s), -2^(b-1), 2^(b-1) - 1), s = max |x| / (2^(b-1) - 1). Asymmetric: s = (max(x, 0) -
min(x, 0)) / (2^b - 1), z = round(-min(x, 0) / s), q = clamp(round(x / s) + z, 0, 2^b - 1). The value is s (q - z), and
rounding is half to even. Learnable clipping (section 3.1) shrinks the range by sigmoids of two logits.
"""

from __future__ import annotations

from typing import Any, no_type_check

import torch
from jaxtyping import Float, Integer, Shaped, UInt8
from torch import Tensor

from linmap.compress.flatquant.passes import Per, blocks, extremes, grid_of, part_of, passes_for, steps
from linmap.errors import ArgumentError, ArgumentTypeError

BITS = (2, 3, 4, 5, 6, 7, 8, 16)
CLIP_LOGIT = 4.0
"""Where the logits of clipping start: 0.982 of the range is kept."""


def check_bits(bits: int, name: str = "bits") -> int:
    """The number of bits, if there is a quantiser for it.

    Raises
    ------
    ValueError
        If it is none of 2 to 8 and 16.
    """
    if isinstance(bits, bool) or bits not in BITS:
        raise ArgumentError(f"{name}={bits!r} is none of {', '.join(map(str, BITS))} (16: off).")
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
        raise ArgumentError("16 bits are not quantised, so there are no codes; bits must be 2 to 8.")
    a, b = _shaped(max_logit, x, per, "max_logit"), _shaped(min_logit, x, per, "min_logit")
    rows = x.reshape(-1, x.shape[-1])
    grid = grid_of(*extremes(rows), a, b, bits, symmetric, per)
    codes = torch.empty_like(rows, dtype=torch.int8 if symmetric else torch.uint8)
    for block in blocks(rows):
        codes[block] = steps(rows[block], part_of(grid, block)).add_(grid.zero[block])
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

    Parameters
    ----------
    codes
        -8 to 7 in signed integers, 0 to 15 in uint8: `unpack_int4` gives back the same numbers, told which of the two.

    Raises
    ------
    ValueError
        If the last dimension is odd, or a code does not fit into four bits.
    TypeError
        If the codes are not integers.
    """
    if codes.is_floating_point() or codes.is_complex() or codes.dtype == torch.bool:
        raise ArgumentTypeError(f"codes must be integers, got {codes.dtype}; `quantize` returns some.")
    if codes.shape[-1] % 2:
        raise ArgumentError(
            f"two codes share a byte, but the last dimension is {codes.shape[-1]}; append a code of 0 and cut it off "
            "after `unpack_int4`."
        )
    low, high = (-8, 7) if codes.dtype.is_signed else (0, 15)
    if codes.numel() and not (low <= int(codes.min()) and int(codes.max()) <= high):
        raise ArgumentError(
            f"codes of 4 bits are -8..7 in signed integers and 0..15 in uint8, got {int(codes.min())}.."
            f"{int(codes.max())} in {str(codes.dtype).removeprefix('torch.')}; for unsigned codes give "
            "codes.to(torch.uint8)."
        )
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
        raise ArgumentTypeError(f"packed must be uint8, got {packed.dtype}; `pack_int4` returns it.")
    nibbles = torch.stack([packed & 15, packed >> 4], dim=-1).flatten(-2)
    return (nibbles ^ 8).to(torch.int8).sub_(8) if signed else nibbles  # the sign bit counts -8


@no_type_check  # Dynamo traces the methods, but no run-time checks around them
class FakeQuantize(torch.autograd.Function):
    """`fake_quantize` of a matrix in few passes (`passes.py`). The scalars of the rows are left to autograd.

    With u = x / s, and K = 1 where q is not clipped, 0 elsewhere: dy = K dx + (q - z - K u) ds.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, max_logit: Tensor | None, min_logit: Tensor | None, bits: int, symmetric: bool, per: Per
    ) -> tuple[Tensor, Tensor, Tensor]:
        (forwards, ctx.backwards), ctx.kind = passes_for(x), (bits, symmetric, per)
        y, scale, zero, largest, smallest = forwards(x, max_logit, min_logit, bits, symmetric, per)
        ctx.save_for_backward(x, largest, smallest, max_logit, min_logit)
        ctx.mark_non_differentiable(zero)
        ctx.set_materialize_grads(False)
        return y, scale, zero

    @staticmethod
    def backward(ctx: Any, grad: Any, grad_scale: Any, _: None) -> tuple[Any, ...]:
        x, *scalars = ctx.saved_tensors
        grad = torch.zeros_like(x) if grad is None else grad
        grad_x, *of_logits = ctx.backwards(grad, grad_scale, x, *scalars, *ctx.kind)
        return grad_x.to(x.dtype), *of_logits, None, None, None


def _shaped(logit: Tensor | None, x: Tensor, per: Per, name: str) -> Tensor | None:
    """A logit that broadcasts against the scalars of the rows of x as a matrix."""
    if per not in ("token", "row"):
        raise ArgumentError(f"per must be 'token' (activations) or 'row' (weights), got {per!r}.")
    if logit is None:
        return None
    shape = () if per == "token" else (x.shape[:-1].numel(), 1)
    if logit.numel() != torch.Size(shape).numel():
        expected = "one logit" if per == "token" else f"one logit for each of the rows, of shape {shape},"
        raise ArgumentError(
            f"{name}: {expected} is expected for x of shape {tuple(x.shape)}, got {tuple(logit.shape)}."
        )
    return logit.reshape(shape).to(torch.promote_types(x.dtype, torch.float32))
