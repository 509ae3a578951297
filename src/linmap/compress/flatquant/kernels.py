"""What the quantised model runs: transform, quantise and pack in one pass, and products with weights in integer codes.

A sum over channels does not ask for their order, so the low and the high nibbles are multiplied apart, each with the
channels that it belongs to, and never interleaved. On the CPU weights are taken some rows at a time, so that what is
unpacked stays in the cache.

What multiplies codes, by the machine:
- CPU with int8 dot products (VNNI), and CUDA: `torch._int_mm`. On an AMD EPYC with AVX-512, 512 tokens go through a
  weight of 4096 x 4096 four times as fast as through a float32 layer, unpacking included, and one token 1.6 times; one
  token through 576 x 576 takes three times as long, most of it in starting the operations.
- other devices: float32 products of the codes, which are exact too.
PyTorch reaches no 4-bit tensor cores, so on GPUs 4-bit codes run on the 8-bit ones.

References
----------
Sun et al., "FlatQuant: Flatness Matters for LLM Quantization", ICML 2025, section 3.3 and appendix B.
"""

from __future__ import annotations

from importlib.util import find_spec

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int8, Int32, Shaped, UInt8
from torch import Tensor

from linmap.compress.flatquant.native.choice import active_kernels as active_kernels
from linmap.compress.flatquant.native.choice import use as use
from linmap.errors import ArgumentError

TRITON = find_spec("triton") is not None and torch.version.hip is None
INT8_DOT = torch.cpu._is_vnni_supported()
CPU_CODES = 2**20  # codes of a weight that are unpacked at once on the CPU
EXACT_COLUMNS = 2**10  # products of at most 128 * 128 each that float32 sums exactly
MOST_COLUMNS = 2**21  # sums of products of at most 128 * 8 in int32
MOST_WIDE_COLUMNS = 2**17 - 1  # of at most 128 * 128
Clip = float | Float[Tensor, ""]


# -- activations -------------------------------------------------------------------------------------------------------


@torch.no_grad()
def transform_quantize_pack(
    x: Float[Tensor, "*batch n"],
    left: Float[Tensor, "n1 n1"],
    right: Float[Tensor, "n2 n2"],
    clip_max: Clip | None = None,
    clip_min: Clip | None = None,
) -> tuple[UInt8[Tensor, "*batch bytes"], Float[Tensor, "*batch 1"]]:
    """Q(x (L ⊗ R)) in symmetric 4-bit codes, two to a byte, with one scale a token.

    Y = L^T X R of each token as an n1 x n2 matrix, accumulated in float32 whatever the dtype of x; s =
    max(clip_max * max Y, -clip_min * min Y) / 7, or 1 for a token of zeros; codes clamp(round(Y / s), -8, 7), rounded
    half to even. On CUDA with Triton all of it is one kernel, which reads x and writes codes and nothing between; see
    `linmap.compress.flatquant.triton_kernel` for the sizes that take two. Elsewhere it is PyTorch, which
    `torch.compile` fuses.

    Parameters
    ----------
    x : (..., n)
        Activations in any floating dtype, n = n1 n2.
    left, right : (n1, n1), (n2, n2)
        L and R.
    clip_max, clip_min
        Shares of the largest and the smallest value that are kept, after the sigmoid; None: all.

    Returns
    -------
    packed : (..., ceil(n / 2)), uint8
        Even index in the low nibble; a last code of 0 fills up an odd n.
    scale : (..., 1), float32
        float16 would underflow for small activations.

    Raises
    ------
    ValueError
        If the factors are not square, or their sizes do not multiply to n.
    """
    sizes = tuple(left.shape), tuple(right.shape)
    if any(len(size) != 2 or size[0] != size[1] for size in sizes) or len(left) * len(right) != x.shape[-1]:
        raise ArgumentError(
            f"left {sizes[0]} and right {sizes[1]} must be square and their sizes multiply to the {x.shape[-1]} "
            "channels of x; `kronecker_factors(n)` gives a pair of sizes."
        )
    clips = _clip(clip_max), _clip(clip_min)
    if x.is_cuda and TRITON:
        from linmap.compress.flatquant import triton_kernel

        return triton_kernel.transform_quantize_pack(x, left, right, *clips)
    return _transformed_codes(x, left, right, *clips)


@torch.no_grad()
def quantize_pack(
    x: Float[Tensor, "*batch n"], clip_max: Clip | None = None, clip_min: Clip | None = None
) -> tuple[UInt8[Tensor, "*batch bytes"], Float[Tensor, "*batch 1"]]:
    """`transform_quantize_pack` without a transform."""
    if x.is_cuda and TRITON:
        from linmap.compress.flatquant import triton_kernel

        return triton_kernel.quantize_pack(x, _clip(clip_max), _clip(clip_min))
    return _codes(x.to(torch.float32, copy=True), _clip(clip_max), _clip(clip_min))


