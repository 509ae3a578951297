"""What OLinear's verbs draw."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import nn

from linmap.data.timeseries import TimeSeries
from linmap.experiment.drawing import draw_all
from linmap.experiment.result import Picture
from linmap.pictures import DIVERGING, INK, MUTED, SERIES, SYSTEM, figure, save_svg
from linmap.recipes.olinear.intervals import LEVELS, Coverage
from linmap.recipes.olinear.methods import Task, Trained
from linmap.sequence.olinear import Backtest, OLinearForecaster, OrthoTrans
from linmap.sequence.olinear.fitting import for_inference

PERCENTILES = (10, 50, 90)  # of the error, of the forecasts that are drawn
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


def label_time(ax: object, series: TimeSeries) -> None:
    dated = isinstance(series.time, pd.DatetimeIndex)
    ax.set_xlabel("time" if dated else "row")  # pyright: ignore[reportAttributeAccessIssue]
    ax.tick_params(axis="x", rotation=20 if dated else 0)  # pyright: ignore[reportAttributeAccessIssue]


# -- a comparison ------------------------------------------------------------------------------------------------------


def draw(
    runs: dict[str, list[Trained]], task: Task, intervals: list[Coverage], out: Path
) -> tuple[list[Picture], list[str]]:
    """The pictures that could be drawn, and a note for each that could not."""
    first = {name: trained[0] for name, trained in runs.items()}
    drawings: dict[str, Callable[[Path], Picture]] = {
        "forecasts.svg": lambda path: draw_examples(first, task, path),
        "error-by-step.svg": lambda path: draw_errors(first, path),
        "coverage.svg": lambda path: draw_coverage(intervals, path),
        "basis.svg": lambda path: draw_basis(task, path),
    }
    return draw_all((out / name, drawing) for name, drawing in drawings.items())


@torch.inference_mode()
def draw_examples(first: dict[str, Trained], task: Task, path: Path) -> Picture:
    """A good, a median and a poor forecast by OLinear's own error, with a baseline beside it."""
    windows, peer = task.windows["test"], "RLinear, weighted L1"
    x, y = windows.__getitems__(list(range(len(windows))))
    squared = (forecasts(first["OLinear"].model, x) - y).square().mean(1)  # (window, variate)
    with figure(7.2, 6.6, nrows=len(PERCENTILES), sharex=True) as (fig, axes):
        for ax, percentile in zip(axes, PERCENTILES, strict=True):
            rank = int(percentile / 100 * (squared.numel() - 1))
            window, variate = divmod(int(squared.flatten().argsort()[rank]), squared.shape[1])
            context, truth = x[window, :, variate], y[window, :, variate]
            steps = np.arange(1, task.settings.horizon + 1)
            ax.plot(np.arange(1 - len(context), 1), context, color=MUTED, label="past")
            ax.plot(steps, truth, color=INK, label="what came")
            for name, colour in ((peer, SERIES[1]), ("OLinear", SYSTEM)):
                ahead = forecasts(first[name].model, x[window : window + 1])[0, :, variate]
                ax.plot(steps, ahead, color=colour, label=name)
            ax.set_title(f"error of the {percentile}th percentile: {task.series.variates[variate]}", loc="left")
            ax.set_ylabel("standardised")
        axes[-1].set_xlabel("steps from the time of the forecast")
        fig.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=4)
        save_svg(fig, path)
    return Picture(
        path.name, "A good, a median and a poor forecast",
        "Test windows at the 10th, 50th and 90th percentile of OLinear's squared error: the past (grey), what came "
        "(black), OLinear (blue) and RLinear with the same loss (orange).",
    )  # fmt: skip


def forecasts(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    model = for_inference(model)
    return torch.cat([model(part) for part in x.split(256)])


def draw_errors(first: dict[str, Trained], path: Path) -> Picture:
    with figure(7.2, 3.8) as (fig, ax):
        names = [name for name in first if name != "repeat last"]
        for name, colour in zip(names, SERIES, strict=False):
            squared = first[name].errors.squared
            ax.plot(np.arange(1, len(squared) + 1), squared, color=colour, label=name, zorder=3 - (name != "OLinear"))
        ax.set_xlabel("step of the forecast")
        ax.set_ylabel("MSE (standardised)")
        ax.set_title("Error by step of the forecast")
        ax.legend(loc="lower right", fontsize=8.5)
        save_svg(fig, path)
    return Picture(
        path.name, "Error by step", "MSE of each step ahead over all test windows; repeat-last is far above."
    )


def draw_coverage(intervals: list[Coverage], path: Path) -> Picture:
    """The share of test values inside the intervals, by step."""
    with figure(7.2, 3.4) as (fig, ax):
        for colour, one in zip(SERIES, (one for one in intervals if one.scale == "window"), strict=False):
            steps = np.arange(1, len(one.covered) + 1)
            ax.plot(steps, 100 * one.covered, color=colour, label=f"intervals of {one.level} %")
            ax.axhline(one.level, color=colour, linewidth=0.9, linestyle=(0, (4, 3)))
        ax.set(xlabel="step of the forecast", ylabel="test values inside, %")
        fig.legend(loc="outside upper center", ncols=len(LEVELS))
        save_svg(fig, path)
    return Picture(
        path.name, "What the intervals cover",
        "Share of the test values inside the conformal intervals of OLinear, by step; dashed: what they promise.",
    )  # fmt: skip


def draw_basis(task: Task, path: Path) -> Picture:
    """The correlation of the steps and the first rows of Q, as fitted to the training rows."""
    lookback = task.settings.lookback
    fitted = OrthoTrans(lookback).fit(task.series.values[: task.split.train])
    with figure(7.2, 3.4, ncols=2, width_ratios=(1, 1.25)) as (fig, (left, right)):
        image = left.imshow(fitted.correlation_, cmap=DIVERGING, vmin=-1, vmax=1)
        left.grid(False)
        left.set(title="Correlation R of the steps", xlabel="step", ylabel="step")
        fig.colorbar(image, ax=left, shrink=0.8)
        drawn = range(min(6, lookback))
        right.set_yticks([-0.5 * k for k in drawn], [str(k + 1) for k in drawn])
        for k in drawn:
            right.plot(fitted.Q_[k] - 0.5 * k, color=SYSTEM)
            share = fitted.eigenvalues_[k] / lookback
            right.text(lookback * 1.01, -0.5 * k, f"{share:.0%}", va="center", fontsize=9)
        right.set(title="First rows of Q, and their share of the variance", xlabel="step of the window", ylabel="row")
        save_svg(fig, path)
    return Picture(
        path.name, "What OrthoTrans found",
        "Left: how the steps of a window correlate in the training rows. Right: its first eigenvectors, the rows of Q, "
        "each with its share of the variance.",
    )  # fmt: skip
