"""How well one embedding finds another's: CMC, mAP and nDCG by class, and the metrics of text retrieval by qrels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from linmap.data.arrays import array_of
from linmap.errors import ArgumentError

BLOCK = 2**23  # scores that are held at once


@dataclass(frozen=True)
class RetrievalScores:
    """Means over the queries that have an item of their class to find."""

    cmc: dict[int, float]
    """For each k, the share of queries with an item of their class among the first k."""
    mAP: float
    nDCG: float
    """Over the whole ranking, an item of the class counts 1."""
    n_queries: int
    """Queries that have something to find; the others count nowhere."""


def cross_retrieval(
    q: Any,
    g: Any,
    q_labels: Any,
    g_labels: Any,
    q_ids: Any = None,
    g_ids: Any = None,
    topk: Sequence[int] = (1, 5),
) -> RetrievalScores:
    """Search the rows of `q` among the rows of `g` by the dot product of their common first coordinates.

    Vectors are taken as they are, not made unit vectors. Gallery items that have the id of the query are left out of
    its ranking, whatever the order of the two sets; without ids nothing is left out. Equal scores keep the order of the
    gallery in CMC and nDCG and count together in average precision, as in scikit-learn.

    Parameters
    ----------
    q, g
        Arrays or tensors of shape (queries, dims) and (gallery, dims).
    q_labels, g_labels
        Classes, one for each row.
    q_ids, g_ids
        Identities, both or none.
    topk
        The k of CMC.

    Raises
    ------
    ValueError
        If lengths differ, a vector is not finite, only one kind of ids is given, no query has anything to find, or
        `topk` holds anything but whole numbers from 1.
    """
    for k in topk:
        if isinstance(k, bool) or not isinstance(k, int | np.integer) or k < 1:
            raise ArgumentError(
                f"topk must hold whole numbers from 1, got {k!r}; nothing is found among the first {k!r}."
            )
    q, g = _matrix("q", q), _matrix("g", g)
    q_codes, g_codes = _codes("labels", q_labels, g_labels, len(q), len(g))
    if (q_ids is None) != (g_ids is None):
        raise ArgumentError("q_ids and g_ids go together: give both, or none to leave no item out.")
    ids = None if q_ids is None else _codes("ids", q_ids, g_ids, len(q), len(g))
    cmc, precision, gain = [], [], []
    for rows, scores in _score_blocks(q, g):
        relevant = q_codes[rows, None] == g_codes
        if ids is not None:
            same = ids[0][rows, None] == ids[1]
            scores[same], relevant[same] = -np.inf, False
        valid = relevant.any(1)
        order = np.argsort(-scores[valid], axis=1, kind="stable")
        found = np.take_along_axis(relevant[valid], order, 1)
        ranked = np.take_along_axis(scores[valid], order, 1)
        cmc.append(found.argmax(1))
        precision.append(average_precision(found, ranked))
        gain.append(_ndcg(found))
    first = np.concatenate(cmc)
    if not len(first):
        raise ArgumentError("no query has an item of its class in the gallery, so that there is nothing to measure.")
    return RetrievalScores(
        {int(k): float((first < k).mean()) for k in topk},
        float(np.concatenate(precision).mean()),
        float(np.concatenate(gain).mean()),
        len(first),
    )


def average_precision(
    found: Bool[np.ndarray, "queries gallery"], ranked: Float[np.ndarray, "queries gallery"]
) -> Float[np.ndarray, " queries"]:
    """Mean precision at the hits of rankings by falling score; items of one score count as found together."""
    items = found.shape[1]
    ends = np.concatenate([ranked[:, 1:] != ranked[:, :-1], np.ones((len(found), 1), bool)], 1)
    last = np.where(ends, np.arange(items), items)
    last = np.minimum.accumulate(last[:, ::-1], axis=1)[:, ::-1]  # where the group of equal scores ends
    hits = np.take_along_axis(found.cumsum(1), last, 1)
    return (found * hits / (last + 1)).sum(1) / found.sum(1)


def _ndcg(found: Bool[np.ndarray, "queries gallery"]) -> Float[np.ndarray, " queries"]:
    discounts = 1 / np.log2(np.arange(found.shape[1]) + 2)
    return found @ discounts / discounts.cumsum()[found.sum(1) - 1]


def _score_blocks(q: np.ndarray, g: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    """q g^T on the common first coordinates, some rows of it at a time."""
    k = min(q.shape[1], g.shape[1])
    step = max(1, BLOCK // max(len(g), 1))
    for start in range(0, len(q), step):
        rows = slice(start, start + step)
        yield rows, q[rows, :k] @ g[:, :k].T


def _matrix(name: str, values: Any) -> Float[np.ndarray, "rows dims"]:
    values = array_of(values)
    if values.ndim != 2 or 0 in values.shape:
        raise ArgumentError(f"{name} must be a matrix with one vector a row, got the shape {values.shape}.")
    values = values.astype(np.float64 if values.dtype != np.float32 else np.float32, copy=False)
    wrong = ~np.isfinite(values).all(1)
    if wrong.any():
        raise ArgumentError(f"{name}: row {int(wrong.argmax())} is not finite ({int(wrong.sum())} such rows).")
    return values


def _codes(name: str, left: Any, right: Any, n_left: int, n_right: int) -> list[Int[np.ndarray, " rows"]]:
    left, right = map(array_of, (left, right))
    if left.shape != (n_left,) or right.shape != (n_right,):
        raise ArgumentError(
            f"q_{name} and g_{name} must hold one value a row: expected {n_left} and {n_right}, got the shapes "
            f"{left.shape} and {right.shape}."
        )
    codes = np.unique(np.concatenate([left, right]), return_inverse=True)[1]
    return [codes[:n_left], codes[n_left:]]


# -- text ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TextScores:
    """Means over the queries with a relevant document."""

    ndcg_10: float
    recall_100: float
    mrr_10: float


def nearest_rows(q: Any, g: Any, k: int = 100) -> Int[np.ndarray, "queries k"]:
    """The k rows of `g` with the largest dot products on the common first coordinates, best first.

    Raises
    ------
    ValueError
        If k is less than 1, or a vector is not finite.
    """
    if k < 1:
        raise ArgumentError(f"k must be at least 1, got {k!r}.")
    q, g = _matrix("q", q), _matrix("g", g)
    blocks = [np.argsort(-scores, axis=1, kind="stable")[:, :k] for _, scores in _score_blocks(q, g)]
    return np.concatenate(blocks)


def text_scores(
    ranked: Shaped[np.ndarray, "queries k"], q_ids: Sequence[Any], qrels: Mapping[Any, Mapping[Any, float]]
) -> TextScores:
    """nDCG@10, Recall@100 and MRR@10 of ranked document ids, best first.

    `qrels[query][document]` is the gain of a document; documents that are not there, or gain 0 or less, are irrelevant.
    Queries without a relevant document are left out.

    Raises
    ------
    ValueError
        If no query has a relevant document, or rows and ids differ in number.
    """
    if len(ranked) != len(q_ids):
        raise ArgumentError(f"ranked has {len(ranked)} rows for {len(q_ids)} query ids.")
    discounts = 1 / np.log2(np.arange(10) + 2)
    found = []
    for row, query in zip(ranked, q_ids, strict=True):
        gains = {document: gain for document, gain in qrels.get(query, {}).items() if gain > 0}
        if not gains:
            continue
        hits = [gains.get(document, 0.0) for document in row.tolist()]
        ideal = sorted(gains.values(), reverse=True)[:10]
        ndcg = discounts[: len(hits[:10])] @ hits[:10] / (discounts[: len(ideal)] @ ideal)
        recall = sum(hit > 0 for hit in hits[:100]) / len(gains)
        rank = next((1 / (i + 1) for i, hit in enumerate(hits[:10]) if hit > 0), 0.0)
        found.append((ndcg, recall, rank))
    if not found:
        raise ArgumentError("no query has a relevant document in qrels; do the ids have the same type?")
    return TextScores(*(float(value) for value in np.mean(found, 0)))
