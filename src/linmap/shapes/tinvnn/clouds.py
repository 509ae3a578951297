"""Lists of clouds of any size as arrays of one size, and as a data set that training reads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.utils.data import Dataset

from linmap.data.arrays import array_of
from linmap.errors import ArgumentError, ArgumentTypeError

Batch = tuple[Tensor, Tensor | None, Tensor]


def check_clouds(X: Any, dim: int | None = None) -> list[Float[np.ndarray, "n d"]]:
    """Clouds as float arrays (points, d).

    Parameters
    ----------
    X
        (n, points, d), or a list of arrays (points_i, d).
    dim
        Coordinates that they must have.

    Raises
    ------
    TypeError
        If a cloud holds no real numbers.
    ValueError
        If there is none, or one has another shape or a number that is not finite; the message names it.
    """
    if isinstance(X, np.ndarray | Tensor) and X.ndim != 3:
        raise ArgumentError(f"X must be (n, points, d), or a list of arrays (points, d); got shape {tuple(X.shape)}.")
    if not hasattr(X, "__len__") or len(X) == 0:
        raise ArgumentError("X holds no cloud." if hasattr(X, "__len__") else f"X is a {type(X).__name__}, no clouds.")
    return [_check_cloud(cloud, i, dim) for i, cloud in _checked_dims(X)]


def _checked_dims(X: Any) -> list[tuple[int, np.ndarray]]:
    clouds = []
    for i, cloud in enumerate(X):
        try:
            array = array_of(cloud)
        except ValueError:
            raise ArgumentError(f"X[{i}] must be (points, d), rows of one length.") from None
        if array.ndim != 2 or 0 in array.shape:
            raise ArgumentError(f"X[{i}] must be (points, d) of at least one point, got shape {array.shape}.")
        if array.shape[1] != clouds[0][1].shape[1] if clouds else False:
            raise ArgumentError(f"X[{i}] has {array.shape[1]} coordinates, and X[0] has {clouds[0][1].shape[1]}.")
        clouds.append((i, array))
    return clouds


def _check_cloud(cloud: np.ndarray, i: int, dim: int | None) -> np.ndarray:
    if cloud.dtype.kind not in "fiu":
        raise ArgumentTypeError(f"X[{i}] must hold real numbers, got {cloud.dtype}.")
    if dim is not None and cloud.shape[1] != dim:
        raise ArgumentError(f"X[{i}] has {cloud.shape[1]} coordinates, and the model was fitted to {dim}.")
    cloud = cloud.astype(np.float64, copy=False)
    if not np.isfinite(cloud).all():
        raise ArgumentError(f"X[{i}] is not finite: point {int((~np.isfinite(cloud)).any(1).argmax())}.")
    return cloud


def padded(
    clouds: Sequence[np.ndarray],
) -> tuple[Float[Tensor, "batch n d"], Bool[Tensor, "batch n"] | None]:
    """Clouds less their first points, which keeps large offsets in float32; a mask where their sizes differ.

    Those whose coordinates float32 could not hold, or not square, are divided by the largest: what reads them here does
    not depend on the scale.
    """
    sizes = [len(cloud) for cloud in clouds]
    X = torch.zeros(len(clouds), max(sizes), clouds[0].shape[1])
    for i, cloud in enumerate(clouds):
        # halves: the difference of two numbers may be larger than any number
        difference = cloud / 2 - cloud[0] / 2
        largest = np.abs(difference).max()
        factor = 2.0 if largest == 0 or 1e-15 < largest < 1e15 else 1 / largest
        X[i, : len(cloud)] = torch.from_numpy(difference * factor).to(X.dtype)
    if min(sizes) == max(sizes):
        return X, None
    return X, torch.arange(max(sizes)) < torch.tensor(sizes)[:, None]


class Clouds(Dataset):
    """Clouds and the class of each."""

    def __init__(self, clouds: Sequence[np.ndarray], targets: Int[Tensor, " n"]) -> None:
        self.clouds, self.targets = clouds, targets

    def __len__(self) -> int:
        return len(self.clouds)

    def fingerprinted(self) -> tuple[list[np.ndarray], Tensor]:
        return list(self.clouds), self.targets

    def __getitem__(self, index: int) -> Batch:
        return self.__getitems__([index])

    def __getitems__(self, indices: list[int]) -> Batch:
        return *padded([self.clouds[i] for i in indices]), self.targets[indices]
