"""How right a classifier's answers are on a file whose classes need not be those that it was fitted to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np


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
