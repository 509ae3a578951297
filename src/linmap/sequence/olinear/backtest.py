"""Backtesting: the forecasts that would have been made in the past, at origins that roll forward, and their errors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float64, Int

from linmap.data.timeseries import TimeSeries
from linmap.errors import ArgumentError, DataError
from linmap.sequence.olinear.forecaster import COLUMN, OLinearForecaster, comparable_times


@dataclass(frozen=True)
class Backtest:
    """Forecasts of the past and what came.

    B: origins, h: steps of the horizon, N: variates; values in the units of the series.
    """

    series: TimeSeries
    cutoffs: Int[np.ndarray, " B"]
    """Number of the last row that each forecast has seen."""
    forecasts: Float64[np.ndarray, "B h N"]
    widths: dict[float, Float64[np.ndarray, "B h N"]]
    """Half widths of the intervals, by level in percent."""
    scale: Float64[np.ndarray, " N"]
    """Standard deviations of the first fit's training rows: errors are counted in them, so that variates compare."""
    fits: int
    """How many times a model was fitted."""

    @property
    def actual(self) -> Float64[np.ndarray, "B h N"]:
        """What came."""
        h = self.forecasts.shape[1]
        return np.stack([self.series.values[row + 1 : row + 1 + h] for row in self.cutoffs])

    def errors(self) -> pd.DataFrame:
        """A row for each step of the horizon, over origins and variates.

        MSE and MAE, the same of repeating the last value (`naive MSE`, `naive MAE`), and for each level the share of
        truths inside the interval (`coverage-90`) and its mean width (`width-90`).
        """
        actual = self.actual
        error = (self.forecasts - actual) / self.scale
        naive = (self.series.values[self.cutoffs][:, None] - actual) / self.scale
        columns = {
            "step": np.arange(1, error.shape[1] + 1),
            "MSE": np.square(error).mean((0, 2)),
            "MAE": np.abs(error).mean((0, 2)),
            "naive MSE": np.square(naive).mean((0, 2)),
            "naive MAE": np.abs(naive).mean((0, 2)),
        }
        for level, width in self.widths.items():
            columns[f"coverage-{level:g}"] = (np.abs(self.forecasts - actual) <= width).mean((0, 2))
            columns[f"width-{level:g}"] = (2 * width / self.scale).mean((0, 2))
        return pd.DataFrame(columns)

    def frame(self) -> pd.DataFrame:
        """All forecasts in long form: `unique_id`, `ds`, `cutoff`, `y`, `OLinear`, and the ends of the intervals."""
        B, h, N = self.forecasts.shape
        rows = (self.cutoffs[:, None] + np.arange(1, h + 1)).ravel()  # of each origin and step
        time, labels = self.series.notation.write(self.series.time), self.series.labels
        labels = pd.Index(list(self.series.variates)) if labels is None else labels
        table = pd.DataFrame(
            {
                "unique_id": labels.repeat(B * h),
                "ds": time.take(np.tile(rows, N)),
                "cutoff": time.take(np.tile(np.repeat(self.cutoffs, h), N)),
                "y": self.actual.reshape(-1, N).T.ravel(),
                COLUMN: self.forecasts.reshape(-1, N).T.ravel(),
            }
        )
        for level, width in self.widths.items():
            for side, sign in (("lo", -1), ("hi", 1)):
                table[f"{COLUMN}-{side}-{level:g}"] = (self.forecasts + sign * width).reshape(-1, N).T.ravel()
        return table


