"""The tasks of the studies of OLinear, and the cells of their tables."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from linmap.data.timeseries import load_time_series
from linmap.experiment import Arm, Choice, Experiment, Part, Runs, mean_std
from linmap.recipes.olinear.compare import EMBEDDED
from linmap.recipes.olinear.methods import VALIDATION, Task
from linmap.sequence.olinear import OLinearForecaster
from studies.olinear.published import ili_settings
from studies.study import Job

TINY: dict[str, Any] = {"h": 4, "lookback": 12, "d_model": 8, "embed": 2, "layers": 1, "epochs": 1}
TINY_ROWS = 200
SMALL: dict[str, Any] = {"d_model": 128, "embed": 8, "lr": 5e-4}
"""A model small enough for many variants and seeds."""
SETTING = "ILI 36 to 24 weeks and ETTh1 96 to 96 hours, a small model (D = 128, 8 copies)"


def task_part(job: Job, dataset: str, title: str = "", **changes: Any) -> Part:
    """A task on embedded data, with the defaults of `OLinearForecaster` (the paper's for ETTh1) but for the changes."""
    options = OLinearForecaster(96).get_params() | changes | (TINY if job.tiny else {})
    series = load_time_series(dataset)
    series = series.rows(0, TINY_ROWS) if job.tiny else series
    task = Task.of(EMBEDDED[dataset], series, options)
    return Part(title or task.name, task, {name: value for name, value in options.items() if name != "random_state"})


def small_parts(job: Job) -> list[Part]:
    """ILI and ETTh1 with the small model."""
    ili: dict[str, Any] = ili_settings(36, 24) | SMALL | {"epochs": 10}
    return [task_part(job, "ili", **ili), task_part(job, "etth1", **SMALL, epochs=4)]


def run(job: Job, name: str, arms: Sequence[Arm], parts: Sequence[Part]) -> Runs:
    """All arms on all parts, with the seeds of the job."""
    experiment = Experiment(f"olinear {name}", job.out / "runs", {"tiny": job.tiny}, job.resume)
    return experiment.run(arms, parts, job.seeds, Choice(VALIDATION, pilots=False))


def mse_mae(runs: Runs, arm: str, part: str, digits: int = 4) -> str:
    """`0.3632 ± 0.0010 / 0.3844`; empty for an arm that did not run there."""
    if not runs.of(arm, part):
        return ""
    return f"{mean_std(runs.values(arm, 'MSE', part), digits)} / {runs.mean(arm, 'MAE', part):.{digits}f}"


def mean_over_parts(runs: Runs, arm: str) -> str:
    """MSE / MAE, each a mean over the tasks."""
    means = [statistics.fmean(runs.mean(arm, measure, part) for part in runs.parts) for measure in ("MSE", "MAE")]
    return " / ".join(f"{mean:.3f}" for mean in means)
