"""Pictures of SPDNets: losses by epoch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from linmap.pictures import BASELINE, SERIES, SYSTEM, figure, save_svg
from linmap.training import TrainingHistory


def draw_losses(path: Path, history: TrainingHistory) -> None:
    """Loss by epoch, in training and on what is held out."""
    x = [record.epoch for record in history.epochs]
    with figure(6, 3.2) as (fig, ax):
        ax.plot(x, [record.loss for record in history.epochs], color=SYSTEM, label="training")
        if history.best_epoch is not None:
            ax.plot(x, [record.val for record in history.epochs], color=SERIES[1], label="held out")
            ax.axvline(history.best_epoch, color=BASELINE, linestyle=":", label="weights kept")
        ax.set(xlabel="epoch", ylabel="cross-entropy", yscale="log")
        ax.legend()
        save_svg(fig, path)


def draw_training(path: Path, losses: Mapping[str, Sequence[float]]) -> None:
    """Training losses of several methods, the system's first."""
    with figure(7.2, 3.6) as (fig, ax):
        for colour, (name, values) in zip(SERIES, losses.items(), strict=False):
            ax.plot(range(1, len(values) + 1), values, color=colour, label=name)
        ax.set(xlabel="epoch", ylabel="training loss", yscale="log")
        ax.legend(fontsize=8)
        save_svg(fig, path)
