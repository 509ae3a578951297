"""Pairs of vectors of two models: checked, joined by id, and tested for belonging together."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Shaped
from scipy.sparse import issparse

from linmap.data.arrays import array_of
from linmap.errors import ArgumentError, ArgumentTypeError
from linmap.retrieve.bt2.evaluation import BLOCK

UNIT = 0.01  # how far a length may be from 1


def check_vectors(name: str, values: Any, dims: int | None = None) -> Float[np.ndarray, "rows dims"]:
    """A matrix of finite vectors that are not zero, in float64.

    Raises
    ------
    ValueError
        With the first row that is wrong, or both numbers of dimensions.
    """
    values = as_numbers(name, values)
    if values.ndim != 2 or 0 in values.shape:
        raise ArgumentError(f"{name} must be a matrix of numbers with one vector a row, got the shape {values.shape}.")
    if dims is not None and values.shape[1] != dims:
        raise ArgumentError(f"{name} has {values.shape[1]} dimensions, expected {dims}.")
    values = values.astype(np.float64)
    for what, wrong in (("not finite", ~np.isfinite(values).all(1)), ("all zero", ~values.any(1))):
        if wrong.any():
            hint = "; they hold NaN or inf" if what == "not finite" else ""
            rows = ", ".join(map(str, np.flatnonzero(wrong)[:5]))
            raise ArgumentError(
                f"{name}: {int(wrong.sum())} vectors are {what} (rows {rows}); leave these items out{hint}."
            )
    return values


def as_numbers(name: str, values: Any) -> Shaped[np.ndarray, ...]:
    """An array of real numbers from an array, a tensor, a data frame or a list; objects that are numbers become such.

    Raises
    ------
    ValueError
        If it is sparse, complex, or holds anything else.
    """
    if issparse(values):
        raise ArgumentError(f"{name} is a sparse matrix, which is not supported; pass {name}.toarray().")
    values = array_of(values)
    if values.dtype.kind == "O":
        try:
            values = values.astype(np.float64)
        except TypeError as error:
            raise ArgumentTypeError(f"{name} must hold numbers: {error}.") from None
        except ValueError as error:
            raise ArgumentError(f"{name} must hold numbers: {error}.") from None
    if values.dtype.kind == "c":
        raise ArgumentError(f"{name} holds complex numbers. Complex data not supported.")
    if values.dtype.kind not in "fiub":
        raise ArgumentError(f"{name} must be a matrix of numbers with one vector a row, got {values.dtype}.")
    return values


def unit(values: Float[np.ndarray, "rows dims"]) -> Float[np.ndarray, "rows dims"]:
    """Every row divided by its length."""
    return values / np.linalg.norm(values, axis=1, keepdims=True)


def warn_if_not_unit(name: str, values: Float[np.ndarray, "rows dims"]) -> tuple[float, float]:
    """The least and the largest length; a warning where these are not 1."""
    lengths = np.linalg.norm(values, axis=1)
    low, high = float(lengths.min()), float(lengths.max())
    if low < 1 - UNIT or high > 1 + UNIT:
        warnings.warn(
            f"{name}: the vectors have lengths from {low:.4g} to {high:.4g}, not 1; they are fitted as unit vectors. "
            "In an index by inner product, lengths change the ranking: normalise the gallery, or search by cosine.",
            stacklevel=3,
        )
    return low, high


def join(left: Sequence[Any], right: Sequence[Any]) -> tuple[list[int], list[int]]:
    """Rows of the ids that both sides have, in the order of the left.

    Raises
    ------
    ValueError
        If an id occurs twice on a side, or no id on both.
    """
    places = []
    for name, ids in (("new", left), ("old", right)):
        places.append({identity: row for row, identity in enumerate(ids)})
        if len(places[-1]) < len(ids):
            twice = next(identity for row, identity in enumerate(ids) if places[-1][identity] != row)
            raise ArgumentError(f"the ids of the {name} vectors hold {twice!r} more than once; an id must be one item.")
    common = [identity for identity in left if identity in places[1]]
    if not common:
        raise ArgumentError(f"no id is on both sides: new has {left[0]!r}, ..., old has {right[0]!r}, ...")
    return [places[0][identity] for identity in common], [places[1][identity] for identity in common]


def alignment_p_value(
    phi: Float[np.ndarray, "pairs d_old"], Y: Float[np.ndarray, "pairs d_old"], seed: int, permutations: int = 199
) -> float:
    """How often shuffled partners are as similar on average as the true ones; for pairs that were not fitted."""
    rng = np.random.default_rng(seed)
    own = float((phi * Y).sum())
    shuffled = [float((phi * Y[rng.permutation(len(Y))]).sum()) for _ in range(permutations)]
    return (1 + sum(value >= own for value in shuffled)) / (1 + permutations)


def self_retrieval_ranks(
    phi: Float[np.ndarray, "queries d_old"],
    own: Float[np.ndarray, "queries d_old"],
    others: Float[np.ndarray, "gallery d_old"],
) -> Float[np.ndarray, " queries"]:
    """The rank of each query's own old vector among `others` and itself."""
    scores = (phi * own).sum(1)
    ranks = np.ones(len(phi))
    step = max(1, BLOCK // len(phi))
    for start in range(0, len(others), step):
        found = phi @ others[start : start + step].T
        ranks += (found > scores[:, None] + 1e-12).sum(1)
    return ranks
