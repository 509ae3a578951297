"""The picture of `linmap compare acm` that is its own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from linmap.pictures import BASELINE, GRID, SYSTEM, figure, save_svg


def draw_gains(path: Path, plain: Sequence[float], chosen: Sequence[float], names: Sequence[str]) -> Path:
    """Accuracy of each subject or fold, from order 1 to the chosen order and lag."""
    before, after = 100 * np.array(plain), 100 * np.array(chosen)
    with figure(5.4, 1.1 + 0.27 * len(names)) as (fig, ax):
        rows = np.arange(len(names))
        ax.hlines(rows, before, after, color=GRID, linewidth=3)
        ax.plot(before, rows, "o", color=BASELINE, label="order 1")
        ax.plot(after, rows, "o", color=SYSTEM, label="chosen order and lag")
        ax.set(yticks=rows, yticklabels=names, xlabel="test accuracy (%)", ylim=(len(names) - 0.5, -0.5))
        fig.legend(*ax.get_legend_handles_labels(), loc="outside upper center", ncols=2)
        return save_svg(fig, path)
