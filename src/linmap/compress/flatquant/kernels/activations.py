"""4-bit activations: the fastest form for the device that they are on."""

from __future__ import annotations

from importlib.util import find_spec

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from linmap.compress.flatquant.kernels import reference
from linmap.compress.flatquant.kernels.reference import Clip
from linmap.errors import ArgumentError

TRITON = find_spec("triton") is not None and torch.version.hip is None


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
    `linmap.compress.flatquant.kernels.triton_kernel` for the sizes that take two. Elsewhere it is PyTorch, which
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
        from linmap.compress.flatquant.kernels import triton_kernel

        return triton_kernel.transform_quantize_pack(x, left, right, *clips)
    return reference.transform_quantize_pack(x, left, right, *clips)


@torch.no_grad()
def quantize_pack(
    x: Float[Tensor, "*batch n"], clip_max: Clip | None = None, clip_min: Clip | None = None
) -> tuple[UInt8[Tensor, "*batch bytes"], Float[Tensor, "*batch 1"]]:
    """`transform_quantize_pack` without a transform."""
    if x.is_cuda and TRITON:
        from linmap.compress.flatquant.kernels import triton_kernel

        return triton_kernel.quantize_pack(x, _clip(clip_max), _clip(clip_min))
    return reference.quantize_pack(x.to(torch.float32, copy=True), _clip(clip_max), _clip(clip_min))


def _clip(share: Clip | None) -> Clip:
    return 1.0 if share is None else share