def _clip(share: Clip | None) -> Clip:
    return 1.0 if share is None else share


def _transformed_codes(
    x: Float[Tensor, "*batch n"],
    left: Float[Tensor, "n1 n1"],
    right: Float[Tensor, "n2 n2"],
    clip_max: Clip,
    clip_min: Clip,
) -> tuple[UInt8[Tensor, "*batch bytes"], Float[Tensor, "*batch 1"]]:
    """Two products of small matrices a token, L^T (X R) in float32, and then elementwise work."""
    X = x.float().unflatten(-1, (len(left), len(right)))
    Y = torch.matmul(left.float().mT, torch.matmul(X, right.float()))
    return _codes(Y.flatten(-2), clip_max, clip_min)


def _codes(
    y: Float[Tensor, "*batch n"], clip_max: Clip, clip_min: Clip
) -> tuple[UInt8[Tensor, "*batch bytes"], Float[Tensor, "*batch 1"]]:
    """Codes and scale of each row; y is overwritten."""
    high, low = y.amax(-1, keepdim=True), y.amin(-1, keepdim=True)
    scale = torch.maximum(high.clamp(min=0) * clip_max, -low.clamp(max=0) * clip_min) / 7
    scale = torch.where(scale == 0, 1.0, scale)
    codes = y.div_(scale).round_().clamp_(-8, 7).to(torch.int8)
    if codes.shape[-1] % 2:
        codes = F.pad(codes, (0, 1))
    pairs = codes.contiguous().view(torch.int16)  # the even code is the low byte, as processors keep it
    return ((pairs & 0x0F) | ((pairs >> 4) & 0xF0)).to(torch.uint8), scale


# -- products ----------------------------------------------------------------------------------------------------------


@torch.no_grad()
def int4_linear(
    packed_x: UInt8[Tensor, "*batch bytes"],
    x_scale: Float[Tensor, "*batch 1"],
    packed_w: UInt8[Tensor, "m bytes"],
    w_scale: Float[Tensor, "m 1"],
    bias: Float[Tensor, " m"] | None = None,
) -> Float[Tensor, "*batch m"]:
    """y = s_x s_w (q_x q_w^T) + b of symmetric 4-bit codes, summed in integers.

    Equal to the same formula in float64 but for the rounding of the scales, as long as |q_x q_w^T| < 2^24; larger sums
    are rounded once, to float32.

    Parameters
    ----------
    packed_x, x_scale
        As `transform_quantize_pack` gives them.
    packed_w : (m, ceil(n / 2))
        Rows packed in the same manner.
    w_scale : (m, 1)
        One scale a row.

    Returns
    -------
    y : (..., m), float32

    Raises
    ------
    ValueError
        If the rows of x and of the weight have different lengths, the weight has a scale for every group of columns,
        or n is above 2^21.
    """
    _check_rows(packed_x.shape[-1], packed_w)
    if w_scale.shape != (len(packed_w), 1):
        raise ArgumentError(
            f"w_scale must have the shape ({len(packed_w)}, 1), one scale a row, got {tuple(w_scale.shape)}; weights "
            "with groups of columns go through `weight_only_linear`."
        )
    if 2 * packed_w.shape[1] > MOST_COLUMNS:
        raise ArgumentError(f"packed_w has {2 * packed_w.shape[1]} columns; int32 sums hold up to {MOST_COLUMNS}.")
    x = packed_x.reshape(-1, packed_x.shape[-1]).view(torch.int8)
    even, odd = (x << 4) >> 4, x >> 4
    sums = [
        code_products(even, rows << 4) + code_products(odd, rows & -16)  # 16 times the codes
        for rows in packed_w.view(torch.int8).split(_rows_at_once(packed_w))
    ]
    y = torch.cat(sums, 1).float().mul_(1 / 16).mul_(x_scale.reshape(-1, 1)).mul_(w_scale.mT)
    if bias is not None:
        y += bias
    return y.reshape(*packed_x.shape[:-1], len(packed_w))


@torch.no_grad()
def integer_linear(
    x: Int8[Tensor, "*batch n"],
    x_scale: Float[Tensor, "*batch 1"],
    w: Int8[Tensor, "m n"],
    w_scale: Float[Tensor, "m 1"],
    bias: Float[Tensor, " m"] | None = None,
) -> Float[Tensor, "*batch m"]:
    """y = s_x s_w (q_x q_w^T) + b of symmetric codes of up to 8 bits, one to a byte, summed in integers.

    For weights that are multiplied often and were unpacked once; in the dtype of `x_scale`.

    Raises
    ------
    ValueError
        If n is above 2^17 - 1, which int32 sums do not hold.
    """
    if w.shape[1] > MOST_WIDE_COLUMNS:
        raise ArgumentError(f"w has {w.shape[1]} columns; int32 sums of 8-bit codes hold up to {MOST_WIDE_COLUMNS}.")
    y = code_products(x.reshape(-1, x.shape[-1]), w).to(x_scale.dtype)
    y = y.mul_(x_scale.reshape(-1, 1)).mul_(w_scale.mT)
    if bias is not None:
        y += bias
    return y.reshape(*x.shape[:-1], len(w))


