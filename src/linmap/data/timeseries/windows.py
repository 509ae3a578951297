"""Splits of a series, and the windows of each part."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.data import Dataset

from linmap.errors import DataError

ETT_HOUR_SPLIT = (8640, 2880, 2880)  # 12, 4 and 4 months of 30 days


@dataclass(frozen=True)
class Split:
    """Consecutive rows for training, validation and test: [0, train), [train, validation), [validation, test)."""

    train: int
    validation: int
    test: int

    def spans(self, seq_len: int) -> dict[str, slice]:
        """The rows of each part with the `seq_len` rows before it that its first window looks back to."""
        return {
            "train": slice(0, self.train),
            "validation": slice(max(self.train - seq_len, 0), self.validation),
            "test": slice(max(self.validation - seq_len, 0), self.test),
        }


def literature_split(rows: int, name: str = "") -> Split:
    """The split that the long-horizon literature uses.

    ETTh1 and ETTh2, by their name: rows [0, 8640), [8640, 11520), [11520, 14400). Others: 70 % for training
    (rounded down), the last 20 % (rounded down) for test, the rest between them for validation.
    """
    if name.lower().startswith("etth") and rows >= sum(ETT_HOUR_SPLIT):
        train, validation, test = np.cumsum(ETT_HOUR_SPLIT).tolist()
        return Split(train, validation, test)
    return Split(int(rows * 0.7), rows - int(rows * 0.2), rows)


class Windows(Dataset):
    """All windows of `seq_len` input rows followed by `pred_len` target rows; several are read at once.

    Parameters
    ----------
    values
        Time downwards, (rows, variates).
    seq_len, pred_len
        Rows of the input and of the target.

    Raises
    ------
    DataError
        If there are too few rows for one window.
    """

    def __init__(self, values: Float[Tensor, "rows variates"], seq_len: int, pred_len: int) -> None:
        if len(values) < seq_len + pred_len:
            raise DataError(
                f"{len(values)} rows are too few for one window of {seq_len} input and {pred_len} target rows; "
                "shorten the window or the horizon, or bring more rows."
            )
        self.seq_len = seq_len
        self._windows = values.unfold(0, seq_len + pred_len, 1).mT  # a view: (windows, rows, variates)

    def __len__(self) -> int:
        return len(self._windows)

    def fingerprinted(self) -> tuple[Tensor, int]:
        """What a checkpoint knows the data by."""
        return torch.cat([self._windows[:, 0], self._windows[-1, 1:]]), self.seq_len

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        window = self._windows[index]
        return window[: self.seq_len], window[self.seq_len :]

    def __getitems__(self, indices: list[int]) -> tuple[Tensor, Tensor]:
        window = self._windows[torch.as_tensor(indices)]
        return window[:, : self.seq_len], window[:, self.seq_len :]
