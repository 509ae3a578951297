"""Pictures of a forecast and of a backtest."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from linmap.data.timeseries import TimeSeries
from linmap.pictures import INK, MUTED, SYSTEM, figure, save_svg
from linmap.sequence.olinear.backtest import Backtest
from linmap.sequence.olinear.forecaster import OLinearForecaster

if TYPE_CHECKING:
    from matplotlib.axes import Axes

DRAWN_VARIATES = 4
DRAWN_ORIGINS = 6


def draw_forecast(forecaster: OLinearForecaster, series: TimeSeries, level: Sequence[float], path: Path) -> Path:
    """The last `lookback` rows, the forecast of the first few variates, and its intervals.

    Parameters
    ----------
    forecaster, series
        A fitted one, and what its forecast follows.
    level
        Of the intervals, in per cent; none without any.
    path
        Of the SVG.
    """
    names = series.variates[:DRAWN_VARIATES]
    past, future = series.time[-forecaster.lookback :], series.future(forecaster.h)
    forecast, widths = forecaster.forecast(series, level)
    with figure(7.2, 1.6 * len(names) + 0.9, nrows=len(names), sharex=True, squeeze=False) as (fig, axes):
        for j, (ax, name) in enumerate(zip(axes[:, 0], names, strict=True)):
            for one, width in sorted(widths.items(), reverse=True):
                low, high = forecast[:, j] - width[:, j], forecast[:, j] + width[:, j]
                ax.fill_between(future, low, high, color=SYSTEM, alpha=0.18, linewidth=0, label=f"{one:g} % interval")
            ax.plot(past, series.values[-forecaster.lookback :, j], color=INK, label="observed")
            ax.plot(future, forecast[:, j], color=SYSTEM, label="OLinear")
            ax.set_title(name, loc="left")
            ax.locator_params(axis="y", nbins=4)
        handles, labels = axes[0, 0].get_legend_handles_labels()
        title = f"Forecast of the next {forecaster.h} steps"
        fig.legend(handles, labels, title=title, loc="outside upper center", ncols=4)
        label_time(axes[-1, 0], series)
        return save_svg(fig, path)


def draw_backtest(found: Backtest, path: Path) -> Path:
    """The first variate and its last forecasts, and the errors by step beside those of repeating the last value."""
    h = found.forecasts.shape[1]
    shown = found.cutoffs[-DRAWN_ORIGINS:]
    start = max(int(shown[0]) - h, 0)
    series, errors = found.series, found.errors()
    with figure(7.2, 5.4, nrows=2) as (fig, (above, below)):
        above.plot(series.time[start:], series.values[start:, 0], color=INK, label="observed", linewidth=1.1)
        for index in range(len(found.cutoffs) - len(shown), len(found.cutoffs)):
            first = index == len(found.cutoffs) - 1
            cutoff = int(found.cutoffs[index])
            ahead, forecast = series.time[cutoff + 1 : cutoff + 1 + h], found.forecasts[index, :, 0]
            for one, width in sorted(found.widths.items(), reverse=True):
                label = f"{one:g} % interval" if first else None
                low, high = forecast - width[index, :, 0], forecast + width[index, :, 0]
                above.fill_between(ahead, low, high, color=SYSTEM, alpha=0.18, linewidth=0, label=label)
            above.plot(ahead, forecast, color=SYSTEM, label="forecasts of OLinear" if first else None)
        above.set_title(f"{series.variates[0]}: the last {len(shown)} of {len(found.cutoffs)} origins", loc="left")
        fig.legend(*above.get_legend_handles_labels(), loc="outside upper center", ncols=4)
        label_time(above, series)
        below.plot(errors["step"], errors["naive MAE"], color=MUTED, label="repeating the last value")
        below.plot(errors["step"], errors["MAE"], color=SYSTEM, label="OLinear")
        below.set(xlabel="step of the forecast", ylabel="MAE (standard deviations)", ylim=(0, None))
        below.set_title("Mean absolute error by step, all series and origins", loc="left")
        below.legend(loc="best", fontsize=8.5)
        return save_svg(fig, path)


def label_time(ax: Axes, series: TimeSeries) -> None:
    """The axis of time, with room for dates."""
    dated = isinstance(series.time, pd.DatetimeIndex)
    ax.set_xlabel("time" if dated else "row")
    ax.tick_params(axis="x", rotation=20 if dated else 0)
