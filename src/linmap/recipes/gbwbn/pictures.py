"""Pictures of SPDNets: losses, and what ill-conditioning does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

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


def _ours_first(methods: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """So that the first colours are the system's."""
    return sorted(methods.items(), key=lambda item: not item[0].startswith("GBWBN"))


def draw_training(path: Path, losses: Mapping[str, Sequence[float]]) -> None:
    """Training losses of several methods."""
    with figure(7.2, 3.6) as (fig, ax):
        for colour, (name, values) in zip(SERIES, _ours_first(losses), strict=False):
            ax.plot(range(1, len(values) + 1), values, color=colour, label=name)
        ax.set(xlabel="epoch", ylabel="training loss", yscale="log")
        ax.legend(fontsize=8)
        save_svg(fig, path)


def draw_conditioning(
    path: Path, x: Sequence[float], curves: Mapping[str, Mapping[str, np.ndarray]], label: str, what: Sequence[str]
) -> None:
    """A panel for each precision: mean and spread over seeds of each method; where all seeds failed, nothing."""
    with figure(8.4, 3.5, ncols=len(curves), sharey=True) as (fig, axes):
        for ax, (precision, methods) in zip(np.atleast_1d(axes), curves.items(), strict=True):
            for colour, (name, values) in zip(SERIES, _ours_first(methods), strict=False):
                mean, std = np.nanmean(values, 1), np.nanstd(values, 1)
                ax.plot(x, mean, "o-", color=colour, label=name, markersize=3.5)
                ax.fill_between(x, mean - std, mean + std, color=colour, alpha=0.15, linewidth=0)
            ax.set(xscale="log", xlabel=label, title=precision)
            if what[0] == "log":
                ax.set_yscale("log")
        np.atleast_1d(axes)[0].set_ylabel(what[1])
        np.atleast_1d(axes)[-1].legend(fontsize=8)
        save_svg(fig, path)
