"""Pictures of a comparison: errors by method, and arches from below."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from linmap.experiment import Picture
from linmap.experiment.charts import KINDS, Styles
from linmap.pictures import INK, MUTED, figure, save_svg
from linmap.shapes.tooth_arrangement import ToothPairs

JAWS = {"upper arch": slice(0, 16), "lower arch": slice(16, 32)}


def draw_errors(values: Mapping[str, Sequence[float]], styles: Styles, path: Path) -> Picture:
    """The error of every test case, by method, with the style of each."""
    with figure(7.2, 0.9 + 0.42 * len(values)) as (fig, ax):
        for place, (name, errors) in enumerate(values.items()):
            colour = styles[name]["color"]
            jitter = np.random.default_rng(0).uniform(-0.16, 0.16, len(errors))
            ax.plot(errors, place + jitter, "o", color=colour, markersize=3, alpha=0.45, label=name)
            ax.plot([np.mean(errors)] * 2, [place - 0.3, place + 0.3], color=INK, linewidth=1.6)
        ax.set_yticks(range(len(values)), list(values))
        ax.invert_yaxis()
        ax.set(xlabel="ADD, mm", xlim=(0, None))
        ax.grid(False, axis="y")
        save_svg(fig, path)
    return Picture(path.name, "Error by case", f"A point is a test case, the line is the mean of a method. {KINDS}")


def draw_case(
    pairs: ToothPairs,
    valid: Sequence[ToothPairs],
    centers: Mapping[str, np.ndarray],
    styles: Styles,
    title: str,
    path: Path,
) -> Picture:
    """Tooth centres of the first test case before, in the valid set-ups, and as two methods place them."""
    mask = pairs.mask[0].numpy()
    with figure(8.4, 4.4, ncols=2) as (fig, axes):
        for ax, (name, jaw) in zip(axes, JAWS.items(), strict=True):
            here = mask[jaw]
            _dots(ax, pairs.centroid[0, jaw].numpy()[here], "before", color=MUTED, marker="o", alpha=0.6)
            for number, truth in enumerate(valid):
                line = "-" if number == 0 else "--"
                points = truth.after_centroid[0, jaw].numpy()[here]
                ax.plot(
                    points[:, 0],
                    points[:, 2],
                    line,
                    color=INK,
                    linewidth=1.1,
                    label="valid set-up" if number == 0 else "the other valid set-up",
                )
            for number, (method, places) in enumerate(centers.items()):
                _dots(ax, places[jaw][here], method, color=styles[method]["color"], marker="x" if number else "+", ms=8)
            ax.set(title=name, xlabel="to the patient's left, mm", aspect="equal")
        axes[0].set_ylabel("forward, mm")
        fig.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=3, fontsize=8.5)
        save_svg(fig, path)
    caption = "Tooth centres of the first test case, seen along the vertical."
    return Picture(path.name, f"Arches, {title}", caption)


def _dots(ax: Any, points: np.ndarray, label: str, ms: float = 4.5, **style: Any) -> None:
    ax.plot(points[:, 0], points[:, 2], linestyle="none", label=label, markersize=ms, **style)
