"""PhysioNet S001: areas under the ROC curve of plain and augmented covariances, repeated cross-validation."""

from __future__ import annotations

import numpy as np
from sklearn.model_selection import RepeatedStratifiedKFold, cross_val_score

from linmap.data.epochs import eegmmidb
from linmap.experiment.result import Table
from linmap.signals.acm import ACMClassifier

SETTINGS = ((1, 1), (2, 4), (3, 4))
TASKS = {"imagery": "left or right fist, imagined", "executed": "left or right fist, executed"}
FOLDS, REPEATS = 5, 4


def physionet_table(seed: int = 0) -> Table:
    """Both tasks that are not solved by every method, with the settings named beforehand: nothing is chosen here."""
    cells: list[list[str | float | int]] = []
    splits = RepeatedStratifiedKFold(n_splits=FOLDS, n_repeats=REPEATS, random_state=seed)
    for task, title in TASKS.items():
        epochs = eegmmidb(task)  # pyright: ignore[reportArgumentType]
        for order, lag in SETTINGS:
            heads = (ACMClassifier((order, lag), kernel="linear", C=1.0), ACMClassifier((order, lag), "mdm"))
            scores = [cross_val_score(head, epochs.X, epochs.labels(), cv=splits, scoring="roc_auc") for head in heads]
            cells.append([title, f"({order}, {lag})", *(f"{np.mean(s):.3f} ± {np.std(s):.3f}" for s in scores)])
    return Table(
        "PhysioNet S001, 21 channels, 8-35 Hz: area under the ROC curve", ["task", "(order, lag)",
        "tangent space + linear SVM", "MDM"], cells,
        f"{REPEATS} x {FOLDS} folds of 45 epochs of one subject: differences of .03 are noise",
    )  # fmt: skip
