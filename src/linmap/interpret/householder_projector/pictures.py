"""Traversal sheets: images along a direction, and all directions on one page."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8
from torch import Tensor

from linmap.pictures import MUTED, figure, save_svg

GAP = 2
"""Pixels between two images, of 64."""
INCHES = 0.78
"""Of an image on a page."""
WRAP = 34
"""Letters of a label in a line."""


def as_pixels(
    images: Float[Tensor, "*batch channels height width"],
) -> UInt8[np.ndarray, "*batch height width 3"]:
    """Images in [-1, 1] as 8-bit values, one channel as grey."""
    values = ((images.detach().cpu().float().clamp(-1, 1) + 1) * 127.5).round().byte().movedim(-3, -1)
    return values.expand(*values.shape[:-1], 3).numpy().copy()


def mosaic(pixels: UInt8[np.ndarray, "rows columns height width 3"], gap: int | None = None) -> np.ndarray:
    """Images side by side, (height, width, 4) with nothing between them."""
    rows, columns, h, w, _ = pixels.shape
    gap = max(1, GAP * h // 64) if gap is None else gap
    page = np.zeros((rows * (h + gap) - gap, columns * (w + gap) - gap, 4), np.uint8)
    for r in range(rows):
        for c in range(columns):
            place = page[r * (h + gap) : r * (h + gap) + h, c * (w + gap) : c * (w + gap) + w]
            place[..., :3], place[..., 3] = pixels[r, c], 255
    return page


def draw_sheet(
    path: Path, images: Float[Tensor, "samples steps channels height width"], amounts: Sequence[float], title: str
) -> Path:
    """One direction: a row for each sample, a column for each step.

    Parameters
    ----------
    path
        Of the SVG.
    images
        In [-1, 1].
    amounts
        Of the steps, in standard deviations.
    title
        Above the sheet.
    """
    samples, steps = images.shape[:2]
    with figure(INCHES * steps + 0.5, INCHES * samples + 1.0) as (fig, ax):
        _page(ax, mosaic(as_pixels(images)), _steps(amounts))
        fig.suptitle("\n".join(textwrap.wrap(title, int(12 * steps))), fontsize=10)
        return save_svg(fig, path)


def draw_contact_sheet(
    path: Path,
    images: Float[Tensor, "directions samples steps channels height width"],
    amounts: Sequence[float],
    labels: Sequence[str],
    title: str,
) -> Path:
    """All directions: a row for each, with its label, and the steps of several samples side by side.

    Parameters
    ----------
    path
        Of the SVG.
    images
        In [-1, 1].
    amounts
        Of the steps, in standard deviations.
    labels
        A line for each direction.
    title
        Above the sheet.
    """
    directions, samples, steps = images.shape[:3]
    spread = [as_pixels(images[:, sample]) for sample in range(samples)]
    blocks = [mosaic(block) for block in spread]
    apart = np.zeros((blocks[0].shape[0], max(4, blocks[0].shape[1] // 30), 4), np.uint8)
    page = np.concatenate([part for block in blocks for part in (block, apart)][:-1], axis=1)
    width = INCHES * samples * steps + 3.1
    with figure(width, INCHES * directions + 1.0) as (fig, ax):
        _page(ax, page, [])
        tall = page.shape[0] / directions
        wrapped = ["\n".join(textwrap.wrap(label, WRAP)) for label in labels]
        ax.set_yticks([(row + 0.5) * tall for row in range(directions)], wrapped, fontsize=8)
        block, gap = blocks[0].shape[1], apart.shape[1]
        places = [s * (block + gap) + (c + 0.5) * block / steps for s in range(samples) for c in range(steps)]
        ax.set_xticks(places, _steps(amounts) * samples, fontsize=8)
        fig.suptitle(title, fontsize=10)
        fig.get_layout_engine().set(rect=(0.02, 0, 0.98, 1))
        return save_svg(fig, path)


def _steps(amounts: Sequence[float]) -> list[str]:
    return [f"{amount:+g} σ" if amount else "0" for amount in amounts]


def _page(ax: Any, page: np.ndarray, columns: Sequence[str]) -> None:
    """A mosaic in axes with the names of its columns above it."""
    ax.imshow(page, interpolation="none", extent=(0, page.shape[1], page.shape[0], 0))
    ax.grid(False)
    ax.tick_params(length=0, top=False, labeltop=True, bottom=False, labelbottom=False, colors=MUTED)
    wide = page.shape[1] / max(len(columns), 1)
    ax.set_xticks([(i + 0.5) * wide for i in range(len(columns))], list(columns), fontsize=8)
    ax.set_yticks([])
    for spine in ax.spines.values():
        spine.set_visible(False)
