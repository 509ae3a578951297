"""Exact nearest neighbours by cosine, and sign bits for storage."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Num, UInt8

from linmap.errors import ArgumentError


class Match(NamedTuple):
    """A neighbour."""

    row: int
    cosine: float


def nearest(query: Num[np.ndarray, " dim"], blocks: Iterable[Num[np.ndarray, "_ dim"]], top: int) -> list[Match]:
    """The `top` rows with the largest cosine to `query`, best first; ties in the order of rows.

    Parameters
    ----------
    query
        A vector, of any length but 0.
    blocks
        The rows to search, block by block, so that they need not fit into memory.
    top
        How many.

    Raises
    ------
    ValueError
        If the query is zero, or `top` is less than 1.
    """
    length = float(np.linalg.norm(query))
    if length == 0:
        raise ArgumentError("the query has a zero vector (all of it is ignored), which is not near to anything.")
    if top < 1:
        raise ArgumentError(f"top must be at least 1, got {top!r}.")
    rows, cosines, first = np.empty(0, np.int64), np.empty(0), 0
    for block in blocks:
        norms = np.linalg.norm(block, axis=1).astype(np.float64)
        scores = (block @ query.astype(block.dtype)).astype(np.float64) / (np.maximum(norms, 1e-300) * length)
        rows = np.concatenate((rows, np.arange(first, first + len(block))))
        cosines = np.concatenate((cosines, scores))
        best = np.argsort(-cosines, kind="stable")[:top]
        rows, cosines, first = rows[best], cosines[best], first + len(block)
    return [Match(int(row), float(cosine)) for row, cosine in zip(rows, cosines, strict=True)]


def sign_cosine(
    left: UInt8[np.ndarray, "*batch bytes"], right: UInt8[np.ndarray, "*batch bytes"], dim: int
) -> Float[np.ndarray, "*batch"]:
    """The cosine estimated from sign bits: sin(pi/2 (1 - 2 hamming / D)), for E sign agreement = (2/pi) asin(cos)."""
    hamming = np.bitwise_count(left ^ right).sum(-1, dtype=np.int64)
    return np.asarray(np.sin(np.pi / 2 * (1 - 2 * hamming / dim)))
