"""What a training run did, epoch by epoch, and where it is."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

Ended = Literal["epochs", "max_steps", "patience"]


@dataclass(frozen=True)
class EpochRecord:
    """One epoch, or what `max_steps` left of it."""

    epoch: int
    """Counts from 1."""
    step: int
    """Optimiser steps done at its end."""
    lr: float
    """Learning rate of its last step."""
    loss: float
    """Mean training loss over its samples."""
    val: float | None
    """Validation value, lower is better; None without `validate`."""
    metrics: dict[str, float | None]
    """What else `validate` returned; None for a value that is not finite."""
    seconds: float
    """Time since the start of the run, without the time between an interruption and its resume."""


@dataclass(frozen=True)
class TrainingHistory:
    """What `train` returns."""

    epochs: list[EpochRecord] = field(default_factory=list)
    best_epoch: int | None = None
    """The epoch whose weights the model holds; None without `validate`, where it holds the last ones."""
    best_value: float | None = None
    """Validation value of that epoch."""
    steps: int = 0
    """Optimiser steps done."""
    seconds: float = 0.0
    """Time of training and validation, over all resumes."""
    ended: Ended = "epochs"
    """Which setting ended the run."""


@dataclass
class Position:
    """Where a run is: all of its state that is numbers, as a checkpoint keeps it."""

    step: int = 0
    """Optimiser steps done."""
    epoch: int = 0
    """Epochs completed."""
    batch: int = 0
    """Batches of the current epoch done."""
    samples: int = 0
    """Samples seen since the last epoch record."""
    loss_sum: float = 0.0
    """Sum of the losses of these samples."""
    seconds: float = 0.0
    best_epoch: int | None = None
    best_value: float | None = None
    stale: int = 0
    """Validations since the best one."""
    epochs: list[dict[str, Any]] = field(default_factory=list)
    """The epoch records."""
    metrics_bytes: int = 0
    """Length of `metrics.jsonl`."""
    run: int = 0
    """Number of the run's first checkpoint: tells runs in the same folder apart."""

    def history(self, ended: Ended) -> TrainingHistory:
        records = [EpochRecord(**record) for record in self.epochs]
        return TrainingHistory(records, self.best_epoch, self.best_value, self.step, self.seconds, ended)
