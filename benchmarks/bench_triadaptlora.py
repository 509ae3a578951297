"""TriAdaptLoRA, forward + backward of one layer, against PEFT's LoRA at equal rank; what both keep for the backward."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn

from benchmarks.measure import Measurement, compare
from linmap.adapt import TriAdaptLinear, triadapt_delta
from linmap.training.memory import KeptForBackward

N, R = 768, 8
SLOWER = 1.15  # how much slower than LoRA it may be


def run() -> list[Measurement]:
    torch.manual_seed(0)
    return [
        *(against_lora(tokens, room) for tokens in (16, 512) for room in (R, 2 * R)),
        *(against_dense_delta(tokens) for tokens in (16, 512)),
    ]


def against_lora(tokens: int, room: int) -> Measurement:
    """At rank 8, when it has grown to its limit and when there is as much room again, as there is in training."""
    ours: Any = triadapt(room)
    theirs, x = lora(), torch.randn(tokens, N)
    with torch.no_grad():  # C = I and the same A and B: the same function
        adapter = ours.adapters["default"]
        theirs.lora_A["default"].weight.copy_(adapter.map.A[:R])
        theirs.lora_B["default"].weight.normal_(0, 0.02)
        adapter.map.B[:, :R] = theirs.lora_B["default"].weight
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-4, atol=1e-4)
    memory, peer_memory = kept_for_backward(ours, x), kept_for_backward(theirs, x)
    within = "within" if memory <= 1.05 * peer_memory else "NOT within"
    return compare(
        f"TriAdaptLoRA, rank {R}, room for {room}, {N} x {N}, {tokens} tokens",
        both_ways(ours, x),
        f"PEFT LoRA r={R}",
        both_ways(theirs, x),
        bar=1 / SLOWER,
        memory=memory,
        note=f"memory: kept for the backward pass, {memory / peer_memory:.3f} of LoRA's ({within} the bar of 1.05)",
        repeats=201 if tokens == 16 else 61,
        warm_up=20,
    )


def against_dense_delta(tokens: int) -> Measurement:
    """The authors' order: B C A as a matrix first."""
    ours: Any = triadapt(R)
    x = torch.randn(tokens, N)
    adapter = ours.adapters["default"]

    def dense(x: Tensor) -> Tensor:
        map = adapter.map
        delta = triadapt_delta(
            map.A, map.B, map.lower, map.upper, adapter.alpha, R, scaling="fixed", reference_rank=adapter.reference_rank
        )
        return ours.base_layer(x) + x @ delta.mT

    torch.testing.assert_close(ours(x), dense(x), rtol=1e-4, atol=1e-4)
    what = f"TriAdaptLoRA, rank {R}, {N} x {N}, {tokens} tokens"
    theirs = both_ways(dense, x, list(adapter.parameters()))
    return compare(what, both_ways(ours, x), "B C A built first, as the authors do", theirs)


def linear() -> nn.Linear:
    generator = torch.Generator().manual_seed(0)
    layer = nn.Linear(N, N)
    with torch.no_grad():
        layer.weight.normal_(0, N**-0.5, generator=generator)
        layer.bias.zero_()
    return layer


def triadapt(room: int) -> TriAdaptLinear:
    return TriAdaptLinear(linear(), init_rank=R, r_max=room, reference_rank=R, alpha=16, init_c="identity")


def lora() -> Any:
    config = LoraConfig(r=R, lora_alpha=16, target_modules=["0"])
    model: Any = get_peft_model(nn.Sequential(linear()), config)
    return model.base_model.model[0]


def both_ways(
    layer: Callable[[Tensor], Tensor], x: Tensor, parameters: list[nn.Parameter] | None = None
) -> Callable[[], None]:
    """Forward and backward, to the input and to what is trained."""
    if parameters is None:
        parameters = [parameter for parameter in layer.parameters() if parameter.requires_grad]  # pyright: ignore
    x, grad = x.clone().requires_grad_(), torch.randn(len(x), N)

    def step() -> None:
        torch.autograd.grad(layer(x), [x, *parameters], grad)

    return step


def kept_for_backward(layer: nn.Module, x: Tensor) -> int:
    """Bytes that autograd keeps, each storage once, beside the layer's own parameters and buffers."""
    with KeptForBackward(layer) as kept:
        y = layer(x.clone().requires_grad_())
    assert y.requires_grad
    return kept.total
