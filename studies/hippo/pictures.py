"""The pictures of what states remember."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from scipy.linalg import expm

from linmap.experiment import Picture
from linmap.pictures import INK, SEQUENTIAL, SERIES, figure, save_svg
from linmap.sequence.hippo import hippo_matrices
from studies.hippo.memory import CYCLES, DELAY, PAST, WINDOW, Reconstruction, kept, signals

DRAWN_STATES = 32


def draw_reconstructions(seed: int, path: Path) -> Picture:
    """The last window of a band-limited signal and of the electrocardiogram, and what 32 numbers know of it."""
    with figure(7.2, 4.6, nrows=2) as (fig, axes):
        for ax, (name, (values, window)) in zip(axes, list(signals(seed).items())[:2], strict=True):
            past = values[0, -window:]
            ax.plot(np.arange(-window, 0), past, color=INK, linewidth=2.4, alpha=0.35, label="signal")
            for i, method in enumerate(PAST):
                _, again = kept(method, DRAWN_STATES, values[:1], window)
                ax.plot(np.arange(-window, 0), again[0, -window:], color=SERIES[i], linewidth=1.3, label=method)
            low, high = past.min(), past.max()
            margin = 0.25 * (high - low)
            ax.set(title=name, ylim=(low - margin, high + margin), xlim=(-window, 0))
        axes[-1].set_xlabel("samples before now")
        fig.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=3)
        save_svg(fig, path)
    return Picture(
        path.name,
        "The past from 32 numbers",
        f"The last {WINDOW} samples of two signals, and what each state of {DRAWN_STATES} numbers tells of them at the "
        "end. LegS without a timescale keeps all of the past, so that less is left for its end.",
    )


def draw_errors(found: Sequence[Reconstruction], path: Path) -> Picture:
    """Error against the number of states, for each signal."""
    names = list(dict.fromkeys(r.signal for r in found))
    with figure(7.2, 3.2, ncols=len(names), sharey=True) as (fig, axes):
        for ax, name in zip(np.atleast_1d(axes), names, strict=True):
            for i, method in enumerate(PAST):
                points = [(r.N, r.error) for r in found if (r.signal, r.method) == (name, method)]
                ax.plot(*zip(*points, strict=True), "o-", color=SERIES[i], label=method, markersize=4)
            sizes = sorted({r.N for r in found})
            ax.set(title=name, xscale="log", yscale="log", xlabel="numbers in the state", xticks=sizes)
            ax.set_xticklabels([str(N) for N in sizes])
            ax.minorticks_off()
        np.atleast_1d(axes)[0].set_ylabel("relative error (rms)")
        fig.legend(*np.atleast_1d(axes)[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
        save_svg(fig, path)
    return Picture(
        path.name,
        "Error of the past by the size of the state",
        "Root mean square error over the signal's deviation; 1 is as good as knowing the mean alone. LegS of all of "
        "the past is judged on all of it, the others on their window.",
    )


def draw_delays(found: Mapping[str, Sequence[float]], path: Path) -> Picture:
    """Heat map: method by highest frequency."""
    table = np.array(list(found.values()))
    with figure(7.2, 3.6) as (fig, ax):
        shown = ax.imshow(np.clip(table, -8, 0), cmap=SEQUENTIAL, aspect="auto", vmin=-8, vmax=0)
        for row, column in np.ndindex(*table.shape):
            ink = "#ffffff" if table[row, column] < -4 else "#101010"
            text = f"{table[row, column]:.1f}".replace("-0.0", "0.0")
            ax.text(column, row, text, ha="center", va="center", fontsize=9, color=ink)
        ax.set(xticks=range(len(CYCLES)), xticklabels=CYCLES, yticks=range(len(found)), yticklabels=list(found))
        ax.set_xlabel(f"highest frequency, cycles per delay of {DELAY} samples")
        ax.grid(False)
        fig.colorbar(shown, ax=ax, label="log10 of the relative error")
        save_svg(fig, path)
    return Picture(
        path.name,
        f"A signal delayed by {DELAY} samples, by a linear readout of 64 states",
        "log10 of the squared error over the signal's variance; 0 is chance. The step must fit the delay, and a "
        "measure with a window keeps higher frequencies than one that forgets exponentially.",
    )


def draw_kernels(path: Path) -> Picture:
    """The first kernels of three measures with timescale 1."""
    t = np.linspace(0, 4, 401)
    with figure(7.2, 2.7, ncols=3, sharey=True) as (fig, axes):
        for ax, measure in zip(axes, ("legs", "legt", "fout"), strict=True):
            A, B = (matrix.numpy() for matrix in hippo_matrices(measure, 64))
            step, state, kernels = expm(A * t[1]), B, []
            for _ in t:
                kernels.append(state)
                state = step @ state
            columns = (0, 1, 2, 3, 4) if measure != "fout" else (0, 2, 3, 4, 5)
            for i, n in enumerate(columns):
                ax.plot(t, np.array(kernels)[:, n], color=SERIES[i], linewidth=1.2)
            ax.set(
                title={"legs": "LegS", "legt": "LegT", "fout": "FouT"}[measure],
                xlabel="time before now",
                ylim=(-2.2, 3.2),
            )
        save_svg(fig, path)
    return Picture(
        path.name,
        "What the states listen to",
        "The first five kernels (e^tA B)_n of each measure at 64 states, timescale 1. LegS: Legendre polynomials of "
        "e^-t under an exponential weight, exact. LegT and FouT: polynomials and waves on a window of 2, nearly.",
    )
