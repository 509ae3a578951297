"""Nearest neighbours in reconstructed state spaces, and mutual information of a series with its delayed self."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float64, Int
from scipy.spatial.distance import cdist

from linmap.errors import ArgumentError

ROWS = 1024  # points whose distances to all others are held at once


def nearest(
    points: Float64[np.ndarray, "points dims"], theiler: int
) -> tuple[Int[np.ndarray, " points"], Float64[np.ndarray, " points"]]:
    """The index of each point's nearest neighbour more than `theiler` steps away in time, and the distance to it."""
    n = len(points)
    index, distance = np.empty(n, np.int64), np.empty(n)
    time = np.arange(n)
    for start in range(0, n, ROWS):
        rows = slice(start, min(start + ROWS, n))
        block = cdist(points[rows], points)
        block[np.abs(time[rows, None] - time) <= theiler] = np.inf
        index[rows] = block.argmin(1)
        distance[rows] = block.min(1)
    return index, distance


def first_minimum(values: Sequence[float] | np.ndarray) -> int:
    """The first index whose next value is not smaller; the last one where the values fall to their end."""
    rising = np.flatnonzero(np.diff(values) >= 0)
    return int(rising[0]) if len(rising) else len(values) - 1


def self_mutual_information(x: Float64[np.ndarray, " times"], max_lag: int) -> Float64[np.ndarray, " lags"]:
    """Mutual information in bits of a series and itself, lags 1 to `max_lag`.

    The values of the first T - max_lag samples are halved into cells of equal counts until a chi-square test finds the
    values inside a cell uniform (after Fraser and Swinney 1986); the cells of both axes are these.

    Raises
    ------
    ValueError
        If the series has no more than `max_lag` samples.
    """
    n = len(x) - max_lag
    if n < 1:
        raise ArgumentError(f"mutual information up to lag {max_lag} needs a longer series than {len(x)} samples.")
    order = np.argsort(x[:n], kind="stable")
    ordered = x[:n][order]
    counts = np.array(_bisected(ordered))
    upper = ordered[np.cumsum(counts) - 1]
    row = np.repeat(np.arange(len(counts)), counts)
    values = []
    for lag in range(1, max_lag + 1):
        column = np.searchsorted(upper[:-1], x[lag : lag + n][order])
        joint = np.bincount(row * len(counts) + column, minlength=len(counts) ** 2).reshape(len(counts), -1)
        held = joint > 0
        ratio = joint * float(n) / np.outer(counts, counts)
        values.append(float((joint[held] * np.log2(ratio[held])).sum() / n))
    return np.array(values)


def _bisected(ordered: Float64[np.ndarray, " values"]) -> list[int]:
    """How many of the sorted values each cell holds."""
    if _uniform(ordered):
        return [len(ordered)]
    half = len(ordered) // 2
    return _bisected(ordered[:half]) + _bisected(ordered[half:])


def _uniform(ordered: Float64[np.ndarray, " values"]) -> bool:
    """Whether a chi-square test (p = 0.1) finds the values spread evenly over their range."""
    n = len(ordered)
    if n < 10:
        return True
    cells, critical = (2, 2.706) if n < 20 else (4, 6.251)
    edges = ordered[0] + np.arange(1, cells + 1) * ((ordered[-1] - ordered[0]) / cells)
    up_to = np.searchsorted(ordered, edges, side="right")
    observed = np.diff(up_to, prepend=0)
    whole = np.flatnonzero(up_to == n)
    if len(whole):
        observed = observed[: whole[0] + 1]  # empty cells beyond the last value do not count
    expected = round(n / cells)
    return float(((observed - expected) ** 2 / expected).sum()) < critical
