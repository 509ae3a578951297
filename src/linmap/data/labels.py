"""Labels of samples: one number or text for each, whatever array or table they come from."""

from __future__ import annotations

import numpy as np
import pandas as pd
from jaxtyping import Bool, Shaped

from linmap.errors import DataError


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
