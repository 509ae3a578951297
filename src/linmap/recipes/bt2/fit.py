"""`linmap fit bt2`."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from linmap.errors import DataError
from linmap.recipes.bt2.flags import Fit
from linmap.recipes.bt2.pairs import read_pairs
from linmap.recipes.job import FitJob
from linmap.retrieve.bt2 import EmbeddingUpgrade

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
    candidates = {name: figures["mrr"] for name, figures in report["candidates"].items()}
    return {
        "artifact": str(job.out),
        "pairs": report["pairs"],
        "d_new": report["d_new"],
        "d_old": report["d_old"],
        "width": report["width"],
        "held_out_mrr": candidates,
        "chosen": report["chosen"],
        "verdict": report["verdict"],
    }


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
