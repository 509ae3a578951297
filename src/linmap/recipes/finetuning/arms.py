"""The arms of a comparison: ways to make a pretrained model trainable, and the training of one, measured."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from peft import LoraConfig, PeftConfig
from torch import Tensor, nn

from linmap import experiment
from linmap.adapt.finetuning.training import parameter_groups
from linmap.adapt.texts import TextClassifier, attach
from linmap.adapt.triadaptlora.layer import used_parameters
from linmap.errors import DivergenceError
from linmap.experiment import Kind, Outcome, Trial
from linmap.recipes.finetuning.tasks import CHOOSING, TRAINING, Task
from linmap.training import TrainingConfig, train
from linmap.training.memory import KeptForBackward

FULL_TUNING_SCALE = 1 / 50  # of the adapters' learning rates
WARM_STEPS = 3  # left out of the time of a step
ADAM_COPIES = 4  # a trained weight, its gradient and its two moments


class Steering(NamedTuple):
    """What acts on a model between the steps, and the rank of every layer where ranks grow."""

    callback: Callable[[nn.Module, int], object]
    ranks: Callable[[], dict[str, int]] | None = None


@dataclass(frozen=True)
class Way:
    """One way to make a model trainable."""

    name: str
    kind: Kind
    adapt: Callable[[nn.Module, int], nn.Module]
    """(model, steps) -> the model with what is to be trained requiring a gradient."""
    note: str = ""
    rate_scale: float = 1.0
    """Of the learning rates that all arms share: full tuning needs smaller ones. 0 if no rate is to be chosen."""
    steer: Callable[[nn.Module], Steering] | None = None
    """What acts between the steps."""
    penalty: Callable[[nn.Module], Tensor] | None = None
    """What the method adds to the loss in training; not part of the losses that are reported."""

    def arm(self, rates: Sequence[float]) -> experiment.Arm:
        """The arm of an experiment whose data are a `Task`."""
        grid = [float(f"{rate * self.rate_scale:.6g}") for rate in rates] if self.rate_scale else []
        return experiment.Arm(self.name, self.kind, partial(trained, self), {"note": self.note}, grid, note=self.note)


# -- what users take otherwise -----------------------------------------------------------------------------------------


def adapters(name: str, kind: Kind, make: Callable[[], PeftConfig], note: str) -> Way:
    """The adapters that a PEFT configuration describes."""
    return Way(name, kind, lambda model, steps: attach(model, make()), note)


def lora(task: Task, r: int, alpha: int, name: str = "LoRA", note: str = "", **options: Any) -> Way:
    """PEFT's LoRA, or what else its configuration makes of it."""
    make = partial(LoraConfig, r=r, lora_alpha=alpha, target_modules=task.targets, **options)
    return adapters(name, "baseline", make, f"PEFT, r = {r}, alpha = {alpha}{note}")


def frozen(model: nn.Module, steps: int) -> nn.Module:
    """Nothing but the head of a classifier is trained."""
    (model.encoder if isinstance(model, TextClassifier) else model).requires_grad_(False)
    return model


def untouched_model(task: Task) -> Way:
    """What there is without any adapter."""
    if task.classes:
        return Way("head only", "baseline", frozen, "the encoder stays as it is", rate_scale=0)
    return Way("frozen", "baseline", frozen, "no training", rate_scale=0)


FULL = Way(
    "full tuning", "baseline", lambda model, steps: model, "every weight; 1/50 of the learning rates", FULL_TUNING_SCALE
)


# -- one run -----------------------------------------------------------------------------------------------------------


def trained(way: Way, trial: Trial) -> Outcome:
    """Train one arm on a task and measure it."""
    task: Task = trial.data
    steps = task.pilot_steps if trial.choosing else task.steps
    torch.manual_seed(trial.seed)
    model = way.adapt(task.model(), steps)
    weights = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not weights:
        loss = task.loss_on(model, task.validation)
        return Outcome({CHOOSING: loss, **task.scores(model)}, 0, {"validation": [[0, loss]]})
    torch.manual_seed(trial.seed)
    steering = way.steer(model) if way.steer else None
    recorder, data = Recorder(task, way, steps, steering), task.batches(trial.seed)
    config = TrainingConfig(
        epochs=math.ceil(steps / len(data)), max_steps=steps, batch_size=1, lr=trial.rate or 1.0, optimizer="adamw",
        schedule="linear", warmup_steps=steps // 10, seed=trial.seed,
    )  # fmt: skip
    groups = partial(parameter_groups, head_lr=task.head_lr)
    try:
        train(model, recorder.loss, data, config=config, description=f"{way.name}, seed {trial.seed}",
              callbacks=[steering.callback, recorder] if steering else [recorder], parameter_groups=groups)  # fmt: skip
        scores = {} if trial.choosing else task.scores(model)
    except DivergenceError:
        recorder.validation.append((steps, math.nan))
        scores = {metric.name: math.nan for metric in task.metrics}
    values = {CHOOSING: recorder.validation[-1][1], TRAINING: recorder.training_loss(steps), **scores}
    return Outcome(values, used_parameters(model, weights), recorder.details(weights), sum(recorder.times))


class Recorder:
    """A task's loss, with its value, its time and its memory noted; as a callback, the validation at fixed steps."""

    def __init__(self, task: Task, way: Way, steps: int, steering: Steering | None) -> None:
        self.task, self.way, self.steering = task, way, steering
        self.checkpoints = {step for step in task.checkpoints if step < steps} | {steps}
        self.losses: list[float] = []
        self.times: list[float] = []
        self.validation: list[tuple[int, float]] = []
        self.ranks: list[tuple[int, dict[str, int]]] = []
        self.kept = 0
        self.note_ranks(0)

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        self.start = time.perf_counter()
        if self.losses:
            loss = self.task.loss(model, batch)
        else:
            with KeptForBackward(model) as kept:
                loss = self.task.loss(model, batch)
            self.kept = kept.total
        self.losses.append(float(loss.detach()))
        return loss if self.way.penalty is None else loss + self.way.penalty(model)

    def __call__(self, model: nn.Module, step: int) -> None:
        self.times.append(time.perf_counter() - self.start)
        self.note_ranks(step)
        if step in self.checkpoints:
            self.validation.append((step, self.task.loss_on(model, self.task.validation)))

    def note_ranks(self, step: int) -> None:
        if self.steering and self.steering.ranks:
            ranks = dict(self.steering.ranks())
            if not self.ranks or self.ranks[-1][1] != ranks:
                self.ranks.append((step, ranks))

    def training_loss(self, steps: int) -> float:
        """The mean over the last steps; NaN where training did not get there."""
        return statistics.fmean(self.losses[-self.task.window :]) if len(self.losses) >= steps else math.nan

    def details(self, weights: Sequence[nn.Parameter]) -> dict[str, Any]:
        """What tables and pictures need. `memory` is of what is trained with its gradients and moments, and of what
        the first batch keeps for its backward pass."""
        trained_bytes = sum(weight.numel() * weight.element_size() for weight in weights)
        return {
            "losses": [round(loss, 6) for loss in self.losses],
            "validation": self.validation,
            "ranks": self.ranks,
            "step_seconds": statistics.median(self.times[WARM_STEPS:] or self.times or [0.0]),
            "memory": self.kept + ADAM_COPIES * trained_bytes,
        }
