"""`linmap fit acm` and `linmap apply`: a classifier from a file of epochs, and its answers to another."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

from linmap.artifacts import read_config, write_table
from linmap.data.epochs import TEST, Epochs, load_epochs, mamem
from linmap.errors import DataError, UsageError
from linmap.pictures import illustrated
from linmap.recipes.acm.pictures import draw_order_lag, draw_patterns
from linmap.recipes.confusion import draw_confusions
from linmap.recipes.epochs import say_channels
from linmap.recipes.job import ApplyJob, FitJob
from linmap.recipes.judging import judged, say_accuracy
from linmap.signals.acm import ACMClassifier, class_patterns
from linmap.signals.acm.classifier import Head, Method

SUBJECT = 0  # of MAMEM, stands in for --data


@dataclass(frozen=True)
class Settings:
    """Flags of `linmap fit acm`."""

    method: Method = "grid"
    """How order and lag are chosen: grid (cross-validated), or mdop, afnn, aic, aicc, bic, hq (without labels)."""
    order: int | None = None
    """Order; with --lag, nothing is searched."""
    lag: int | None = None
    """Lag in samples."""
    classifier: Head = "tgsp+svm"
    """tgsp+svm: tangent space and support vector machine; mdm: minimum distance to the class means."""
    orders: tuple[int, ...] = (1, 2, 3, 4, 6)
    """Candidates of the grid."""
    lags: tuple[int, ...] = (1, 2, 4, 8)
    """Candidates of the grid."""
    folds: int = 3
    """Inner folds of the search; epochs of one group, where the file names groups, stay together."""
    estimator: Literal["oas", "lwf", "cov", "scm"] = "oas"
    """Of the covariances; oas and lwf shrink."""
    band: tuple[float, float] | None = None
    """Band-pass each epoch (Hz, Hz); better filter the continuous recording before."""
    n_jobs: int = 1
    """Threads of the search."""


@dataclass(frozen=True)
class ApplySettings:
    """`linmap apply` with a fitted acm has no flags of its own."""


def fit(settings: Settings, job: FitJob) -> dict[str, Any]:
    """Choose order and lag, train, and save the classifier; draws the search and what tells the classes apart."""
    epochs = load_epochs(job.data) if job.data else _embedded(training=True)
    y = epochs.labels()
    prepared = epochs if settings.band is None else epochs.filtered(*settings.band)
    if (settings.order is None) != (settings.lag is None):
        raise UsageError("--order and --lag go together.")
    method = settings.method if settings.order is None or settings.lag is None else (settings.order, settings.lag)
    _check_folds(settings, y, searched=isinstance(method, str) and method == "grid")
    folds = StratifiedKFold if epochs.group is None else StratifiedGroupKFold
    group = epochs.known("group")
    classifier = ACMClassifier(
        method, settings.classifier, settings.orders, settings.lags, estimator=settings.estimator,
        inner_cv=folds(settings.folds, shuffle=True, random_state=job.seed), n_jobs=settings.n_jobs,
        random_state=job.seed,
    )  # fmt: skip
    try:
        classifier.fit(prepared, y, group)
    except ValueError as error:
        raise DataError(f"{epochs.name}: {error}") from error
    classifier.save(job.out, sfreq=epochs.sfreq, ch_names=list(epochs.ch_names), band=settings.band)
    searched = hasattr(classifier, "cv_results_")
    milliseconds = None if epochs.sfreq is None else round(1000 * classifier.lag_ / epochs.sfreq, 1)
    summary: dict[str, Any] = {
        "artifact": str(job.out), "epochs": len(epochs), "channels": len(epochs.ch_names),
        "classes": classifier.classes_.tolist(), "order": classifier.order_, "lag": classifier.lag_,
        "lag_ms": milliseconds, "inner_accuracy": round(classifier.best_score_, 4) if searched else None,
    }  # fmt: skip
    say_channels(summary, epochs)
    if searched:
        with illustrated(summary, job.out / "order_lag.svg") as path:
            draw_order_lag(path, classifier.cv_results_)
    with illustrated(summary, job.out / "patterns.svg") as path:
        patterns = class_patterns(classifier.transform(prepared), y, len(epochs.ch_names))
        draw_patterns(path, patterns, classifier.classes_, epochs, classifier.lag_)
    return summary


def apply(settings: ApplySettings, job: ApplyJob) -> dict[str, Any]:
    """Classify the epochs of a file: a table, and a picture of the confusions where the file has classes."""
    if job.artifact is None:
        raise UsageError("acm needs a fitted run: `linmap fit acm --data FILE --out DIR`, then apply DIR.")
    out = job.out or job.artifact / "classes.csv"
    if out.suffix not in (".csv", ".parquet"):
        raise UsageError(f"--out {out}: the classes are written as .csv or .parquet.")
    classifier = ACMClassifier.load(job.artifact)
    notes = read_config(job.artifact)["config"]
    epochs = load_epochs(job.data) if job.data else _embedded(training=False)
    band = notes.get("band")  # a run that was saved in Python may have none
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
    write_table(out, table)
    say_channels(summary, epochs, classifier.layout_)
    if answers is not None:
        say_accuracy(summary, answers, found)
        if answers.rows.any():
            with illustrated(summary, out.with_suffix(".svg")) as path:
                shown = {"all epochs": (answers.true[answers.rows], found[answers.rows])}
                summary["picture"] = str(draw_confusions(path, shown, classifier.classes_))
    return summary


def _embedded(training: bool) -> Epochs:
    epochs = mamem(SUBJECT)
    return epochs.take((epochs.session != TEST) if training else (epochs.session == TEST))


def _check_folds(settings: Settings, y: np.ndarray, searched: bool) -> None:
    least = int(np.unique(y, return_counts=True)[1].min())
    if searched and settings.folds > least:
        raise DataError(
            f"--folds {settings.folds} needs as many epochs of every class, and one has {least}; lower it, "
            "or give --order and --lag."
        )
