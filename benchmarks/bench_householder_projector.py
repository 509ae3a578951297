"""Householder Projector: orthonormal columns and rows at d = 512, and Jacobians of a generator, on one thread.

Peers: torch's orthogonal parametrisation with its three maps, of which the fastest counts; for Jacobians the k
columns one after the other, and reverse mode for one pixel, times the pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import orthogonal

from benchmarks import measure
from benchmarks.measure import Measurement, compare, compare_with_fastest, medians
from linmap.interpret.householder_projector import HouseholderProjector, householder_product, jacobian_basis

SIZE, RANK, BATCH = 512, 10, 32
LATENT, SIDE = 100, 64


def run() -> list[Measurement]:
    threads, measure.THREADS = measure.THREADS, 1
    try:
        return [*columns(), *layer(), *jacobians()]
    finally:
        measure.THREADS = threads


def columns() -> list[Measurement]:
    generator = torch.Generator().manual_seed(0)
    full = torch.randn(SIZE, SIZE, generator=generator, requires_grad=True)
    few = torch.randn(SIZE, RANK, generator=generator, requires_grad=True)
    what = f"{RANK} columns of {SIZE} reflections, d = {SIZE}"

    def forward_backward(V: Tensor) -> Callable[[], object]:
        return lambda: torch.autograd.grad(householder_product(V, RANK).sum(), V)

    peers = {name: map.backward for name, map in torch_maps(SIZE, SIZE).items()}
    both = compare_with_fastest(
        f"{what}, forward and backward", forward_backward(full), peers, bar=1.0, repeats=5, warm_up=1
    )
    fewer = f"{RANK} columns of {RANK} reflections, d = {SIZE}"
    seconds, backward, whole = medians(
        lambda: householder_product(few, RANK), forward_backward(few), lambda: householder_product(full, RANK)
    )
    peers = {name: map.backward for name, map in torch_maps(SIZE, RANK).items()}
    return [
        both,
        Measurement(f"{what}, forward", whole),
        Measurement(f"{fewer}, forward, at most 1 ms", seconds, items=1, unit="times", least_rate=1000),
        Measurement(f"{fewer}, forward and backward", backward),
        compare_with_fastest(
            f"{fewer}, forward and backward", forward_backward(few), peers, bar=1.0, repeats=7, warm_up=1
        ),
    ]


class TorchMap:
    """A weight (n, m) with torch's orthogonal parametrisation, which is computed anew at each reading."""

    def __init__(self, n: int, m: int, name: str) -> None:
        self.layer = orthogonal(nn.Linear(m, n, bias=False), orthogonal_map=name)

    def backward(self) -> object:
        weight: Any = self.layer.weight
        return torch.autograd.grad(weight.sum(), list(self.layer.parameters()))


def torch_maps(n: int, m: int) -> Mapping[str, TorchMap]:
    return {f"torch {name}": TorchMap(n, m, name) for name in ("cayley", "householder", "matrix_exp")}


def layer() -> list[Measurement]:
    """A projector in the place of a linear layer, in a training step."""
    generator = torch.Generator().manual_seed(0)
    projector, linear = HouseholderProjector(SIZE, SIZE, RANK, generator=generator), nn.Linear(SIZE, SIZE)
    x = torch.randn(BATCH, SIZE, generator=generator)

    def step(module: nn.Module) -> Callable[[], object]:
        return lambda: torch.autograd.grad(module(x).sum(), list(module.parameters()))

    what = f"projector {SIZE} x {SIZE} of rank {RANK}, batch {BATCH}, forward and backward"
    return [compare(what, step(projector), "nn.Linear", step(linear))]


def jacobians() -> list[Measurement]:
    """Of a generator of the shape of DCGAN, by ten directions."""
    generator = dcgan().eval().requires_grad_(False)
    random = torch.Generator().manual_seed(0)
    w, D = torch.randn(8, 1, LATENT, generator=random), torch.eye(RANK, LATENT)

    def synthesis(w: Tensor) -> Tensor:
        return generator(w[:, 0, :, None, None])

    def one_by_one() -> object:
        zero = torch.zeros(RANK)
        return [torch.func.jvp(lambda a: synthesis(w + a @ D), (zero,), (step,))[1] for step in torch.eye(RANK)]

    def pixel() -> object:
        leaf = w[:1].clone().requires_grad_()
        return torch.autograd.grad(synthesis(leaf)[0, 0, 0, 0], leaf)

    what = f"mean J^T J of {len(w)} images of {SIDE} x {SIDE}, {RANK} directions"
    ours, columns, row = medians(lambda: jacobian_basis(synthesis, w, 0, D), one_by_one, pixel, repeats=5, warm_up=1)
    pixels = 3 * SIDE**2 * len(w)
    return [
        Measurement(what, ours, "columns one after the other", columns, bar=1.0),
        Measurement(what, ours, f"reverse mode, {pixels:,} pixels (one measured)", row * pixels, bar=100.0),
    ]


def dcgan() -> nn.Module:
    widths = (512, 256, 128, 64)
    layers: list[nn.Module] = [nn.ConvTranspose2d(LATENT, widths[0], 4, bias=False)]
    for before, after in zip(widths, (*widths[1:], 3), strict=True):
        layers += [nn.BatchNorm2d(before), nn.ReLU(), nn.ConvTranspose2d(before, after, 4, 2, 1, bias=False)]
    return nn.Sequential(*layers, nn.Tanh())
