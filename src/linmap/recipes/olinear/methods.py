"""What is compared: a task, the methods on it, and how each is trained and measured."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import torch
from rich.console import Console
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from linmap.data.timeseries import Split, TimeSeries, Windows, literature_split, load_time_series
from linmap.experiment.result import Row
from linmap.recipes.job import CompareJob
from linmap.recipes.olinear.settings import Comparison
from linmap.sequence.olinear import ForecastErrors, forecast_errors, train_forecaster, weighted_loss
from linmap.sequence.olinear.baselines import DLinear, NLinear, RepeatLast, RLinear
from linmap.sequence.olinear.fitting import Loss, for_inference
from linmap.training import TrainingConfig

BASELINE_RATE = 5e-3
BASELINE_RATES = (5e-4, 2e-3, 5e-3)  # where a task is cheap enough to choose by validation


@dataclass(frozen=True)
class Task:
    """One forecasting task, standardised by its training rows."""

    name: str
    series: TimeSeries
    split: Split
    windows: dict[str, Windows]
    settings: Comparison
    """Lookback, horizon, and the model and training that OLinear has on this task."""

    @property
    def folder(self) -> str:
        return f"{self.name}-{self.settings.lookback}-{self.settings.horizon}"


@dataclass(frozen=True)
class Method:
    """How a forecaster is built and trained."""

    name: str
    kind: Literal["system", "baseline", "ablation"]
    build: Callable[[int], nn.Module]
    """From a seed."""
    training: TrainingConfig | None
    loss: Loss
    note: str
    rates: tuple[float, ...] = ()
    """Learning rates to choose from by the validation loss; that of `training` when empty."""


@dataclass(frozen=True)
class Trained:
    """A method after training with one seed."""

    model: nn.Module
    errors: ForecastErrors
    seconds: float


def prepare(settings: Comparison, job: CompareJob) -> Task:
    """Load, split as the literature does, standardise by the training rows."""
    forecaster = settings.forecaster(job.seed)
    series = load_time_series(job.data or settings.dataset, **settings.file(), **forecaster.reading())
    name = job.data.stem if job.data else {"etth1": "ETTh1", "ili": "ILI"}[settings.dataset]
    split = literature_split(len(series), name)
    values = forecaster.standardise(series, split)
    windows = {
        part: Windows(values[rows], settings.lookback, settings.horizon)
        for part, rows in split.spans(settings.lookback).items()
    }
    return Task(name, series, split, windows, settings)


def embedded(settings: Comparison, job: CompareJob, **changes: Any) -> Task:
    """A task on embedded data, whatever file the main task has."""
    return prepare(replace(settings, **changes), replace(job, data=None))


# -- methods -----------------------------------------------------------------------------------------------------------


def olinear(
    task: Task, name: str = "OLinear", kind: Literal["system", "ablation"] = "system", **changes: Any
) -> Method:
    """OLinear as the task sets it, or with some settings of the forecaster changed."""
    settings = task.settings
    rows = task.series.values[: task.split.train]
    forecaster = settings.forecaster(0, **changes)
    return Method(
        name, kind, lambda seed: settings.forecaster(seed, **changes).build(rows), forecaster.training_config(),
        partial(weighted_loss, alpha=settings.alpha), f"basis: {forecaster.basis}; weighted L1",
    )  # fmt: skip


def repeat_last(task: Task) -> Method:
    horizon = task.settings.horizon
    return Method("repeat last", "baseline", lambda seed: RepeatLast(horizon), None, weighted_loss, "no training")


def linear_baselines(task: Task, rates: tuple[float, ...] = ()) -> list[Method]:
    """DLinear, NLinear, RLinear, and RLinear with OLinear's loss."""
    T, P, N = task.settings.lookback, task.settings.horizon, len(task.series.variates)
    training = TrainingConfig(
        epochs=task.settings.baseline_epochs, lr=BASELINE_RATE, schedule="halving", batch_size=task.settings.batch_size
    )
    weighted, squared = partial(weighted_loss, alpha=task.settings.alpha), nn.functional.mse_loss

    def linear(name: str, build: Callable[[], nn.Module], loss: Loss, note: str) -> Method:
        return Method(name, "baseline", lambda seed: build(), training, loss, note, rates)

    return [
        linear("DLinear", lambda: DLinear(T, P), squared, "squared error"),
        linear("NLinear", lambda: NLinear(T, P), squared, "squared error"),
        linear("RLinear", lambda: RLinear(T, P, N), squared, "squared error"),
        linear("RLinear, weighted L1", lambda: RLinear(T, P, N), weighted, "weighted L1"),
    ]


# -- running them ------------------------------------------------------------------------------------------------------


def run_all(methods: Iterable[Method], task: Task, job: CompareJob, seeds: int) -> dict[str, list[Trained]]:
    """Every method with every seed; what needs no training runs once."""
    console = Console(stderr=True)
    runs = {}
    for method in methods:
        count = seeds if method.training else 1
        runs[method.name] = [run(method, task, job, job.seed + seed) for seed in range(count)]
        errors, seconds = runs[method.name][0].errors, runs[method.name][0].seconds
        console.print(
            f"[dim]{task.folder}, {method.name}: MSE {errors.mse:.4f}, MAE {errors.mae:.4f} ({seconds:.0f} s)[/dim]"
        )
    return runs


def run(method: Method, task: Task, job: CompareJob, seed: int) -> Trained:
    """Train a method with one seed, keep its best epoch (and learning rate) by validation, measure it on the test."""
    if method.training is None:
        model = method.build(seed)
        return Trained(model, forecast_errors(model, task.windows["test"]), 0.0)
    candidates = []
    for rate in method.rates or (method.training.lr,):
        torch.manual_seed(seed)
        model = method.build(seed)
        name = method.name.replace(",", "").replace(" ", "-") + (f"-lr{rate:g}" if method.rates else "")
        history = train_forecaster(
            model, task.windows["train"], task.windows["validation"], replace(method.training, seed=seed, lr=rate),
            loss=method.loss, validation_loss=partial(weighted_loss, alpha=task.settings.alpha),
            checkpoints=job.out / "training" / task.folder / f"{name}-{seed}", resume=job.resume,
            description=f"{task.folder}, {method.name}, seed {seed}",
        )  # fmt: skip
        candidates.append((history.best_value, history.seconds, model))
    _, _, model = min(candidates, key=lambda candidate: candidate[0])
    seconds = sum(candidate[1] for candidate in candidates)
    return Trained(model, forecast_errors(model, task.windows["test"]), seconds)


def as_row(method: Method, trained: list[Trained], task: Task) -> Row:
    model = trained[0].model
    x = torch.zeros(1, task.settings.lookback, len(task.series.variates))
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        for_inference(model)(x)
    return Row(
        method.name, method.kind,
        {"MSE": [t.errors.mse for t in trained], "MAE": [t.errors.mae for t in trained]},
        parameters=n_parameters(model), flops=counter.get_total_flops(),
        seconds=sum(t.seconds for t in trained) / len(trained), note=method.note,
    )  # fmt: skip


def n_parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())
