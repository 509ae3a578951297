"""Bone's modes, forward + backward of one layer, against PEFT's LoRA and MiSS; what they keep for the backward pass."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from peft import LoraConfig, MissConfig, PeftConfig, get_peft_model
from torch import Tensor, nn

from benchmarks.measure import Measurement, compare
from linmap.adapt.bone import BoneConfig
from linmap.adapt.bone.transform import Mode
from linmap.training.memory import KeptForBackward

N, R = 768, 64


def run() -> list[Measurement]:
    torch.manual_seed(0)
    return [
        against_lora("bat-row", tokens=16, bar=1),
        against_lora("bat-row", tokens=512),
        against_lora("bat", tokens=16),
        against_lora("bat", tokens=512),
        against_lora("add", tokens=16),
        against_lora("add", tokens=512),
        against_miss("bat", tokens=16, bar=10),
        against_miss("bat", tokens=512, bar=1.3),
        against_miss("add", tokens=16, bar=1),
        against_miss("add", tokens=512, bar=1),
    ]


def against_lora(mode: Mode, tokens: int, bar: float | None = None) -> Measurement:
    """At equal parameters: r * N against 2 * rank * N. What is kept for the backward pass is compared too."""
    ours, theirs, x = bone(mode), lora(), torch.randn(tokens, N)
    with torch.no_grad():  # a D of zeros takes a shorter way
        ours.adapters["default"].D.normal_(0, 0.02)
    memory, peer_memory = kept_for_backward(ours, x), kept_for_backward(theirs, x)
    within = "within" if memory <= 1.05 * peer_memory else "NOT within"
    note = f"memory: kept for the backward pass, {memory / peer_memory:.3f} of LoRA's ({within} the bar of 1.05)"
    return timed(mode, x, ours, f"PEFT LoRA r={R // 2}", theirs, bar=bar, memory=memory, note=note)


def against_miss(mode: Mode, tokens: int, bar: float) -> Measurement:
    """With the same trained block, after a check that both compute the same."""
    ours, theirs, x = bone(mode), miss(mode), torch.randn(tokens, N)
    with torch.no_grad():
        ours.adapters["default"].D.normal_(0, 0.02)
        theirs.miss_block["default"].copy_(ours.adapters["default"].D)
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-4, atol=1e-4)
    return timed(mode, x, ours, f"PEFT MiSS {mode}", theirs, bar=bar)


def timed(mode: str, x: Tensor, ours: nn.Module, peer: str, theirs: nn.Module, **options: Any) -> Measurement:
    what = f"Bone {mode} r={R}, {N} x {N}, {len(x)} tokens"
    return compare(what, both_ways(ours, x), peer, both_ways(theirs, x), repeats=41, warm_up=5, **options)


def bone(mode: Mode) -> Any:
    return adapted(BoneConfig(target_modules=["0"], r=R, mode=mode))


def lora() -> Any:
    return adapted(LoraConfig(target_modules=["0"], r=R // 2, lora_alpha=R // 2))


def miss(mode: Mode) -> Any:
    return adapted(MissConfig(target_modules=["0"], r=R, init_weights="bat" if mode == "bat" else True))


def adapted(config: PeftConfig) -> Any:
    """The layer that PEFT puts in the place of a linear one; the linear layers all have the same weight."""
    generator = torch.Generator().manual_seed(0)
    linear = nn.Linear(N, N)
    with torch.no_grad():
        linear.weight.normal_(0, N**-0.5, generator=generator)
        linear.bias.zero_()
    model: Any = get_peft_model(nn.Sequential(linear), config)
    return model.base_model.model[0]


def both_ways(layer: nn.Module, x: Tensor) -> Callable[[], None]:
    """A forward and a backward, to the input and to what is trained."""
    x = x.clone().requires_grad_()
    trained = [parameter for parameter in layer.parameters() if parameter.requires_grad]
    grad = torch.randn(*x.shape[:-1], N)

    def step() -> None:
        torch.autograd.grad(layer(x), [x, *trained], grad)

    return step


def kept_for_backward(layer: nn.Module, x: Tensor) -> int:
    """Bytes that autograd keeps, each storage once, beside the layer's own parameters and buffers."""
    with KeptForBackward(layer) as kept:
        y = layer(x.clone().requires_grad_())
    assert y.requires_grad
    return kept.total
