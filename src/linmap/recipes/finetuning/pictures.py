"""Pictures of comparisons between adapters."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from linmap.adapt.triadaptlora import pictures as growth
from linmap.experiment import Metric, Picture, Runs, capitalized
from linmap.experiment.charts import draw_bars, plot_curves
from linmap.pictures import figure, save_svg
from linmap.recipes.finetuning.tasks import CHOOSING, Task

REFERENCE = "LoRA"


def _smoothed(losses: Sequence[float], window: int) -> np.ndarray:
    """Mean of the losses of the last `window` steps, for every step from the first whole window on."""
    sums = np.cumsum(np.concatenate([[0.0], losses]))
    return (sums[window:] - sums[:-window]) / window


def draw_losses(task: Task, runs: Runs, path: Path) -> Picture:
    """Training loss of every arm, and what it differs from LoRA's with the same seed, which means the same batches."""
    window = task.window
    curves = {
        arm.name: np.stack([_smoothed(run.details["losses"], window) for run in runs.of(arm.name)])
        for arm in runs.arms
        if all(run.details.get("losses") and math.isfinite(run.values[CHOOSING]) for run in runs.of(arm.name))
    }
    shown = {name: style for name, style in runs.styles.items() if name in curves}
    with figure(7.2, 4.0, ncols=2) as (fig, (left, right)):
        plot_curves(left, {name: curves[name].mean(0)[None] for name in shown}, window, shown)
        if REFERENCE in curves:
            plot_curves(right, {name: curves[name] - curves[REFERENCE] for name in shown}, window, shown)
        left.set(xlabel="step", ylabel=f"training loss, mean of {window} steps", title="mean over the seeds")
        right.set(xlabel="step", title=f"difference to {REFERENCE} with the same seed")
        fig.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=8.5)
        save_svg(fig, path)
    return Picture(
        path.name,
        f"Training loss on {task.name}",
        f"Left: the loss of the last {window} steps, mean over the seeds. Right: its difference to {REFERENCE}'s with "
        "the same seed, and so the same batches in the same order; the bands go from the lowest to the highest seed.",
    )


def draw_scores(task: Task, runs: Runs, metric: Metric, path: Path) -> Picture:
    """A bar for every arm."""
    title = f"{capitalized(metric.name)} on {task.name}"
    caption = "Mean over the seeds ± standard deviation."
    return draw_bars(path, runs.rows([metric]), [metric], title, caption, most=1.0 if task.classes else None)


def draw_ranks(runs: Runs, names: Sequence[str], path: Path) -> Picture:
    """The rank of every layer at every step, for some arms with the first seed."""
    details = [runs.of(name)[0].details for name in names]
    growth.draw_ranks(
        path, {name: own["ranks"] for name, own in zip(names, details, strict=True)}, len(details[0]["losses"])
    )
    caption = "The rank of every adapted layer at every step with the first seed; beside, the ranks at the end."
    return Picture(path.name, "Ranks over time", caption)
