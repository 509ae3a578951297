"""A linear layer while its transforms are trained, and as it is in the quantised model."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from linmap.compress.flatquant.quantizer import CLIP_LOGIT, dequantize, fake_quantize, pack_int4, quantize, unpack_int4
from linmap.compress.flatquant.transforms import OnlineTransform, SiteTransform


@dataclass(frozen=True)
class LinearBits:
    """Bits of a linear layer's weights and inputs, and whether their codes are symmetric."""

    weight: int
    input: int
    weight_symmetric: bool = True
    input_symmetric: bool = True


class CalibratedLinear(nn.Module):
    """y = Q(x) Q(W~)^T, with the transformed weight W~ computed anew at every step (section 3.2, figure 2).

    Parameters
    ----------
    linear
        The layer; its weights are shared and stay as they are.
    site
        Transform of its input; None for none.
    transforms_input
        Whether x comes untransformed (the only layer at its site) or was transformed for several layers at once.
    values
        P_v: what the output heads are multiplied with (of the value projection) or the input heads were (of the
        output projection).
    bits, clip
        Quantisers, and whether they clip.
    """

    weight_max: Tensor | None
    weight_min: Tensor | None
    input_max: Tensor | None
    input_min: Tensor | None

    def __init__(
        self, linear: nn.Linear, bits: LinearBits, clip: bool, site: SiteTransform | None, transforms_input: bool,
        values: SiteTransform | None = None, is_value: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        self.linear = linear.requires_grad_(False)
        self.bits = bits
        self.site = site
        self.values = values
        self.transforms_input = transforms_input
        self.is_value = is_value
        rows = linear.out_features
        for name, shape, there in (
            ("weight_max", (rows, 1), clip and bits.weight < 16), ("weight_min", (rows, 1), clip and bits.weight < 16),
            ("input_max", (), clip and bits.input < 16), ("input_min", (), clip and bits.input < 16),
        ):  # fmt: skip
            self.register_parameter(name, nn.Parameter(torch.full(shape, CLIP_LOGIT)) if there else None)

    def forward(self, x: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch m"]:
        if self.transforms_input and self.site is not None:
            x = self.site(x)
        x = fake_quantize(x, self.bits.input, self.bits.input_symmetric, self.input_max, self.input_min, "token")[0]
        W, bias = self.transformed_weight(quantise=True)
        return F.linear(x, W.to(x.dtype), bias)

    def transformed_weight(self, quantise: bool) -> tuple[Tensor, Tensor | None]:
        """W~, clipped, with its bias; quantised as it is in training if `quantise`."""
        W, bias = self.linear.weight, self.linear.bias
        if self.site is not None:
            W = self.site.weight(W)
        if not self.is_value and self.values is not None:  # (P_o ⊗ P_v)^-T = (P_o^-T ⊗ I)(I ⊗ P_v^-T)
            W = by_heads(W, self.values.pairs[0].P_inv_T)
        bits, symmetric = self.bits.weight, self.bits.weight_symmetric
        if self.is_value and self.values is not None:
            W = clipped(W, self.weight_max, self.weight_min)
            P = self.values.pairs[0].P
            W = by_heads(W.mT, P).mT
            bias = None if bias is None else by_heads(bias, P)
            return (fake_quantize(W, bits, symmetric, per="row")[0] if quantise else W), bias
        if not quantise:
            return clipped(W, self.weight_max, self.weight_min), bias
        return fake_quantize(W, bits, symmetric, self.weight_max, self.weight_min, per="row")[0], bias


def by_heads(x: Tensor, P: Tensor) -> Tensor:
    """Each head of the last dimension times P."""
    return (x.unflatten(-1, (-1, len(P))) @ P.to(x.dtype)).flatten(-2)


def clipped(W: Tensor, max_logit: Tensor | None, min_logit: Tensor | None) -> Tensor:
    """Rows clamped to the learnt share of their range (section 3.1, learnable clipping)."""
    if max_logit is None or min_logit is None:
        return W
    high = max_logit.to(W.dtype).sigmoid() * W.amax(-1, keepdim=True)
    low = min_logit.to(W.dtype).sigmoid() * W.amin(-1, keepdim=True)
    return W.clamp(low, high)


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
