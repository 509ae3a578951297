"""Series of unequal lengths: checked, scaled, and padded to batches."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float32
from torch import Tensor, nn

Series = Sequence[np.ndarray] | np.ndarray


class SeriesDataset(torch.utils.data.Dataset):
    """Series with targets; a batch is padded to its longest."""

    def __init__(self, series: list[Tensor], targets: Tensor) -> None:
        self.series, self.targets = series, targets

    def __len__(self) -> int:
        return len(self.series)

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


def check_series(X: Series) -> list[Float32[np.ndarray, "length channels"]]:
    """A list of (length, channels), float32.

    Raises
    ------
    ValueError
        If X is not of that form; the message names the first offending series.
    """
    if isinstance(X, np.ndarray) and X.dtype != object and X.ndim not in (2, 3):
        raise ValueError(f"X must be (n, length, channels), (n, length) or a list of series, got shape {X.shape}.")
    if len(X) == 0:
        raise ValueError("X holds no series.")
    checked = []
    for i, one in enumerate(X):
        values = np.asarray(one)
        values = values[:, None] if values.ndim == 1 else values
        if values.ndim != 2 or len(values) == 0 or values.dtype.kind not in "biuf":
            raise ValueError(f"X[{i}] must be real numbers (length, channels), got {values.dtype} {values.shape}.")
        if not np.isfinite(values).all():
            step, channel = np.argwhere(~np.isfinite(values))[0].tolist()
            raise ValueError(f"X[{i}] is not finite at step {step}, channel {channel}; fill gaps first.")
        if checked and values.shape[1] != checked[0].shape[1]:
            raise ValueError(f"X[{i}] has {values.shape[1]} channels, X[0] has {checked[0].shape[1]}.")
        checked.append(values.astype(np.float32))
    return checked
