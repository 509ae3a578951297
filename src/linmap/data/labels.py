"""Labels of samples: one number or text for each, whatever array or table they come from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, NotRequired, TypedDict

import numpy as np
import pandas as pd
from jaxtyping import Bool, Int64, Shaped
from numpy.typing import ArrayLike
from sklearn.utils import column_or_1d
from sklearn.utils.multiclass import check_classification_targets

from linmap.data.schema import Pattern, typed
from linmap.errors import ArgumentError, DataError


def one_for_each(values: np.ndarray, n: int, name: str, what: str) -> Shaped[np.ndarray, " n"]:
    """Labels as an array of numbers or of text; bytes, as HDF5 and MATLAB files bring them, are text in UTF-8.

    Parameters
    ----------
    values
        The array as it was read.
    n
        Samples that there are.
    name
        What the message calls the labels, such as `"my.npz: y"`.
    what
        What a sample is, such as "epochs".

    Raises
    ------
    DataError
        If there are not `n` in one dimension, or they are neither numbers nor text.
    """
    if values.dtype.kind == "S":
        try:
            values = np.char.decode(values, "utf-8")
        except UnicodeDecodeError:
            raise DataError(f"{name} holds bytes that are no UTF-8 text; save text or numbers.") from None
    if values.dtype.kind == "O" and all(isinstance(value, str) for value in values.flat):
        values = values.astype(str)
    if values.shape != (n,) or values.dtype.kind not in "biufUO":
        raise DataError(
            f"{name} must hold one number or text for each of {n} {what}, got {values.dtype} of shape {values.shape}."
        )
    return values


def missing(values: Shaped[np.ndarray, " n"]) -> Bool[np.ndarray, " n"]:
    """Which labels are not known: NaN, None, NaT and pandas' NA."""
    return np.asarray(pd.isna(values))


def class_numbers(y: ArrayLike) -> tuple[Shaped[np.ndarray, " classes"], Int64[np.ndarray, " n"]]:
    """The classes of labels in their order, and the number of each label's class.

    Raises
    ------
    ValueError
        If y is not one label for each sample, or has fewer than two classes.
    """
    labels = column_or_1d(y, warn=True)
    check_classification_targets(labels)
    classes, numbers = np.unique(labels, return_inverse=True)
    if len(classes) < 2:
        raise ArgumentError(f"y has one class, {classes[0]}; a classifier needs two or more.")
    return classes, numbers


def encoded(classes: Shaped[np.ndarray, " classes"]) -> dict[str, Any]:
    """The labels of a classifier (numbers, text, dates, spans of time) for JSON, and the type that brings them back."""
    values = classes.astype(np.int64) if classes.dtype.kind in "Mm" else classes
    return {"classes": values.tolist(), "labels": classes.dtype.str}


class Classes(TypedDict):
    """What `encoded` gives."""

    classes: list[str] | list[bool] | list[int] | list[float]
    labels: NotRequired[Annotated[str, Pattern(r"[<>|=]?(U\d{1,4}|[biuf]\d+|[mM]8\[\w+\]|O)")] | None]


def decoded(config: Mapping[str, Any]) -> Shaped[np.ndarray, " classes"]:
    """Undo `encoded`; without a type, as older runs are, the labels are numbers or text."""
    classes = np.array(typed(Classes, config, "config")["classes"])
    if not len(classes) or len(set(classes.tolist())) < len(classes):
        raise ArgumentError(f"classes are {config['classes']!r:.80}; each stands there once.")
    if config.get("labels") is None:
        return classes
    found = classes.astype(config["labels"])
    if not np.array_equal(found.astype(classes.dtype), classes):
        raise ArgumentError(f"classes are {config['classes']!r:.80}, which are not of the type {config['labels']}")
    return found


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
        note = (
            f"the accuracy is over {int(rows.sum())} of {len(rows)} samples: the run does not know the "
            f"classes {strange}"
        )
    return Judged(rows, true, note)


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
