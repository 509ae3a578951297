"""SALT on a 768 x 768 layer, k = 76, r = 8, forward + backward, against building the weight and against PEFT's LoRA.

The peer of the times builds the whole core, U relu(M) V^T, in every forward, as the authors' code does. Memory is what
a forward leaves behind for its backward pass, with x and y; the frozen basis (U, V^T) is held once a layer beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, cast

import torch
import torch.nn.functional as F
from peft import LoraConfig
from peft.tuners.lora.layer import Linear as LoraLinear
from torch import Tensor, nn

from benchmarks.measure import Measurement, compare
from linmap.adapt import SaltLinear, salt_weight
from linmap.adapt.salt.weight import Relu

N, K, R = 768, 76, 8
LORA_RANK = 7  # 2 * 7 * 768 = 10752 parameters; SALT has 2 * 76 + 2 * 8 * 692 = 11224
BAR = 5.0  # of the factored path at 16 tokens
MEMORY_BAR = 1.05


def run() -> list[Measurement]:
    torch.manual_seed(0)
    return [
        *(dense_core(relu, tokens) for tokens in (16, 512) for relu in ("diag", "none", "all")),
        *(lora(relu, tokens) for tokens in (16, 512, 2048) for relu in ("diag", "all")),
    ]


def layer_of(relu: Relu) -> SaltLinear:
    return SaltLinear(nn.Linear(N, N), k=K, r=R, relu=relu)


def dense_core(relu: Relu, tokens: int) -> Measurement:
    layer = layer_of(relu)
    a, bias = layer.adapters["default"], layer.base_layer.bias
    basis = (a.spectral.U, a.spectral.S, a.spectral.Vt)
    x = torch.randn(tokens, N, requires_grad=True)

    def official(x: Tensor) -> Tensor:
        return F.linear(x, salt_weight(*basis, a.alpha, a.beta, a.X, a.Y, K, relu), bias)

    torch.testing.assert_close(layer(x), official(x), rtol=0, atol=1e-4)
    ours, theirs = (both_ways(call, x, a.parameters()) for call in (layer, official))
    bar = BAR if tokens == 16 and relu != "all" else None
    return compare(f"relu={relu!r}, {tokens} tokens", ours, "dense core", theirs, bar=bar)


def lora(relu: Relu, tokens: int) -> Measurement:
    layer = layer_of(relu)
    peer = LoraLinear(nn.Linear(N, N), "default", config=LoraConfig(r=LORA_RANK), r=LORA_RANK)
    x = torch.randn(tokens, N, requires_grad=True)
    ours, theirs = kept(layer, x), kept(peer, x)
    basis = sum(t.nbytes for t in (layer.adapters["default"].spectral.U, layer.adapters["default"].spectral.Vt))
    verdict = "" if ours <= MEMORY_BAR * theirs else f", above the bar of {MEMORY_BAR}"
    note = f"keeps {ours / theirs:.2f} of LoRA's {theirs / 2**20:.2f} MiB{verdict}; the basis {basis / 2**20:.1f} MiB"
    trained = [parameter for parameter in peer.parameters() if parameter.requires_grad]
    return compare(
        f"relu={relu!r}, {tokens} tokens",
        both_ways(layer, x, layer.adapters.parameters()),
        "LoRA (PEFT) at equal parameters",
        both_ways(peer, x, trained),
        memory=ours,
        note=note,
    )


def both_ways(call: Callable[[Tensor], Tensor], x: Tensor, parameters: Iterable[Tensor]) -> Callable[[], object]:
    wanted, direction = [x, *parameters], torch.randn(x.shape)
    return lambda: torch.autograd.grad(call(x), wanted, direction)


def kept(call: Callable[[Tensor], Tensor], x: Tensor) -> int:
    """Bytes that a forward leaves behind: what is allocated in it less what is freed in it, and its input."""
    call(x)
    with torch.autograd.profiler.profile(profile_memory=True) as profile:
        y = call(x)
    results = cast("Any", profile).kineto_results
    events = results.events()
    held = sum(event.nbytes() for event in events if event.name() == "[memory]")
    assert y.requires_grad
    return held + x.nbytes
