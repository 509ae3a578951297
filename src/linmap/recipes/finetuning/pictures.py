"""Pictures of comparisons between adapters."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from linmap.experiment import Metric, Picture, Run, Runs
from linmap.pictures import BASELINE, INK, MUTED, PAPER, SEQUENTIAL, SERIES, SYSTEM, figure, save_svg
from linmap.recipes.finetuning.tasks import CHOOSING, Task

REFERENCE = "LoRA"
PLAIN = {"head only": ":", "frozen": ":", "full tuning": "--"}  # arms without an adapter are grey


def styles(runs: Runs) -> dict[str, dict[str, Any]]:
    """Colour and dashes of every arm; the system is the first series."""
    adapted = [arm.name for arm in runs.arms if arm.name not in PLAIN]
    found: dict[str, dict[str, Any]] = {
        name: {"color": SERIES[i % 7], "linestyle": "-" if i < 7 else "-."} for i, name in enumerate(adapted)
    }
    return found | {name: {"color": MUTED, "linestyle": dashes} for name, dashes in PLAIN.items()}


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
    steps = np.arange(window, task.steps + 1)
    with figure(7.2, 4.0, ncols=2) as (fig, (left, right)):
        for name, style in styles(runs).items():
            if name not in curves:
                continue
            left.plot(steps, curves[name].mean(0), label=name, **style)
            if REFERENCE in curves:
                difference = curves[name] - curves[REFERENCE]
                right.plot(steps, difference.mean(0), **style)
                right.fill_between(steps, difference.min(0), difference.max(0), color=style["color"], alpha=0.15, lw=0)
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
    """A bar for every arm, a dot for every seed."""
    colours = {"system": SYSTEM, "ablation": SERIES[5]}
    with figure(7.2, 0.34 * len(runs.arms) + 1.2) as (fig, ax):
        for row, arm in enumerate(runs.arms):
            values = [value for value in runs.values(arm.name, metric.name) if math.isfinite(value)]
            if not values:
                continue
            mean = sum(values) / len(values)
            ax.barh(row, mean, color=colours.get(arm.kind, BASELINE))
            ax.plot(values, [row] * len(values), "o", color=INK, markersize=3)
            ax.text(0.01, row, f"{mean:.3f}", va="center", color=PAPER, fontsize=9, transform=ax.get_yaxis_transform())
        ax.set_yticks(range(len(runs.arms)), [arm.name for arm in runs.arms])
        ax.set(xlabel=metric.name, title=task.name, xlim=(0, 1) if task.classes else None)
        ax.invert_yaxis()
        ax.grid(False, axis="y")
        save_svg(fig, path)
    return Picture(
        path.name,
        f"{metric.name.capitalize()} on {task.name}",
        "Bars: mean over the seeds; dots: each seed. Blue: the system; light blue: its other settings and controls; "
        "grey: baselines.",
    )


def draw_ranks(runs: Runs, names: Sequence[str], path: Path) -> Picture:
    """The rank of every layer at every step, for some arms with the first seed."""
    drawn = {name: runs.of(name)[0] for name in names}
    grids = {name: _rank_grid(run) for name, run in drawn.items()}
    layers = [short(name) for name in next(iter(drawn.values())).details["ranks"][0][1]]
    top = max(grid.max() for grid in grids.values())
    with figure(7.2, 0.2 * len(layers) + 1.6, ncols=len(drawn), sharey=True, squeeze=False) as (fig, axes):
        for ax, (name, grid) in zip(axes[0], grids.items(), strict=True):
            steps = grid.shape[1]
            image = ax.imshow(grid, aspect="auto", interpolation="nearest", cmap=SEQUENTIAL, vmin=0, vmax=top,
                              extent=(0, steps, len(layers) - 0.5, -0.5))  # fmt: skip
            ax.grid(False)
            ax.set_yticks(range(len(layers)), layers, fontsize=8.5)
            ax.set(title=name, xlabel="step")
            for row, rank in enumerate(grid[:, -1]):
                ax.text(steps * 1.02, row, str(rank), va="center", fontsize=8, clip_on=False)
        fig.colorbar(image, ax=axes[0, -1], label="rank", pad=0.12)
        save_svg(fig, path)
    return Picture(
        path.name,
        "Ranks over time",
        "The rank of every adapted layer at every step with the first seed; beside, the ranks at the end.",
    )


def _rank_grid(run: Run) -> np.ndarray:
    """(layer, step) -> rank."""
    changes = [step for step, _ in run.details["ranks"]]
    at = np.searchsorted(changes, np.arange(len(run.details["losses"])), side="right") - 1
    values = np.array([list(ranks.values()) for _, ranks in run.details["ranks"]])
    return values[at].T


def short(layer: str) -> str:
    """encoder.layer.0.attention.self.query -> 0 query."""
    parts = layer.split(".")
    number = next((part for part in parts if part.isdecimal()), "")
    return f"{number} {parts[-1]}".strip()
