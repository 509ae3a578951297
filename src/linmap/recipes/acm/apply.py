"""`linmap apply` with a fitted acm: the classes of the epochs in a file."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from linmap.artifacts import read_config
from linmap.data.epochs import load_epochs
from linmap.data.labels import judged
from linmap.errors import DataError
from linmap.recipes.acm.fit import embedded
from linmap.recipes.acm.flags import Apply
from linmap.recipes.answers import say_channels, table_path, write_answers
from linmap.recipes.job import FittedJob
from linmap.signals.acm import ACMClassifier


def apply(settings: Apply, job: FittedJob) -> dict[str, Any]:
    """Classify the epochs of a file: a table, and a picture of the confusions where the file has classes."""
    out = table_path(job, "classes.csv")
    classifier = ACMClassifier.load(job.artifact)
    epochs = load_epochs(job.data) if job.data else embedded(training=False)
    band = read_config(job.artifact)["config"].get("band")  # a run that was saved in Python may have none
    prepared = epochs if band is None else epochs.filtered(*band)
    try:
        found = classifier.predict(prepared)
    except ValueError as error:
        raise DataError(f"{epochs.name}: {error}") from error
    table = pd.DataFrame({"epoch": np.arange(len(found)), "class": found})
    summary: dict[str, Any] = {"classes": str(out), "epochs": len(found)}
    try:
        for label, column in zip(classifier.classes_, classifier.predict_proba(prepared).T, strict=True):
            table[f"p({label})"] = column
    except ValueError as error:  # too few epochs in fit; the classes are an answer without them
        summary["notes"] = [str(error)]
    answers = None if epochs.y is None else judged(epochs.y, classifier.classes_, epochs.codes)
    if answers is not None:
        table["true"] = answers.true
    say_channels(summary, epochs, classifier.layout_)
    write_answers(out, table, summary, found, answers, classifier.classes_)
    return summary
