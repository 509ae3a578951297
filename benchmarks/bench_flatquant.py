"""FlatQuant: its transform against the dense one, its packed products, and its layers on a CPU in every format.

The layers stand beside four peers: a float32 layer, a bfloat16 layer, `torch._int_mm` alone on codes that were unpacked
before (the product that any exact implementation must do, without transform, rounding and scales), and the layer as
operations of PyTorch, without the C++ kernels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.measure import Measurement, compare, medians
from linmap.compress.flatquant.kernels import (
    active_kernels,
    int4_linear,
    quantize_pack,
    transform_quantize_pack,
    use,
    weight_only_linear,
)
from linmap.compress.flatquant.linear import LinearBits, QuantizedLinear
from linmap.compress.flatquant.quantizer import quantize
from linmap.compress.flatquant.transforms import kronecker_apply

SITES = ((24, 24), (32, 48), (64, 64))  # SmolLM2-135M's hidden and intermediate sizes, and 4096
PEER = "one operation of PyTorch after another"
LAYERS = ((576, 576), (576, 1536), (4096, 4096))  # out, in
SHAPES = ((576, 576), (576, 1536), (1536, 576), (2048, 8192), (4096, 4096))
TOKENS = (1, 8, 16, 512)
FORMATS = {
    "W4A4": LinearBits(4, 4),
    "W4A8": LinearBits(4, 8),
    "W8A8": LinearBits(8, 8),
    "W4A16": LinearBits(4, 16),
    "W4A16 in groups of 64 with zeros": LinearBits(4, 16, weight_symmetric=False),
    "W8A16": LinearBits(8, 16),
}


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
        *(in_format(name, m, n, tokens) for name in FORMATS for m, n in SHAPES for tokens in TOKENS),
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


def in_format(name: str, m: int, n: int, tokens: int) -> Measurement:
    """A layer by the kernels of this CPU; the other peers, as ratios of their time to its, are in the note."""
    bits, x = FORMATS[name], torch.randn(tokens, n)
    linear, half, x_half = nn.Linear(n, m, bias=False), nn.Linear(n, m, bias=False, dtype=torch.bfloat16), x.bfloat16()
    group = None if bits.weight_symmetric else 64
    quantised = QuantizedLinear(n, m, False, bits, clip=True, group_size=group)
    q, s, z = quantize(torch.randn(m * n // (group or n), group or n) / n**0.5, bits.weight, group is None, per="row")
    quantised.store_codes(q.view(m, n), s.view(m, -1), None if z is None else z.view(m, -1))
    codes, q_x = quantised.codes().to(torch.int8), torch.randint(-8, 8, x.shape, dtype=torch.int8)

    def by_pytorch() -> Tensor:
        with use("torch"):
            return quantised(x)

    torch.testing.assert_close(quantised(x), by_pytorch(), rtol=1e-4, atol=1e-4)
    own, single, brain, product, before = medians(
        lambda: quantised(x),
        lambda: linear(x),
        lambda: half(x_half),
        lambda: torch._int_mm(q_x, codes.mT),
        by_pytorch,
        repeats=9,
    )
    peers = f"bfloat16 {brain / own:.3g}, _int_mm {product / own:.3g}, operations of PyTorch {before / own:.3g}"
    bandwidth = f"{quantised.weight.nbytes / own / 1e9:.3g} GB/s of weights, " if tokens == 1 else ""
    return Measurement(
        f"{name}, {tokens} tokens, {m} x {n}", own, "float32", single, note=f"{bandwidth}{peers}; {active_kernels()}"
    )


def layer(m: int, n: int, tokens: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Inputs, a weight, and the weight in packed codes with their scales."""
    W = torch.randn(m, n) / n**0.5
    return torch.randn(tokens, n), W, *quantize_pack(W)
