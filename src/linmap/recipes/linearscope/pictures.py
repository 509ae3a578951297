"""The picture of `linmap compare linearscope` that is its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from linmap.pictures import BASELINE, SERIES, SYSTEM, figure, save_svg


def draw_deletion(methods: Mapping[str, Sequence[float]], images: Sequence[str], path: Path) -> None:
    """Bars of each method, "before" first, by image."""
    colours = [BASELINE, SYSTEM, *SERIES[1:]]
    with figure(7.2, 3.2) as (fig, ax):
        for m, (method, values) in enumerate(methods.items()):
            places = np.arange(len(images)) + (m - (len(methods) - 1) / 2) * 0.16
            ax.bar(places, values, 0.15, label=method, color=colours[m])
        ax.set_xticks(range(len(images)), images)
        ax.set_ylabel("probability of the top class")
        ax.set_title("Deleting the pixels with the highest scores (lower: the score found what mattered)")
        ax.legend(ncols=3, fontsize=8)
        save_svg(fig, path)
