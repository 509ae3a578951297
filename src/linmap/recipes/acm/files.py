"""`linmap fit acm` and `linmap apply`: a classifier from a file of epochs, and its answers to another."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

from linmap.artifacts import read_config, write_table
from linmap.data.epochs import TEST, Epochs, load_epochs, mamem
from linmap.errors import DataError, UsageError
from linmap.recipes.acm.pictures import draw_order_lag, draw_patterns
from linmap.recipes.confusion import draw_confusions
from linmap.recipes.job import ApplyJob, FitJob
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
    folds = StratifiedKFold if epochs.group is None else StratifiedGroupKFold
    classifier = ACMClassifier(
        method, settings.classifier, settings.orders, settings.lags, estimator=settings.estimator,
        inner_cv=folds(settings.folds, shuffle=True, random_state=job.seed), n_jobs=settings.n_jobs,
        random_state=job.seed,
    )  # fmt: skip
    try:
        classifier.fit(prepared.X, y, epochs.group)
    except ValueError as error:
        raise DataError(f"{epochs.name}: {error}") from error
    classifier.save(job.out, sfreq=epochs.sfreq, ch_names=list(epochs.ch_names), band=settings.band)
    searched = hasattr(classifier, "cv_results_")
    if searched:
        draw_order_lag(job.out / "order_lag.svg", classifier.cv_results_)
    patterns = class_patterns(classifier.transform(prepared.X), y, len(epochs.ch_names))
    draw_patterns(job.out / "patterns.svg", patterns, classifier.classes_, epochs, classifier.lag_)
    milliseconds = None if epochs.sfreq is None else round(1000 * classifier.lag_ / epochs.sfreq, 1)
    return {
        "artifact": str(job.out), "epochs": len(epochs), "channels": len(epochs.ch_names),
        "classes": classifier.classes_.tolist(), "order": classifier.order_, "lag": classifier.lag_,
        "lag_ms": milliseconds, "inner_accuracy": round(classifier.best_score_, 4) if searched else None,
    }  # fmt: skip


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
    _check_like(epochs, notes)
    prepared = epochs if notes["band"] is None else epochs.filtered(*notes["band"])
    try:
        found = classifier.predict(prepared.X)
        probabilities = classifier.predict_proba(prepared.X)
    except ValueError as error:
        raise DataError(f"{epochs.name}: {error}") from error
    table = pd.DataFrame({"epoch": np.arange(len(found)), "class": found})
    for label, column in zip(classifier.classes_, probabilities.T, strict=True):
        table[f"p({label})"] = column
    summary: dict[str, Any] = {"classes": str(out), "epochs": len(found)}
    if epochs.y is not None:
        table["true"] = epochs.y
        summary["accuracy"] = round(float((found == epochs.y).mean()), 4)
        picture = draw_confusions(out.with_suffix(".svg"), {"all epochs": (epochs.y, found)}, classifier.classes_)
        summary["picture"] = str(picture)
    write_table(out, table)
    return summary


def _embedded(training: bool) -> Epochs:
    epochs = mamem(SUBJECT)
    return epochs.take((epochs.session != TEST) if training else (epochs.session == TEST))


def _check_like(epochs: Epochs, notes: dict[str, Any]) -> None:
    """The lag is in samples and blocks go by channel: rate and channels must be those of the fit."""
    if epochs.sfreq is not None and notes["sfreq"] is not None and abs(epochs.sfreq / notes["sfreq"] - 1) > 1e-3:
        raise DataError(f"{epochs.name} has {epochs.sfreq:g} Hz, the run was fitted to {notes['sfreq']:g} Hz, and the "
                        "lag is in samples; resample the recording.")  # fmt: skip
    unnamed = any(re.fullmatch(r"channel \d+", name) for name in (*epochs.ch_names, *notes["ch_names"]))
    if not unnamed and list(epochs.ch_names) != notes["ch_names"]:
        raise DataError(f"{epochs.name} has the channels {', '.join(epochs.ch_names)}; the run was fitted to "
                        f"{', '.join(notes['ch_names'])}, in this order.")  # fmt: skip
