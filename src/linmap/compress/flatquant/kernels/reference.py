"""Transform, quantise and pack activations in plain PyTorch: any device, and one graph for `torch.compile`."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor

Clip = float | Float[Tensor, ""]


def transform_quantize_pack(
    x: Float[Tensor, "*batch n"],
    left: Float[Tensor, "n1 n1"],
    right: Float[Tensor, "n2 n2"],
    clip_max: Clip,
    clip_min: Clip,
) -> tuple[UInt8[Tensor, "*batch bytes"], Float[Tensor, "*batch 1"]]:
    """Two products of small matrices a token, L^T (X R) in float32, and then elementwise work."""
    X = x.float().unflatten(-1, (len(left), len(right)))
    Y = torch.matmul(left.float().mT, torch.matmul(X, right.float()))
    return quantize_pack(Y.flatten(-2), clip_max, clip_min)


def quantize_pack(
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
