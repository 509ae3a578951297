"""The nested search over order, lag and classifier, with what candidates share computed once.

For each (order, lag): the covariances once; for each inner fold the mean and the tangent vectors once, on the inner
training part alone, starting from the mean of all; for each kernel its values once, for all costs C.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float64
from joblib import Parallel, delayed
from sklearn.base import BaseEstimator, clone
from sklearn.svm import SVC

from linmap.errors import ArgumentError
from linmap.geometry.delays import Drop, Window, window
from linmap.signals.acm.estimation import (
    FROM_SCATTER,
    UNSHRUNK,
    Estimator,
    augmented_covariances,
    from_scatter,
    scatter,
)
from linmap.signals.acm.svm import Kernel, gram, scale_gamma
from linmap.signals.acm.tangent import exponential, logarithms, mean_and_logarithms, one_thread, roots, vectors

Split = tuple[np.ndarray, np.ndarray]
Scorer = Callable[[Any, np.ndarray, np.ndarray], float]
START_TOLERANCE = 1e-3  # of the mean that those of the folds start from


@dataclass(frozen=True)
class Candidate:
    """One point of the grid."""

    order: int
    lag: int
    C: float | None = None
    kernel: Kernel | None = None

    @property
    def size(self) -> tuple[int, int]:
        """What is preferred among equals: the shortest memory, then the smallest matrix."""
        return self.order * self.lag, self.order


@dataclass(frozen=True)
class Searched:
    """The scores of all candidates, in the order in which they are preferred among equals."""

    candidates: list[Candidate]
    scores: Float64[np.ndarray, "candidates folds"]

    @property
    def best(self) -> Candidate:
        """The highest mean score; among equals (to rounding) the first."""
        return self.candidates[int(np.argmax(self.scores.mean(1).round(12)))]

    def results(self) -> dict[str, Any]:
        """In the form of scikit-learn's `cv_results_`."""
        means = self.scores.mean(1)
        results: dict[str, Any] = {
            f"param_{name}": np.array([getattr(candidate, name) for candidate in self.candidates])
            for name in ("order", "lag", "C", "kernel")
        }
        results["params"] = [vars(candidate) for candidate in self.candidates]
        results |= {f"split{fold}_test_score": self.scores[:, fold] for fold in range(self.scores.shape[1])}
        results |= {"mean_test_score": means, "std_test_score": self.scores.std(1)}
        results["rank_test_score"] = 1 + (means.round(12) > means.round(12)[:, None]).sum(1)
        return results


def order_lag_grid(
    orders: Sequence[int], lags: Sequence[int], n_channels: int, n_times: int, estimator: Estimator, drop: Drop
) -> list[tuple[int, int]]:
    """The admissible pairs, smallest memory first; order 1 once, for its lag is without effect.

    Without shrinkage a pair needs 2 * order * channels samples.

    Raises
    ------
    ValueError
        If none is left.
    """
    pairs = sorted(
        {(o, l if o > 1 else 1) for o in orders for l in lags}, key=lambda pair: (pair[0] * pair[1], pair[0])
    )
    least = 2 * n_channels if estimator in UNSHRUNK else 0
    admissible = [
        (o, l) for o, l in pairs if o == 1 or (o * l < n_times and window(n_times, o, l, drop=drop).length >= least * o)
    ]
    if not admissible:
        raise ArgumentError(
            f"no order of {list(orders)} and lag of {list(lags)} fits epochs of {n_times} samples and {n_channels} "
            f"channels with estimator={estimator!r}; offer smaller ones, or use estimator='oas'."
        )
    return admissible


