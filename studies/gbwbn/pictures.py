"""What ill-conditioned matrices do to accuracies and gradients."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from linmap.pictures import SERIES, figure, save_svg


def draw_conditioning(
    path: Path, x: Sequence[float], curves: Mapping[str, Mapping[str, np.ndarray]], label: str, what: Sequence[str]
) -> None:
    """A panel for each precision: mean and spread over seeds of each method; where all seeds failed, nothing."""
    with figure(8.4, 3.5, ncols=len(curves), sharey=True) as (fig, axes):
        for ax, (precision, methods) in zip(np.atleast_1d(axes), curves.items(), strict=True):
            for colour, (name, values) in zip(SERIES, sorted(methods.items(), key=_ours_first), strict=False):
                mean, std = np.nanmean(values, 1), np.nanstd(values, 1)
                ax.plot(x, mean, "o-", color=colour, label=name, markersize=3.5)
                ax.fill_between(x, mean - std, mean + std, color=colour, alpha=0.15, linewidth=0)
            ax.set(xscale="log", xlabel=label, title=precision)
            if what[0] == "log":
                ax.set_yscale("log")
        np.atleast_1d(axes)[0].set_ylabel(what[1])
        np.atleast_1d(axes)[-1].legend(fontsize=8)
        save_svg(fig, path)


def _ours_first(item: tuple[str, object]) -> bool:
    """So that the first colours are the system's."""
    return not item[0].startswith("GBWBN")
