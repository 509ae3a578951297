"""Galleries of old and new vectors: one search over both."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Int
from sklearn.linear_model import LogisticRegression

from linmap.errors import ArgumentError
from linmap.retrieve.bt2.pairs import unit

Fusion = Literal["compatible", "calibrated"]
NEIGHBOURS, CALIBRATION_ROWS, LEAST_SLOPE = 10, 500, 1e-6


@dataclass(frozen=True)
class Calibration:
    """What a score says: slope * score + intercept is the log odds that the new model counts the item as a neighbour.

    A neighbour is one of the ten nearest among the items of the calibration. So scores against old vectors, which tell
    less, can be ranked together with scores against new ones.
    """

    old: tuple[float, float]
    """Slope and intercept for cosines of queries and old vectors."""
    new: tuple[float, float]
    """The same for cosines of new vectors among themselves."""


def calibrate(
    queries: Float[np.ndarray, "pairs d_old"],
    X: Float[np.ndarray, "pairs width"],
    Y: Float[np.ndarray, "pairs d_old"],
) -> Calibration:
    """Logistic regressions of "is among the nearest in X" on both kinds of scores, each item a query of all others.

    Parameters
    ----------
    queries
        Unit vectors that X was turned into to meet old vectors, by a map that was not fitted to these pairs.
    X, Y
        Unit vectors of the same items, new and old; the first 500 are used.
    """
    queries, X, Y = (part[:CALIBRATION_ROWS] for part in (queries, X, Y))
    n = len(X)
    if n < 3:
        return Calibration((1.0, 0.0), (1.0, 0.0))
    others = ~np.eye(n, dtype=bool)
    against_old, against_new = ((a @ b.T)[others].reshape(n, n - 1) for a, b in ((queries, Y), (X, X)))
    count = max(1, min(NEIGHBOURS, n // 10))
    neighbours = against_new >= np.partition(against_new, -count, axis=1)[:, [-count]]
    return Calibration(*(_log_odds(scores.ravel(), neighbours.ravel()) for scores in (against_old, against_new)))


def _log_odds(scores: Float[np.ndarray, " pairs"], hits: Bool[np.ndarray, " pairs"]) -> tuple[float, float]:
    mean, std = scores.mean(), scores.std() or 1.0
    fitted = LogisticRegression().fit(((scores - mean) / std)[:, None], hits)
    slope = max(float(fitted.coef_[0, 0]), LEAST_SLOPE) / std  # never the wrong way round
    return float(slope), float(fitted.intercept_[0] - slope * mean)


def mixed_scores(
    q: Float[np.ndarray, "queries width"],
    old: Float[np.ndarray, "gallery d_old"],
    new: Float[np.ndarray, "gallery width"],
    upgraded: Bool[np.ndarray, " gallery"],
    fuse: Fusion = "compatible",
    calibration: Calibration | None = None,
    offset: Float[np.ndarray, " d_old"] | None = None,
) -> Float[np.ndarray, "queries gallery"]:
    """Scores of a gallery whose rows are the new vectors where `upgraded`, the old ones elsewhere.

    "compatible" compares the first d_old coordinates, as unit vectors, with every row, so that all scores are cosines
    in the old space and one index serves; but new rows, being of the query's own model, come out too high, and a small
    backfill can lose. A gallery that is upgraded altogether is searched with all coordinates. "calibrated" takes all
    coordinates of every new row, and turns the scores of both kinds into log odds (see `Calibration`).

    Parameters
    ----------
    q, new
        Queries and gallery as `EmbeddingUpgrade.transform` gives them.
    old
        The old vectors of the gallery.
    upgraded
        Which rows have new vectors.
    fuse
        "compatible" or "calibrated".
    calibration, offset
        `EmbeddingUpgrade.calibration_` and `EmbeddingUpgrade.query_offset()`.

    Raises
    ------
    ValueError
        If "calibrated" has no calibration, or the widths do not fit.
    """
    if fuse not in ("compatible", "calibrated"):
        raise ArgumentError(f"fuse must be 'compatible' or 'calibrated', got {fuse!r}.")
    if q.shape[1] != new.shape[1] or len(old) != len(new) or len(upgraded) != len(new):
        raise ArgumentError(
            f"queries and new rows need one width, and old, new and upgraded one length; got the shapes {q.shape}, "
            f"{new.shape}, {old.shape} and {upgraded.shape}."
        )
    if fuse == "calibrated" and calibration is None:
        raise ArgumentError("fuse='calibrated' needs a calibration: `EmbeddingUpgrade.fit` leaves one.")
    d_old = old.shape[1]
    offset = np.zeros(d_old) if offset is None else offset
    compatible = unit(q[:, :d_old] + offset)
    old_part = compatible @ unit(old[~upgraded]).T
    if fuse == "calibrated" or upgraded.all():
        new_part = unit(q) @ unit(new[upgraded]).T
    else:
        new_part = compatible @ unit(new[upgraded, :d_old] + offset).T
    if fuse == "calibrated" and calibration is not None:
        old_part = calibration.old[0] * old_part + calibration.old[1]
        new_part = calibration.new[0] * new_part + calibration.new[1]
    scores = np.empty((len(q), len(old)))
    scores[:, ~upgraded], scores[:, upgraded] = old_part, new_part
    return scores


def search_mixed(
    q: Float[np.ndarray, "queries width"],
    old: Float[np.ndarray, "gallery d_old"],
    new: Float[np.ndarray, "gallery width"],
    upgraded: Bool[np.ndarray, " gallery"],
    k: int = 10,
    fuse: Fusion = "compatible",
    calibration: Calibration | None = None,
    offset: Float[np.ndarray, " d_old"] | None = None,
) -> tuple[Int[np.ndarray, "queries k"], Float[np.ndarray, "queries k"]]:
    """Rows and scores of the k best of a mixed gallery, best first; see `mixed_scores`."""
    scores = mixed_scores(q, old, new, upgraded, fuse, calibration, offset)
    rows = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return rows, np.take_along_axis(scores, rows, 1)
