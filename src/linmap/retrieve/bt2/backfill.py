"""Embedding a gallery again, part by part: the quality on the way from old to new, and whether it is worth it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Float, Int

from linmap.data.arrays import array_of
from linmap.errors import ArgumentError
from linmap.retrieve.bt2.mixed import Fusion, search_mixed
from linmap.retrieve.bt2.upgrade import EmbeddingUpgrade

Order = Literal["random", "least similar first"]


@dataclass(frozen=True)
class BackfillCurve:
    """A metric against the fraction of the gallery that has been embedded again."""

    order: Order
    fractions: list[float]
    values: list[float]

    def fraction_for(self, share: float) -> float:
        """The first fraction with `share` of the way from the first value to the last one."""
        wanted = self.values[0] + share * (self.values[-1] - self.values[0])
        return next(f for f, value in zip(self.fractions, self.values, strict=True) if value >= wanted - 1e-12)


def backfill_curve(
    upgrade: EmbeddingUpgrade,
    X_query: Any,
    X_gallery: Any,
    Y_gallery: Float[np.ndarray, "gallery d_old"],
    metric: Callable[[Int[np.ndarray, "queries gallery"]], float],
    fractions: Sequence[float] = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0),
    order: Order = "random",
    fuse: Fusion = "calibrated",
    random_state: int = 0,
) -> BackfillCurve:
    """The metric of mixed galleries; fraction 0 is new against old, fraction 1 is new against new.

    `metric` gets the rows of the gallery, best first, for each query. "least similar first" embeds again those items
    first whose old vectors, by `EmbeddingUpgrade.predicted_similarity`, the new queries meet worst.
    """
    q, new = upgrade.transform(X_query), upgrade.transform(X_gallery)
    old = array_of(Y_gallery).astype(np.float64)
    if order == "random":
        ranking = np.random.default_rng(random_state).permutation(len(old))
    elif order == "least similar first":
        ranking = np.argsort(upgrade.predicted_similarity(old), kind="stable")
    else:
        raise ArgumentError(f"order must be 'random' or 'least similar first', got {order!r}.")
    values = []
    for fraction in fractions:
        if not 0 <= fraction <= 1:
            raise ArgumentError(f"fractions must lie in [0, 1], got {fraction}.")
        upgraded = np.zeros(len(old), bool)
        upgraded[ranking[: round(fraction * len(old))]] = True
        found = search_mixed(q, old, new, upgraded, len(old), fuse, upgrade.calibration_, upgrade.query_offset())
        values.append(metric(found[0]))
    return BackfillCurve(order, list(fractions), values)


def verdict(old_old: float, new_old: float, new_new: float, metric: str = "nDCG@10") -> str:
    """Whether the upgrade is worth it, with and without embedding the gallery again, in plain words."""
    figures = f"{metric}: {old_old:.3f} before, {new_old:.3f} with new queries on the old gallery, {new_new:.3f} after embedding the whole gallery again."  # noqa: E501
    if new_new <= old_old:
        return f"Do not upgrade: the new model is no better here. {figures}"
    share = (new_old - old_old) / (new_new - old_old)
    if share < 0:
        advice = "Upgrade only with a backfill: until the gallery is embedded again, searches get worse"
    elif share < 0.2:
        advice = "Safe to switch today, but nearly all the gain needs the backfill"
    else:
        advice = f"Worth it without a backfill: switching the queries alone brings {share:.0%} of the gain"
    return f"{advice}. {figures}"
