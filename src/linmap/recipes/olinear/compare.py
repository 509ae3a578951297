"""`linmap compare olinear`: does OLinear forecast this table better than linear models, or than repeating its past?"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from linmap.data.timeseries import load_time_series
from linmap.experiment import beats, conclude, fingerprint
from linmap.experiment.engine import Choice, Experiment, Part, Runs
from linmap.experiment.result import Metric, Result, Row, Table
from linmap.recipes.job import CompareJob
from linmap.recipes.olinear.fit import NAMED, by_series, say_time
from linmap.recipes.olinear.flags import Compare
from linmap.recipes.olinear.methods import VALIDATION, Task, linear, olinear, repeating
from linmap.recipes.olinear.pictures import drawings
from linmap.sequence.olinear import OLinearForecaster

EMBEDDED = {"etth1": "ETTh1", "ili": "ILI"}
MSE, MAE = METRICS = (Metric("MSE"), Metric("MAE"))


def compare(settings: Compare, job: CompareJob) -> Result:
    """OLinear and its baselines on the same windows, each at its best epoch by validation."""
    options = settings.options()
    reading = OLinearForecaster(**options).reading()
    series = load_time_series(job.data or settings.dataset, **settings.file(), **reading)
    say_time(series)
    task = Task.of(EMBEDDED[settings.dataset] if job.data is None else job.data.stem, series, options)
    shared = {name: options[name] for name in ("h", "lookback", "alpha", "batch_size", "nan_policy")}
    shared |= settings.table() | settings.file() | {"dataset": settings.dataset, "fingerprint": fingerprint(job.data)}
    system = replace(olinear(job.resume), settings=options, note=f"basis: {settings.basis}")
    arms = [system, *repeating(task), *linear(settings.baseline_epochs, job.resume)]
    seeds = range(job.seed, job.seed + settings.seeds)
    experiment = Experiment("olinear", job.out / "runs", shared, job.resume)
    runs = experiment.run(arms, [Part(task.name, task)], seeds, Choice(VALIDATION, pilots=False))
    rows = rows_of(runs)
    blocks = blocks_of(runs)
    return conclude(
        "olinear", rows, METRICS, settings, over="blocks of test windows" if blocks else "seeds",
        task=f"{task.name}: the next {task.horizon} steps of {len(task.series.variates)} series from the last "
        f"{task.lookback}; errors on standardised values over all {len(task.windows('test')):,} test windows"
        + (f", ± over {blocks} blocks of them" if blocks else ""),
        shows=_shows(rows), limits=_limits(settings, task, blocks), checks=beats(rows, MSE),
        tables=[_units(runs, task), _by_step(runs)], seeds=list(seeds), drawings=drawings(runs, task, job.out),
    )  # fmt: skip


# -- tables ------------------------------------------------------------------------------------------------------------


def blocks_of(runs: Runs) -> int:
    """How many blocks the test windows are divided into; 0 where they are too few for two."""
    count = len(runs.of(runs.arms[0].name)[0].details["MSE by block"])
    return count if count > 1 else 0


def rows_of(runs: Runs) -> list[Row]:
    """A line for each method, with an error for each block of test windows (a mean over seeds), else for each seed."""
    rows, blocks = [], blocks_of(runs)
    for row in runs.rows(METRICS):
        found = runs.of(row.name)
        values = {
            metric.name: _mean([run.details[f"{metric.name} by block"] for run in found]).tolist() for metric in METRICS
        }
        rows.append(replace(row, values=values if blocks else row.values, flops=found[0].details["flops"]))
    return rows


def _mean(curves: list[list[float]]) -> np.ndarray:
    return np.mean(curves, 0)


def _over_seeds(runs: Runs, what: str) -> dict[str, np.ndarray]:
    return {arm.name: _mean([run.details[what] for run in runs.of(arm.name)]) for arm in runs.arms}


def _units(runs: Runs, task: Task) -> Table:
    rows = by_series(_over_seeds(runs, "by series"), task.series.variates, task.scale)
    rest = len(task.series.variates) - NAMED
    note = f"{rest} further series count in the last line alone." if rest > 0 else ""
    cells = [list(row.values()) for row in rows]
    return Table("Mean absolute error on the test rows, in the units of the data", list(rows[0]), cells, note)


def _by_step(runs: Runs) -> Table:
    """MSE over quarters of the horizon."""
    curves = _over_seeds(runs, "by step")
    quarters = [part for part in np.array_split(np.arange(len(next(iter(curves.values())))), 4) if len(part)]
    columns = ["method", *(f"steps {part[0] + 1} to {part[-1] + 1}" for part in quarters)]
    rows: list[list[str | float | int]] = [
        [name, *(round(float(curve[part].mean()), 4) for part in quarters)] for name, curve in curves.items()
    ]
    return Table("MSE by part of the horizon", columns, rows)


# -- what it says ------------------------------------------------------------------------------------------------------


def _shows(rows: list[Row]) -> str:
    system, baselines = rows[0], [row for row in rows if row.kind == "baseline"]
    sentences = []
    for metric in METRICS:
        row = min(baselines, key=lambda row: row.mean(metric.name))
        ours, theirs = system.mean(metric.name), row.mean(metric.name)
        change = f"{abs(1 - ours / theirs):.1%} {'below' if ours < theirs else 'above'}"
        sentences.append(
            f"OLinear's {metric.name} of {ours:.4f} is {change} that of the best baseline ({row.name}, {theirs:.4f})"
        )
    return ". ".join(sentences) + "."


def _limits(settings: Compare, task: Task, blocks: int) -> str:
    seeds = "One seed" if settings.seeds == 1 else f"{settings.seeds} seeds"
    said = [
        f"{seeds} of one split of {task.name}, {len(task.series.variates)} series: differences of a few thousandths "
        "are within the noise of the seed, which the interval over test windows leaves out (--seeds 3 lowers it).",
        "Part of the gain in MAE over the published baselines comes from the loss, as RLinear with the same loss "
        "shows.",
    ]
    if not blocks:
        said.append("There are too few test windows for an interval over them: --seeds gives one over trainings.")
    if task.season is None:
        said.append("The times have no usual season that the past could repeat.")
    return " ".join(said)
