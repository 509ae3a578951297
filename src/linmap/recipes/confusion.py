"""The picture of a classifier's answers: which share of each class was taken for which."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from sklearn.metrics import confusion_matrix

from linmap.pictures import SEQUENTIAL, figure, save_svg

LONGEST_NAME = 14


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
