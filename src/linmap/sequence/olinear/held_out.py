"""A fitted forecaster beside what costs nothing, on the rows that its fit held out."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from linmap.data.timeseries import TimeSeries, Windows
from linmap.data.timeseries.steps import season
from linmap.sequence.olinear.baselines import RepeatLast, RepeatSeason
from linmap.sequence.olinear.fitting import forecast_errors
from linmap.sequence.olinear.forecaster import OLinearForecaster


@dataclass(frozen=True)
class HeldOutErrors:
    """Mean absolute errors of all forecasts inside the rows that a fit held out."""

    first: int
    last: int
    """The rows, from the first up to the last."""
    chose: bool
    """Whether these rows also chose the epoch, so that OLinear's error is a little flattered."""
    forecasts: int
    """How many there are."""
    errors: dict[str, Float[np.ndarray, " variates"]]
    """By method, in standard deviations: OLinear, the last value, and the last season where the times have one."""


def held_out_errors(forecaster: OLinearForecaster, series: TimeSeries) -> HeldOutErrors:
    """The errors in the rows that calibrate the intervals or, without any, in those that chose the epoch.

    Parameters
    ----------
    forecaster
        A fitted one.
    series
        What it was fitted to.
    """
    split, h, lookback = forecaster.split_of(len(series)), forecaster.h, forecaster.lookback
    chose = split.test <= split.validation
    first, last = (split.train, split.validation) if chose else (split.validation, split.test)
    values = forecaster.standardised(series)
    methods = {"OLinear": (forecaster.model_, lookback), "last value": (RepeatLast(h), lookback)}
    if (rows := season(series.step) if series.timed else None) is not None and rows <= first:
        methods[f"last season ({rows} rows)"] = (RepeatSeason(rows, h), max(rows, lookback))
    errors, count = {}, 0
    for name, (model, seen) in methods.items():
        windows = Windows(values[max(first - seen, 0) : last], seen, h)
        errors[name], count = forecast_errors(model, windows).absolute_by_variate, len(windows)
    return HeldOutErrors(first, last, chose, count, errors)
