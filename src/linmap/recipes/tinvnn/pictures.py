"""Pictures: shapes in many poses and in their one canonical pose, and tours of an instance and of its copies."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from linmap.experiment import Picture
from linmap.pictures import BASELINE, MUTED, SERIES, SYSTEM, figure, save_svg
from linmap.recipes.tinvnn.poses import rotations
from linmap.shapes.tinvnn import TinvEmbedding

POSES, SHOWN = 10, 100
"""Copies of a shape, and the points of it that are drawn."""


def draw_poses(
    path: Path, clouds: Sequence[np.ndarray], names: Sequence[str], embedding: TinvEmbedding, seed: int = 0
) -> Picture:
    """A row for each cloud (points, d): ten turned, moved and resized copies, then all ten canonical poses at once."""
    random = np.random.default_rng(seed)
    with figure(
        1.0 * POSES + 2.2,
        1.25 * len(clouds) + 0.35,
        nrows=len(clouds),
        ncols=POSES + 1,
        squeeze=False,
        width_ratios=[1] * POSES + [1.5],
    ) as (fig, axes):
        worst = 0.0
        for row, cloud, name in zip(axes, clouds, names, strict=True):
            copies = in_poses(_of_size_one(cloud.astype(np.float64)), random)
            found = embedding(torch.as_tensor(copies)).numpy()
            worst = max(worst, float(np.abs(found - found[:1]).max()))
            some = np.linspace(0, len(cloud) - 1, min(SHOWN, len(cloud))).astype(int)
            for ax, copy in zip(row, copies, strict=False):
                _scatter(ax, copy[some], BASELINE)
            for number, pose in enumerate(found):
                _scatter(row[-1], pose[some], SERIES[number % len(SERIES)], size=9 - 0.8 * number)
            row[0].set_ylabel(name, fontsize=8.5)
        axes[0][POSES // 2].set_title("ten copies: turned, mirrored, moved, resized", fontsize=9.5)
        axes[0][-1].set_title("all ten, canonical", fontsize=9.5)
        save_svg(fig, path)
    return Picture(
        path.name,
        "The same shapes in ten poses, and in their one canonical pose",
        f"Right: the representations of all ten copies, drawn over one another; they differ by at most {worst:.1g}.",
    )


def _of_size_one(cloud: np.ndarray) -> np.ndarray:
    """The picture has no unit, and shifts are of this size."""
    difference = cloud / 2 - cloud[0] / 2
    largest = np.abs(difference).max()
    return difference / largest if largest else difference


def in_poses(cloud: np.ndarray, random: np.random.Generator, n: int = POSES) -> np.ndarray:
    """Copies of a cloud (n, points, d): turned, every other one mirrored, moved, and up to three times as large."""
    turns = rotations(n, cloud.shape[1], random)
    turns[1::2, :, 0] *= -1
    sizes = np.exp(random.uniform(-np.log(3), np.log(3), (n, 1, 1)))
    return sizes * (cloud @ turns.swapaxes(1, 2)) + random.standard_normal((n, 1, cloud.shape[1]))


def _scatter(ax: Any, cloud: np.ndarray, colour: str, size: float = 3.0) -> None:
    """Points seen along their last axis."""
    ax.scatter(cloud[:, 0], cloud[:, 1] if cloud.shape[1] > 1 else 0 * cloud[:, 0], s=size, color=colour, linewidths=0)
    ax.set(xticks=[], yticks=[])
    ax.set_aspect("equal", adjustable="datalim")
    ax.grid(False)
    for side in ax.spines.values():
        side.set_visible(False)


def draw_tours(path: Path, drawn: Sequence[tuple[str, np.ndarray, np.ndarray]], caption: str) -> Picture:
    """A panel for each title, cities (n, 2) and tour (n,)."""
    columns = min(len(drawn), 4)
    rows = -(-len(drawn) // columns)
    with figure(3.0 * columns + 0.2, 2.9 * rows, nrows=rows, ncols=columns, squeeze=False) as (fig, axes):
        for ax in axes.flat[len(drawn) :]:
            ax.set_visible(False)
        for ax, (title, points, tour) in zip(axes.flat, drawn, strict=False):
            closed = points[np.append(tour, tour[0])]
            ax.plot(closed[:, 0], closed[:, 1], color=SYSTEM, linewidth=1.1)
            ax.plot(points[:, 0], points[:, 1], "o", color=MUTED, markersize=2.6)
            ax.set(xticks=[], yticks=[])
            ax.set_title(title, fontsize=9)
            ax.set_aspect("equal", adjustable="datalim")
            ax.grid(False)
        save_svg(fig, path)
    return Picture(path.name, "Tours", caption)
