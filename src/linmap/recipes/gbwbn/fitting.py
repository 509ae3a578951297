"""`linmap fit gbwbn` and `linmap apply`: classes of covariance matrices, or of epochs, in files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from sklearn.metrics import accuracy_score, recall_score

from linmap.artifacts import read_config, write_table
from linmap.data.covariances import Covariances, hdm05, load_covariances
from linmap.data.epochs import Epochs, load_epochs
from linmap.errors import DataError, UsageError
from linmap.pictures import illustrated
from linmap.recipes.confusion import draw_confusions
from linmap.recipes.epochs import say_channels
from linmap.recipes.gbwbn.pictures import draw_losses
from linmap.recipes.job import ApplyJob, FitJob
from linmap.recipes.judging import judged, say_accuracy
from linmap.signals.gbwbn import SPDNetClassifier
from linmap.signals.gbwbn.classifier import Front

Samples = Covariances | Epochs
Table = Literal["csv", "parquet"]


@dataclass(frozen=True)
class Settings:
    """Flags of `linmap fit gbwbn`; without --data, embedded covariances of human motion (HDM05)."""

    dims: tuple[int, ...] = ()
    """Sizes after each BiMap; none for one, half of the input's and at most 30."""
    norm: Literal["gbw", "aim", "lem", "none"] = "gbw"
    """gbw: Bures-Wasserstein; aim, lem: affine-invariant and log-Euclidean (spd_learn); none."""
    theta: float = 0.5
    """Power of the deformation of the metric."""
    learn_metric: bool = True
    """Train the metric matrix M."""
    mean_iter: int = 1
    """Steps towards the Frechet mean of a batch."""
    front: Front | None = None
    """For epochs. augmented: their augmented covariance; convolution: trained filters before it. The default is
    matrices for matrices and augmented for epochs."""
    order: int = 1
    """Delayed copies in the augmented covariance."""
    lag: int = 1
    """Samples between them."""
    eps: float = 1e-6
    """Added to the diagonal, where the mean trace is 1."""
    floor: float = 1e-6
    """Least eigenvalue after each ReEig."""
    epochs: int = 100
    """Passes over the training samples."""
    batch_size: int = 30
    """Samples of one step."""
    lr: float = 2.5e-3
    """Learning rate."""
    domains: bool = False
    """Statistics for each domain (matrices) or session (epochs) of the file."""
    held_out: tuple[str, ...] = ()
    """Domains or sessions that the weights are chosen by; the last one where left out and there are two or more."""
    dtype: Literal["float64", "float32"] = "float64"
    """Precision."""

    def classifier(self, seed: int, front: Front) -> SPDNetClassifier:
        names = ("theta", "learn_metric", "mean_iter", "order", "lag", "eps", "floor", "epochs", "batch_size", "lr",
                 "dtype")  # fmt: skip
        options: dict[str, Any] = {name: getattr(self, name) for name in names}
        norm = None if self.norm == "none" else self.norm
        return SPDNetClassifier(self.dims or None, norm, front=front, random_state=seed, **options)


@dataclass(frozen=True)
class ApplySettings:
    """Flags of `linmap apply` with a fitted gbwbn."""

    adapt: bool = False
    """Give each domain of the file the statistics of its own samples first, without looking at labels."""


def load_samples(path: Path | None, front: Front | None = None) -> Samples:
    """Matrices or epochs: an `.npz` with X (n, c, c) or cov_triu, or with X (n, channels, time), or a `.fif`.

    Parameters
    ----------
    path
        The file; embedded matrices (HDM05) when None.
    front
        What the network begins with, where that is known: it tells epochs of as many samples as channels from matrices.

    Raises
    ------
    DataError
        If the file cannot be used.
    """
    if path is None:
        return hdm05(subset=True)
    if path.suffix == ".npz" and path.exists():
        try:
            with np.load(path, allow_pickle=False) as archive:
                X: np.ndarray = archive["X"] if "X" in archive.files else np.array(0)
        except (ValueError, OSError, EOFError):
            X = np.array(0)
        square = X.ndim != 3 or X.shape[1] == X.shape[2]
        signals = front in ("augmented", "convolution") and X.ndim == 3 and not (square and np.allclose(X, X.mT))
        if square and not signals:
            return load_covariances(path)
    return load_epochs(path)


