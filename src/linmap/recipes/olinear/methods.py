"""How OLinear and what one would take otherwise are trained and measured on a task."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import nn

from linmap.data.timeseries import Windows
from linmap.experiment import Arm, Kind, Outcome, Trial
from linmap.sequence.olinear import ForecastTask as Task
from linmap.sequence.olinear import OLinearForecaster, forecast_errors, train_forecaster, weighted_loss
from linmap.sequence.olinear.baselines import DLinear, NLinear, RepeatLast, RepeatSeason, RLinear
from linmap.sequence.olinear.fitting import Loss, for_inference
from linmap.training import TrainingConfig
from linmap.training.memory import flops

RATES = (5e-4, 2e-3, 5e-3)  # of the linear baselines, chosen by validation
VALIDATION = "validation loss"
BLOCKS = 10  # of consecutive origins, at least a horizon long, that the errors are also given for
PERCENTILES = (10, 50, 90)  # of repeating the last value: the windows that are drawn


# -- the methods -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Method:
    """How a forecaster is built and trained."""

    build: Callable[[Task, int], nn.Module]
    """From a task and a seed."""
    training: Callable[[Task], TrainingConfig] | None = None
    """None where there is nothing to train."""
    loss: Callable[[Task], Loss] = lambda _: nn.functional.mse_loss
    further: Callable[[nn.Module, Task], dict[str, Any]] | None = None
    """What else a run keeps of the trained model."""

    def arm(self, name: str, kind: Kind, resume: bool, note: str = "", **more: Any) -> Arm:
        """The method as an arm whose trials get a task; `more` as of `Arm`."""
        return Arm(name, kind, partial(measured, self, resume), note=note, **more)


def olinear(resume: bool, name: str = "OLinear", kind: Kind = "system", further: Any = None, **changes: Any) -> Arm:
    """OLinear with the parameters of the task, some of them changed."""

    def forecaster(task: Task, seed: int = 0) -> OLinearForecaster:
        return OLinearForecaster(**{**task.options, **changes, "random_state": seed})

    def loss(task: Task) -> Loss:
        return partial(weighted_loss, alpha=task.options["alpha"], kind=task.options["loss"])

    method = Method(
        lambda task, seed: forecaster(task, seed).build(task.training_rows),
        lambda task: forecaster(task).training_config(),
        loss,
        further,
    )
    return method.arm(name, kind, resume, settings=changes)


def repeating(task: Task) -> list[Arm]:
    """What costs nothing: the last value, and the last season where the times have one."""
    last = Method(lambda task, seed: RepeatLast(task.horizon))
    arms = [last.arm("repeat last", "baseline", False, "no training", seeded=False)]
    if (rows := task.season) is not None:
        again = Method(lambda task, seed: RepeatSeason(rows, task.horizon))
        note = f"of {rows} rows, no training"
        arms.append(again.arm("last season", "baseline", False, note, seeded=False, settings={"rows": rows}))
    return arms


def linear(epochs: int, resume: bool) -> list[Arm]:
    """DLinear, NLinear, RLinear, and RLinear with OLinear's loss, each at the best of `RATES` by validation."""

    def training(task: Task) -> TrainingConfig:
        return TrainingConfig(epochs=epochs, schedule="halving", batch_size=task.options["batch_size"])

    def weighted(task: Task) -> Loss:
        return partial(weighted_loss, alpha=task.options["alpha"])

    def rlinear(task: Task, _: int) -> nn.Module:
        return RLinear(task.lookback, task.horizon, len(task.series.variates))

    methods = {
        "DLinear": Method(lambda task, seed: DLinear(task.lookback, task.horizon), training),
        "NLinear": Method(lambda task, seed: NLinear(task.lookback, task.horizon), training),
        "RLinear": Method(rlinear, training),
        "RLinear, weighted L1": Method(rlinear, training, weighted),
    }
    options = {"rates": RATES, "settings": {"epochs": epochs}}
    return [method.arm(name, "baseline", resume, **options) for name, method in methods.items()]


# -- a run -------------------------------------------------------------------------------------------------------------


def measured(method: Method, resume: bool, trial: Trial) -> Outcome:
    """Train, keep the best epoch by validation, and measure on the test windows."""
    task: Task = trial.data
    torch.manual_seed(trial.seed)
    model = method.build(task, trial.seed)
    values, seconds = {}, 0.0
    if method.training is not None:
        config = method.training(task)
        config = replace(config, seed=trial.seed, lr=config.lr if trial.rate is None else trial.rate)
        history = train_forecaster(
            model,
            task.windows("train"),
            task.windows("validation"),
            config,
            loss=method.loss(task),
            validation_loss=partial(weighted_loss, alpha=task.options["alpha"]),
            checkpoints=trial.folder,
            resume=resume,
            description=f"{task.name}, {type(model).__name__}, seed {trial.seed}",
        )
        values[VALIDATION], seconds = history.best_value, history.seconds
    light = for_inference(model)
    seen = max(task.lookback, light.season) if isinstance(light, RepeatSeason) else task.lookback
    test = task.windows("test", seen)
    errors = forecast_errors(light, test)
    details: dict[str, Any] = {
        "by step": errors.squared.tolist(),
        "by series": errors.absolute_by_variate.tolist(),
        "MSE by block": errors.in_blocks("squared", BLOCKS),
        "MAE by block": errors.in_blocks("absolute", BLOCKS),
        "flops": flops(light, torch.zeros(1, seen, len(task.series.variates))),
        "drawn": _drawn(light, test, task),
    }
    if method.further is not None:
        details |= method.further(model, task)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return Outcome({"MSE": errors.mse, "MAE": errors.mae, **values}, parameters, details, seconds)


@torch.inference_mode()
def _drawn(model: nn.Module, test: Windows, task: Task) -> list[list[float]]:
    """The forecasts of the windows and variates that are drawn."""
    drawn = task.examples(PERCENTILES)
    x, _ = test.__getitems__([window for window, _ in drawn])
    forecast = model(x)
    return [forecast[i, :, variate].tolist() for i, (_, variate) in enumerate(drawn)]
