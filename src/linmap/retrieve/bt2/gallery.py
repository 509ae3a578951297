"""An upgrade measured on a gallery: items by both models, queries, and which items answer a query."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float, Int

from linmap.errors import DataError
from linmap.retrieve.bt2.evaluation import nearest_rows, text_scores
from linmap.retrieve.bt2.pairs import check_vectors, unit
from linmap.retrieve.bt2.upgrade import EmbeddingUpgrade

NDCG, RECALL, MRR = "nDCG@10", "Recall@100", "MRR@10"
DEEP = 100  # items of a ranking that count
QUERIES = 500  # of a fold, at most
JUDGED = ("queries_new", "queries_old", "qrels")
LEAST = 40  # pairs


@dataclass(frozen=True)
class Gallery:
    """Items by both models, the queries, and which items answer a query.

    >>> gallery = Gallery.of({"new": new, "old": old, "label": label}, "my pairs")  # doctest: +SKIP
    >>> for fold in gallery.folds(5, calibration=500, seed=0):  # doctest: +SKIP
    ...     print(fold.scores(fold.upgrade.transform_query(fold.new), gallery.old))
    """

    new: Float[np.ndarray, "items d_new"]
    old: Float[np.ndarray, "items d_old"]
    queries_new: Float[np.ndarray, "queries d_new"]
    queries_old: Float[np.ndarray, "queries d_old"]
    qrels: dict[int, dict[int, float]] | None = None
    """Gains by item for each query; None where the items themselves are the queries."""
    label: np.ndarray | None = None
    """Classes of the items, (items,): those of one class answer each other."""

    @classmethod
    def of(cls, arrays: Mapping[str, np.ndarray], where: str) -> Gallery:
        """Arrays by name, as unit vectors.

        Parameters
        ----------
        arrays
            `new` and `old`, (items, dims) each; perhaps `label`, a class for each item; or `queries_new`,
            `queries_old` and `qrels`, lines (query, item) or (query, item, gain) by row numbers from 0.
        where
            Where they come from, for messages.

        Raises
        ------
        DataError
            If vectors are zero or not finite, sizes do not fit, or a judgement names what is not there.
        """
        new, old = (_vectors(where, name, arrays[name]) for name in ("new", "old"))
        if len(new) != len(old):
            raise DataError(
                f"{where}: new has {len(new)} rows and old {len(old)}; row i of both must be the same item."
            )
        if len(new) < LEAST:
            raise DataError(f"{where}: {len(new)} pairs are too few to compare; give {LEAST} or more.")
        given = [name for name in JUDGED if name in arrays]
        if given and len(given) < len(JUDGED):
            raise DataError(f"{where} has {', '.join(given)}; queries_new, queries_old and qrels go together.")
        if given:
            queries = [_vectors(where, name, arrays[name]) for name in JUDGED[:2]]
            if [q.shape for q in queries] != [(len(queries[0]), new.shape[1]), (len(queries[0]), old.shape[1])]:
                raise DataError(
                    f"{where}: queries_new and queries_old must have the columns of new and old, and a row "
                    "for each query."
                )
            return cls(new, old, *queries, qrels=_qrels(where, arrays["qrels"], len(queries[0]), len(new)))
        label = arrays.get("label")
        if label is not None and label.shape != (len(new),):
            raise DataError(f"{where}: label must have one class for each of the {len(new)} pairs, got {label.shape}.")
        return cls(new, old, new, old, label=label)

    @property
    def judged(self) -> bool:
        """Whether anybody says which items answer a query; otherwise its own old vector is what it is to find."""
        return self.qrels is not None or self.label is not None

    def answers(self, query: int) -> dict[int, float]:
        """The gains of the items that answer a query."""
        if self.qrels is not None:
            return self.qrels.get(query, {})
        if self.label is None:
            return {query: 1.0}
        same = np.flatnonzero(self.label == self.label[query])
        return dict.fromkeys(same[same != query].tolist(), 1.0)

    def folds(self, number: int, calibration: int, seed: int) -> list[Fold]:
        """Queries in `number` parts, each with pairs of other items to fit maps to."""
        rng, items = np.random.default_rng(seed), np.arange(len(self.new))
        parts = np.array_split(rng.permutation(self._answered()), number)
        if min(map(len, parts)) < 1:
            raise DataError(f"there are fewer queries with an answer than the {number} folds; lower folds={number}.")
        found = []
        for part in parts:
            others = items if self.qrels is not None else np.setdiff1d(items, part)
            size = min(calibration, len(others) * 3 // 4)  # not so many that all folds have the same
            pairs = rng.permutation(others)[:size]
            found.append(Fold(self, part[:QUERIES], self.new[pairs], self.old[pairs], seed))
        return found

    def _answered(self) -> Int[np.ndarray, " queries"]:
        """Queries that have something to find."""
        if self.qrels is not None:
            return np.array([query for query in range(len(self.queries_new)) if self.qrels.get(query)], np.int64)
        if self.label is None:
            return np.arange(len(self.new))
        _, codes, counts = np.unique(self.label, return_inverse=True, return_counts=True)
        return np.flatnonzero(counts[codes] > 1)


@dataclass(frozen=True)
class Fold:
    """Queries, and pairs of items to fit maps to."""

    gallery: Gallery
    queries: Int[np.ndarray, " queries"]
    X: Float[np.ndarray, "pairs d_new"]
    """The new vectors of the pairs."""
    Y: Float[np.ndarray, "pairs d_old"]
    """The old ones."""
    seed: int

    @property
    def new(self) -> np.ndarray:
        """The queries by the new model."""
        return self.gallery.queries_new[self.queries]

    @cached_property
    def upgrade(self) -> EmbeddingUpgrade:
        """Fitted to the pairs."""
        return EmbeddingUpgrade(random_state=self.seed).fit(self.X, self.Y)

    def scores(self, queries: np.ndarray, gallery: np.ndarray) -> dict[str, float]:
        """How well vectors for the queries find their answers among those of all items; where items are queries and
        classes the judgement, none finds itself."""
        alone = self.gallery.label is not None
        ranked = nearest_rows(queries, gallery, DEEP + alone)
        if alone:
            ranked = np.stack([row[row != own][:DEEP] for row, own in zip(ranked, self.queries, strict=True)])
        names = self.queries.tolist()
        found = text_scores(ranked, names, {query: self.gallery.answers(query) for query in names})
        return {NDCG: found.ndcg_10, RECALL: found.recall_100, MRR: found.mrr_10}


def _vectors(where: str, name: str, values: np.ndarray) -> np.ndarray:
    try:
        return unit(check_vectors(name, values))
    except ValueError as error:
        raise DataError(f"{where}: {error}") from None


def _qrels(where: str, rows: np.ndarray, queries: int, items: int) -> dict[int, dict[int, float]]:
    """From lines (query, item) or (query, item, gain), by row numbers from 0."""
    if rows.ndim != 2 or rows.shape[1] not in (2, 3):
        raise DataError(f"{where}: qrels must have the columns query, item and perhaps gain, got {rows.shape}.")
    found: dict[int, dict[int, float]] = {}
    for number, (query, item, *gain) in enumerate(rows.tolist()):
        if query not in range(queries) or item not in range(items):
            raise DataError(
                f"{where}: row {number} of qrels names query {query:g} and item {item:g}; there are "
                f"{queries} queries and {items} items, counted from 0."
            )
        if not gain or gain[0] > 0:
            found.setdefault(int(query), {})[int(item)] = float(gain[0]) if gain else 1.0
    return found
