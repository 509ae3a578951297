"""`linmap fit bt2`."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from linmap.data import EMBEDDED
from linmap.data.arrays import open_rows, read_npz
from linmap.errors import DataError, UsageError
from linmap.recipes.bt2.flags import Fit
from linmap.recipes.job import FitJob
from linmap.retrieve.bt2 import EmbeddingUpgrade
from linmap.retrieve.bt2.gallery import JUDGED

BANKING = EMBEDDED / "banking77_embeddings.npz"
CALIBRATION = 700  # first rows of the embedded data, so that the others are new to what is fitted
BY_IDS = "ids=(ids_new, ids_old) pairs them by id."


def fit(settings: Fit, job: FitJob) -> dict[str, Any]:
    """Fit the upgrade to pairs of new and old vectors: --new and --old, or --data with both in one .npz."""
    arrays = read_pairs(settings.new, settings.old, job.data)
    rows = slice(CALIBRATION if job.data is settings.new is None else None)
    with words_of_files():
        upgrade = EmbeddingUpgrade(**settings.options(random_state=job.seed)).fit(
            arrays["new"][rows], arrays["old"][rows]
        )
    upgrade.save(job.out)
    report = upgrade.report_
    summary = {name: report[name] for name in ("pairs", "d_new", "d_old", "width", "chosen", "verdict")}
    candidates = {name: figures["mrr"] for name, figures in report["candidates"].items()}
    return {"artifact": str(job.out), **summary, "held_out_mrr": candidates}


def read_pairs(new: Path | None, old: Path | None, data: Path | None) -> dict[str, np.ndarray]:
    """`new` and `old`, from --new and --old or from --data, with what that says of relevance."""
    if new is not None and old is not None:
        return {"new": open_rows(new), "old": open_rows(old)}
    if new is not None or old is not None:
        raise UsageError("--new and --old go together: the vectors of the same items by both models.")
    return read_npz(data or BANKING, ("new", "old"), only=("new", "old", "label", *JUDGED), texts=("label",))


@contextmanager
def words_of_files() -> Iterator[None]:
    """Errors and warnings about arrays and their ids as such about files, which are paired by rows alone."""

    def told(message: object) -> str:
        text = str(message).replace("X_new", "--new").replace("Y_old", "--old")
        return text.replace(BY_IDS, "bring both files into one order.")

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            yield
        except ValueError as error:
            raise DataError(told(error)) from None
    for warning in caught:
        warnings.warn(told(warning.message), warning.category, stacklevel=2)
