"""Pictures of a classifier of epochs: the search over order and lag, patterns of channels and delays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from linmap.data.epochs import Epochs
from linmap.pictures import DIVERGING, SEQUENTIAL, figure, save_svg

SHOWN_CLASSES = 6


def draw_order_lag(path: Path, results: Mapping[str, Any], title: str = "Inner accuracy") -> Path:
    """Heat map of the best score of each (order, lag), in the form of `cv_results_`; the best is framed."""
    order, lag, score = (np.asarray(results[name]) for name in ("param_order", "param_lag", "mean_test_score"))
    orders, lags = np.unique(order), np.unique(lag[order > 1]) if (order > 1).any() else np.array([1])
    table = np.full((len(orders), len(lags)), np.nan)
    for o, l, s in zip(order, lag, score, strict=True):
        i = int(np.searchsorted(orders, o))
        columns = slice(None) if o == 1 else int(np.searchsorted(lags, l))  # at order 1 the lag is without effect
        table[i, columns] = np.fmax(table[i, columns], 100 * s)
    with figure(1.9 + 0.62 * len(lags), 1.4 + 0.48 * len(orders)) as (fig, ax):
        image = ax.imshow(np.ma.masked_invalid(table), cmap=SEQUENTIAL, aspect="auto")
        low, high = np.nanmin(table), np.nanmax(table)
        for i, j in np.ndindex(table.shape):
            if np.isfinite(table[i, j]):
                dark = table[i, j] < low + 0.6 * (high - low)
                ax.text(
                    j, i, f"{table[i, j]:.0f}", ha="center", va="center", fontsize=8, color="white" if dark else "black"
                )
        i, j = np.unravel_index(np.nanargmax(table), table.shape)
        ax.add_patch(_frame(float(j) - 0.5, float(i) - 0.5))
        ax.set(
            xticks=range(len(lags)),
            yticks=range(len(orders)),
            xticklabels=lags,
            yticklabels=orders,
            xlabel="lag (samples)",
            ylabel="order",
        )
        ax.set_title(f"{title} (%)")
        ax.grid(False)
        fig.colorbar(image, ax=ax, shrink=0.85)
        return save_svg(fig, path)


def _frame(x: float, y: float) -> Any:
    from matplotlib.patches import Rectangle

    return Rectangle((x, y), 1, 1, fill=False, edgecolor="#d55e00", linewidth=2)


def draw_patterns(path: Path, patterns: np.ndarray, classes: np.ndarray, epochs: Epochs, lag: int) -> Path:
    """How each class's autocovariances differ from the mean of all: channels by delays, and on the head where the
    channels have places on it."""
    classes, patterns = classes[:SHOWN_CLASSES], patterns[:SHOWN_CLASSES]
    limit = float(np.abs(patterns).max()) or 1.0
    places = _places(epochs.ch_names)
    rows, n_channels, order = 1 if places is None else 2, patterns.shape[1], patterns.shape[2]
    height = 1.3 + 0.2 * n_channels + (0 if places is None else 1.9)
    scale = 1000 / epochs.sfreq if epochs.sfreq else 1
    with figure(1.6 + 1.75 * len(classes), height, nrows=rows, ncols=len(classes), squeeze=False) as (fig, axes):
        image = None
        for k, (label, pattern) in enumerate(zip(classes, patterns, strict=True)):
            ax = axes[-1, k]
            image = ax.imshow(pattern, cmap=DIVERGING, vmin=-limit, vmax=limit, aspect="auto")
            ax.set(xticks=range(order), xticklabels=[f"{d * lag * scale:.0f}" for d in range(order)])
            ax.set(yticks=range(n_channels), yticklabels=epochs.ch_names if k == 0 else [])
            ax.grid(False)
            axes[0, k].set_title(f"class {label}")
            if places is not None:
                from mne.viz import plot_topomap

                plot_topomap(pattern[:, 0], places, axes=axes[0, k], show=False, cmap=DIVERGING, vlim=(-limit, limit))
        fig.supxlabel("delay (ms)" if epochs.sfreq else "delay (samples)", fontsize=10)
        fig.colorbar(image, ax=axes[-1].tolist(), label="change / variance", shrink=0.9)
        return save_svg(fig, path)


def _places(names: Sequence[str]) -> Any:
    """MNE's positions of the channels, where all have one in the 10-05 system."""
    import mne

    renamed = "colin27_1005" in mne.channels.get_builtin_montages()  # since MNE 1.13
    name = "colin27_1005" if renamed else "standard_1005"
    montage = mne.channels.make_standard_montage(name)
    known = {name.lower(): name for name in montage.ch_names}
    if len(names) < 4 or not all(name.lower() in known for name in names):
        return None
    return mne.create_info([known[name.lower()] for name in names], 100.0, "eeg").set_montage(montage)