@torch.no_grad()
def weight_only_linear(
    x: Float[Tensor, "*batch n"],
    packed_w: UInt8[Tensor, "m bytes"],
    w_scale: Float[Tensor, "m groups"],
    w_zero: Float[Tensor, "m groups"] | None = None,
    bias: Float[Tensor, " m"] | None = None,
) -> Float[Tensor, "*batch m"]:
    """y = x W^T + b with W = s (q - z) in 4-bit codes, in the dtype of x.

    The weight is never whole in memory. That costs time where x is short: on a CPU one token takes twice as long as
    through a float32 weight of 4096 x 4096, which is eight times as large, and five to seven times for 576 x 576; 512
    tokens take 1.1 to 1.3 times as long.

    Parameters
    ----------
    packed_w : (m, ceil(n / 2))
        Even column in the low nibble.
    w_scale, w_zero : (m, groups)
        Of each row, or of each group of an even number of columns; with zeros, codes go from 0 to 15, without, from
        -8 to 7.

    Raises
    ------
    ValueError
        If x and the weight have different lengths, or the groups do not divide the columns into even numbers.
    """
    n_bytes, groups = packed_w.shape[1], w_scale.shape[1]
    _check_rows((x.shape[-1] + 1) // 2, packed_w)
    if n_bytes % groups or (groups > 1 and x.shape[-1] % 2):
        raise ArgumentError(
            f"w_scale has {groups} groups, which do not divide {x.shape[-1]} columns into even numbers."
        )
    tokens = F.pad(x, (0, x.shape[-1] % 2)).reshape(-1, 2 * n_bytes)
    even, odd = tokens[:, 0::2], tokens[:, 1::2]
    w = packed_w if w_zero is not None else packed_w.view(torch.int8)
    at_once = _rows_at_once(packed_w)
    zeros = [None] * -(-len(w) // at_once) if w_zero is None else w_zero.split(at_once)
    parts = []
    for q, s, z in zip(w.split(at_once), w_scale.split(at_once), zeros, strict=True):
        low = (q << 4) >> 4 if z is None else q & 15
        W_even, W_odd = (_weights(codes, s, z).to(x.dtype) for codes in (low, q >> 4))
        parts.append(even @ W_even.mT + odd @ W_odd.mT)
    y = torch.cat(parts, 1)
    if bias is not None:
        y += bias
    return y.reshape(*x.shape[:-1], -1)


def _weights(
    codes: Shaped[Tensor, "m n"], scale: Float[Tensor, "m groups"], zero: Float[Tensor, "m groups"] | None
) -> Float[Tensor, "m n"]:
    W = codes.float().unflatten(1, (scale.shape[1], -1))
    if zero is not None:
        W -= zero[..., None]
    return W.mul_(scale[..., None]).flatten(1)


def code_products(x: Int8[Tensor, "tokens n"], w: Int8[Tensor, "m n"]) -> Int32[Tensor, "tokens m"]:
    """x w^T of codes of up to eight bits."""
    if x.is_cuda:
        return _padded_products(x, w)
    if x.device.type == "cpu" and INT8_DOT and x.shape[1] > 1:  # `_int_mm` is wrong for one column in torch 2.13
        return torch._int_mm(x, w.mT)
    columns = zip(x.split(EXACT_COLUMNS, 1), w.split(EXACT_COLUMNS, 1), strict=True)
    return torch.stack([(a.float() @ b.float().mT).int() for a, b in columns]).sum(0, dtype=torch.int32)


def _padded_products(x: Int8[Tensor, "tokens n"], w: Int8[Tensor, "m n"]) -> Int32[Tensor, "tokens m"]:
    """In sizes that the int8 tensor cores take: more than 16 rows of x, and multiples of 8."""
    columns = -x.shape[1] % 16
    padded_x = F.pad(x, (0, columns, 0, max(32, -(-len(x) // 8) * 8) - len(x)))
    padded_w = F.pad(w, (0, columns, 0, -len(w) % 8))
    return torch._int_mm(padded_x, padded_w.mT)[: len(x), : len(w)]


def _rows_at_once(packed_w: Tensor) -> int:
    if packed_w.device.type != "cpu":
        return max(1, len(packed_w))
    return max(16, CPU_CODES // max(1, 2 * packed_w.shape[1]))


def _check_rows(n_bytes: int, packed_w: Tensor) -> None:
    if n_bytes != packed_w.shape[1]:
        raise ArgumentError(
            f"a row of packed_w has {packed_w.shape[1]} bytes, and one of x, at two codes a byte, {n_bytes}; both must "
            "have the same in_features."
        )
