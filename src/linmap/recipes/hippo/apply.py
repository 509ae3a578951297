"""`linmap apply` with a fitted hippo: answers to series in files, or to a stream."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn.metrics import r2_score

from linmap.artifacts import write_table
from linmap.data.door import load_json
from linmap.data.labels import judged
from linmap.data.sequences import LabelledSeries, load_series, named_series
from linmap.errors import DataError, UsageError
from linmap.recipes.answers import say_accuracy
from linmap.recipes.hippo.fit import FILE
from linmap.recipes.hippo.flags import Apply
from linmap.recipes.hippo.streaming import follow
from linmap.recipes.job import FittedJob
from linmap.sequence.s4 import S4Classifier, S4Regressor, load_estimator

STREAM = Path("-")
OTHER_UNIT = 100.0
"""Deviations of this many standard deviations, or of one divided by it, are told."""
FEW = 10
"""Samples of fewer than this tell nothing about it."""


def apply(settings: Apply, job: FittedJob) -> dict[str, Any]:
    """Classes with their probabilities, or numbers: one line for each series of a file, or each sample of a stream."""
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
    data = _read(settings, job).in_order(_kept(job.artifact, "channels") or None)
    if data.channels != estimator.n_features_in_:
        raise DataError(
            f"these series have {data.channels} channels, the run was fitted to {estimator.n_features_in_}."
        )
    table = answers(estimator, data, settings.rate)
    write_table(out, table)
    summary: dict[str, Any] = {"answers": str(out), "series": len(data)}
    if note := strange_size(estimator, data):
        summary["notes"] = [note]
    if data.labels is not None and isinstance(estimator, S4Classifier):
        say_accuracy(summary, judged(data.labels, estimator.classes_), table["answer"].to_numpy())
    elif data.labels is not None:
        summary["r2"] = round(float(r2_score(data.labels.astype(np.float64), table["answer"])), 4)
    return summary


def _read(settings: Apply, job: FittedJob) -> LabelledSeries:
    if job.data is None:
        return named_series(settings.dataset, "test")
    if not settings.drop and (dropped := _kept(job.artifact, "drop")):
        with suppress(DataError):  # files that lack these columns are read as they are
            return load_series(job.data, "test", dropped)
    return load_series(job.data, "test", settings.drop)


def _kept(artifact: Path, what: str) -> tuple[str, ...]:
    """Names of columns that the fit noted: those that it left out ("drop"), or its channels; none of older runs."""
    try:
        names = load_json(artifact / FILE)[what]
    except (OSError, ValueError, KeyError, TypeError):
        return ()
    return tuple(names) if isinstance(names, list) and all(isinstance(name, str) for name in names) else ()


def answers(estimator: S4Classifier | S4Regressor, data: LabelledSeries, rate: float = 1.0) -> pd.DataFrame:
    """A row for each series: its name, the answer, and the probability of each class."""
    if isinstance(estimator, S4Regressor):
        return pd.DataFrame({"series": data.names, "answer": estimator.predict(data.series, rate)})
    probabilities = estimator.predict_proba(data.series, rate)
    best = estimator.classes_[probabilities.argmax(1)]
    columns = {f"p({c})": column for c, column in zip(estimator.classes_, probabilities.T, strict=True)}
    return pd.DataFrame({"series": data.names, "answer": best, **columns})


def strange_size(estimator: S4Classifier | S4Regressor, data: LabelledSeries) -> str | None:
    """What to say of series that are far from those of the fit, or hardly move where these did."""
    values = np.concatenate(data.series).astype(np.float64)
    if not estimator.standardise or len(values) < FEW:
        return None
    deviations = (values - estimator.mean_) / estimator.scale_
    far, moving = np.sqrt(np.mean(deviations**2, axis=0)), deviations.std(0)
    if far.max() > OTHER_UNIT:
        found, channel = f"from its mean by {far.max():.1g}", far.argmax()
    elif moving.min() < 1 / OTHER_UNIT:
        found, channel = f"among themselves by {moving.min():.1g}", moving.argmin()
    else:
        return None
    return (
        f"values of channel {channel + 1} differ {found} standard deviations of the fit, where 1 is usual; is it in "
        "another unit, or flat? Answers to such series mean nothing"
    )
