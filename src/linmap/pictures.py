"""One plot style: SVG figures whose colours follow the page's light or dark theme.

Figures are drawn with Matplotlib in fixed colours; `save_svg` then replaces each by a CSS variable with that colour
as its fallback, so that the same file stands alone (light) and follows the theme inside a report.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from linmap.artifacts import write_text

INK, MUTED, GRID, PAPER = "#1c2024", "#60646c", "#e0e1e6", "#fefefe"
# Series colours, distinguishable to colour-blind readers (after Okabe and Ito), the system itself first.
SERIES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c6bb1", "#7f7f7f")
SYSTEM, BASELINE = SERIES[0], SERIES[7]
THEME: Mapping[str, str] = {INK: "--ink", MUTED: "--muted", GRID: "--grid", PAPER: "--paper"} | {
    colour: f"--series-{i}" for i, colour in enumerate(SERIES)
}
DIVERGING, SEQUENTIAL = "RdBu_r", "viridis"


@contextmanager
def figure(width: float = 7.2, height: float = 3.6, **subplots: object) -> Iterator[tuple]:
    """A (figure, axes) pair in the house style, closed afterwards; sizes in inches, `subplots` as in Matplotlib."""
    import matplotlib

    matplotlib.use("Agg", force=False)
    import matplotlib.pyplot as plt

    style = {
        "svg.fonttype": "none", "svg.hashsalt": "linmap", "font.family": "sans-serif", "font.size": 10,
        "figure.facecolor": PAPER, "axes.facecolor": PAPER, "savefig.facecolor": PAPER,
        "text.color": INK, "axes.labelcolor": INK, "axes.titlecolor": INK, "axes.titlesize": 10.5,
        "axes.edgecolor": MUTED, "xtick.color": MUTED, "ytick.color": MUTED,
        "axes.grid": True, "grid.color": GRID, "grid.linewidth": 0.8, "axes.axisbelow": True,
        "axes.spines.top": False, "axes.spines.right": False, "legend.frameon": False,
        "axes.prop_cycle": matplotlib.cycler(color=SERIES), "lines.linewidth": 1.6,
    }  # fmt: skip
    with plt.rc_context(style):
        fig, axes = plt.subplots(figsize=(width, height), layout="constrained", **subplots)  # pyright: ignore
        try:
            yield fig, axes
        finally:
            plt.close(fig)


def save_svg(fig: object, path: Path | str) -> Path:
    """Write a figure made by `figure` as a themed SVG, atomically."""
    buffer = io.StringIO()
    fig.savefig(buffer, format="svg", metadata={"Date": None})  # pyright: ignore[reportAttributeAccessIssue]
    svg = re.sub(
        "|".join(THEME), lambda match: f"var({THEME[match[0].lower()]}, {match[0]})", buffer.getvalue(), flags=re.IGNORECASE
    )
    path = Path(path)
    write_text(path, svg)
    return path