def backtest(
    forecaster: OLinearForecaster,
    X: pd.DataFrame | np.ndarray | TimeSeries,
    *,
    n_windows: int = 10,
    step_size: int | None = None,
    refit: int = 0,
    input_size: int | None = None,
    level: Sequence[float | int] = (),
) -> Backtest:
    """Forecast from `n_windows` past origins, the last of them `h` rows before the end, and compare with what came.

    No forecast sees a row behind its origin. The forecaster that is given is not changed.

    Parameters
    ----------
    forecaster
        A fitted one is used as it is (unless `refit`): a fixed model. One that is not fitted is fitted to the rows
        before the first origin.
    X
        The table, as in `OLinearForecaster.fit`.
    n_windows
        Origins.
    step_size
        Rows from one origin to the next; `h` when None, so that forecasts meet and do not overlap.
    refit
        Fit anew at every `refit`-th origin, the first included; 0 for a fixed model.
    input_size
        Rows before the origin that a fit sees: a window that moves along. None for all rows so far: one that expands.
    level
        Of intervals, in percent; see `OLinearForecaster.predict`.

    Raises
    ------
    DataError
        If there are too few rows before the first origin, or the fitted forecaster has seen rows behind it.
    ValueError
        If a number is out of its range, or intervals are asked for and nothing calibrates them.
    """
    fixed = hasattr(forecaster, "model_") and not refit
    series = forecaster.read(X, forecaster.clock_ if fixed else None)
    h, step = forecaster.h, forecaster.h if step_size is None else step_size
    for name, value, least in (("n_windows", n_windows, 1), ("step_size", step, 1), ("refit", refit, 0)):
        if value < least:
            raise ArgumentError(f"{name} must be at least {least}, got {value}.")
    cutoffs = len(series) - 1 - h - step * np.arange(n_windows)[::-1]
    if cutoffs[0] + 1 < forecaster.lookback:
        most = (len(series) - h - forecaster.lookback) // step + 1
        raise DataError(
            f"{n_windows} origins {step} rows apart with {h} steps each leave {max(cutoffs[0] + 1, 0)} of "
            f"{len(series)} rows before the first, each needs {forecaster.lookback}: "
            + (f"take at most n_windows={most}, or bring more rows." if most > 0 else "bring more rows.")
        )
    if fixed:
        series = forecaster.known(series)
        _require_unseen(forecaster, series, step, n_windows)
    forecasts, widths, fits = [], {float(one): [] for one in level}, 0
    scale = forecaster.scale_ if fixed else None
    for index, cutoff in enumerate(cutoffs.tolist()):
        past = series.rows(0, cutoff + 1)
        if not fixed and (index == 0 or (refit and index % refit == 0)):
            first = 0 if input_size is None else max(cutoff + 1 - input_size, 0)
            forecaster, fits = _fitted(forecaster, series.rows(first, cutoff + 1)), fits + 1
            scale = forecaster.scale_ if scale is None else scale
        forecast, half = forecaster.forecast(past, level)
        forecasts.append(forecast)
        for one, width in half.items():
            widths[float(one)].append(width)
    assert scale is not None  # a fit or a fixed model gave it
    stacked = {one: np.stack(found) for one, found in widths.items()}
    return Backtest(series, cutoffs, np.stack(forecasts), stacked, scale, fits)


def _fitted(forecaster: OLinearForecaster, series: TimeSeries) -> OLinearForecaster:
    return OLinearForecaster(**forecaster.get_params()).fit(series)


def _require_unseen(forecaster: OLinearForecaster, series: TimeSeries, step: int, n_windows: int) -> None:
    """A fixed model is judged on times after those of its fit; where rows are counted, no check is possible."""
    seen, time, h = forecaster.seen_until_, series.time, forecaster.h
    if seen is None or not series.timed:
        return
    comparable_times(seen, series.moment(0))
    later, needed = int(np.count_nonzero(time > seen)), h + step * (n_windows - 1)
    if needed > later:
        most = (later - h) // step + 1
        way = f"take n_windows={most}, bring" if most > 0 else f"bring {h - later} or more"
        raise DataError(
            f"the model has seen rows until {seen}, where its errors flatter it; {later} of the {len(time)} rows are "
            f"later, and {n_windows} origins {step} rows apart with {h} steps each need {needed}: {way} newer rows, or "
            "refit with refit=1."
        )
