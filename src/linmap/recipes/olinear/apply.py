"""`linmap apply` with a fitted olinear: a forecast, or a backtest."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypedDict

import pandas as pd

from linmap.artifacts import write_table
from linmap.data.door import load_json, refuse_special
from linmap.data.schema import typed
from linmap.data.timeseries import TimeSeries, load_table
from linmap.errors import DataError, UsageError
from linmap.pictures import illustrated
from linmap.recipes.job import FittedJob
from linmap.recipes.olinear.fit import FILE, say_time
from linmap.recipes.olinear.flags import Apply
from linmap.sequence.olinear import Backtest, OLinearForecaster, backtest, draw_backtest, draw_forecast


def apply(settings: Apply, job: FittedJob) -> dict[str, Any]:
    """Forecast what follows a table, or look back; writes a table and a picture beside it."""
    out = job.out or job.artifact / ("backtest.csv" if settings.backtest else "forecast.csv")
    if out.suffix not in (".csv", ".parquet"):
        raise UsageError(f"--out {out}: a forecast is written as .csv or .parquet.")
    _check_flags(settings)
    forecaster, series = opened(settings, job)
    say_time(series)
    series = forecaster.known(series)
    if settings.recalibrate:
        recalibrate(forecaster, series, settings)
    elif settings.level and forecaster.scores_ is None and not settings.refit:
        raise DataError(
            "intervals need rows that the fit did not see: set calibration to a share of the rows (`linmap fit olinear "
            "--calibration 0.1`), or give --recalibrate and a number of newer rows."
        )
    return (_look_back if settings.backtest else _look_ahead)(forecaster, series, settings, out)


def opened(settings: Apply, job: FittedJob) -> tuple[OLinearForecaster, TimeSeries]:
    """The forecaster, and the table that it is to forecast; `known` brings its columns into order."""
    forecaster = OLinearForecaster.load(job.artifact)
    told = settings.table()
    ids = told.get("id_column") or forecaster.id_column
    table = load_table(job.data or settings.dataset, **_file(settings, job), id_column=ids)
    return forecaster, forecaster.read(table, forecaster.clock_, **told)


class HowRead(TypedDict):
    """What the fit kept of its file."""

    separator: str | None
    decimal: str


def _file(settings: Apply, job: FittedJob) -> dict[str, Any]:
    """How the file is read: as is said, else as that of the fit was where the file has the separator of that one."""
    said = settings.file()
    if said != Apply().file() or job.data is None:
        return said
    try:
        kept = typed(HowRead, load_json(job.artifact / FILE), FILE)
        refuse_special(job.data)
        with job.data.open(encoding="utf-8") as file:
            header = next(line for line in file if line.strip() and not line.startswith("#"))
    except (OSError, ValueError, TypeError, StopIteration):  # a run from elsewhere, or a file that is no plain text
        return said
    separator = kept["separator"]
    return dict(kept) if separator is None or separator.replace("\\t", "\t") in header else said


def _check_flags(settings: Apply) -> None:
    for name in ("recalibrate", "backtest", "step_size", "refit", "input_size"):
        if getattr(settings, name) < 0:
            raise UsageError(f"--{name.replace('_', '-')} must not be negative, got {getattr(settings, name)}.")
    if not settings.backtest and (settings.step_size or settings.refit or settings.input_size):
        raise UsageError("--step-size, --refit and --input-size belong to --backtest; say from how many origins.")
    if settings.input_size and not settings.refit:
        raise UsageError("--input-size says what a refit sees; give --refit too.")
    if settings.refit and settings.recalibrate:
        raise UsageError("a refit calibrates on rows of its own; leave --recalibrate out.")


def recalibrate(forecaster: OLinearForecaster, series: TimeSeries, settings: Apply) -> None:
    """Intervals from the last rows; those before the first origin of a backtest."""
    stop = len(series)
    if settings.backtest:
        stop -= forecaster.h + (settings.step_size or forecaster.h) * (settings.backtest - 1)
    forecaster.calibrate(series.rows(max(stop - settings.recalibrate, 0), max(stop, 0)))


def _look_ahead(forecaster: OLinearForecaster, series: TimeSeries, settings: Apply, out: Path) -> dict[str, Any]:
    forecast = forecaster.predict(series, settings.level)
    assert isinstance(forecast, pd.DataFrame)  # arrays come back for arrays alone
    write_table(out, _with_times(forecast, series))
    summary = {"forecast": str(out), "steps": forecaster.h, "variates": len(series.variates), "time": series.describe()}
    with illustrated(summary, out.with_suffix(".svg")) as picture:
        draw_forecast(forecaster, series, settings.level, picture)
        summary["picture"] = str(picture)
    return summary


def _with_times(forecast: pd.DataFrame, series: TimeSeries) -> pd.DataFrame:
    """The forecast with times that stood in the index, as those of Parquet may, as columns."""
    if series.timed and forecast.index.names != [None]:
        return forecast.reset_index()
    return forecast.reset_index(names="ds") if series.timed and series.time_name is None else forecast


def _look_back(forecaster: OLinearForecaster, series: TimeSeries, settings: Apply, out: Path) -> dict[str, Any]:
    found = backtest(
        forecaster,
        series,
        n_windows=settings.backtest,
        step_size=settings.step_size or None,
        refit=settings.refit,
        input_size=settings.input_size or None,
        level=settings.level,
    )
    write_table(out, found.frame())
    errors = out.with_name(f"{out.stem}-by-step{out.suffix}")
    write_table(errors, found.errors())
    summary = {
        "forecasts": str(out),
        "errors": str(errors),
        "origins": len(found.cutoffs),
        "fits": found.fits,
        **_means(found),
        "time": series.describe(),
    }
    with illustrated(summary, out.with_suffix(".svg")) as picture:
        draw_backtest(found, picture)
        summary["picture"] = str(picture)
    return summary


def _means(found: Backtest) -> dict[str, float]:
    """The mean over the horizon of each column of the errors."""
    errors = found.errors().drop(columns="step").mean()
    return {str(name).replace(" ", "_"): round(float(value), 4) for name, value in errors.items()}