def search(
    X: Float64[np.ndarray, "epochs channels times"],
    y: np.ndarray,
    splits: Sequence[Split],
    pairs: Sequence[tuple[int, int]],
    head: BaseEstimator | Sequence[tuple[float, Kernel]],
    scorer: Scorer,
    *,
    estimator: Estimator = "oas",
    drop: Drop = "official",
    common_window: bool = False,
    n_jobs: int | None = None,
) -> Searched:
    """Score every candidate on every inner fold.

    Parameters
    ----------
    X, y
        Training epochs alone, and their classes.
    splits
        Rows of the inner training and test parts.
    pairs
        Orders and lags, as `order_lag_grid` sorts them.
    head
        The (C, kernel) of support vector machines in tangent space, or any classifier of covariances.
    scorer
        As scikit-learn's.
    common_window
        Estimate all orders of a lag on the samples of the largest, which makes their matrices blocks of one.
    """

    def scores(matrices: np.ndarray) -> np.ndarray:
        if isinstance(head, BaseEstimator):
            return np.array([[_score(clone(head), matrices, y, split, scorer) for split in splits]])
        return _svm_scores(matrices, y, splits, head, scorer)

    heads: Sequence[tuple[float | None, Kernel | None]] = [(None, None)] if isinstance(head, BaseEstimator) else head
    with one_thread():
        tables: Any = Parallel(n_jobs=n_jobs, prefer="threads")(
            delayed(lambda matrices: scores(matrices()))(matrices)
            for matrices in _matrices(X, pairs, estimator, drop, common_window)
        )
    candidates = [Candidate(o, l, C, kernel) for o, l in pairs for C, kernel in heads]
    return Searched(candidates, np.concatenate(list(tables)))


def _matrices(
    X: np.ndarray, pairs: Sequence[tuple[int, int]], estimator: Estimator, drop: Drop, common_window: bool
) -> Iterator[Callable[[], np.ndarray]]:
    """The covariances of each pair, computed when called."""
    n_times, c = X.shape[-1], X.shape[1]
    if not common_window:
        for o, l in pairs:
            yield lambda o=o, l=l: augmented_covariances(X, window(n_times, o, l, drop=drop), estimator)
        return
    if estimator not in FROM_SCATTER:
        raise ArgumentError(f"common_window=True needs an estimator of {', '.join(FROM_SCATTER)}, got {estimator!r}.")
    largest = {l: max(o for o, lag in pairs if lag == l) for _, l in pairs}
    shared: dict[int, tuple[Window, np.ndarray]] = {}
    for o, l in pairs:
        if l not in shared:
            chosen = window(n_times, largest[l], l, drop=drop)
            shared[l] = chosen, scatter(X, chosen)
        chosen, sums = shared[l]
        yield lambda sums=sums[:, : o * c, : o * c], chosen=chosen: from_scatter(
            sums.copy(), chosen.length, str(estimator)
        )


def _score(head: Any, matrices: np.ndarray, y: np.ndarray, split: Split, scorer: Scorer) -> float:
    train, test = split
    return float(scorer(head.fit(matrices[train], y[train]), matrices[test], y[test]))


def _svm_scores(
    matrices: np.ndarray, y: np.ndarray, splits: Sequence[Split], grid: Sequence[tuple[float, Kernel]], scorer: Scorer
) -> Float64[np.ndarray, "heads folds"]:
    """The scores of all machines of one (order, lag)."""
    start = tangents = None
    if len(splits) > 1:
        start, tangents = mean_and_logarithms(matrices, tolerance=START_TOLERANCE)
    scores = np.empty((len(grid), len(splits)))
    for fold, (train, test) in enumerate(splits):
        first = None if start is None or tangents is None else exponential(start, tangents[train].mean(0))
        mean, W = mean_and_logarithms(matrices[train], first)
        known, new = vectors(W), vectors(logarithms(matrices[test], roots(mean)[1]))
        gamma = scale_gamma(known)
        kernels = {kernel: (gram(known, known, kernel, gamma), gram(new, known, kernel, gamma)) for _, kernel in grid}
        for i, (C, kernel) in enumerate(grid):
            among, across = kernels[kernel]
            scores[i, fold] = scorer(
                SVC(C=C, kernel="precomputed", random_state=0).fit(among, y[train]), across, y[test]
            )
    return scores
