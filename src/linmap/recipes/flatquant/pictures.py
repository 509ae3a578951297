"""The picture of the comparison: the perplexity of every way."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from linmap.experiment import Picture, Runs
from linmap.experiment.charts import KINDS
from linmap.pictures import INK, figure, save_svg


def draw_perplexities(runs: Runs, path: Path) -> Picture:
    """A row for every method, a panel for every number of bits; logarithmic."""
    shown = [arm for arm in runs.arms if arm.kind != "reference"]
    original = runs.mean(next(arm.name for arm in runs.arms if arm.kind == "reference"), "perplexity")
    with figure(8.0, 0.3 * len(shown) + 1.3, ncols=len(runs.parts), sharey=True, squeeze=False) as (fig, axes):
        for ax, bits in zip(axes[0], runs.parts, strict=True):
            for row, arm in enumerate(shown):
                values, mean = runs.values(arm.name, "perplexity", bits), runs.mean(arm.name, "perplexity", bits)
                colour = runs.styles[arm.name]["color"]
                ax.barh(row, mean - original / 2, left=original / 2, color=colour, label=arm.name)
                ax.plot(values, [row] * len(values), "o", color=INK, markersize=3)
                ax.text(mean * 1.12, row, f"{mean:,.1f}" if mean < 1000 else f"{mean:,.0f}", va="center", fontsize=8)
            ax.axvline(original, color=INK, linestyle=":", linewidth=1.2)
            top = max(runs.mean(arm.name, "perplexity", bits) for arm in shown)
            ax.set(xscale="log", xlim=(original * 0.8, max(top, 2 * original) * 4), title=bits, xlabel="perplexity")
            decimal(ax.xaxis, top / original)
            ax.grid(False, axis="y")
        axes[0, 0].set_yticks(range(len(shown)), [arm.name for arm in shown])
        axes[0, 0].invert_yaxis()
        save_svg(fig, path)
    return Picture(
        path.name,
        "Perplexity on the test text",
        "Bars: mean; dots: each seed; dotted: the model as it is, which no row can beat. The axis is logarithmic. "
        + KINDS,
    )


def decimal(axis: Any, span: float) -> None:
    """Plain numbers on a logarithmic axis, as many as a span of this ratio has room for."""
    from matplotlib.ticker import LogLocator, NullFormatter

    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if span < 30 else (1,)))
    axis.set_major_formatter(lambda value, position: f"{value:,g}")
    axis.set_minor_formatter(NullFormatter())
