"""The methods of a comparison as bars."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from linmap.experiment import Metric, Picture, Row
from linmap.pictures import BASELINE, MUTED, SERIES, SYSTEM, figure, save_svg

COLOURS = {"system": SYSTEM, "ablation": SERIES[5], "baseline": BASELINE, "reference": SERIES[3]}


def draw_bars(
    path: Path, rows: Sequence[Row], metrics: Sequence[Metric], title: str, caption: str, least: float = 0.0
) -> Picture:
    """A bar for each method and metric, mean ± std, coloured by the kind of method.

    Parameters
    ----------
    path
        Of the SVG.
    rows, metrics
        Of a result.
    title, caption
        Of the picture; the caption says in which order and colours methods come.
    least
        Where the axis begins unless a method lies below it, such as what chance gives; it ends at 1.
    """
    with figure(7.2, 0.9 + 0.28 * len(rows), ncols=len(metrics), sharey=True, squeeze=False) as (fig, axes):
        for ax, metric in zip(axes[0], metrics, strict=True):
            means = [row.mean(metric.name) for row in rows]
            start = min([least, *means])
            for i, (row, mean) in enumerate(zip(rows, means, strict=True)):
                ax.barh(i, mean - start, left=start, xerr=row.std(metric.name), color=COLOURS[row.kind], ecolor=MUTED)
            ax.set(xlim=(start, 1.0), xlabel=metric.name)
            ax.grid(False, axis="y")
        axes[0][0].set_yticks(range(len(rows)), [row.name for row in rows])
        axes[0][0].invert_yaxis()
        save_svg(fig, path)
    legend = " Blue: the system; light blue: variants of it; grey: baselines; pink: references."
    return Picture(path.name, title, caption + legend)
