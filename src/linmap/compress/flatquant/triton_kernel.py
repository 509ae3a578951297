"""Transform, quantise and pack in one Triton kernel: n values are read and n / 2 bytes written, nothing between.

One program takes one token X (n1 x n2), whose Y = L^T X R stays in registers. Sizes are filled up to powers of two with
zeros, which change neither the extremes nor the codes that are stored. Triton runs on CUDA, and without it in its
interpreter (`TRITON_INTERPRET=1`, set before anything imports Triton).

Two kernels instead, where Y passes through memory in float32:
- n2 is odd, so that a byte would hold codes of two rows of Y;
- the factors or Y exceed what one program holds (`fits_one_program`): 128 x 128 fits an H100, 64 x 128 any GPU since
  Ampere.
"""

# Numbers are handed to a kernel here, not to a function of constants.
# pyright: reportArgumentType=false, reportCallIssue=false
from __future__ import annotations

import torch
import triton
import triton.language as tl
from jaxtyping import Float, UInt8
from torch import Tensor

from linmap.compress.flatquant.kernels import Clip

TILE = 32  # columns of X taken at once
BLOCK = 1024  # bytes written at once by the kernel without a transform


@triton.jit
def _codes(Y, scale):
    """clamp(round(Y / s), -8, 7): to the nearest even by the float32 grid, which is 1 wide from 2^23 to 2^24."""
    q = tl.minimum(tl.maximum(tl.div_rn(Y, scale), -8.0), 7.0)
    return ((q + 12582912.0) - 12582912.0).to(tl.int32)


@triton.jit
def _scale(high, low, clip_ptr):
    s = tl.maximum(high * tl.load(clip_ptr), -low * tl.load(clip_ptr + 1))
    s = tl.div_rn(s, 7.0)
    return tl.where(s == 0.0, 1.0, s)


