"""A linear layer of FlatQuant: while its transforms are trained, and as it is in the quantised model."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from linmap.compress.flatquant.kernels import (
    TRITON,
    code_products,
    int4_linear,
    integer_linear,
    quantize_pack,
    transform_quantize_pack,
)
from linmap.compress.flatquant.native import layer as native
from linmap.compress.flatquant.passes import RoundedProduct, multiplies_codes
from linmap.compress.flatquant.quantizer import CLIP_LOGIT, dequantize, fake_quantize, pack_int4, quantize, unpack_int4
from linmap.compress.flatquant.transforms import OnlineTransform, SiteTransform, WithValue

MANY_TOKENS = 64
"""From here on a weight with groups or zeros is dequantised: for 512 tokens that takes half the time of the kernels."""


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
        self,
        linear: nn.Linear,
        bits: LinearBits,
        clip: bool,
        site: SiteTransform | None,
        transforms_input: bool,
        values: SiteTransform | None = None,
        is_value: bool = False,
    ) -> None:
        super().__init__()
        self.linear = linear.requires_grad_(False)
        self.bits = bits
        self.site = site
        self.values = values
        self.transforms_input = transforms_input
        self.is_value = is_value
        rows = linear.out_features
        for name, shape, there in (
            ("weight_max", (rows, 1), clip and bits.weight < 16),
            ("weight_min", (rows, 1), clip and bits.weight < 16),
            ("input_max", (), clip and bits.input < 16),
            ("input_min", (), clip and bits.input < 16),
        ):
            self.register_parameter(name, nn.Parameter(torch.full(shape, CLIP_LOGIT)) if there else None)

    def forward(self, x: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch m"]:
        x = self.transformed_input(x)
        W, bias, W_logits = self._transformed()
        x_logits = self.input_max, self.input_min
        bits = self.bits
        if max(bits.input, bits.weight) < 8 and multiplies_codes(x):
            kinds = (bits.input, bits.input_symmetric, "token"), (bits.weight, bits.weight_symmetric, "row")
            rows = x.flatten(0, -2)
            y = RoundedProduct.apply(rows, *x_logits, kinds[0], W, *W_logits, kinds[1])  # pyright: ignore
            y = y.unflatten(0, x.shape[:-1])
            return y if bias is None else y + bias
        x = fake_quantize(x, bits.input, bits.input_symmetric, *x_logits, per="token")[0]
        W = fake_quantize(W, bits.weight, bits.weight_symmetric, *W_logits, per="row")[0]
        return F.linear(x, W.to(x.dtype), bias)

    def transformed_input(self, x: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch n"]:
        """What is rounded of an input."""
        return self.site(x) if self.transforms_input and self.site is not None else x

    def unclipped_weight(self) -> Tensor:
        """What the clipping of the weight acts on."""
        return self._transformed()[0]

    def transformed_weight(self) -> tuple[Tensor, Tensor | None]:
        """W~, clipped, with its bias."""
        W, bias, logits = self._transformed()
        return clipped(W, *logits), bias

    def _transformed(self) -> tuple[Tensor, Tensor | None, tuple[Tensor | None, Tensor | None]]:
        """W~, its bias, and the logits by which it is still to be clipped."""
        W, bias = self.linear.weight, self.linear.bias
        if self.site is not None:
            W = self.site.weight(W)
        if self.values is None:
            return W, bias, (self.weight_max, self.weight_min)
        if not self.is_value:  # (P_o ⊗ P_v)^-T = (P_o^-T ⊗ I)(I ⊗ P_v^-T)
            return by_heads(W, self.values.pairs[0].P_inv_T), bias, (self.weight_max, self.weight_min)
        P = self.values.pairs[0].P
        W = by_heads(clipped(W, self.weight_max, self.weight_min).mT, P).mT
        return W, None if bias is None else by_heads(bias, P), (None, None)


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


# -- in the quantised model --------------------------------------------------------------------------------------------


class Unpacked:
    """Codes of a weight on a CPU, unpacked once, and again when the weight has changed.

    Its content is compared, in a tenth of the time of a product with one token: neither addresses nor version counters
    tell of writes through `.data`. Copies of a layer, in memory or in a file, unpack their own.
    """

    def __init__(self) -> None:
        self.kept: tuple[tuple[torch.Size, int], Tensor] | None = None

    def __call__(self, packed: Tensor, unpack: Callable[[], Tensor]) -> Tensor:
        """What `unpack` makes of `packed`."""
        if torch.compiler.is_compiling() or packed.device.type != "cpu":
            return unpack()
        content, kept = (packed.shape, fingerprint(packed)), self.kept
        if kept is None or kept[0] != content:
            self.kept = kept = content, unpack()
        return kept[1]

    def __reduce__(self) -> tuple[type[Unpacked], tuple[()]]:
        return Unpacked, ()


def fingerprint(packed: UInt8[Tensor, "m bytes"]) -> int:
    """A number that changes with any byte and with places: every byte times an odd number of its column, then of its
    row."""
    m, n = packed.shape
    of_columns = _odd(n, 127, torch.int8).unsqueeze(0)
    sums = code_products(of_columns, packed.view(torch.int8)).reshape(-1)
    return int((sums * _odd(m, 2**31, torch.int64)).sum())


@lru_cache(maxsize=64)
def _odd(n: int, below: int, dtype: torch.dtype) -> Tensor:
    """Odd numbers, drawn once."""
    with torch.inference_mode(False):
        return (torch.randint(below // 2, (n,), generator=torch.Generator().manual_seed(0)) * 2 + 1).to(dtype)


class QuantizedLinear(nn.Module):
    """y = Q(x P) W^T with W in integer codes, two to a byte for up to four bits.

    Where both sides have symmetric codes and W one scale a row, and no gradient is asked for, the codes are multiplied,
    and y = s_x s_w (q_x q_W^T): exact sums, the same for any number of tokens. Otherwise numbers are multiplied with
    the codes. On a CPU the kernels of `native` do both, reading the weight as it is stored. Without them the codes that
    are multiplied stay unpacked from the first product on, a byte each, and other weights are dequantised for each
    product. Files hold packed codes only.

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
        self._unpacked = Unpacked()
        there = clip and bits.input < 16
        for name in ("input_max", "input_min"):
            self.register_buffer(name, torch.tensor(CLIP_LOGIT, dtype=wide) if there else None)

    def forward(self, x: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch m"]:
        if not (torch.is_grad_enabled() and x.requires_grad):
            y = self._product(x)
            return self._dequantised_product(x) if y is None else y
        y, value = self._dequantised_product(x), self._product(x.detach())
        return y if value is None else WithValue.apply(y, value)  # pyright: ignore

    def _product(self, x: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch m"] | None:
        """The product with the codes of the weight; None where it is dequantised."""
        if self._runs_natively(x):
            return self._native_product(x)
        return self.product_of_codes(x).to(x.dtype) if self.multiplies_codes else None

    def _dequantised_product(self, x: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch m"]:
        bias = None if self.bias is None else self.bias.to(x.dtype)
        return F.linear(self.quantised_input(x), self.dequantized_weight(x.dtype), bias)

    def _runs_natively(self, x: Tensor) -> bool:
        """Whether the kernels of the CPU take the layer and x; under autocast only exact sums keep their numbers."""
        if self.bits.weight == 16 or not native.runs(x) or x.shape[-1] != self.in_features:
            return False
        if not self.multiplies_codes:
            several = self.weight_zero is not None or self.weight_scale.shape[1] > 1
            if torch.is_autocast_enabled("cpu") or (several and x.numel() >= MANY_TOKENS * self.in_features):
                return False
        return native.takes(
            self.weight, self.weight_scale, self.weight_zero, self.bias, self.bits.weight, self.in_features
        )

    def _native_product(self, x: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch m"]:
        """Transform, codes and product in one call; inputs with zero points are rounded before."""
        matrices = native.NOTHING if self.transform is None else self.transform.matrices()
        bits = self.bits.weight, self.bits.input if self.multiplies_codes else 16
        if not self.multiplies_codes and self.bits.input < 16:
            x, matrices = self.quantised_input(x), native.NOTHING
        elif matrices is None and self.transform is not None:
            x, matrices = self.transform(x), native.NOTHING
        logits = self.input_max, self.input_min
        weight = self.weight, self.weight_scale, self.weight_zero, self.bias
        return native.linear(x, matrices or native.NOTHING, logits, *weight, bits)

    @property
    def multiplies_codes(self) -> bool:
        """Whether x and W have symmetric codes of up to eight bits, with a scale for each token and each row."""
        bits = self.bits
        few = bits.weight < 16 and bits.input < 16
        return few and bits.weight_symmetric and bits.input_symmetric and self.weight_scale.shape[1] == 1

    def product_of_codes(self, x: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch m"]:
        """s_x s_w (q_x q_W^T) + b in at least float32, with packed codes on a GPU that has kernels for them."""
        if x.is_cuda and TRITON and x.dtype != torch.float64 and self.bits.input == 4 and self.bits.weight <= 4:
            return int4_linear(*self.packed_input(x), self.weight, self.weight_scale.float(), self.bias)
        if self.transform is not None:
            x = self.transform(x)
        codes, scale, _ = quantize(x, self.bits.input, True, self.input_max, self.input_min, "token")
        weight = self._unpacked(self.weight, self.codes) if self.bits.weight <= 4 else self.weight
        return integer_linear(codes, scale, weight, self.weight_scale, self.bias)

    def packed_input(self, x: Float[Tensor, "*batch n"]) -> tuple[Tensor, Tensor]:
        """Q(x P) in packed codes with their scales, in one pass where P is a Kronecker product of two."""
        clips = [None if logit is None else logit.float().sigmoid() for logit in (self.input_max, self.input_min)]
        P = self.transform
        if P is None:
            return quantize_pack(x, *clips)
        if P.scale is None and len(P.sizes) == 2 and math.prod(P.sizes) == P.n:
            left, right = (P.get_buffer(f"factor_{i}").float() for i in range(2))
            return transform_quantize_pack(x, left, right, *clips)
        return quantize_pack(P(x), *clips)

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
