"""Pictures of comparisons between adapters."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from linmap.experiment.result import Picture
from linmap.pictures import BASELINE, INK, MUTED, PAPER, SEQUENTIAL, SERIES, SYSTEM, figure, save_svg
from linmap.recipes.finetuning.experiments import Run
from linmap.recipes.finetuning.study import Study

REFERENCE = "LoRA"
PLAIN = {"head only": ":", "frozen": ":", "full tuning": "--"}  # arms without an adapter are grey


def styles(study: Study) -> dict[str, dict[str, Any]]:
    """Colour and dashes of every arm; the system is the first series."""
    adapted = [arm.name for arm in study.arms if arm.name not in PLAIN]
    found: dict[str, dict[str, Any]] = {
        name: {"color": SERIES[i % 7], "linestyle": "-" if i < 7 else "-."} for i, name in enumerate(adapted)
    }
    return found | {name: {"color": MUTED, "linestyle": dashes} for name, dashes in PLAIN.items()}


def smoothed(run: Run, window: int) -> np.ndarray:
    """Mean of the losses of the last `window` steps, for every step from the first whole window on."""
    sums = np.cumsum(np.concatenate([[0.0], run.losses]))
    return (sums[window:] - sums[:-window]) / window


def draw_losses(study: Study, path: Path) -> Picture:
    """Training loss of every arm, and what it differs from LoRA's with the same seed, which means the same batches."""
    window = study.task.window
    curves = {
        name: np.stack([smoothed(run, window) for run in runs])
        for name, runs in study.runs.items()
        if all(run.steps and math.isfinite(run.final) for run in runs)
    }
    steps = np.arange(window, study.task.steps + 1)
    with figure(7.2, 4.0, ncols=2) as (fig, (left, right)):
        for name, style in styles(study).items():
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
        path.name, f"Training loss on {study.task.name}",
        f"Left: the loss of the last {window} steps, mean over the seeds. Right: its difference to {REFERENCE}'s with "
        "the same seed, and so the same batches in the same order; the bands go from the lowest to the highest seed.",
    )  # fmt: skip


def draw_validation(study: Study, path: Path) -> Picture:
    """Validation loss at fixed steps: the curves and, enlarged, where they end."""
    start = next((runs[0].final for name, runs in study.runs.items() if name == "frozen"), None)
    with figure(7.2, 3.8, ncols=2, width_ratios=(3, 2)) as (fig, (left, right)):
        names = [name for name, runs in study.runs.items() if runs[0].steps and math.isfinite(runs[0].final)]
        for row, name in enumerate(names):
            style, runs = styles(study)[name], [run for run in study.runs[name] if math.isfinite(run.final)]
            steps = [step for step, _ in runs[0].validation]
            values = np.array([[loss for _, loss in run.validation] for run in runs])
            if start is not None:
                steps, values = [0, *steps], np.column_stack([np.full(len(runs), start), values])
            left.plot(steps, values.mean(0), marker="o", markersize=3.5, label=name, **style)
            right.plot(values[:, -1], [row] * len(runs), "o", color=style["color"], alpha=0.8, markersize=5)
            right.plot(values[:, -1].mean(), row, "|", color=INK, markersize=14)
        left.set(xlabel="step", ylabel="validation loss per answer token", title="mean over the seeds")
        left.legend(fontsize=8.5)
        right.set(xlabel="validation loss", title=f"after {study.task.steps} steps, each seed")
        right.set_yticks(range(len(names)), names)
        right.locator_params(axis="x", nbins=4)
        right.invert_yaxis()
        save_svg(fig, path)
    return Picture(
        path.name, f"Validation loss on {study.task.name}",
        "Left: loss on held-out problems by step, mean over the seeds. Right: every seed at the end (dots) and their "
        "mean (bar).",
    )  # fmt: skip


def draw_scores(study: Study, metric: str, path: Path) -> Picture:
    """A bar for every arm, a dot for every seed."""
    with figure(7.2, 0.34 * len(study.arms) + 1.2) as (fig, ax):
        for row, arm in enumerate(study.arms):
            values = [run.scores[metric] for run in study.runs[arm.name] if metric in run.scores]
            if not values:
                continue
            mean = sum(values) / len(values)
            colour = SYSTEM if arm.kind == "system" else SERIES[5] if arm.kind == "ablation" else BASELINE
            ax.barh(row, mean, color=colour)
            ax.plot(values, [row] * len(values), "o", color=INK, markersize=3)
            ax.text(0.01, row, f"{mean:.3f}", va="center", color=PAPER, fontsize=9)
        ax.set_yticks(range(len(study.arms)), [arm.name for arm in study.arms])
        ax.set(xlabel=metric, title=study.task.name, xlim=(0, 1))
        ax.invert_yaxis()
        ax.grid(False, axis="y")
        save_svg(fig, path)
    return Picture(
        path.name, f"{metric.capitalize()} on {study.task.name}",
        "Bars: mean over the seeds; dots: each seed. Blue: the system; light blue: its other settings and controls; "
        "grey: baselines.",
    )  # fmt: skip


def draw_ranks(study: Study, names: list[str], path: Path) -> Picture:
    """The rank of every layer at every step, for some arms with the first seed."""
    drawn = [(name, study.runs[name][0]) for name in names if name in study.runs and study.runs[name][0].ranks]
    grids = [rank_grid(run) for _, run in drawn]
    top = max(grid.max() for grid in grids)
    layers = [short(name) for name in drawn[0][1].ranks[0][1]]
    with figure(7.2, 0.2 * len(layers) + 1.6, ncols=len(drawn), sharey=True, squeeze=False) as (fig, axes):
        for ax, (name, run), grid in zip(axes[0], drawn, grids, strict=True):
            image = ax.imshow(grid, aspect="auto", interpolation="nearest", cmap=SEQUENTIAL, vmin=0, vmax=top,
                              extent=(0, run.steps, len(layers) - 0.5, -0.5))  # fmt: skip
            ax.grid(False)
            ax.set_yticks(range(len(layers)), layers, fontsize=8.5)
            ax.set(title=name, xlabel="step")
            for row, rank in enumerate(grid[:, -1]):
                ax.text(run.steps * 1.02, row, str(rank), va="center", fontsize=8, clip_on=False)
        fig.colorbar(image, ax=axes[0, -1], label="rank", pad=0.12)
        save_svg(fig, path)
    return Picture(
        path.name, "Ranks over time",
        "The rank of every adapted layer at every step with the first seed; beside, the ranks at the end.",
    )  # fmt: skip


def rank_grid(run: Run) -> np.ndarray:
    """(layer, step) -> rank."""
    changes = [step for step, _ in run.ranks]
    at = np.searchsorted(changes, np.arange(run.steps), side="right") - 1
    values = np.array([list(ranks.values()) for _, ranks in run.ranks])
    return values[at].T


def short(layer: str) -> str:
    """encoder.layer.0.attention.self.query -> 0 query."""
    parts = layer.split(".")
    number = next((part for part in parts if part.isdecimal()), "")
    return f"{number} {parts[-1]}".strip()
