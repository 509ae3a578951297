"""`linmap fit hippo` and `linmap apply`: labelled series in files, and answers to others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from linmap.artifacts import write_table
from linmap.data.sequences import LabelledSeries, load_series, named_series
from linmap.errors import DataError, UsageError
from linmap.recipes.hippo.settings import ApplySettings, Settings
from linmap.recipes.hippo.streaming import follow
from linmap.recipes.job import ApplyJob, FitJob
from linmap.sequence.s4 import S4Classifier, S4Regressor, load_estimator

STREAM = Path("-")


def fit(settings: Settings, job: FitJob) -> dict[str, Any]:
    """Train a classifier or a regressor on labelled series and save it.

    --data: an .npz archive with X and y (and lengths), a folder of CSV files, one series each, with a subfolder for
    each class or a labels.csv, or a .ts file. Series may have different lengths.
    """
    train, test = _parts(settings, job)
    labels = train.require_labels()
    kind = _kind(settings, labels)
    estimator = settings.estimator(kind, job.seed)
    estimator.fit(train.series, labels, checkpoints=job.out / "training", resume=job.resume)
    estimator.save(job.out)
    assert estimator.history_ is not None
    summary = {
        "artifact": str(job.out), "task": "classification" if kind is S4Classifier else "regression",
        "series": len(train), "channels": train.channels,
        "lengths": f"{train.lengths.min()} to {train.lengths.max()}",
        "parameters": sum(p.numel() for p in estimator.model_.parameters()),
        "dt": [round(step, 6) for step in estimator.dt_], "training_loss": estimator.history_.epochs[-1].loss,
        "seconds": round(estimator.history_.seconds, 1),
    }  # fmt: skip
    if isinstance(estimator, S4Classifier):
        summary["classes"] = len(estimator.classes_)
    if test is not None:
        name = "held_out_accuracy" if kind is S4Classifier else "held_out_r2"
        summary |= {"held_out_series": len(test), name: round(estimator.score(test.series, test.require_labels()), 4)}
    return summary


def apply(settings: ApplySettings, job: ApplyJob) -> dict[str, Any]:
    """Classes with their probabilities, or numbers: one line for each series of a file, or each sample of a stream."""
    if job.artifact is None:
        raise UsageError("hippo needs a fitted run: `linmap fit hippo --data FILE --out DIR`, then apply DIR.")
    if job.data == STREAM:
        if settings.rate != 1:
            raise UsageError("--rate is for series in files; resample the stream, or fit at its rate.")
        return follow(job.artifact, job.out, settings.state, settings.save_every)
    if settings.state is not None or settings.save_every:
        raise UsageError("--state and --save-every are for streams: --data - reads one from standard input.")
    out = job.out or job.artifact / "answers.csv"
    if out.suffix not in (".csv", ".parquet"):
        raise UsageError(f"--out {out}: answers are written as .csv or .parquet.")
    estimator = load_estimator(job.artifact)
    data = named_series(settings.dataset, "test") if job.data is None else load_series(job.data, "test")
    if data.channels != estimator.n_features_in_:
        raise DataError(
            f"these series have {data.channels} channels, the run was fitted to {estimator.n_features_in_}."
        )
    table = answers(estimator, data, settings.rate)
    write_table(out, table)
    summary: dict[str, Any] = {"answers": str(out), "series": len(data)}
    if data.labels is not None:
        agreed = _score(estimator, table["answer"].to_numpy(), data.labels)
        summary |= {"accuracy" if isinstance(estimator, S4Classifier) else "r2": round(agreed, 4)}
    return summary


def answers(estimator: S4Classifier | S4Regressor, data: LabelledSeries, rate: float = 1.0) -> pd.DataFrame:
    """A row for each series: its name, the answer, and the probability of each class."""
    if isinstance(estimator, S4Regressor):
        return pd.DataFrame({"series": data.names, "answer": estimator.predict(data.series, rate)})
    probabilities = estimator.predict_proba(data.series, rate)
    best = estimator.classes_[probabilities.argmax(1)]
    columns = {f"p({c})": column for c, column in zip(estimator.classes_, probabilities.T, strict=True)}
    return pd.DataFrame({"series": data.names, "answer": best, **columns})


def _score(estimator: S4Classifier | S4Regressor, found: np.ndarray, labels: np.ndarray) -> float:
    if isinstance(estimator, S4Classifier):
        return float((found.astype(str) == labels.astype(str)).mean())
    from sklearn.metrics import r2_score

    return float(r2_score(labels.astype(np.float64), found))


def _kind(settings: Settings, labels: np.ndarray) -> type[S4Classifier] | type[S4Regressor]:
    if settings.task == "auto":
        return S4Regressor if fractional(labels) else S4Classifier
    if settings.task == "regression" and labels.dtype.kind not in "biuf":
        raise UsageError(f"--task regression needs numbers as labels; the first is '{labels[0]}'.")
    return S4Regressor if settings.task == "regression" else S4Classifier


def fractional(labels: np.ndarray) -> bool:
    """Whether labels are numbers of which some have a fraction; 1.0 and 2.0 are classes."""
    return labels.dtype.kind == "f" and bool((labels != np.floor(labels)).any())


def _parts(settings: Settings, job: FitJob) -> tuple[LabelledSeries, LabelledSeries | None]:
    """What is trained on, and what is only scored."""
    if job.data is None:
        return named_series(settings.dataset), named_series(settings.dataset, "test")
    data = load_series(job.data)
    return held_out(data, settings.held_out, job.seed)


def held_out(data: LabelledSeries, share: float, seed: int) -> tuple[LabelledSeries, LabelledSeries | None]:
    """All but a share of the series, and that share (None where it is none); classes keep their proportions."""
    labels = data.require_labels()
    count = round(share * len(data))
    if count == 0:
        return data, None
    if count == len(data):
        raise DataError(f"there are {len(data)} series, too few to hold out {share:.0%}; give --held-out 0.")
    random = np.random.default_rng(seed).permutation(len(data))
    if not fractional(labels):  # every class in turn, so that a share is one of each
        of_class = labels[random]
        turn = np.empty(len(data))
        for label in np.unique(of_class):
            rows = np.flatnonzero(of_class == label)
            turn[rows] = (np.arange(len(rows)) + 0.5) / len(rows)
        random = random[np.argsort(turn, kind="stable")]
    return data.take(np.sort(random[count:])), data.take(np.sort(random[:count]))
