"""Class labels as JSON has them, and back in the type that they came in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np


def encoded(classes: np.ndarray) -> dict[str, Any]:
    """The labels of a classifier (numbers, text, dates or spans of time), and the type that brings them back."""
    if classes.dtype.kind in "biufU":
        return {"classes": classes.tolist()}
    values = classes.astype(np.int64) if classes.dtype.kind in "Mm" else classes
    return {"classes": values.tolist(), "labels": classes.dtype.str}


def decoded(config: Mapping[str, Any]) -> np.ndarray:
    """Undo `encoded`."""
    classes = np.array(config["classes"])
    return classes if config.get("labels") is None else classes.astype(config["labels"])
