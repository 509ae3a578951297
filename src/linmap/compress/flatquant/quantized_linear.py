"""A linear layer as it is in the quantised model."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from linmap.compress.flatquant.linear import LinearBits
from linmap.compress.flatquant.quantizer import CLIP_LOGIT, dequantize, fake_quantize, pack_int4, quantize, unpack_int4
from linmap.compress.flatquant.transforms import OnlineTransform


class QuantizedLinear(nn.Module):
    """y = Q(x P) W^T with W in integer codes, two to a byte for up to four bits.

    Parameters
    ----------
    in_features, out_features, bias
        As of `nn.Linear`.
    bits
        Quantisers; 16 bits: the weight stays as numbers.
    clip
        Whether inputs are clipped.
    transform
        What x passes first; None where the module before does it, or nothing does.
    group_size
        Columns that share a scale; None: a row.
    """

    weight: Tensor
    weight_scale: Tensor
    weight_zero: Tensor | None
    bias: Tensor | None
    input_max: Tensor | None
    input_min: Tensor | None

    def __init__(
        self, in_features: int, out_features: int, bias: bool, bits: LinearBits, clip: bool,
        transform: OnlineTransform | None = None, group_size: int | None = None, dtype: torch.dtype = torch.float32,
    ) -> None:  # fmt: skip
        super().__init__()
        self.in_features = in_features
        self.out_features = out_features
        self.bits = bits
        self.transform = transform
        self.group_size = group_size
        wide = torch.promote_types(dtype, torch.float32)  # of scales and logits, also in a model of half precision
        if bits.weight == 16:
            self.register_buffer("weight", torch.empty(out_features, in_features, dtype=dtype))
            self.register_buffer("weight_scale", None)
            self.register_buffer("weight_zero", None)
        else:
            packed = bits.weight <= 4
            columns = -(-in_features // 2) if packed else in_features
            code = torch.uint8 if packed or not bits.weight_symmetric else torch.int8
            groups = in_features // (group_size or in_features)
            self.register_buffer("weight", torch.empty(out_features, columns, dtype=code))
            self.register_buffer("weight_scale", torch.empty(out_features, groups, dtype=wide))
            zero = None if bits.weight_symmetric else torch.empty(out_features, groups, dtype=wide)
            self.register_buffer("weight_zero", zero)
        self.register_buffer("bias", torch.empty(out_features, dtype=dtype) if bias else None)
        there = clip and bits.input < 16
        for name in ("input_max", "input_min"):
            self.register_buffer(name, torch.tensor(CLIP_LOGIT, dtype=wide) if there else None)

    def forward(self, x: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch m"]:
        x = self.quantised_input(x)
        return F.linear(x, self.dequantized_weight(x.dtype), None if self.bias is None else self.bias.to(x.dtype))

    def quantised_input(self, x: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch n"]:
        """Q(x P): what the codes are multiplied with."""
        if self.transform is not None:
            x = self.transform(x)
        return fake_quantize(x, self.bits.input, self.bits.input_symmetric, self.input_max, self.input_min, "token")[0]

    def codes(self) -> Tensor:
        """Integer codes of the weight, one to a number."""
        if self.bits.weight > 4:
            return self.weight
        return unpack_int4(self.weight, signed=self.bits.weight_symmetric)[:, : self.in_features]

    def dequantized_weight(self, dtype: torch.dtype = torch.float32) -> Float[Tensor, "m n"]:
        if self.bits.weight == 16:
            return self.weight.to(dtype)
        codes = self.codes().unflatten(1, (self.weight_scale.shape[1], -1))
        zero = None if self.weight_zero is None else self.weight_zero[..., None]
        return dequantize(codes, self.weight_scale[..., None], zero).flatten(1).to(dtype)

    @torch.no_grad()
    def store(self, W: Float[Tensor, "m n"]) -> None:
        """Keep a weight as it is (16 bits), or round each of its rows to the nearest codes."""
        if self.bits.weight == 16:
            self.weight.copy_(W)
        else:
            self.store_codes(*quantize(W, self.bits.weight, self.bits.weight_symmetric, per="row"))

    @torch.no_grad()
    def store_codes(self, codes: Tensor, scale: Tensor, zero: Tensor | None) -> None:
        if self.bits.weight <= 4:
            if self.in_features % 2:
                codes = F.pad(codes, (0, 1))
            codes = pack_int4(codes)
        self.weight.copy_(codes)
        self.weight_scale.copy_(scale)
        if self.weight_zero is not None and zero is not None:
            self.weight_zero.copy_(zero)
