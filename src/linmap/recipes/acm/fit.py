"""`linmap fit acm`: a classifier from a file of epochs."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

from linmap.data.epochs import TEST, Epochs, load_epochs, mamem
from linmap.errors import DataError, UsageError
from linmap.pictures import illustrated
from linmap.recipes.acm.flags import Fit
from linmap.recipes.answers import say_channels
from linmap.recipes.job import FitJob
from linmap.signals.acm import ACMClassifier, class_patterns
from linmap.signals.acm.pictures import draw_order_lag, draw_patterns

SUBJECT = 0  # of MAMEM, stands in for --data


def fit(settings: Fit, job: FitJob) -> dict[str, Any]:
    """Choose order and lag, train, and save the classifier; draws the search and what tells the classes apart."""
    epochs = load_epochs(job.data) if job.data else embedded(training=True)
    prepared = epochs if settings.band is None else epochs.filtered(*settings.band)
    y, group = epochs.labels(), epochs.known("group")
    classifier = _classifier(settings, y, group, job.seed)
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


def embedded(training: bool) -> Epochs:
    """A subject of MAMEM: four sessions to train by, or the last one."""
    epochs = mamem(SUBJECT)
    return epochs.take((epochs.session != TEST) if training else (epochs.session == TEST))


def _classifier(settings: Fit, y: np.ndarray, group: np.ndarray | None, seed: int) -> ACMClassifier:
    if (settings.order is None) != (settings.lag is None):
        raise UsageError("--order and --lag go together.")
    method = settings.method if settings.order is None else (settings.order, settings.lag)
    least = int(np.unique(y, return_counts=True)[1].min())
    if method == "grid" and settings.folds > least:
        raise DataError(
            f"--folds {settings.folds} needs as many epochs of every class, and one has {least}; lower it, "
            "or give --order and --lag."
        )
    kind = StratifiedKFold if group is None else StratifiedGroupKFold
    inner = kind(settings.folds, shuffle=True, random_state=seed)
    return ACMClassifier(**settings.options(method=method, inner_cv=inner, random_state=seed))
