"""What `apply` writes and says of a classifier's answers; the classes of a file need not be those of the fit."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from linmap.artifacts import write_table
from linmap.data.epochs import Epochs
from linmap.errors import UsageError
from linmap.pictures import illustrated
from linmap.recipes.confusion import draw_confusions
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
    channels, times = epochs.X.shape[1:]
    if channels > times:
        summary.setdefault("notes", []).append(
            f"X has {channels} channels of {times} samples; if it is the other way round, save X.transpose(0, 2, 1)"
        )


@dataclass(frozen=True)
class Judged:
    """The samples of a file whose class the classifier knows."""

    rows: np.ndarray
    """Their mask, (n,)."""
    true: np.ndarray
    """The classes of all samples, those that are known as the classifier writes them, (n,)."""
    note: str | None
    """What a reader of the accuracy must know."""


def judged(given: np.ndarray, classes: np.ndarray, codes: np.ndarray | None = None) -> Judged:
    """Match the classes of a file to those of a classifier: as they are, as text, or as MNE's event codes.

    Parameters
    ----------
    given
        The classes in the file, (n,).
    classes
        Those of the classifier.
    codes
        The event codes of the samples, where the file has them beside names.

    Returns
    -------
    Judged
        With a note where the classifier does not know all classes of the file.
    """
    readings = [_matched(labels, classes) for labels in (given, codes) if labels is not None]
    rows, true = max(readings, key=lambda reading: int(reading[0].sum()))
    if not rows.any():
        rows, true = readings[0]
    if rows.all():
        return Judged(rows, true, None)
    strange = ", ".join(map(str, np.unique(given[~rows]).tolist()[:6]))
    if not rows.any():
        known = ", ".join(map(str, classes.tolist()[:6]))
        note = f"no accuracy: the file has the classes {strange}, and the run knows {known}"
    else:
        note = (f"the accuracy is over {int(rows.sum())} of {len(rows)} samples: the run does not know the "
                f"classes {strange}")  # fmt: skip
    return Judged(rows, true, note)


def say_accuracy(summary: dict[str, Any], answers: Judged, found: np.ndarray) -> None:
    """Add the share of right answers where the class is known, and what to know about it."""
    if answers.rows.any():
        summary["accuracy"] = round(float((found == answers.true)[answers.rows].mean()), 4)
    if answers.note:
        summary.setdefault("notes", []).append(answers.note)


def _matched(labels: np.ndarray, classes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Which labels are among the classes, and all labels, those in the classifier's writing."""
    index = {_text(label): i for i, label in enumerate(classes.tolist())}
    found = np.array([index.get(_text(label), -1) for label in labels.tolist()])
    rows = found >= 0
    if rows.all():
        return rows, classes[found]
    true = np.array([classes[i] if i >= 0 else label for i, label in zip(found, labels.tolist(), strict=True)], object)
    return rows, true


def _text(label: object) -> str:
    """One text for 1, 1.0 and "1"."""
    return str(int(label)) if isinstance(label, float) and label.is_integer() else str(label)
