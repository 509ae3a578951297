"""FlatQuant: its transform against the dense one, and its 4-bit products against float32 layers."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.measure import Measurement, compare, medians
from linmap.compress.flatquant.kernels import int4_linear, quantize_pack, transform_quantize_pack, weight_only_linear
from linmap.compress.flatquant.linear import LinearBits, QuantizedLinear
from linmap.compress.flatquant.transforms import kronecker_apply

SITES = ((24, 24), (32, 48), (64, 64))  # SmolLM2-135M's hidden and intermediate sizes, and 4096
PEER = "one operation of PyTorch after another"
LAYERS = ((576, 576), (576, 1536), (4096, 4096))  # out, in


@torch.no_grad()
def run() -> list[Measurement]:
    torch.manual_seed(0)
    return [
        *(transform(n1, n2, bar=20 if n1 == 64 else None) for n1, n2 in SITES),
        *(activations(n1, n2, tokens) for n1, n2 in SITES for tokens in (512, 1)),
        packing(),
        *(integer_product(m, n, tokens) for m, n in LAYERS for tokens in (512, 1)),
        *(weight_only(m, n, tokens) for m, n in LAYERS for tokens in (512, 1)),
        *(quantised_layer(m, n, tokens) for m, n in LAYERS for tokens in (512, 16, 1)),
    ]


def transform(n1: int, n2: int, bar: float | None) -> Measurement:
    L, R = torch.randn(n1, n1), torch.randn(n2, n2)
    x, P = torch.randn(512, n1 * n2), torch.kron(L, R)
    torch.testing.assert_close(kronecker_apply(x, [L, R]), x @ P, rtol=1e-3, atol=1e-2)
    what = f"x (L ⊗ R), 512 x {n1 * n2} ({n1}, {n2})"
    return compare(what, lambda: kronecker_apply(x, [L, R]), "dense x @ P", lambda: x @ P, bar=bar)


def activations(n1: int, n2: int, tokens: int) -> Measurement:
    """The compiled form against one operation after another."""
    x, L, R = torch.randn(tokens, n1 * n2), torch.randn(n1, n1) / n1**0.5, torch.randn(n2, n2) / n2**0.5
    compiled = torch.compile(transform_quantize_pack, fullgraph=True)

    def separate() -> tuple[Tensor, Tensor]:
        return separate_operations(kronecker_apply(x, [L, R]))

    torch.testing.assert_close(compiled(x, L, R)[1], separate()[1])
    [plain] = medians(lambda: transform_quantize_pack(x, L, R))
    return compare(
        f"transform, quantise, pack, compiled, {tokens} x {n1 * n2}",
        lambda: compiled(x, L, R),
        PEER,
        separate,
        note=f"not compiled: {plain * 1e3:.3g} ms",
    )


def packing() -> Measurement:
    x = torch.randn(512, 4096)
    return compare("quantise and pack, 512 x 4096", lambda: quantize_pack(x), PEER, lambda: separate_operations(x))


def separate_operations(y: Tensor) -> tuple[Tensor, Tensor]:
    scale = y.abs().amax(-1, keepdim=True) / 7
    scale = torch.where(scale == 0, 1.0, scale)
    codes = (y / scale).round().clamp(-8, 7).to(torch.int8)
    return (codes[..., ::2] & 15 | codes[..., 1::2] << 4).view(torch.uint8), scale


def integer_product(m: int, n: int, tokens: int) -> Measurement:
    """Weights stay packed and are unpacked in every call."""
    x, W, w, s_w = layer(m, n, tokens)
    packed, s_x = quantize_pack(x)
    error = (int4_linear(packed, s_x, w, s_w) - F.linear(x, W)).square().mean() / F.linear(x, W).square().mean()
    return compare(
        f"int4_linear, {tokens} tokens, {m} x {n}",
        lambda: int4_linear(packed, s_x, w, s_w),
        "F.linear, float32",
        lambda: F.linear(x, W),
        note=f"weights: {w.nbytes / W.nbytes:.3f} of float32's; squared error of plain rounding {error:.2g}",
    )


def weight_only(m: int, n: int, tokens: int) -> Measurement:
    x, W, w, s_w = layer(m, n, tokens)
    return compare(
        f"weight_only_linear, {tokens} tokens, {m} x {n}",
        lambda: weight_only_linear(x, w, s_w),
        "F.linear, float32",
        lambda: F.linear(x, W),
        note=f"weights: {w.nbytes / W.nbytes:.3f} of float32's",
    )


def quantised_layer(m: int, n: int, tokens: int) -> Measurement:
    """Float activations in, float activations out: quantise, multiply codes that were unpacked once, scale."""
    linear, x = nn.Linear(n, m, bias=False), torch.randn(tokens, n)
    quantised = QuantizedLinear(n, m, False, LinearBits(4, 4), clip=True)
    quantised.store(linear.weight)

    def dequantised() -> Tensor:
        return F.linear(quantised.quantised_input(x), quantised.dequantized_weight())

    torch.testing.assert_close(quantised(x), dequantised(), rtol=1e-4, atol=1e-4)
    [slow] = medians(dequantised, repeats=7)
    return compare(
        f"QuantizedLinear W4A4, {tokens} tokens, {m} x {n}",
        lambda: quantised(x),
        "nn.Linear, float32",
        lambda: linear(x),
        note=f"through the dequantised weight: {slow * 1e3:.3g} ms",
    )


def layer(m: int, n: int, tokens: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Inputs, a weight, and the weight in packed codes with their scales."""
    W = torch.randn(m, n) / n**0.5
    return torch.randn(tokens, n), W, *quantize_pack(W)
