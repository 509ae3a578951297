"""The picture of `linmap compare hippo`."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from linmap.experiment import Picture, Runs
from linmap.pictures import BASELINE, SERIES, figure, save_svg


def draw_training(runs: Runs, part: str, task: str, path: Path) -> Picture:
    """Accuracy on the validation series (training loss where there are none) by epoch, and the test accuracy."""
    found = {arm.name: runs.of(arm.name, part) for arm in runs.arms}
    curves = {name: own for name, own in found.items() if own and "losses" in own[0].details}
    scored = all("scores" in run.details for own in curves.values() for run in own)
    with figure(7.2, 3.6) as (fig, ax):
        for i, (name, own) in enumerate(curves.items()):
            values = np.array([run.details["scores" if scored else "losses"] for run in own])
            epochs, colour = np.arange(1, values.shape[1] + 1), BASELINE if name == "GRU" else SERIES[i % 7]
            label = f"{name}: {runs.mean(name, 'accuracy', part):.3f}"
            ax.plot(epochs, values.mean(0), "o-", color=colour, label=label, markersize=3.5)
            if len(values) > 1:
                ax.fill_between(epochs, values.min(0), values.max(0), color=colour, alpha=0.15, linewidth=0)
        ax.set(xlabel="epoch", ylabel="accuracy on validation series" if scored else "training loss", title=task)
        ax.xaxis.get_major_locator().set_params(integer=True)
        if scored:
            ax.set_ylim(0, 1)
        fig.legend(*ax.get_legend_handles_labels(), loc="outside right upper", title="test accuracy", fontsize=8.5)
        save_svg(fig, path)
    what = "Accuracy on validation series" if scored else "Training loss"
    return Picture(
        path.name,
        f"Learning {task}",
        f"{what} after each epoch; bands from the lowest to the highest seed. In the legend, the accuracy on the test "
        "series.",
    )
