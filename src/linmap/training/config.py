"""What a training run is: its length, its batches, its optimiser, its schedule."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from numbers import Real
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from linmap.errors import ArgumentError, ArgumentTypeError


@dataclass(frozen=True)
class TrainingConfig:
    """The settings of one training run.

    Raises
    ------
    ValueError
        If a setting is out of its range, or two of them do not go together; the message names them.
    TypeError
        If a number is none.
    """

    epochs: int = 10
    """Passes over the data."""
    max_steps: int | None = None
    """Optimiser steps after which training ends, should it be reached before `epochs`."""
    batch_size: int = 32
    """Samples of one optimiser step over all processes and accumulation steps."""
    lr: float = 1e-3
    """Learning rate before the schedule."""
    optimizer: Literal["adam", "adamw", "sgd"] = "adam"
    """adamw decouples the weight decay from the gradient."""
    weight_decay: float = 0.0
    """Weight decay of the optimiser."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Decay of the running moments of adam and adamw."""
    momentum: float = 0.0
    """Momentum of sgd."""
    schedule: Literal["constant", "halving", "type3", "cosine", "linear"] = "constant"
    """By epoch: halving (from the third on), type3 (times 0.9 from the fifth on), cosine; by step: linear, to zero."""
    warmup_steps: int = 0
    """Steps over which the learning rate first rises linearly to its schedule."""
    warmup_epochs: int = 0
    """Epochs of "cosine" in which the learning rate rises by equal parts before it falls."""
    accumulation: int = 1
    """Parts in which a batch is computed, to save memory; the result is that of the whole batch."""
    clip_norm: float | None = None
    """Largest norm of the gradient of one step."""
    precision: Literal["no", "bf16", "fp16"] = "no"
    """Mixed precision of the forward pass; "no" leaves it to `accelerate launch`."""
    patience: int | None = None
    """Validations without a better value after which training ends."""
    checkpoint_every: int | None = None
    """Optimiser steps between checkpoints; each epoch also ends with one."""
    seed: int = 0
    """Seed of Python, NumPy, PyTorch and the order of the data."""

    def __post_init__(self) -> None:
        positive = (
            "epochs",
            "max_steps",
            "batch_size",
            "lr",
            "accumulation",
            "clip_norm",
            "patience",
            "checkpoint_every",
        )
        shares = ("lr", "clip_norm", "weight_decay", "momentum")
        others = ("weight_decay", "momentum", "warmup_steps", "warmup_epochs", "seed")
        for name in (*positive, *others):
            value = getattr(self, name)
            optional = name in ("max_steps", "clip_norm", "patience", "checkpoint_every")
            if not (isinstance(value, Real) or (value is None and optional)):
                raise ArgumentTypeError(f"{name} must be a number, got {value!r}.")
            if value is not None and name not in shares and math.isfinite(value) and float(value) % 1:
                raise ArgumentError(f"{name}={value} must be a whole number.")
        for name in positive:
            value = getattr(self, name)
            if value is not None and not (value > 0 and math.isfinite(value)):
                raise ArgumentError(f"{name}={value} must be positive.")
        for name in others:
            if not (getattr(self, name) >= 0 and math.isfinite(getattr(self, name))):
                raise ArgumentError(f"{name}={getattr(self, name)} must not be negative.")
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ArgumentError(f"betas={self.betas} must lie in [0, 1).")
        if self.momentum and self.optimizer != "sgd":
            raise ArgumentError(f"momentum={self.momentum} is a setting of sgd; {self.optimizer} has betas.")
        if self.warmup_epochs and (self.schedule != "cosine" or self.warmup_epochs >= self.epochs):
            raise ArgumentError(
                f"warmup_epochs={self.warmup_epochs} needs schedule='cosine' and more epochs than that; got "
                f"schedule={self.schedule!r} and epochs={self.epochs}. warmup_steps goes with every schedule."
            )
        if self.batch_size % self.accumulation:
            raise ArgumentError(
                f"batch_size={self.batch_size} cannot be split into accumulation={self.accumulation} equal parts; "
                "make it a multiple."
            )
        for name, choices in (
            ("optimizer", ("adam", "adamw", "sgd")),
            ("schedule", ("constant", "halving", "type3", "cosine", "linear")),
            ("precision", ("no", "bf16", "fp16")),
        ):
            if getattr(self, name) not in choices:
                raise ArgumentError(f"{name}={getattr(self, name)!r} must be one of {', '.join(choices)}.")


def total_steps(config: TrainingConfig, steps_per_epoch: int) -> int:
    """Optimiser steps of a run that no early stop ends."""
    steps = config.epochs * steps_per_epoch
    return steps if config.max_steps is None else min(steps, config.max_steps)


def learning_rate(config: TrainingConfig, step: int, epoch: int, steps_per_epoch: int) -> float:
    """The learning rate of a step; `step` and `epoch` count from 0.

    It is positive in every step of a run, also in one that ends before its warm-up does, and at most `lr`.

    halving and type3 are the schedules "type1" and "type3" of the long-horizon forecasting literature, whose epochs
    count from 1 and which set the rate after an epoch: epochs 1 and 2 of halving both run at `lr`.
    """
    total = total_steps(config, steps_per_epoch)
    match config.schedule:
        case "halving":
            factor = 0.5 ** max(epoch - 1, 0)
        case "type3":
            factor = 0.9 ** max(epoch - 3, 0)
        case "cosine":
            falling, warmup = config.epochs - config.warmup_epochs, config.warmup_epochs
            factor = 0.5 * (1 + math.cos(math.pi * (epoch - warmup) / falling))
            factor = (epoch + 1) / warmup if epoch < warmup else factor
        case "linear":
            falling = max(total - config.warmup_steps, 1)
            factor = 1.0 if step < config.warmup_steps else max(total - step, 0) / falling
        case _:
            factor = 1.0
    if step < config.warmup_steps:
        factor *= (step + 1) / config.warmup_steps
    return config.lr * factor


def check_resumable(
    config: TrainingConfig,
    samples: int,
    saved: dict[str, Any],
    out: Path | None,
    settings: Mapping[str, Any] = MappingProxyType({}),
    fingerprint: str | None = None,
) -> None:
    """Refuse to go on with other settings than those of the checkpoint, or with other data.

    Free are `checkpoint_every` and `patience`, and the length of the run where the schedule does not depend on it.
    A checkpoint of an older version lacks the settings and the fingerprint, and then they are not compared.

    Raises
    ------
    ValueError
        If another setting, the number of samples, or the content of the data differs; the message names it.
    """
    free = {"checkpoint_every", "patience"}
    free |= {"linear": set(), "cosine": {"max_steps"}}.get(config.schedule, {"epochs", "max_steps"})
    now = asdict(config) | {"betas": list(config.betas), "len(data)": samples}
    older = asdict(TrainingConfig())  # a checkpoint of an older version lacks what has been added since
    before = older | saved["config"] | {"len(data)": saved["data_samples"]}
    known = saved.get("settings", {})
    for theirs, ours in ((before, now), (known, {name: settings[name] for name in settings if name in known})):
        for name, value in ours.items():
            if name not in free and value != theirs[name]:
                raise ArgumentError(
                    f"the run in {out} was started with {name}={theirs[name]}, now it is {value}; resume with "
                    f"{theirs[name]}, or start anew without resume."
                )
    if None not in (then := saved.get("data"), fingerprint) and then != fingerprint:
        raise ArgumentError(
            f"the data are not those that the run in {out} was started with; resume with the same data, prepared with "
            "the same settings, or start anew without resume."
        )