@triton.jit
def _transform_quantize_pack(
    x_ptr, left_ptr, right_ptr, clip_ptr, packed_ptr, scale_ptr,
    n1: tl.constexpr, n2: tl.constexpr, N1: tl.constexpr, N2: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    token = tl.program_id(0).to(tl.int64)
    i = tl.arange(0, N1)
    j = tl.arange(0, N2)
    LT = tl.load(left_ptr + i[None, :] * n1 + i[:, None], mask=(i[None, :] < n1) & (i[:, None] < n1), other=0.0)
    Y = tl.zeros((N1, N2), dtype=tl.float32)
    for start in range(0, n2, TILE):  # Y = sum over tiles of columns: (L^T X[:, k]) R[k, :]
        k = start + tl.arange(0, TILE)
        X = tl.load(
            x_ptr + token * (n1 * n2) + i[:, None] * n2 + k[None, :],
            mask=(i[:, None] < n1) & (k[None, :] < n2),
            other=0.0,
        )
        R = tl.load(right_ptr + k[:, None] * n2 + j[None, :], mask=(k[:, None] < n2) & (j[None, :] < n2), other=0.0)
        T = tl.dot(LT, X.to(tl.float32), input_precision="tf32x3")
        Y = tl.dot(T, R, acc=Y, input_precision="tf32x3")
    scale = _scale(tl.max(tl.maximum(Y, 0.0)), tl.min(tl.minimum(Y, 0.0)), clip_ptr)
    even, odd = tl.split(tl.reshape(_codes(Y, scale), (N1, N2 // 2, 2)))
    b = tl.arange(0, N2 // 2)
    tl.store(
        packed_ptr + token * (n1 * n2 // 2) + i[:, None] * (n2 // 2) + b[None, :],
        ((even & 15) | ((odd & 15) << 4)).to(tl.uint8),
        mask=(i[:, None] < n1) & (b[None, :] < n2 // 2),
    )
    tl.store(scale_ptr + token, scale)


@triton.jit
def _quantize_pack(x_ptr, clip_ptr, packed_ptr, scale_ptr, n: tl.constexpr, BLOCK: tl.constexpr):
    token = tl.program_id(0).to(tl.int64)
    x_ptr += token * n
    packed_ptr += token * ((n + 1) // 2)
    high = tl.zeros((2 * BLOCK,), dtype=tl.float32)
    low = tl.zeros((2 * BLOCK,), dtype=tl.float32)
    for start in range(0, n, 2 * BLOCK):
        j = start + tl.arange(0, 2 * BLOCK)
        x = tl.load(x_ptr + j, mask=j < n, other=0.0).to(tl.float32)
        high = tl.maximum(high, x)
        low = tl.minimum(low, x)
    scale = _scale(tl.max(high), tl.min(low), clip_ptr)
    for start in range(0, (n + 1) // 2, BLOCK):
        b = start + tl.arange(0, BLOCK)
        even = _codes(tl.load(x_ptr + 2 * b, mask=2 * b < n, other=0.0).to(tl.float32), scale)
        odd = _codes(tl.load(x_ptr + 2 * b + 1, mask=2 * b + 1 < n, other=0.0).to(tl.float32), scale)
        tl.store(packed_ptr + b, ((even & 15) | ((odd & 15) << 4)).to(tl.uint8), mask=2 * b < n)
    tl.store(scale_ptr + token, scale)


def transform_quantize_pack(
    x: Float[Tensor, "*batch n"],
    left: Float[Tensor, "n1 n1"],
    right: Float[Tensor, "n2 n2"],
    clip_max: Clip,
    clip_min: Clip,
) -> tuple[UInt8[Tensor, "*batch bytes"], Float[Tensor, "*batch 1"]]:
    """One kernel, or two (see above)."""
    n1, n2 = len(left), len(right)
    left, right = left.float().contiguous(), right.float().contiguous()
    if n2 % 2 or not fits_one_program(n1, n2, _shared_memory(x)):
        Y = torch.matmul(left.mT, torch.matmul(x.float().unflatten(-1, (n1, n2)), right))
        return quantize_pack(Y.flatten(-2), clip_max, clip_min)
    packed, scale = _outputs(x)
    if scale.numel():
        N1, N2 = _padded(n1), _padded(n2)
        _transform_quantize_pack[(scale.numel(),)](  # pyright: ignore[reportIndexIssue]
            x.contiguous(), left, right, _clips(x, clip_max, clip_min), packed, scale,
            n1, n2, N1, N2, min(TILE, N2), num_warps=min(max(N1 * N2 // 1024, 1), 8),
        )  # fmt: skip
    return packed, scale


def quantize_pack(
    x: Float[Tensor, "*batch n"], clip_max: Clip, clip_min: Clip
) -> tuple[UInt8[Tensor, "*batch bytes"], Float[Tensor, "*batch 1"]]:
    """Codes and scale of each row, any length."""
    packed, scale = _outputs(x)
    if scale.numel():
        clips = _clips(x, clip_max, clip_min)
        kernel = _quantize_pack[(scale.numel(),)]  # pyright: ignore[reportIndexIssue]
        kernel(x.contiguous(), clips, packed, scale, x.shape[-1], BLOCK)
    return packed, scale


def fits_one_program(n1: int, n2: int, shared_memory: int) -> bool:
    """Whether L, a tile of X, of L^T X and of R fit the shared memory (in bytes), and Y the registers.

    Twice their size: Triton 3.9 takes no more on compute capabilities 8.0 to 8.9; where it takes a sixth more (64 x 128
    in float32 on 9.0), there is twice the room.
    """
    N1, N2 = _padded(n1), _padded(n2)
    tile = min(TILE, N2)
    return 8 * (N1 * N1 + 2 * N1 * tile + tile * N2) <= shared_memory and N1 * N2 <= 2**15


def _padded(n: int) -> int:
    return max(16, triton.next_power_of_2(n))  # 16: the least size of `tl.dot`


def _shared_memory(x: Tensor) -> int:
    return torch.cuda.get_device_properties(x.device).shared_memory_per_block_optin if x.is_cuda else 2**20


def _outputs(x: Tensor) -> tuple[Tensor, Tensor]:
    packed = x.new_empty(*x.shape[:-1], (x.shape[-1] + 1) // 2, dtype=torch.uint8)
    return packed, x.new_empty(*x.shape[:-1], 1, dtype=torch.float32)


def _clips(x: Tensor, clip_max: Clip, clip_min: Clip) -> Tensor:
    return torch.stack([torch.as_tensor(c, dtype=torch.float32, device=x.device) for c in (clip_max, clip_min)])
