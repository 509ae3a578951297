"""What `linmap compare olinear` draws."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np

from linmap.experiment import Picture, Runs
from linmap.experiment.charts import draw_curves
from linmap.experiment.drawing import Drawing
from linmap.pictures import INK, MUTED, figure, save_svg
from linmap.recipes.olinear.methods import PERCENTILES, Task

PEER = "RLinear, weighted L1"


def drawings(runs: Runs, task: Task, out: Path) -> list[Drawing]:
    """What `compare` draws."""
    return [
        (out / "forecasts.svg", partial(draw_examples, runs, task)),
        (out / "error-by-step.svg", partial(draw_errors, runs)),
    ]


def draw_examples(runs: Runs, task: Task, path: Path) -> Picture:
    """Windows that are easy, middling and hard for repeating the last value, with two forecasts."""
    drawn = task.examples(PERCENTILES)
    x, y = task.windows("test").__getitems__([window for window, _ in drawn])
    steps = np.arange(1, task.horizon + 1)
    with figure(7.2, 6.6, nrows=len(PERCENTILES), sharex=True) as (fig, axes):
        for i, (ax, percentile, (_, variate)) in enumerate(zip(axes, PERCENTILES, drawn, strict=True)):
            ax.plot(np.arange(1 - task.lookback, 1), x[i, :, variate], color=MUTED, label="past")
            ax.plot(steps, y[i, :, variate], color=INK, label="what came")
            for name in (PEER, "OLinear"):
                ax.plot(steps, runs.of(name)[0].details["drawn"][i], **runs.styles[name], label=name)
            ax.set_title(f"error of repeating, {percentile}th percentile: {task.series.variates[variate]}", loc="left")
            ax.set_ylabel("standardised")
        axes[-1].set_xlabel("steps from the time of the forecast")
        fig.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=4)
        save_svg(fig, path)
    return Picture(
        path.name,
        "An easy, a middling and a hard window",
        "Test windows at the 10th, 50th and 90th percentile of the squared error of repeating the last value: the past "
        "(grey), what came (black), OLinear (blue) and RLinear with the same loss.",
    )


def draw_errors(runs: Runs, path: Path) -> Picture:
    """MSE of each step ahead."""
    trained = [arm.name for arm in runs.arms if runs.of(arm.name)[0].parameters]
    curves = {name: [run.details["by step"] for run in runs.of(name)] for name in trained}
    draw_curves(path, curves, "step of the forecast", "MSE (standardised)", "Error by step", styles=runs.styles)
    return Picture(path.name, "Error by step", "MSE of each step ahead over all test windows, of what is trained.")
