"""`linmap fit gbwbn`: a network from a file of covariance matrices or of epochs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from sklearn.metrics import accuracy_score

from linmap.data.covariances import Covariances, hdm05, load_matrices_or_epochs
from linmap.data.epochs import Epochs
from linmap.data.folds import domains_of, hold_out
from linmap.errors import DataError, UsageError
from linmap.experiment.charts import draw_confusions, draw_curves
from linmap.pictures import illustrated
from linmap.recipes.answers import say_channels
from linmap.recipes.gbwbn.flags import Fit, Front
from linmap.recipes.job import FitJob
from linmap.signals.gbwbn import SPDNetClassifier

Samples = Covariances | Epochs


def fit(settings: Fit, job: FitJob) -> dict[str, Any]:
    """Train an SPDNet and save it; what is held out chooses the epoch and is drawn."""
    samples = load_samples(job.data, settings.front)
    kind = front_of(samples, settings.front)
    held = _held_out(settings, samples)
    train, rest = samples.take(~held), samples.take(held)
    if settings.domains and domains_of(samples) is None:
        raise DataError("--domains needs an array domain (matrices) or session (epochs) in the file.")
    if settings.domains and held.any():
        raise UsageError("--domains cannot choose by a domain that training has not seen; pass --held-out none.")
    norm = None if settings.norm == "none" else settings.norm
    classifier = SPDNetClassifier(**settings.options(norm=norm, front=kind, random_state=job.seed))
    classifier.fit(given(train), train.labels(), domains_of(train) if settings.domains else None,
                   validation=(given(rest), rest.labels()) if held.any() else None,
                   checkpoints=job.out / "training", resume=job.resume)  # fmt: skip
    classifier.save(job.out)
    history = classifier.history_
    assert history is not None
    summary: dict[str, Any] = {
        "artifact": str(job.out), "samples": len(train), "classes": len(classifier.classes_),
        "dims": list(classifier.model_.dims), "epochs": len(history.epochs), "best_epoch": history.best_epoch,
        "seconds": round(history.seconds, 1),
    }  # fmt: skip
    if isinstance(samples, Epochs):
        say_channels(summary, samples)
    with illustrated(summary, job.out / "loss.svg") as path:
        curves = {"training": [[record.loss for record in history.epochs]]}
        if history.best_epoch is not None:
            curves["held out"] = [[np.nan if record.val is None else record.val for record in history.epochs]]
        title = f"weights of epoch {history.best_epoch} are kept" if history.best_epoch else ""
        draw_curves(path, curves, "epoch", "cross-entropy", title, log=True)
    if held.any():
        predicted = classifier.predict(given(rest))
        summary |= {
            "held_out": int(held.sum()),
            "held_out_accuracy": round(accuracy_score(rest.labels(), predicted), 4),
        }
        with illustrated(summary, job.out / "confusion.svg") as path:
            draw_confusions(path, {"held out": (rest.labels(), predicted)}, classifier.classes_)
    return summary


def load_samples(path: Path | None, front: Front | None = None) -> Samples:
    """The user's matrices or epochs, or embedded matrices (HDM05)."""
    return hdm05(subset=True) if path is None else load_matrices_or_epochs(path, front in ("augmented", "convolution"))


def front_of(samples: Samples, asked: Front | None) -> Front:
    """What the network begins with; UsageError where that does not go with the samples."""
    matrices = isinstance(samples, Covariances)
    kind: Front = asked or ("matrices" if matrices else "augmented")
    if (kind == "matrices") != matrices:
        raise UsageError(f"--front {kind} does not go with a file of {'matrices' if matrices else 'epochs'}.")
    return kind


def given(samples: Samples) -> Any:
    """What the classifier takes: matrices, or epochs with the names of their channels."""
    return samples.X if isinstance(samples, Covariances) else samples


def _held_out(settings: Fit, samples: Samples) -> np.ndarray:
    """A mask of the samples that choose the epoch."""
    nothing = np.zeros(len(samples), bool)
    if settings.held_out == ("none",) or (settings.domains and not settings.held_out):
        return nothing
    if not settings.held_out and isinstance(samples, Epochs) and samples.incomplete("session"):
        return nothing  # nobody asked for sessions
    domains = domains_of(samples)
    if domains is None:
        if settings.held_out:
            raise DataError("--held-out needs an array domain (matrices) or session (epochs) in the file.")
        return nothing
    held = hold_out(domains, settings.held_out)
    if held.all():
        raise UsageError("--held-out names all of the file; nothing is left to train on.")
    return held
