"""What a training run did, epoch by epoch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

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
