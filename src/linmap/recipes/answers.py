"""What `apply` writes and says of a classifier's answers; the classes of a file need not be those of the fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from linmap.artifacts import write_table
from linmap.data.epochs import Epochs
from linmap.data.labels import Judged
from linmap.errors import UsageError
from linmap.experiment.charts import draw_confusions
from linmap.pictures import illustrated
from linmap.recipes.job import FittedJob
from linmap.signals.layout import Layout, channel_names


def table_path(job: FittedJob, default: str) -> Path:
    """Where the answers go: into the run where --out is left out."""
    out = job.out or job.artifact / default
    if out.suffix not in (".csv", ".parquet"):
        raise UsageError(f"--out {out}: the answers are written as .csv or .parquet.")
    return out


def write_answers(
    out: Path, table: pd.DataFrame, summary: dict[str, Any], found: np.ndarray, answers: Judged | None,
    classes: np.ndarray,
) -> None:  # fmt: skip
    """Write the table, then say how right the answers are where the file has classes, and draw the confusions."""
    write_table(out, table)
    if answers is None:
        return
    say_accuracy(summary, answers, found)
    if answers.rows.any():
        with illustrated(summary, out.with_suffix(".svg")) as path:
            shown = {"all samples": (answers.true[answers.rows], found[answers.rows])}
            summary["picture"] = str(draw_confusions(path, shown, classes))


def say_channels(summary: dict[str, Any], epochs: Epochs, fitted: Layout | None = None) -> None:
    """Add the channels that were left out, and what could not be compared with the epochs of the fit or looks wrong."""
    if epochs.left_out:
        summary["left_out"] = list(epochs.left_out)
    if fitted is not None and fitted.ch_names is not None and channel_names(epochs.ch_names) is None:
        summary.setdefault("notes", []).append(
            "the file does not name its channels; they were taken in the order of the fit"
        )
    still = (epochs.X[..., :1] == epochs.X).all((0, 2))
    if still.any():
        flat = ", ".join(name for name, one in zip(epochs.ch_names, still, strict=True) if one)
        summary.setdefault("notes", []).append(f"flat in every epoch: {flat}; an electrode may have had no contact")
    channels, times = epochs.X.shape[1:]
    if channels > times:
        summary.setdefault("notes", []).append(
            f"X has {channels} channels of {times} samples; if it is the other way round, save X.transpose(0, 2, 1)"
        )


def say_accuracy(summary: dict[str, Any], answers: Judged, found: np.ndarray) -> None:
    """Add the share of right answers where the class is known, and what to know about it."""
    if answers.rows.any():
        summary["accuracy"] = round(float((found == answers.true)[answers.rows].mean()), 4)
    if answers.note:
        summary.setdefault("notes", []).append(answers.note)
