"""Order by averaged false neighbours (Cao 1997), lag by mutual information (Fraser and Swinney 1986)."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float64

from linmap.errors import ArgumentError
from linmap.signals.acm.neighbours import first_minimum, self_mutual_information

MAX_LAG, MAX_ORDER = 30, 30
LEAST_POINTS = 20  # of an embedding whose neighbours are looked at


def afnn_curves(
    X: Float64[np.ndarray, "epochs channels times"],
) -> tuple[Float64[np.ndarray, "epochs lags"], Float64[np.ndarray, "epochs orders"]]:
    """Mutual information for lags 1 to 30 and Cao's E1 for orders 1 to 30, means over the channels of each epoch.

    E1 uses each channel's own first minimum of the mutual information as its lag; NaN where an epoch is too short.

    Raises
    ------
    ValueError
        If epochs are too short for either.
    """
    max_lag = min(MAX_LAG, X.shape[-1] // 4)
    if max_lag < 3:
        raise ArgumentError(
            f"epochs of {X.shape[-1]} samples are too short for averaged false neighbours; use at least 12."
        )
    information = np.array([[self_mutual_information(channel, max_lag) for channel in epoch] for epoch in X])
    ratios = np.array(
        [
            [cao_ratios(channel, 1 + first_minimum(curve)) for channel, curve in zip(epoch, curves, strict=True)]
            for epoch, curves in zip(X, information, strict=True)
        ]
    )
    counted = np.isfinite(ratios).all(1)
    return information.mean(1), np.where(counted, np.nan_to_num(ratios).mean(1), np.nan)


def cao_ratios(
    x: Float64[np.ndarray, " times"], lag: int, max_order: int = MAX_ORDER
) -> Float64[np.ndarray, " orders"]:
    """E1(d) = a(d + 1) / a(d) for d = 1 to `max_order`; NaN where the series is too short or neighbours coincide."""
    a = np.full(max_order + 1, np.nan)  # a(d): mean growth of the distance to the neighbour when a delay is added
    squared = np.zeros((len(x), len(x)))
    for d in range(1, max_order + 2):
        n = len(x) - d * lag
        if n < LEAST_POINTS:
            break
        last = x[(d - 1) * lag :][:n]
        squared = squared[:n, :n] + (last[:, None] - last) ** 2
        np.fill_diagonal(squared, np.inf)
        index = squared.argmin(1)
        distance = np.sqrt(squared[np.arange(n), index])
        added, apart = x[d * lag :], distance > 0
        growth = np.hypot(distance, added - added[index])[apart] / distance[apart]
        a[d - 1] = growth.mean() if len(growth) else np.nan
    return a[1:] / a[:-1]


def first_extremum(curve: Float64[np.ndarray, " values"], sign: int) -> int:
    """Index of the first inner maximum (sign 1) or minimum (sign -1); that of the largest or smallest where there is
    none."""
    held = sign * curve[np.isfinite(curve)]
    inner = np.flatnonzero((held[1:-1] > held[:-2]) & (held[1:-1] > held[2:]))
    return int(inner[0]) + 1 if len(inner) else int(np.argmax(held))
