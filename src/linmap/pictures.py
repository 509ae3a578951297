"""One plot style: SVG figures whose colours follow the page's light or dark theme.

Figures are drawn with Matplotlib in fixed colours; `save_svg` then replaces each by a CSS variable with that colour
as its fallback. `THEME_CSS` gives the variables their values: a file that stands alone carries it, a report carries it
once for all its pictures.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any
from zlib import adler32

from linmap.artifacts import write_text

INK, MUTED, GRID, PAPER = "#1c2024", "#60646c", "#e0e1e6", "#fefefe"
# Series colours, distinguishable to colour-blind readers (after Okabe and Ito), the system itself first.
SERIES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c6bb1", "#7f7f7f")
SYSTEM, BASELINE = SERIES[0], SERIES[7]
THEME: Mapping[str, str] = {INK: "--ink", MUTED: "--muted", GRID: "--grid", PAPER: "--paper"} | {
    colour: f"--series-{i}" for i, colour in enumerate(SERIES)
}
DARK_SERIES = ("#4fa9e2", "#f08a4b", "#2fc398", "#dd9cc1", "#f0b94a", "#86cdf4", "#b59bd8", "#9a9fa6")
DARK: Mapping[str, str] = {"--ink": "#e6e8eb", "--muted": "#a3a9b1", "--grid": "#2d3238", "--paper": "#14171a"} | {
    f"--series-{i}": colour for i, colour in enumerate(DARK_SERIES)
}


def _rule(values: Mapping[str, str]) -> str:
    return ":root { " + " ".join(f"{name}: {colour};" for name, colour in values.items()) + " }"


THEME_CSS = f"""{_rule({name: colour for colour, name in THEME.items()})}
@media screen and (prefers-color-scheme: dark) {{ {_rule(DARK)} }}"""
DIVERGING, SEQUENTIAL = "RdBu_r", "viridis"
OF_KIND: Mapping[str, tuple[str, ...]] = {
    "system": (SYSTEM,),
    "ablation": (SERIES[5],),
    "reference": (SERIES[3],),
    "baseline": (SERIES[1], SERIES[2], SERIES[4], SERIES[6], SERIES[7]),
}
"""The colours of methods by what they are in a comparison."""
LINES = ("-", "--", "-.", ":")


def styles(kinds: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """How each method of a comparison is drawn in all of its pictures.

    The system is blue, variants of it are light blue, references pink. A baseline has a colour of its own by its name,
    which it keeps in other comparisons unless an earlier one there has it. Where there are more methods of a kind than
    colours, lines differ.

    Parameters
    ----------
    kinds
        "system", "ablation", "reference" or "baseline" by the names of all methods, whichever are drawn.

    Returns
    -------
    dict
        By name, `color` and `linestyle` of Matplotlib; no two are the same up to four times the colours of a kind.
    """
    found: dict[str, dict[str, Any]] = {}
    for kind, colours in OF_KIND.items():
        for name, place in _places([name for name in kinds if kinds[name] == kind], len(colours)).items():
            line, colour = divmod(place, len(colours))
            found[name] = {"color": colours[colour], "linestyle": LINES[line % len(LINES)]}
    return {name: found[name] for name in kinds}


def _places(names: list[str], n: int) -> dict[str, int]:
    """A number for each name: below `n` the one that follows from the name alone, or the first that is free."""
    owners: dict[int, str] = {}
    for name in names:
        owners.setdefault(adler32(name.encode()) % n, name)
    own, free = {name: place for place, name in owners.items()}, (place for place in count() if place not in owners)
    return {name: own[name] if name in own else next(free) for name in names}


@contextmanager
def figure(width: float | int = 7.2, height: float | int = 3.6, **subplots: Any) -> Iterator[tuple]:
    """A (figure, axes) pair in the house style, closed afterwards; sizes in inches, `subplots` as in Matplotlib."""
    import matplotlib

    matplotlib.use("Agg", force=False)
    import matplotlib.pyplot as plt
    from cycler import cycler

    style: dict[Any, Any] = {"svg.fonttype": "none", "svg.hashsalt": "linmap", "font.family": "sans-serif"}
    style |= dict.fromkeys(("figure.facecolor", "axes.facecolor", "savefig.facecolor"), PAPER)
    style |= dict.fromkeys(("text.color", "axes.labelcolor", "axes.titlecolor"), INK)
    style |= dict.fromkeys(("axes.edgecolor", "xtick.color", "ytick.color"), MUTED)
    style |= dict.fromkeys(("axes.spines.top", "axes.spines.right", "legend.frameon"), False)
    style |= {"axes.grid": True, "grid.color": GRID, "grid.linewidth": 0.8, "axes.axisbelow": True}
    style |= {"axes.prop_cycle": cycler(color=SERIES), "lines.linewidth": 1.6, "font.size": 10, "axes.titlesize": 10.5}
    with plt.rc_context(style):
        fig, axes = plt.subplots(figsize=(width, height), layout="constrained", **subplots)
        try:
            yield fig, axes
        finally:
            plt.close(fig)


def save_svg(fig: Any, path: Path | str) -> Path:
    """Write a figure made by `figure` as a themed SVG, atomically; the same figure gives the same bytes."""
    buffer = io.StringIO()
    fig.savefig(buffer, format="svg", metadata={"Date": None})
    svg = re.sub(
        "|".join(THEME),
        lambda match: f"var({THEME[match[0].lower()]}, {match[0]})",
        buffer.getvalue(),
        flags=re.IGNORECASE,
    )
    svg = svg.replace("</style>", f"\n{THEME_CSS}\n</style>", 1)
    path = Path(path)
    write_text(path, svg)
    return path


@contextmanager
def illustrated(summary: MutableMapping[str, Any], path: Path | str) -> Iterator[Path]:
    """Around the drawing of a picture that only illustrates, once the answer is written.

    A picture that cannot be drawn never fails the command: why it is missing goes into `notes` of the summary, and a
    picture of an earlier run at that path is taken away, which would be taken for this one's.

    Parameters
    ----------
    summary
        What the recipe returns; a list `notes` is added where it is needed.
    path
        Where the picture goes; it is handed on to the block.

    Examples
    --------
    >>> with illustrated(summary, out / "loss.svg") as path:  # doctest: +SKIP
    ...     draw_losses(path, history)
    """
    path = Path(path)
    try:
        yield path
    except Exception as error:  # whatever it is, the answer stands
        path.unlink(missing_ok=True)
        reason = " ".join(str(error).split()) or type(error).__name__
        summary.setdefault("notes", []).append(f"{path.name} was not drawn: {reason.rstrip('.')}.")