def domains_of(samples: Samples) -> np.ndarray | None:
    """The domain of each matrix, or the session of each epoch, where the file says it; DataError where one has none."""
    return samples.domain if isinstance(samples, Covariances) else samples.known("session")


def fit(settings: Settings, job: FitJob) -> dict[str, Any]:
    """Train an SPDNet and save it; what is held out chooses the epoch and is drawn."""
    samples = load_samples(job.data, settings.front)
    kind: Front = settings.front or ("matrices" if isinstance(samples, Covariances) else "augmented")
    if (kind == "matrices") != isinstance(samples, Covariances):
        what = "matrices" if isinstance(samples, Covariances) else "epochs"
        raise UsageError(f"--front {kind} does not go with a file of {what}.")
    held = _held_out(settings, samples)
    train, rest = samples.take(~held), samples.take(held)
    if settings.domains and domains_of(samples) is None:
        raise DataError("--domains needs an array domain (matrices) or session (epochs) in the file.")
    if settings.domains and held.any():
        raise UsageError("--domains cannot choose by a domain that training has not seen; pass --held-out none.")
    classifier = settings.classifier(job.seed, kind)
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
        draw_losses(path, history)
    if held.any():
        predicted = classifier.predict(given(rest))
        summary |= {
            "held_out": int(held.sum()),
            "held_out_accuracy": round(accuracy_score(rest.labels(), predicted), 4),
        }
        with illustrated(summary, job.out / "confusion.svg") as path:
            draw_confusions(path, {"held out": (rest.labels(), predicted)}, classifier.classes_)
    return summary


def given(samples: Samples) -> Any:
    """What the classifier takes: matrices, or epochs with the names of their channels."""
    return samples.X if isinstance(samples, Covariances) else samples


def _held_out(settings: Settings, samples: Samples) -> np.ndarray:
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
    names = domains.astype(str)
    if unknown := set(settings.held_out) - set(names):
        raise UsageError(f"--held-out {sorted(unknown)[0]}: the file has {', '.join(np.unique(names))}.")
    if settings.held_out:
        held = np.isin(names, settings.held_out)
    else:
        held = (domains == np.unique(domains)[-1]) & (len(np.unique(domains)) > 1)
    if held.all():
        raise UsageError("--held-out names all of the file; nothing is left to train on.")
    return held


def apply(settings: ApplySettings, job: ApplyJob) -> dict[str, Any]:
    """Classes and probabilities of samples, as a table; with classes in the file, accuracy and a confusion matrix."""
    if job.artifact is None:
        raise UsageError("gbwbn needs a fitted run: `linmap fit gbwbn --data FILE --out DIR`, then apply DIR.")
    out = job.out or job.artifact / "predictions.csv"
    if out.suffix not in (".csv", ".parquet"):
        raise UsageError(f"--out {out}: predictions are written as .csv or .parquet.")
    trained = read_config(job.artifact)["config"]["parameters"]["front"]
    samples, classifier = load_samples(job.data, trained), SPDNetClassifier.load(job.artifact)
    if (trained == "matrices") != isinstance(samples, Covariances):
        raise DataError(f"the run was fitted to {'matrices' if trained == 'matrices' else 'epochs'}; this file is not.")
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
    answers = None
    if samples.y is not None:
        codes = samples.codes if isinstance(samples, Epochs) else None
        answers = judged(samples.y, classifier.classes_, codes)
    write_table(out, table)
    summary: dict[str, Any] = {"out": str(out), "samples": len(table)}
    if isinstance(samples, Epochs):
        say_channels(summary, samples, classifier.layout_)
    if answers is not None:
        say_accuracy(summary, answers, predicted)
        if answers.rows.any():
            true, found = answers.true[answers.rows], predicted[answers.rows]
            summary["balanced_accuracy"] = round(recall_score(true, found, labels=np.unique(true), average="macro"), 4)
            with illustrated(summary, out.with_suffix(".svg")) as path:
                draw_confusions(path, {"all samples": (true, found)}, classifier.classes_)
    return summary
