"""Pictures of a comparison: perplexities, flatness by place, errors by block and by position."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from linmap.compress.flatquant.baselines import BASELINES
from linmap.experiment.result import Picture
from linmap.pictures import BASELINE, INK, MUTED, SERIES, SYSTEM, figure, save_svg
from linmap.recipes.flatquant.experiments import Run
from linmap.recipes.flatquant.flattening import CURVES, SITES, Curve


def style(method: str) -> dict[str, Any]:
    """A colour for each transform, FlatQuant's the first; GPTQ is dashed, distillation dotted."""
    colours = {"c-hadamard": 2, "hadamard": 1, "random": 4, "quarot": 3, "smoothquant": 5, "rtn": 7, "gptq": 7}
    base = method.removesuffix("-gptq").removesuffix("-rtn").removesuffix("-distilled")
    colour = SYSTEM if base == "flatquant" else SERIES[colours[base]]
    line = "--" if method.endswith("gptq") else ":" if method.endswith("distilled") else "-"
    return {"color": colour, "linestyle": line}


def decimal(axis: Any, span: float) -> None:
    """Plain numbers on a logarithmic axis, as many as a span of this ratio has room for."""
    from matplotlib.ticker import LogLocator, NullFormatter

    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if span < 30 else (1,)))
    axis.set_major_formatter(lambda value, position: f"{value:,g}")
    axis.set_minor_formatter(NullFormatter())


def draw_perplexities(runs: Sequence[Run], original: float, out: Path) -> Picture:
    """A row for every method, a panel for every number of bits; logarithmic."""
    settings, methods = list(dict.fromkeys(r.setting for r in runs)), list(dict.fromkeys(r.method for r in runs))
    height = 0.3 * len(methods) + 1.3
    with figure(8.0, height, ncols=len(settings), sharey=True, squeeze=False) as (fig, axes):
        for ax, setting in zip(axes[0], settings, strict=True):
            for row, method in enumerate(methods):
                values = [r.perplexity for r in runs if (r.method, r.setting) == (method, setting)]
                mean, system = sum(values) / len(values), BASELINES[method].kind == "system"
                ax.barh(row, mean - original / 2, left=original / 2, color=SYSTEM if system else BASELINE)
                ax.plot(values, [row] * len(values), "o", color=INK, markersize=3)
                ax.text(mean * 1.12, row, f"{mean:,.1f}" if mean < 1000 else f"{mean:,.0f}", va="center", fontsize=8)
            ax.axvline(original, color=INK, linestyle=":", linewidth=1.2)
            top = max(r.perplexity for r in runs if r.setting == setting)
            ax.set(xscale="log", xlim=(original * 0.8, max(top, 2 * original) * 4), title=setting, xlabel="perplexity")
            decimal(ax.xaxis, top / original)
            ax.grid(False, axis="y")
        axes[0, 0].set_yticks(range(len(methods)), [BASELINES[method].name for method in methods])
        axes[0, 0].invert_yaxis()
        save_svg(fig, out / "perplexity.svg")
    return Picture(
        "perplexity.svg", "Perplexity on the test text",
        "Bars: mean; dots: each seed; dotted: the model as it is, which no row can beat. The axis is logarithmic.",
    )  # fmt: skip


def draw_flatness(curves: Sequence[Curve], block: int, out: Path) -> Picture:
    """Channel norms at the four places of one block, activations above, weights below."""
    with figure(8.0, 4.6, nrows=2, ncols=len(SITES), sharex=True, sharey="row") as (fig, axes):
        for row, kind in enumerate(("activation", "weight")):
            for ax, (site, title) in zip(axes[row], SITES.items(), strict=True):
                chosen = [c for c in curves if (c.site, c.block, c.kind) == (site, block, kind)]
                for curve in chosen:
                    colour = {"rtn": MUTED} | {m: style(m)["color"] for m in CURVES if m != "rtn"}
                    share = np.linspace(0, 100, len(curve.norms))
                    ax.plot(share, curve.norms, color=colour[curve.method], label=CURVES[curve.method])
                if row == 0:
                    ax.set_title(title, fontsize=9)
                else:
                    ax.set_xlabel("channels, %", fontsize=9)
                ax.tick_params(labelsize=8)
            top = max(c.peak for c in curves if (c.block, c.kind) == (block, kind))
            axes[row, 0].set(yscale="log", ylim=(0.3, 1.2 * top))
            decimal(axes[row, 0].yaxis, top)
            axes[row, 0].set_ylabel(f"norm of {kind} channels\nover their mean", fontsize=9)
        fig.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=len(CURVES))
        save_svg(fig, out / "flatness.svg")
    return Picture(
        "flatness.svg", f"Flatness in block {block}",
        "Norms of the channels, largest first, divided by their mean: a flat tensor is a horizontal line at 1. Above: "
        "activations of the test text; below: the weights that they meet. What is under 0.3 is cut off.",
    )  # fmt: skip


def draw_blocks(runs: Sequence[Run], blocks: Sequence[int], out: Path) -> Picture:
    """Relative error of every block, alone and accumulated, with the first seed."""
    with figure(7.6, 3.9, ncols=2, sharey=True) as (fig, axes):
        for run in runs:
            for ax, errors in zip(axes, (run.alone, run.accumulated), strict=True):
                marker = "o" if len(blocks) < 8 else None
                ax.plot(blocks, errors, marker=marker, markersize=3.5, label=BASELINES[run.method].name,
                        **style(run.method))  # fmt: skip
        axes[0].set(title="each block alone", ylabel="relative squared error", xlabel="block", yscale="log")
        axes[1].set(title="with all blocks before it quantised", xlabel="block")
        for ax in axes:
            ax.xaxis.get_major_locator().set_params(integer=True)
        fig.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=8.5)
        save_svg(fig, out / "block-errors.svg")
    return Picture(
        "block-errors.svg", f"Errors of the blocks at {runs[0].setting}",
        "||y' - y||² / ||y||² of the hidden states behind each block, mean over the tokens of the test text. Left: the "
        "block has the inputs of the original model; right: those of the quantised blocks before it.",
    )  # fmt: skip


def draw_positions(runs: Sequence[Run], out: Path) -> Picture:
    """Accumulated error by the position of a token, in groups that double in length."""
    length = len(runs[0].positions)
    edges = np.unique(np.concatenate([np.arange(min(8, length) + 1), np.geomspace(8, length, 14).round().astype(int)]))
    edges = edges[edges <= length]
    centres = np.sqrt((edges[:-1] + 1) * edges[1:])
    with figure(7.2, 3.8) as (fig, ax):
        for run in runs:
            means = [np.mean(run.positions[a:b]) for a, b in pairwise(edges)]
            ax.plot(centres, means, label=BASELINES[run.method].name, **style(run.method))
        ax.set(xscale="log", yscale="log", xlabel="position in the window", ylabel="relative squared error")
        decimal(ax.xaxis, length)
        fig.legend(*ax.get_legend_handles_labels(), loc="outside right upper", fontsize=8.5)
        save_svg(fig, out / "positions.svg")
    return Picture(
        "positions.svg", f"Errors by position at {runs[0].setting}",
        "||y' - y||² / ||y||² behind the last quantised block, by the position of a token: the first tokens of a text "
        "carry the largest activations.",
    )  # fmt: skip
