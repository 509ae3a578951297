"""`linmap apply` with a fitted gbwbn: the classes of matrices or epochs in a file."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from sklearn.metrics import recall_score

from linmap.artifacts import read_config
from linmap.data.covariances import Covariances
from linmap.data.epochs import Epochs
from linmap.data.folds import domains_of
from linmap.data.labels import judged
from linmap.errors import DataError, UsageError
from linmap.recipes.answers import say_channels, table_path, write_answers
from linmap.recipes.gbwbn.fit import given, load_samples
from linmap.recipes.gbwbn.flags import Apply
from linmap.recipes.job import FittedJob
from linmap.signals.gbwbn import SPDNetClassifier


def apply(settings: Apply, job: FittedJob) -> dict[str, Any]:
    """Classes and probabilities of samples, as a table; with classes in the file, accuracy and a confusion matrix."""
    out = table_path(job, "predictions.csv")
    trained = read_config(job.artifact)["config"]["parameters"]["front"]
    samples, classifier = load_samples(job.data, trained), SPDNetClassifier.load(job.artifact)
    if (trained == "matrices") != isinstance(samples, Covariances):
        wanted, found = (
            ("covariance matrices", "epochs") if trained == "matrices" else ("epochs", "covariance matrices")
        )
        raise DataError(f"{job.data} holds {found}, and the run was fitted to {wanted}; give a file of {wanted}.")
    by_domain = domains_of(samples) if len(classifier.domains_) else None
    if settings.adapt:
        if by_domain is None:
            raise UsageError("--adapt needs a run fitted with --domains, and domains or sessions in the file.")
        classifier.adapt(given(samples), by_domain)
    try:
        chances = classifier.predict_proba(given(samples), by_domain)
    except ValueError as error:
        raise DataError(f"{job.data}: {error}") from None
    predicted = classifier.classes_[chances.argmax(1)]
    table = pd.DataFrame({"class": predicted} | {f"p({c})": chances[:, i] for i, c in enumerate(classifier.classes_)})
    summary: dict[str, Any] = {"out": str(out), "samples": len(table)}
    codes = None
    if isinstance(samples, Epochs):
        codes = samples.codes
        say_channels(summary, samples, classifier.layout_)
    answers = None if samples.y is None else judged(samples.y, classifier.classes_, codes)
    write_answers(out, table, summary, predicted, answers, classifier.classes_)
    if answers is not None and answers.rows.any():
        true, found = answers.true[answers.rows], predicted[answers.rows]
        summary["balanced_accuracy"] = round(recall_score(true, found, labels=np.unique(true), average="macro"), 4)
    return summary
