"""Pictures of families of models: accuracy against MACs and against parameters, and what is stored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pandas as pd

from linmap.experiment import Picture
from linmap.pictures import INK, MUTED, figure, save_svg, styles

AXES = {"macs": "MACs for an image", "params": "parameters"}
ANCESTRY = "ancestry model"


@dataclass(frozen=True)
class Family:
    """The models that a method gives."""

    name: str
    table: pd.DataFrame
    """Columns macs, params and accuracy."""
    stored: int
    """Parameters in all files together."""
    kind: str = "baseline"


def draw_families(
    families: Sequence[Family],
    path: Path,
    ancestry: float | None = None,
    others: Mapping[str, int] = MappingProxyType({}),
) -> Picture:
    """Two panels of points, each with a line along the best, and bars of what is stored; `others` are bars alone."""
    drawn = styles({family.name: family.kind for family in families})
    with figure(11.5, 4.2, ncols=3, width_ratios=(3, 3, 2)) as (fig, axes):
        for ax, (column, words) in zip(axes, AXES.items(), strict=False):
            for family in families:
                colour, table = drawn[family.name]["color"], family.table.sort_values(column)
                ours = family.kind == "system"
                ax.plot(table[column], 100 * table["accuracy"], "o" if ours else "s", color=colour,
                        markersize=6 if ours else 4.5, alpha=0.9, label=family.name)  # fmt: skip
                _best_so_far(ax, table, column, colour)
            if ancestry is not None:
                ax.axhline(100 * ancestry, color=INK, linestyle=":", linewidth=1.2, label=ANCESTRY)
            ax.set(xlabel=words, ylabel="accuracy on held-out images, %")
            ax.set_xlim(left=0)
            ax.xaxis.set_major_formatter(_short)
        colours = {name: style["color"] for name, style in drawn.items()} | {ANCESTRY: INK}
        _draw_stored(axes[2], {family.name: family.stored for family in families} | dict(others), colours)
        fig.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=3, fontsize=8.5)
        save_svg(fig, path)
    return Picture(
        path.name,
        "Accuracy against cost, and what is stored",
        "Each point is a model; lines follow the best one up to each cost. Bars: the parameters in the files that give "
        "all models of a method.",
    )


def _best_so_far(ax: Any, table: pd.DataFrame, column: str, colour: str) -> None:
    """The accuracy that a budget buys."""
    if len(table) > 1:
        ax.step(table[column], 100 * table["accuracy"].cummax(), where="post", color=colour, linewidth=1.2, alpha=0.7)


def _draw_stored(ax: Any, stored: Mapping[str, int], colours: Mapping[str, str]) -> None:
    for number, (name, count) in enumerate(stored.items()):
        ax.barh(number, count, color=colours.get(name, MUTED), height=0.6, label=name)
        ax.text(count, number, f" {_short(count, None)}", va="center", fontsize=8.5)
    ax.set_yticks(range(len(stored)), [name.replace(", ", ",\n") for name in stored], fontsize=8.5)
    ax.invert_yaxis()
    ax.set(xlabel="parameters stored", xlim=(0, 1.25 * max(stored.values())))
    ax.xaxis.set_major_formatter(_short)
    ax.locator_params(axis="x", nbins=4)
    ax.grid(False, axis="y")


def _short(value: float, _: object) -> str:
    """Such as 3.1 M."""
    for unit, of in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= of:
            return f"{value / of:.3g} {unit}"
    return f"{value:g}"
