"""What OLinear's verbs draw."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from linmap.data.timeseries import TimeSeries
from linmap.experiment import Picture, Runs
from linmap.experiment.charts import draw_curves
from linmap.experiment.drawing import Drawing
from linmap.pictures import INK, MUTED, SERIES, SYSTEM, figure, save_svg
from linmap.recipes.olinear.methods import PERCENTILES, Task
from linmap.sequence.olinear import Backtest, OLinearForecaster

PEER = "RLinear, weighted L1"
DRAWN_VARIATES = 4
DRAWN_ORIGINS = 6


# -- a forecast and a backtest -----------------------------------------------------------------------------------------


def draw_forecast(forecaster: OLinearForecaster, series: TimeSeries, level: Sequence[float], path: Path) -> Path:
    """The last `lookback` rows, the forecast of the first few variates, and its intervals."""
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


# -- a comparison ------------------------------------------------------------------------------------------------------


def drawings(runs: Runs, task: Task, out: Path) -> list[Drawing]:
    """What `compare` draws."""
    return [
        (out / "forecasts.svg", partial(draw_examples, runs, task)),
        (out / "error-by-step.svg", partial(draw_errors, runs)),
    ]


def draw_examples(runs: Runs, task: Task, path: Path) -> Picture:
    """Windows that are easy, middling and hard for repeating the last value, with two forecasts."""
    x, y = task.windows("test").__getitems__([window for window, _ in task.drawn])
    steps = np.arange(1, task.horizon + 1)
    with figure(7.2, 6.6, nrows=len(PERCENTILES), sharex=True) as (fig, axes):
        for i, (ax, percentile, (_, variate)) in enumerate(zip(axes, PERCENTILES, task.drawn, strict=True)):
            ax.plot(np.arange(1 - task.lookback, 1), x[i, :, variate], color=MUTED, label="past")
            ax.plot(steps, y[i, :, variate], color=INK, label="what came")
            for name, colour in ((PEER, SERIES[1]), ("OLinear", SYSTEM)):
                ax.plot(steps, runs.of(name)[0].details["drawn"][i], color=colour, label=name)
            ax.set_title(f"error of repeating, {percentile}th percentile: {task.series.variates[variate]}", loc="left")
            ax.set_ylabel("standardised")
        axes[-1].set_xlabel("steps from the time of the forecast")
        fig.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=4)
        save_svg(fig, path)
    return Picture(
        path.name,
        "An easy, a middling and a hard window",
        "Test windows at the 10th, 50th and 90th percentile of the squared error of repeating the last value: the past "
        "(grey), what came (black), OLinear (blue) and RLinear with the same loss (orange).",
    )


def draw_errors(runs: Runs, path: Path) -> Picture:
    """MSE of each step ahead."""
    trained = [arm.name for arm in runs.arms if runs.of(arm.name)[0].parameters]
    curves = {name: [run.details["by step"] for run in runs.of(name)] for name in trained}
    draw_curves(path, curves, "step of the forecast", "MSE (standardised)", "Error by step of the forecast")
    return Picture(path.name, "Error by step", "MSE of each step ahead over all test windows, of what is trained.")
