"""MAMEM: the published network on each subject, and the augmented covariance before the same layers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from linmap.data.epochs import EMBEDDED_SUBJECTS, TEST, TRAIN, VALIDATION, Epochs, mamem
from linmap.data.folds import Fold
from linmap.experiment import Experiment, Part
from linmap.recipes.gbwbn.compare import training_table
from studies.gbwbn.methods import arms, chosen, methods, summary
from studies.study import Findings, Job

FRONTS: dict[str, dict[str, Any]] = {
    "convolution": {"front": "convolution", "dims": (12,)},
    "augmented": {"front": "augmented", "dims": (15,), "order": 4, "lag": 3},
}


def by_session(epochs: Epochs) -> Fold[Epochs]:
    """The official split: sessions 1 to 3 to train by, 4 to choose the epoch by, 5 to test by."""
    assert epochs.session is not None
    centred = replace(epochs, X=epochs.X - epochs.X.mean(-1, keepdims=True))
    return Fold(
        epochs.name,
        centred.take(np.isin(epochs.session, TRAIN)),
        centred.take(epochs.session == VALIDATION),
        centred.take(epochs.session == TEST),
    )


def mamem_network(job: Job) -> Findings:
    """Each front with each normalisation, one seed a subject."""
    epochs, subjects = (1, EMBEDDED_SUBJECTS[:1]) if job.tiny else (60, EMBEDDED_SUBJECTS)
    named = methods((0.5,)) if job.tiny else methods(fixed=True)
    parts = [Part(f"subject {s + 1}", _fewer(by_session(mamem(s)), job.tiny)) for s in subjects]
    found = Findings(
        f"MAMEM, subjects {', '.join(str(s + 1) for s in subjects)}: sessions 1-3 train, 4 chooses the epoch, "
        f"5 tests; {epochs} epochs"
    )
    for front, options in FRONTS.items():
        options = options | {"epochs": epochs, "floor": 1e-5, "eps": 1e-5}
        experiment = Experiment(f"gbwbn {front}", job.out / "runs", options, job.resume)
        runs = experiment.run(arms(named, options), parts, job.seeds[:1])
        found.tables.append(training_table(f"MAMEM, {front} front", {name: runs.of(name) for name in named},
                                           "mean ± std over subjects; chance is .20 to .24"))  # fmt: skip
        found.sentences.append(f"MAMEM, {front} front: {summary(runs, chosen(runs))}.")
    return found


def _fewer(fold: Fold[Epochs], tiny: bool) -> Fold[Epochs]:
    rows = slice(0, 30) if tiny else slice(None)
    return replace(fold, train=fold.train.take(rows), validation=fold.validation.take(rows), test=fold.test.take(rows))
