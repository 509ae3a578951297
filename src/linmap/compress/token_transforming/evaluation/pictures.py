"""The pictures: quality against speed, and which patches of a photograph flow into which token."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from linmap.compress.token_transforming import TokenTransform, Transform, compose
from linmap.compress.token_transforming.evaluation.images import Images
from linmap.compress.token_transforming.evaluation.subject import Measure
from linmap.experiment import Picture
from linmap.experiment.charts import Styles
from linmap.pictures import BASELINE, INK, PAPER, SERIES, figure, save_svg

DRAWN, KEEP = 3, 0.5
"""Photographs in the picture of flows, and the share of the tokens that stays at each of its depths."""
MARKERS, FASTER = "osDv^P*X", "times as fast as the model as it is"
DARK = 0.3
"""Brightness below which borders are drawn light."""


def draw_curves(
    curves: Mapping[str, Sequence[tuple[float, float]]],
    measure: Measure,
    bound: float,
    path: Path,
    across: str = FASTER,
    styles: Styles | None = None,
) -> Picture:
    """A line for each way, a point for each budget; `across` is what the first of its two numbers is, `styles` how
    each line is drawn, as `Runs` has."""
    names = list(curves)
    with figure(7.2, 4.2) as (fig, ax):
        for row, name in enumerate(reversed(names)):
            points = np.array(curves[name])
            number = len(names) - 1 - row
            style = {"color": SERIES[number % len(SERIES)], **(styles or {}).get(name, {})}
            ax.plot(*points.T, marker=MARKERS[number % len(MARKERS)], markersize=6, label=name, **style,
                    linewidth=2.4 if number == 0 else 1.2, zorder=3 + (number == 0))  # fmt: skip
        ax.axhline(bound, color=INK, linestyle=":", linewidth=1.2)
        unit = f" ({measure.unit})" if measure.unit else ""
        ax.set(xlabel=across, ylabel=f"{measure.name}{unit}")
        if measure.better == "lower":
            ax.invert_yaxis()
        handles, labels = ax.get_legend_handles_labels()
        ax.legend(handles[::-1], labels[::-1], fontsize=8.5, loc="lower left")
        save_svg(fig, path)
    return Picture(
        path.name,
        "Quality against cost",
        "A line for each way, a point for each budget; further right is cheaper, further up is nearer to the model as "
        "it is. Dotted: what is good enough.",
    )


def draw_flows(subject: Images, transform: TokenTransform, at: Sequence[int] | None, path: Path) -> Picture:
    """Photographs, and beside each its tokens after every depth at which some were merged."""
    rows = range(min(DRAWN, len(subject.images), subject.batch_size))
    with subject.compressed(transform, KEEP, at) as handle:
        subject.forward(0)
        transforms, patches, grid = dict(sorted(handle.transforms.items())), subject.patches, subject.grid
        shown = list(range(1, len(transforms) + 1))[:3]
        steps = [flow(list(transforms.values())[:depth], patches) for depth in shown]
    layers = list(transforms)
    with figure(2.15 * (len(shown) + 1), 2.3 * len(rows), nrows=len(rows), ncols=len(shown) + 1, squeeze=False) as (
        fig,
        axes,
    ):
        for row in rows:
            image = subject.preparation.shown(subject.images[row])
            axes[row, 0].imshow(image)
            axes[row, 0].set_title(_short(subject.names[row]), fontsize=9)
            for ax, depth, (shares, recovery) in zip(axes[row, 1:], shown, steps, strict=True):
                draw_regions(ax, image, shares[row], recovery[row], grid)
                tokens = int((recovery[row].sum(0) > 1e-6).sum())
                ax.set_title(f"block {layers[depth - 1]}: {tokens} tokens", fontsize=9)
        for ax in axes.flat:
            ax.set_axis_off()
        save_svg(fig, path)
    return Picture(
        path.name,
        "Which patches flow into which token",
        f"Left: the image as the model sees it; then its {patches} patches after each block that merges, of which "
        f"{KEEP:.0%} stay each time. A patch has the mean colour of its tokens, in the shares in which it is restored "
        "from them; a line between two patches is the stronger the less they share. Hatched: dropped patches.",
    )


def flow(
    transforms: Sequence[Transform], patches: int
) -> tuple[Float[np.ndarray, "images outputs patches"], Float[np.ndarray, "images patches outputs"]]:
    """What every output is made of and what every patch is restored from, rows that sum to 1 or (dropped) to 0."""
    W, R = compose(list(transforms))
    shares = W[..., -patches:].float().cpu().numpy()
    total = shares.sum(-1, keepdims=True)
    return shares / np.where(total > 0, total, 1), R[:, -patches:].float().cpu().numpy()


def draw_regions(
    ax: Any,
    image: UInt8[np.ndarray, "height width 3"],
    shares: Float[np.ndarray, "outputs patches"],
    recovery: Float[np.ndarray, "patches outputs"],
    grid: tuple[int, int],
) -> None:
    """Patches in the colours of their tokens, with borders between those that have other tokens."""
    from matplotlib.patches import Rectangle

    height, width = grid
    colours = image.reshape(height, image.shape[0] // height, width, -1, 3).mean((1, 3)).reshape(-1, 3) / 255
    dropped = recovery.sum(1) < 1e-6
    seen = recovery @ (shares @ colours)
    ax.imshow(seen.clip(0, 1).reshape(height, width, 3), extent=(0, width, height, 0), interpolation="nearest")
    for place in np.flatnonzero(dropped).tolist():
        corner = place % width, place // width
        ax.add_patch(Rectangle(corner, 1, 1, facecolor=PAPER, edgecolor=BASELINE, hatch="////", linewidth=0))
    for (light, opacity), lines in borders(recovery.reshape(height, width, -1), seen.reshape(height, width, 3)).items():
        broken = np.array([point for line in lines for point in (*line, (np.nan, np.nan))])
        opacity *= 0.7 if light else 1.0
        ax.plot(*broken.T, color="white" if light else "black", alpha=opacity, linewidth=0.7, solid_capstyle="butt")
    ax.set(xlim=(0, width), ylim=(height, 0), aspect="equal")


Line = tuple[tuple[int, int], tuple[int, int]]


def borders(
    recovery: Float[np.ndarray, "height width outputs"], colours: Float[np.ndarray, "height width 3"]
) -> dict[tuple[bool, float], list[Line]]:
    """Lines between neighbours, by whether they are drawn light and by how little these share, in steps of a quarter.

    Two patches share the sum, over the tokens, of the smaller of their shares.
    """
    found: dict[tuple[bool, float], list[Line]] = {}
    height, width = recovery.shape[:2]
    brightness, kept = colours @ np.array([0.299, 0.587, 0.114]), recovery.sum(-1) > 0
    for down, right in ((0, 1), (1, 0)):
        one = np.s_[: height - down, : width - right]
        other = np.s_[down:, right:]
        apart = (1 - np.minimum(recovery[one], recovery[other]).sum(-1)) * (kept[one] | kept[other])
        dark = (brightness[one] + brightness[other]) / 2 < DARK
        for row, column in np.argwhere(apart > 1 / 8):
            end = row + down, column + right  # where the second patch begins
            line = (int(end[1]), int(end[0])), (int(column) + 1, int(row) + 1)
            step = min(1.0, round(4 * float(apart[row, column])) / 4)
            found.setdefault((bool(dark[row, column]), step), []).append(line)
    return found


def _short(name: str) -> str:
    """A file's name that fits over its picture."""
    name = Path(name).stem
    return name if len(name) < 24 else f"{name[:22]}…"
