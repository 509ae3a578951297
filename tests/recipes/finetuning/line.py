"""A task that is learnt in a moment."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from linmap.experiment import Trial
from linmap.recipes.finetuning.arms import Way
from linmap.recipes.finetuning.tasks import BatchesByLength, Task


class Line(Task):
    """Fit y = 3 x by one weight."""

    def __init__(self) -> None:  # its data are no texts
        self.x = torch.linspace(-1, 1, 12)[:, None]
        self.name, self.base, self.checkpoints = "line", nn.Linear(1, 1, bias=False), (10,)
        nn.init.constant_(self.base.weight, 0.5)
        data: Any = self
        self.train = self.validation = self.test = data
        self.batch_size, self.steps, self.pilot_steps = 4, 20, 7

    def __getitems__(self, indices: list[int]) -> Tensor:
        return self.x[indices]

    def batches(self, seed: int) -> BatchesByLength:
        return BatchesByLength(self, [1] * 12, 4, seed)

    @property
    def loss(self) -> Callable[[nn.Module, Any], Tensor]:
        return lambda model, batch: (model(batch) - 3 * batch).square().mean()

    def loss_on(self, model: nn.Module, data: Any) -> float:
        return float(self.loss(model, self.x).detach())

    def scores(self, model: nn.Module) -> dict[str, float]:
        return {"weight": float(model.weight.detach())}  # pyright: ignore

    def trial(self, rate: float | None = 0.3, seed: int = 0, choosing: bool = False) -> Trial:
        return Trial(self, seed, rate, choosing, Path("unused"))


PLAIN = Way("plain", "system", lambda model, steps: model)


def bare_task(kind: str) -> Task:
    """A task of this kind, without records and a model, for what asks only which layers to adapt."""
    task = Task.__new__(Task)
    task.classes = ["a", "b"] if kind == "classification" else ()
    return task
