"""A linear layer as it is in the quantised model."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from linmap.compress.flatquant.kernels import int4_linear, integer_linear, quantize_pack, transform_quantize_pack
from linmap.compress.flatquant.kernels.activations import TRITON
from linmap.compress.flatquant.kernels.products import code_products
from linmap.compress.flatquant.quantizer import CLIP_LOGIT, dequantize, fake_quantize, pack_int4, quantize, unpack_int4
from linmap.compress.flatquant.transforms import LinearBits, OnlineTransform


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
    and y = s_x s_w (q_x q_W^T): exact sums, the same for any number of tokens. Otherwise W is dequantised for each
    product. On a CPU the codes that are multiplied stay unpacked from the first product on, a byte each; files hold
    them packed only.

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
        if self.multiplies_codes and not (torch.is_grad_enabled() and x.requires_grad):
            return self.product_of_codes(x).to(x.dtype)
        quantised = self.quantised_input(x)
        y = F.linear(quantised, self.dequantized_weight(x.dtype), None if self.bias is None else self.bias.to(x.dtype))
        if not self.multiplies_codes:
            return y
        return _WithValue.apply(y, self.product_of_codes(x.detach()).to(y.dtype))  # pyright: ignore

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


class _WithValue(torch.autograd.Function):
    """The second tensor with the gradient of the first: outputs do not depend on whether gradients are wanted."""

    @staticmethod
    def forward(ctx: Any, differentiable: Tensor, value: Tensor) -> Tensor:
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return grad, None
