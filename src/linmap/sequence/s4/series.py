"""Series of unequal lengths: checked, and padded to batches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse
import torch
from jaxtyping import Float
from torch import Tensor, nn

from linmap.data.arrays import array_of
from linmap.errors import ArgumentError, ArgumentTypeError

Series = Sequence[Any] | np.ndarray | pd.DataFrame | pd.Series | Tensor


class SeriesDataset(torch.utils.data.Dataset):
    """Series with targets; a batch is padded to its longest."""

    def __init__(self, series: list[Tensor], targets: Tensor) -> None:
        self.series, self.targets = series, targets

    def __len__(self) -> int:
        return len(self.series)

    def fingerprinted(self) -> tuple[list[Tensor], Tensor]:
        return self.series, self.targets

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        return self.series[i], self.targets[i]

    def __getitems__(self, indices: list[int]) -> tuple[Tensor, Tensor | None, Tensor]:
        return collate([self.series[i] for i in indices], self.targets[indices])


def collate(series: list[Tensor], targets: Tensor) -> tuple[Tensor, Tensor | None, Tensor]:
    """Padded series (B, L, channels), their lengths (None where all are equal), targets."""
    lengths = torch.tensor([len(s) for s in series])
    if bool((lengths == lengths[0]).all()):
        return torch.stack(series), None, targets
    return nn.utils.rnn.pad_sequence(series, batch_first=True), lengths, targets


def check_series(X: Series) -> list[Float[np.ndarray, "length channels"]]:
    """A list of (length, channels), in float64 or the floating type that they came in.

    Parameters
    ----------
    X
        (n, length, channels); (n, length) for one channel, also as a DataFrame, a series a row; or a list (or a pandas
        Series, or an object array) of series: each (length, channels) or (length,), as an array, list or DataFrame.

    Raises
    ------
    TypeError
        If X is sparse, or holds something that is no number.
    ValueError
        If X is not of that form, or complex, or not finite; the message names the first offending series.
    """
    if scipy.sparse.issparse(X):
        raise ArgumentTypeError("X is a sparse matrix, and series are dense: use X.toarray().")
    X = array_of(X) if hasattr(X, "__array__") else X
    if isinstance(X, np.ndarray) and (X.ndim not in (2, 3) and not (X.dtype == object and X.ndim == 1)):
        raise ArgumentError(
            f"X must be (n, length, channels), (n, length) or a list of series, got shape {X.shape}. Reshape your data "
            "with X[None] if it is one series of one channel."
        )
    if len(X) == 0:
        raise ArgumentError(f"X holds no series: 0 sample(s) (shape={np.shape(X)}) where a minimum of 1 is required.")
    checked: list[np.ndarray] = []
    for i, one in enumerate(X):
        checked.append(_checked(i, one))
        if checked[i].shape[1] != checked[0].shape[1]:
            raise ArgumentError(f"X[{i}] has {checked[i].shape[1]} channels, X[0] has {checked[0].shape[1]}.")
    return checked


def _checked(i: int, one: Any) -> Float[np.ndarray, "length channels"]:
    """Series i as a matrix of finite numbers."""
    try:
        values = array_of(one)
        values = values.astype(np.float64) if values.dtype.kind in "biuO" else values
    except TypeError as error:
        raise ArgumentTypeError(f"X[{i}] must be real numbers (length, channels): {error}.") from None
    except ValueError as error:
        raise ArgumentError(f"X[{i}] must be real numbers (length, channels): {error}.") from None
    values = values[:, None] if values.ndim == 1 else values
    if values.dtype.kind == "c":
        raise ArgumentError(f"X[{i}]: Complex data not supported; give real and imaginary parts as channels.")
    if values.size == 0:
        raise ArgumentError(
            f"X[{i}] must be real numbers (length, channels), got 0 feature(s) (shape=({i}, 0)) while a "
            "minimum of 1 is required."
        )
    if values.ndim != 2 or values.dtype.kind != "f":
        raise ArgumentError(
            f"X[{i}] must be real numbers (length, channels), got {values.dtype} of shape {values.shape}."
        )
    if not np.isfinite(values).all():
        step, channel = np.argwhere(~np.isfinite(values))[0].tolist()
        kind = "NaN" if np.isnan(values[step, channel]) else "infinity"
        raise ArgumentError(f"X[{i}] is not finite at step {step}, channel {channel} ({kind}); fill gaps first.")
    return values
