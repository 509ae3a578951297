"""A task that is learnt in a moment."""

from typing import Any

import torch
from torch import Tensor, nn

from linmap.experiment.result import Metric
from linmap.recipes.finetuning.experiments import Arm, BatchesByLength, Task


class Line(Task):
    """Fit y = 3 x by one weight."""

    slug, name, metrics = "line", "line", [Metric("loss")]
    steps, pilot_steps, checkpoints, shown_steps, window = 20, 10, (10, 20), (10, 20), 2

    def __init__(self, noise: float = 0.0) -> None:
        self.noise = noise
        self.x = torch.linspace(-1, 1, 12)[:, None]

    def settings(self) -> dict[str, Any]:
        return {"noise": self.noise}

    def model(self, seed: int) -> nn.Module:
        return nn.Linear(1, 1, bias=False)

    def batches(self, seed: int) -> BatchesByLength:
        return BatchesByLength(self, [1] * 12, 4, seed)

    def __getitems__(self, indices: list[int]) -> Tensor:
        return self.x[indices]

    def loss(self, model: nn.Module, batch: Tensor) -> Tensor:
        return (model(batch) - 3 * batch).square().mean()

    def validation_loss(self, model: nn.Module) -> float:
        return float(self.loss(model, self.x))

    def scores(self, model: nn.Module) -> dict[str, float]:
        return {"weight": float(model.weight.detach())}  # pyright: ignore


def as_it_is(model: nn.Module, steps: int) -> nn.Module:
    return model


def frozen(model: nn.Module, steps: int) -> nn.Module:
    return model.requires_grad_(False)


PLAIN = Arm("plain", "system", as_it_is)
