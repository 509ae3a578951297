"""Bone's modes, forward + backward of one layer, against PEFT's LoRA and MiSS; what they keep for the backward pass.

"bat" is at the machine's limit, so its bars are ratios to the products of matrices that it cannot do without.
"""

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
        against_products(few_products, tokens=16, most=1.35),
        against_products(many_products, tokens=512, most=1.1),
        against_miss("bat", tokens=16),
        against_miss("bat", tokens=512),
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
    return timed(mode, x, ours, f"PEFT LoRA r={R // 2}", both_ways(theirs, x), bar=bar, memory=memory, note=note)


def against_miss(mode: Mode, tokens: int, bar: float | None = None) -> Measurement:
    """With the same trained block, after a check that both compute the same."""
    ours, theirs, x = bone(mode), miss(mode), torch.randn(tokens, N)
    with torch.no_grad():
        ours.adapters["default"].D.normal_(0, 0.02)
        theirs.miss_block["default"].copy_(ours.adapters["default"].D)
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-4, atol=1e-4)
    return timed(mode, x, ours, f"PEFT MiSS {mode}", both_ways(theirs, x), bar=bar)


def against_products(products: Callable[[int], Callable[[], object]], tokens: int, most: float) -> Measurement:
    """The layer may take `most` times as long as the products of matrices alone."""
    ours = bone("bat")
    with torch.no_grad():
        ours.adapters["default"].D.normal_(0, 0.02)
    note = f"at most {most} times as long as these products alone"
    return timed("bat", torch.randn(tokens, N), ours, "its products alone", products(tokens), bar=1 / most, note=note)


def few_products(tokens: int) -> Callable[[], object]:
    """The five of tokens x in x out, without W': x (I + D_a)^T, times W_a^T; g_a W_a, times I + D_a and x^T."""
    a = N // R
    x, g, W, D = (torch.randn(shape) for shape in ((1, tokens * a, R), (a, tokens, R), (a, R, N), (a, R, R)))
    x = x.expand(a, -1, -1)

    def step() -> object:
        y = torch.bmm(torch.bmm(x, D.mT).view(a, tokens, N), W.mT)
        through_W = torch.bmm(g, W).view(a, -1, R)
        return y, torch.bmm(through_W, D), torch.bmm(through_W.mT, x)

    return step


def many_products(tokens: int) -> Callable[[], object]:
    """W' = W (I + D), x W'^T, g W', g^T x and its product with W: three of tokens x in x out, two of r x in x out."""
    a = N // R
    x, g, W, D = (torch.randn(shape) for shape in ((tokens, N), (tokens, N), (a, N, R), (a, R, R)))

    def step() -> object:
        changed = torch.bmm(W, D).view(N, N)
        y = x @ changed.mT
        return y, g @ changed, torch.bmm(W.mT, (g.mT @ x).view(a, -1, R))

    return step


def timed(
    mode: str, x: Tensor, ours: nn.Module, peer: str, theirs: Callable[[], object], **options: Any
) -> Measurement:
    what = f"Bone {mode} r={R}, {N} x {N}, {len(x)} tokens"
    return compare(what, both_ways(ours, x), peer, theirs, repeats=41, warm_up=5, **options)


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
