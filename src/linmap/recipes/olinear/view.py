"""Forecasts and what stands before them, or what came, to zoom into and to read off."""

from __future__ import annotations

from typing import Any

import numpy as np

from linmap.errors import UsageError
from linmap.recipes.job import FittedJob
from linmap.recipes.olinear.apply import opened, recalibrate
from linmap.recipes.olinear.flags import Apply
from linmap.recipes.view import Asked, Seen, whole
from linmap.sequence.olinear import backtest

ROWS = 4000
"""Of the past, at most."""
NAMED = 500
"""Series that can be chosen."""
LEVELS = (80.0, 95.0)
"""Of the intervals where none were asked for, and the run is calibrated."""


class ForecastView:
    """The forecast of a run, or those of its backtest."""

    def __init__(self, seen: Seen) -> None:
        settings = seen.settings(Apply)
        if settings.refit:
            raise UsageError("A backtest that fits anew takes long; its picture is below.")
        job = FittedJob(seen.data, artifact=seen.artifact, seed=seen.seed)
        forecaster, series = opened(settings, job)
        series = forecaster.known(series)
        if settings.recalibrate:
            recalibrate(forecaster, series, settings)
        level = settings.level or (LEVELS if forecaster.scores_ is not None else ())
        self.series, h = series, forecaster.h
        if settings.backtest:
            step = settings.step_size or None
            found = backtest(forecaster, series, n_windows=settings.backtest, step_size=step, level=level)
            self.starts, self.forecasts, self.widths = found.cutoffs + 1, found.forecasts, found.widths
            self.time = series.time
        else:
            forecast, widths = forecaster.forecast(series, level)
            self.starts, self.forecasts = np.array([len(series)]), forecast[None]
            self.widths = {one: width[None] for one, width in widths.items()}
            self.time = series.time.append(series.future(h))
        self.first = max(0, min(len(series) - ROWS, int(self.starts[0]) - forecaster.lookback))

    def start(self) -> dict[str, Any]:
        """The names, the times as the table writes them, and the first series."""
        times = [str(time) for time in self.series.notation.write(self.time[self.first :])]
        while all(time.endswith(":00") and time.count(":") > 1 for time in times):
            times = [time.removesuffix(":00") for time in times]
        names = [str(name) for name in self.series.variates[:NAMED]]
        return {"names": names, "times": times, "horizon": self.forecasts.shape[1], **self.answer({"series": 0})}

    def answer(self, asked: Asked) -> dict[str, Any]:
        """One `series`: what was observed, and each forecast with the ends of its intervals by level in per cent."""
        j = whole(asked, "series", min(len(self.series.variates), NAMED))
        forecasts = [
            {
                "from": int(start) - self.first,
                "values": self.forecasts[b, :, j],
                "ends": {
                    f"{one:g}": [self.forecasts[b, :, j] + sign * width[b, :, j] for sign in (-1, 1)]
                    for one, width in sorted(self.widths.items())
                },
            }
            for b, start in enumerate(self.starts)
        ]
        return {"observed": self.series.values[self.first :, j], "forecasts": forecasts}
