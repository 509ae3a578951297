"""Tours through points: their lengths, and 2-opt."""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Float64, Int64
from numpy.typing import ArrayLike

from linmap.errors import ArgumentError

STEPS = 1e9
"""Of a cloud's size in the integers that 2-opt computes with, so that copies of a cloud give the same moves."""


def check_cities(X: Any) -> Float64[np.ndarray, "n d"]:
    """Coordinates of one instance.

    Raises
    ------
    ValueError
        If X is not (n, d) of at least two cities and finite numbers.
    """
    array = np.asarray(X)
    if array.ndim != 2 or array.shape[0] < 2 or array.shape[1] < 1 or array.dtype.kind not in "fiu":
        raise ArgumentError(f"X must hold two or more cities (n, d), got {array.dtype} of shape {array.shape}.")
    array = array.astype(np.float64)
    if not np.isfinite(array).all():
        raise ArgumentError(f"X is not finite: city {int((~np.isfinite(array)).any(1).argmax())}.")
    return array


def check_tour(tour: ArrayLike, n: int) -> Int64[np.ndarray, "*tours n"]:
    """Every city once.

    Raises
    ------
    ValueError
        If a city is missing.
    """
    array = np.asarray(tour)
    if array.ndim == 0 or array.shape[-1] != n or array.dtype.kind not in "iu":
        raise ArgumentError(f"tour must hold each of the {n} cities once, by number; got {array.dtype} {array.shape}.")
    if (np.sort(array, -1) != np.arange(n)).any():
        raise ArgumentError(f"tour must hold each of the cities 0 to {n - 1} once; some are missing or twice there.")
    return array.astype(np.int64)


def distances(X: Float64[np.ndarray, "n d"], rounded: bool = False) -> Float64[np.ndarray, "n n"]:
    """Between all cities; `rounded` to whole numbers, as TSPLIB's EUC_2D counts them."""
    D = np.sqrt(np.square(X[:, None] - X[None]).sum(-1))
    return np.floor(D + 0.5) if rounded else D


def tour_length(tour: ArrayLike, X: Any, rounded: bool = False) -> Any:
    """The length of closed tours.

    Parameters
    ----------
    tour
        (n,), or (..., n): numbers of the cities in their order.
    X
        (n, d).
    rounded
        Round each distance to a whole number, as TSPLIB's EUC_2D does.

    Returns
    -------
    length
        A number for one tour, an array for several.
    """
    X = check_cities(X)
    tour = check_tour(tour, len(X))
    edges = np.sqrt(np.square(X[tour] - X[np.roll(tour, -1, -1)]).sum(-1))
    length = (np.floor(edges + 0.5) if rounded else edges).sum(-1)
    return float(length) if length.ndim == 0 else length


def two_opt(tour: ArrayLike, X: Any, rounded: bool = False) -> Int64[np.ndarray, " n"]:
    """The tour after 2-opt: no two of its edges could be exchanged to make it shorter.

    Parameters
    ----------
    tour
        (n,): numbers of the cities in their order.
    X
        (n, d). Distances are integers of 1e-9 of the cloud's size here, in which copies of a cloud do not differ.
    rounded
        Improve the length in rounded distances.

    Notes
    -----
    In each pass every edge proposes its best exchange, and the best of those that do not overlap are made. Memory grows
    with n²: 226 cities take about 10 ms, 2,000 about 10 s.
    """
    X = check_cities(X)
    tour = check_tour(tour, len(X))
    if tour.ndim != 1:
        raise ArgumentError(f"tour must be one tour (n,), got shape {tour.shape}.")
    size = np.sqrt(np.square(X - X.mean(0)).sum(1).mean())
    D = distances(X, True) if rounded else np.rint(distances(X) * (STEPS / size if size else 1.0))
    return improved(tour, D.astype(np.int64))


def improved(tour: Int64[np.ndarray, " n"], D: Int64[np.ndarray, "n n"]) -> Int64[np.ndarray, " n"]:
    """`two_opt` of integer distances."""
    n = len(tour)
    if n < 4:
        return tour
    tour, D = tour.copy(), D[np.ix_(tour, tour)]
    later = np.triu(np.ones((n, n), bool), 2)
    later[0, n - 1] = False  # the edges 0-1 and (n-1)-0 share a city
    while True:
        edges = np.append(D.diagonal(1), D[-1, 0])
        gain = edges[:, None] + edges - D
        gain[:-1, :-1] -= D[1:, 1:]
        gain[:-1, -1] -= D[1:, 0]  # the edge after the last city leads to the first
        gain[~later] = 0
        partner = gain.argmax(1)
        best = gain[np.arange(n), partner]
        free = np.ones(n + 1, bool)
        moved = False
        for i in np.argsort(-best, kind="stable"):
            if best[i] <= 0:
                break
            j = partner[i]
            if free[i : j + 2].all():  # cities i to j + 1 are as they were
                free[i : j + 2] = False
                part = slice(i + 1, j + 1)
                tour[part] = tour[part][::-1].copy()
                D[part] = D[part][::-1].copy()
                D[:, part] = D[:, part][:, ::-1].copy()
                moved = True
        if not moved:
            return tour
