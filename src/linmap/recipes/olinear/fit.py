"""`linmap fit olinear`: a table to a forecaster, set beside what costs nothing."""

from __future__ import annotations

from typing import Any

import numpy as np
from rich.console import Console

from linmap.artifacts import write_json
from linmap.data.timeseries import TimeSeries, load_time_series
from linmap.recipes.job import FitJob
from linmap.recipes.olinear.flags import Fit
from linmap.sequence.olinear import OLinearForecaster, held_out_errors

FILE = "file.json"
"""In a run: how the file of the fit was read."""
NAMED = 8  # series that are listed; all count in the last line


def fit(settings: Fit, job: FitJob) -> dict[str, Any]:
    """Train a forecaster on a table and save it."""
    forecaster = OLinearForecaster(**settings.options(random_state=job.seed))
    series = load_time_series(job.data or settings.dataset, **settings.file(), **forecaster.reading())
    say_time(series)
    forecaster.fit(series, checkpoints=job.out / "training", resume=job.resume)
    forecaster.save(job.out)
    if job.data is not None:
        write_json(job.out / FILE, settings.file())
    history = forecaster.history_
    return {
        "artifact": str(job.out),
        "rows": len(series),
        "variates": len(series.variates),
        "horizon": settings.horizon,
        "parameters": sum(parameter.numel() for parameter in forecaster.model_.parameters()),
        "epochs": len(history.epochs),
        "best_epoch": history.best_epoch,
        "validation_loss": history.best_value,
        "seconds": round(history.seconds, 1),
        "calibration_windows": 0 if forecaster.scores_ is None else len(forecaster.scores_),
        "time": series.describe(),
        **beside_naive(forecaster, series),
    }


def say_time(series: TimeSeries) -> None:
    """What was understood of the times, before anything is made of it."""
    Console(stderr=True, highlight=False, soft_wrap=True).print(f"time: {series.describe()}", markup=False)


def beside_naive(forecaster: OLinearForecaster, series: TimeSeries) -> dict[str, Any]:
    """Errors in the rows that the fit held out, for its summary."""
    held = held_out_errors(forecaster, series)
    ahead = int((held.errors["OLinear"] < np.min([e for name, e in held.errors.items() if name != "OLinear"], 0)).sum())
    written = series.notation.write(series.time[[held.first, held.last - 1]])
    chose = ", which also chose the epoch" if held.chose else ""
    return {
        "held_out": f"{held.forecasts} forecasts in rows {written[0]} to {written[1]}{chose}",
        "better_than_repeating": f"in {ahead} of {len(series.variates)} series",
        "mean_absolute_error": by_series(held.errors, series.variates, forecaster.scale_),
    }


def by_series(errors: dict[str, np.ndarray], names: tuple[str, ...], scale: np.ndarray) -> list[dict[str, str | float]]:
    """The errors of each method in the units of the first series, and in standard deviations over all of them."""
    rows: list[dict[str, str | float]] = [
        {"series": name, **{method: rounded(error[j] * scale[j]) for method, error in errors.items()}}
        for j, name in enumerate(names[:NAMED])
    ]
    if len(names) > 1:
        means = {method: rounded(error.mean()) for method, error in errors.items()}
        rows.append({"series": "all, in standard deviations", **means})
    return rows


def rounded(value: float) -> float:
    """To four digits."""
    return float(f"{value:.4g}")
