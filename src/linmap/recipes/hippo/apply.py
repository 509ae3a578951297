"""`linmap apply` with a fitted hippo: answers to series in files, or to a stream."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from linmap.artifacts import write_table
from linmap.data.door import load_json
from linmap.data.sequences import LabelledSeries, load_series, named_series
from linmap.errors import DataError, UsageError
from linmap.recipes.hippo.fit import FILE
from linmap.recipes.hippo.flags import Apply
from linmap.recipes.hippo.streaming import follow
from linmap.recipes.job import FittedJob
from linmap.sequence.s4 import S4Classifier, S4Regressor, load_estimator

STREAM = Path("-")


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
    data = _read(settings, job)
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


def _read(settings: Apply, job: FittedJob) -> LabelledSeries:
    if job.data is None:
        return named_series(settings.dataset, "test")
    if not settings.drop and (dropped := _dropped(job.artifact)):
        with suppress(DataError):  # files that lack these columns are read as they are
            return load_series(job.data, "test", dropped)
    return load_series(job.data, "test", settings.drop)


def _dropped(artifact: Path) -> tuple[str, ...]:
    """The columns that the fit left out; none of a run from elsewhere."""
    try:
        dropped = load_json(artifact / FILE)["drop"]
    except (OSError, ValueError, KeyError, TypeError):
        return ()
    return tuple(dropped) if isinstance(dropped, list) and all(isinstance(name, str) for name in dropped) else ()


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
