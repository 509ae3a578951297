"""The arms of a comparison: ways to make a pretrained model trainable, and the training of one, measured."""

from __future__ import annotations

import math
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
from linmap.training.recorder import Recorder

FULL_TUNING_SCALE = 1 / 50  # of the adapters' learning rates


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
    recorder = Recorder(
        task.loss, lambda model: task.loss_on(model, task.validation), {*filter(steps.__gt__, task.checkpoints), steps},
        way.penalty, steering.ranks if steering else None,
    )  # fmt: skip
    data = task.batches(trial.seed)
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
    values = {CHOOSING: recorder.validation[-1][1], TRAINING: recorder.last_loss(steps, task.window), **scores}
    return Outcome(values, used_parameters(model, weights), recorder.details(weights), sum(recorder.times))
