"""What comes in: epochs as arrays or as MNE objects, checked once."""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Float64


def check_epochs(X: Any, n_channels: int | None = None) -> Float64[np.ndarray, "epochs channels times"]:
    """Epochs as float64.

    Parameters
    ----------
    X
        (epochs, channels, times), as an array or nested lists, or MNE `Epochs`, of which `get_data()` is taken.
    n_channels
        The channels that there were in `fit`.

    Raises
    ------
    ValueError
        If X has another shape, is empty, holds no real numbers or something that is not finite, or has other channels.
    """
    array = X.get_data(copy=False) if hasattr(X, "get_data") else X
    try:
        array = np.asarray(array)
    except ValueError:
        raise ValueError("X: expected (epochs, channels, times), got lists of unequal lengths.") from None
    if array.ndim != 3:
        raise ValueError(f"X: expected (epochs, channels, times), got shape {array.shape}; one epoch is X[None], and "
                         "continuous data must be cut into epochs.")  # fmt: skip
    if array.dtype.kind not in "biuf":
        raise ValueError(f"X: expected real numbers, got dtype {array.dtype}.")
    if 0 in array.shape:
        raise ValueError(f"X: expected at least one epoch, channel and sample, got shape {array.shape}.")
    array = np.asarray(array, np.float64)
    if not np.isfinite(array).all():
        epoch, channel = np.argwhere(~np.isfinite(array).all(-1))[0].tolist()
        raise ValueError(f"X: epoch {epoch}, channel {channel} holds NaN or infinite values; drop the epoch or "
                         "interpolate the channel.")  # fmt: skip
    if n_channels is not None and array.shape[1] != n_channels:
        raise ValueError(f"X: expected {n_channels} channels as in fit, got {array.shape[1]}.")
    return array
