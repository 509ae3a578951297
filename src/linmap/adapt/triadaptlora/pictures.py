"""The picture of ranks that grow or shrink."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from linmap.pictures import SEQUENTIAL, figure, save_svg


def draw_ranks(path: Path, changes: Mapping[str, Sequence[Any]], steps: int) -> Path:
    """The rank of every adapted layer at every step, and beside it the rank at the end.

    Parameters
    ----------
    path
        Of the SVG.
    changes
        By the name of a run: pairs of a step and of the ranks by layer from there on, the first at step 0. Of a
        `RankAllocator`: its ranks at the start, then `(event.step, event.ranks)` for each event of its history.
    steps
        Of the training.
    """
    grids = {name: rank_grid(run, steps) for name, run in changes.items()}
    layers = [_short(name) for name in next(iter(changes.values()))[0][1]]
    top = max(grid.max() for grid in grids.values())
    with figure(7.2, 0.2 * len(layers) + 1.6, ncols=len(grids), sharey=True, squeeze=False) as (fig, axes):
        for ax, (name, grid) in zip(axes[0], grids.items(), strict=True):
            image = ax.imshow(grid, aspect="auto", interpolation="nearest", cmap=SEQUENTIAL, vmin=0, vmax=top,
                              extent=(0, steps, len(layers) - 0.5, -0.5))  # fmt: skip
            ax.grid(False)
            ax.set_yticks(range(len(layers)), layers, fontsize=8.5)
            ax.set(title=name, xlabel="step")
            for row, rank in enumerate(grid[:, -1]):
                ax.text(steps * 1.02, row, str(rank), va="center", fontsize=8, clip_on=False)
        fig.colorbar(image, ax=axes[0, -1], label="rank", pad=0.12)
        return save_svg(fig, path)


def rank_grid(changes: Sequence[Any], steps: int) -> Int[np.ndarray, "layers steps"]:
    """The rank of each layer at each step."""
    at = np.searchsorted([step for step, _ in changes], np.arange(steps), side="right") - 1
    return np.array([list(ranks.values()) for _, ranks in changes])[at].T


def _short(layer: str) -> str:
    """encoder.layer.0.attention.self.query -> 0 query."""
    parts = layer.split(".")
    number = next((part for part in parts if part.isdecimal()), "")
    return f"{number} {parts[-1]}".strip()
