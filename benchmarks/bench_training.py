"""The training loop against a bare PyTorch loop: one epoch of 200 steps on batches of 32 x 96 x 7 (ETTh1's size).

The bare loop reads tensors from memory as fast as PyTorch can, and has neither metrics nor checks. "ratio" is its time
over linmap's; the bar of 0.91 is an overhead of 10 %.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from benchmarks.measure import Measurement, compare
from linmap.training import TrainingConfig, train

STEPS, BATCH, TIME, VARIATES = 200, 32, 96, 7


class Linear(nn.Module):
    """A forecast from the centred window by one matrix: about the least work that a model can do."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(TIME, TIME)

    def forward(self, x: Tensor) -> Tensor:
        mean = x.mean(1, keepdim=True)
        return self.linear((x - mean).mT).mT + mean


class Perceptron(nn.Module):
    """The same with one hidden layer, of the width of a small OLinear."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(TIME, 128), nn.GELU(), nn.Linear(128, TIME))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x.mT).mT


def squared_error(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return (model(batch[0]) - batch[1]).square().mean()


def bare(make: Callable[[], nn.Module], x: Tensor, y: Tensor) -> None:
    model = make().train()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)
    for indices in torch.randperm(len(x)).split(BATCH):
        optimizer.zero_grad()
        loss = squared_error(model, (x.index_select(0, indices), y.index_select(0, indices)))
        loss.backward()
        optimizer.step()


def run() -> list[Measurement]:
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(2, STEPS * BATCH, TIME, VARIATES, generator=generator)
    data, config = TensorDataset(x, y), TrainingConfig(epochs=1, batch_size=BATCH)

    def ours(make: Callable[[], nn.Module], **options: object) -> None:
        train(make(), squared_error, data, config=config, **options)  # pyright: ignore[reportArgumentType]

    rows = [
        compare(
            f"an epoch of {name}",
            lambda make=make: ours(make),
            "bare loop",
            lambda make=make: bare(make, x, y),
            bar=0.91,
        )
        for name, make in (("one linear layer", Linear), ("two linear layers", Perceptron))
    ]
    with tempfile.TemporaryDirectory() as out:
        saving = compare(
            "the same, with metrics and a checkpoint",
            lambda: ours(Perceptron, out=out),
            "bare loop",
            lambda: bare(Perceptron, x, y),
        )
    return [*rows, saving]
