"""PhysioNet S001: areas under the ROC curve of plain and augmented covariances, repeated cross-validation."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
from sklearn.model_selection import RepeatedStratifiedKFold, cross_val_score

from linmap.data.epochs import Task, eegmmidb
from linmap.experiment import Arm, Experiment, Outcome, Part, Table, Trial
from linmap.signals.acm import ACMClassifier
from linmap.signals.acm.classifier import Head
from studies.study import Findings, Job

SETTINGS = ((1, 1), (2, 4), (3, 4))
HEADS: dict[Head, str] = {"tgsp+svm": "tangent space + linear SVM", "mdm": "MDM"}
TASKS: list[tuple[Task, str]] = [
    ("imagery", "left or right fist, imagined"),
    ("executed", "left or right fist, executed"),
]
FOLDS, REPEATS = 5, 4


def s001(job: Job) -> Findings:
    """Both tasks that are not solved by every method, with the settings named beforehand: nothing is chosen here."""
    repeats, pairs, tasks = (1, SETTINGS[:2], TASKS[:1]) if job.tiny else (REPEATS, SETTINGS, TASKS)
    methods = [
        Arm(f"{name}, {pair}", "baseline" if pair == (1, 1) else "system", partial(_areas, pair, head, repeats))
        for pair in pairs
        for head, name in HEADS.items()
    ]
    parts = [Part(task, eegmmidb(task)) for task, _ in tasks]
    experiment = Experiment("acm physionet", job.out / "runs", {"repeats": repeats}, job.resume)
    runs = experiment.run(methods, parts, job.seeds[:1])

    def cell(pair: Sequence[int], name: str, task: str) -> str:
        scores = runs.of(f"{name}, {pair}", task)[0].details["scores"]
        return f"{np.mean(scores):.3f} ± {np.std(scores):.3f}"

    cells: list[list[str | float | int]] = [
        [title, f"{pair}", *(cell(pair, name, task) for name in HEADS.values())]
        for task, title in tasks
        for pair in pairs
    ]
    note = f"{repeats} x {FOLDS} folds of 45 epochs of one subject: differences of .03 are noise"
    return Findings(
        "PhysioNet S001, 21 channels, 8-35 Hz: area under the ROC curve",
        [Table("By order and lag", ["task", "(order, lag)", *HEADS.values()], cells, note)],
    )


def _areas(pair: tuple[int, int], head: Head, repeats: int, trial: Trial) -> Outcome:
    svm: dict[str, Any] = {"kernel": "linear", "C": 1.0} if head == "tgsp+svm" else {}
    splits = RepeatedStratifiedKFold(n_splits=FOLDS, n_repeats=repeats, random_state=trial.seed)
    scores = cross_val_score(
        ACMClassifier(pair, head, **svm), trial.data.X, trial.data.labels(), cv=splits, scoring="roc_auc"
    )
    return Outcome({"area": float(scores.mean())}, details={"scores": scores})
