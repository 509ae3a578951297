"""What a training was like, step by step: losses, seconds, memory, and what else changes."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Collection, Sequence
from typing import Any

from torch import Tensor, nn

from linmap.training.memory import KeptForBackward

WARM_STEPS = 3  # left out of the time of a step
ADAM_COPIES = 4  # a trained weight, its gradient and its two moments


class Recorder:
    """A loss, with its value, its time and its memory noted; as a callback of `train`, what is measured after a step.

    >>> recorder = Recorder(loss, validate, at={100, 200})  # doctest: +SKIP
    >>> train(model, recorder.loss, data, config=config, callbacks=[recorder])  # doctest: +SKIP

    Parameters
    ----------
    loss
        Of the model and a batch.
    validate
        What is measured of the model after the steps `at`.
    at
        Numbers of steps, from 1.
    penalty
        Added to the loss in training, and not noted.
    state
        What may change between steps, such as `RankAllocator.ranks`; noted at the start and whenever it has changed.
    """

    def __init__(
        self,
        loss: Callable[[nn.Module, Any], Tensor],
        validate: Callable[[nn.Module], float] | None = None,
        at: Collection[int] = (),
        penalty: Callable[[nn.Module], Tensor] | None = None,
        state: Callable[[], dict[str, int]] | None = None,
    ) -> None:
        self.of, self.validate, self.at, self.penalty, self.state = loss, validate, at, penalty, state
        self.losses: list[float] = []
        self.times: list[float] = []
        self.validation: list[tuple[int, float]] = []
        self.states: list[tuple[int, dict[str, int]]] = []
        self.kept = 0
        self._note_state(0)

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        """What `train` is given."""
        self.start = time.perf_counter()
        if self.losses:
            loss = self.of(model, batch)
        else:
            with KeptForBackward(model) as kept:
                loss = self.of(model, batch)
            self.kept = kept.total
        self.losses.append(float(loss.detach()))
        return loss if self.penalty is None else loss + self.penalty(model)

    def __call__(self, model: nn.Module, step: int) -> None:
        self.times.append(time.perf_counter() - self.start)
        self._note_state(step)
        if self.validate is not None and step in self.at:
            self.validation.append((step, self.validate(model)))

    def _note_state(self, step: int) -> None:
        if self.state is not None:
            now = dict(self.state())
            if not self.states or self.states[-1][1] != now:
                self.states.append((step, now))

    def last_loss(self, steps: int, window: int) -> float:
        """The mean over the last steps of so many; NaN where training did not get there."""
        return statistics.fmean(self.losses[-window:]) if len(self.losses) >= steps else math.nan

    def details(self, weights: Sequence[nn.Parameter]) -> dict[str, Any]:
        """What tables and pictures need, as plain values: `memory` is of what is trained with gradients and moments,
        and of what the first batch keeps for its backward pass."""
        trained_bytes = sum(weight.numel() * weight.element_size() for weight in weights)
        return {
            "losses": [round(loss, 6) for loss in self.losses],
            "validation": self.validation,
            "ranks": self.states,
            "step_seconds": statistics.median(self.times[WARM_STEPS:] or self.times or [0.0]),
            "memory": self.kept + ADAM_COPIES * trained_bytes,
        }
