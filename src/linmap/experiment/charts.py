"""Charts that comparisons share: methods as bars, curves with a band over the runs, and confusions of classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from linmap.experiment.result import Metric, Picture, Row
from linmap.pictures import BASELINE, GRID, MUTED, SEQUENTIAL, SERIES, SYSTEM, figure, save_svg, styles

LONGEST_NAME = 14
KINDS = "Blue: the system; light blue: variants of it; pink: references; other colours: baselines, each its own."
Curves = Mapping[str, Any]
"""By the name of a method, its values as (runs, points)."""
Styles = Mapping[str, Mapping[str, Any]]


def draw_bars(
    path: Path,
    rows: Sequence[Row],
    metrics: Sequence[Metric],
    title: str,
    caption: str,
    least: float = 0.0,
    most: float | None = 1.0,
) -> Picture:
    """A bar for each method and metric, mean ± std, in the colours of `styles`.

    Parameters
    ----------
    path
        Of the SVG.
    rows, metrics
        Of a result; all of its rows, so that each method has the colour of the other pictures.
    title, caption
        Of the picture; what the colours mean is added.
    least, most
        Where the axis begins unless a method lies below it, such as what chance gives, and where it ends.
    """
    drawn = styles({row.name: row.kind for row in rows})
    with figure(7.2, 0.9 + 0.28 * len(rows), ncols=len(metrics), sharey=True, squeeze=False) as (fig, axes):
        for ax, metric in zip(axes[0], metrics, strict=True):
            means = [row.mean(metric.name) for row in rows]
            start = min([least, *(mean for mean in means if np.isfinite(mean))])
            for i, (row, mean) in enumerate(zip(rows, means, strict=True)):
                colour, spread = drawn[row.name]["color"], row.std(metric.name)
                ax.barh(i, mean - start, left=start, xerr=spread, color=colour, ecolor=MUTED, label=row.name)
            ax.set(xlim=(start, most), xlabel=metric.name)
            ax.grid(False, axis="y")
        axes[0][0].set_yticks(range(len(rows)), [row.name for row in rows])
        axes[0][0].invert_yaxis()
        save_svg(fig, path)
    return Picture(path.name, title, f"{caption} {KINDS}")


def draw_curves(
    path: Path, curves: Curves, xlabel: str, ylabel: str, title: str = "", legend: str = "", log: bool = False,
    styles: Styles | None = None,
) -> Path:  # fmt: skip
    """A line for each method, the mean over its runs, in a band from the lowest to the highest run.

    Parameters
    ----------
    path
        Of the SVG.
    curves
        Values at 1, 2, 3, ... on the axis.
    xlabel, ylabel, title
        Of the axes.
    legend
        What stands above the names of the methods.
    log
        Whether the values are on a logarithmic axis.
    styles
        Of the methods, as in `plot_curves`.
    """
    with figure(7.2, 3.7) as (fig, ax):
        plot_curves(ax, curves, styles=styles)
        ax.set(xlabel=xlabel, ylabel=ylabel, title=title, yscale="log" if log else "linear")
        ax.xaxis.get_major_locator().set_params(integer=True)
        fig.legend(*ax.get_legend_handles_labels(), loc="outside right upper", title=legend or None, fontsize=8.5)
        return save_svg(fig, path)


def plot_curves(ax: Any, curves: Curves, start: int = 1, styles: Styles | None = None) -> None:
    """The lines and bands of `draw_curves` in axes of Matplotlib.

    Parameters
    ----------
    ax, curves
        The axes, and what is drawn there.
    start
        The first place on the axis.
    styles
        By the name of a method, what Matplotlib is told of its line: `Runs.styles` where methods are compared, so
        that a name has one colour in all pictures. Without it, series are coloured in their order.
    """
    for i, (name, runs) in enumerate(curves.items()):
        values = np.asarray(runs, float)
        style = {"color": SERIES[i % len(SERIES)], "label": name, **(styles or {}).get(name, {})}
        places = np.arange(start, start + values.shape[1])
        if len(places) == 1:  # no line
            style = {"marker": "o", **style}
        ax.plot(places, values.mean(0), zorder=3 - (i > 0), **style)
        if len(values) > 1:
            ax.fill_between(places, values.min(0), values.max(0), color=style["color"], alpha=0.14, linewidth=0)


def draw_gains(
    path: Path,
    names: Sequence[str],
    before: Sequence[float],
    after: Sequence[float],
    labels: tuple[str, str],
    what: str,
    colours: tuple[str, str] = (BASELINE, SYSTEM),
) -> Path:
    """A share for each subject or fold by one method and by another, joined by a line, in per cent.

    Parameters
    ----------
    path
        Of the SVG.
    names
        Of subjects or folds.
    before, after
        Shares from 0 to 1, (n,) each.
    labels
        Of the two methods.
    what
        The share is of.
    colours
        Of the two methods.
    """
    rows = np.arange(len(names))
    old, new = 100 * np.array(before), 100 * np.array(after)
    with figure(5.4, 1.1 + 0.27 * len(names)) as (fig, ax):
        ax.hlines(rows, old, new, color=GRID, linewidth=3)
        ax.plot(old, rows, "o", color=colours[0], label=labels[0])
        ax.plot(new, rows, "o", color=colours[1], label=labels[1])
        ax.set(yticks=rows, yticklabels=names, xlabel=f"{what} (%)", ylim=(len(names) - 0.5, -0.5))
        fig.legend(*ax.get_legend_handles_labels(), loc="outside upper center", ncols=2)
        return save_svg(fig, path)


def draw_confusions(path: Path, answers: Mapping[str, tuple[np.ndarray, np.ndarray]], classes: np.ndarray) -> Path:
    """A confusion matrix for each method, rows normalised, in per cent.

    Parameters
    ----------
    path
        The SVG file.
    answers
        By the method's name, the true and the predicted classes, (n,) each.
    classes
        All classes, in the order of rows and columns.
    """
    from sklearn.metrics import confusion_matrix

    n, names = len(classes), [str(name)[:LONGEST_NAME] for name in classes]
    upright = n <= 5 and max(map(len, names)) <= 3
    side = max(2.4, 1.3 + 0.42 * n)
    with figure(side * len(answers) + 0.8, side + 0.5, ncols=len(answers), squeeze=False) as (fig, axes):
        image = None
        for ax, (name, (true, found)) in zip(axes[0], answers.items(), strict=True):
            shares = confusion_matrix(true, found, labels=classes, normalize="true")
            image = ax.imshow(shares, cmap=SEQUENTIAL, vmin=0, vmax=1)
            for i, j in zip(*np.nonzero(shares), strict=True):
                # fixed colours, as the cells have them: those of the theme would follow the page
                ax.text(j, i, f"{100 * shares[i, j]:.0f}", ha="center", va="center", fontsize=8,
                        color="white" if shares[i, j] < 0.6 else "black")  # fmt: skip
            ax.set(xticks=range(n), yticks=range(n), xlabel="predicted")
            ax.set_xticklabels(names, rotation=0 if upright else 90)
            ax.set_yticklabels(names)
            ax.set_title(f"{name}\n{100 * np.mean(np.asarray(true) == np.asarray(found)):.1f} % right", fontsize=9.5)
            ax.grid(False)
        axes[0, 0].set_ylabel("class")
        fig.colorbar(image, ax=axes[0].tolist(), label="share of the class", shrink=0.8)
        return save_svg(fig, path)
