"""Order and lag by maximising derivatives on projection (MDOP; Nichkawde 2013), without labels.

Cycle by cycle the embedding Y gains the delayed channel along which neighbours in Y are torn apart most; it ends when
adding one leaves few false neighbours, or more of them than before.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float64

from linmap.errors import ArgumentError
from linmap.signals.acm.neighbours import first_minimum, nearest, self_mutual_information

THEILER_LAGS = 100
FALSE_NEIGHBOURS, GROWTH, CYCLES = 0.05, 2.0, 50


@dataclass(frozen=True)
class Delays:
    """What MDOP finds for one epoch."""

    delays: tuple[int, ...]
    """The initial 0 and all delays that were chosen but the last."""
    channels: tuple[int, ...]
    """The channel of each."""
    false_neighbours: tuple[float, ...]
    """Share of false neighbours after each cycle."""

    @property
    def order(self) -> int:
        return len(self.delays)

    @property
    def lag(self) -> int:
        """The mean delay, rounded, ties to even."""
        return round(float(np.mean(self.delays)))


def mdop(
    epoch: Float64[np.ndarray, "channels times"],
    max_delay: int = 50,
    theiler: int | Literal["mi"] = "mi",
    threshold: float = FALSE_NEIGHBOURS,
) -> Delays:
    """The delays that unfold one epoch.

    Parameters
    ----------
    epoch
        Channels are standardised (mean 0, standard deviation 1) first.
    max_delay
        Delays 0 to this many samples are tried; at most half the epoch.
    theiler
        Neighbours nearer in time than this do not count; "mi": the largest first minimum of the channels' mutual
        information with themselves.
    threshold
        Share of false neighbours at which the embedding is good enough.

    Raises
    ------
    ValueError
        If a channel is constant, or the epoch is too short for neighbours.
    """
    deviation = epoch.std(-1, ddof=1, keepdims=True)
    if not (deviation > 0).all():
        raise ArgumentError(f"channel {int(np.argmin(deviation))} is constant; drop it.")
    S = (epoch - epoch.mean(-1, keepdims=True)) / deviation
    n_times = S.shape[-1]
    max_delay = min(max_delay, n_times // 2)
    w = theiler_window(S) if theiler == "mi" else theiler
    if n_times - max_delay <= 2 * w + 2:
        raise ArgumentError(
            f"epochs of {n_times} samples are too short for delays up to {max_delay} and a Theiler window "
            f"of {w}; lower max_delay or give theiler a smaller number."
        )
    first, channel, delay = _first_choice(S, max_delay, w)
    Y = S[first][:, None]
    channels, delays, shares = [first], [0], []
    _, before = nearest(Y, w)
    while True:
        Y = joined(Y, S[channel], delay)
        channels.append(channel)
        delays.append(delay)
        _, after = nearest(Y, w)
        shares.append(false_neighbours(before[: len(Y)], after))
        ended = shares[-1] <= threshold or len(shares) == CYCLES
        if ended or (len(shares) > 1 and shares[-1] > shares[-2]) or len(Y) - max_delay <= 2 * w + 2:
            break
        before = after
        beta = beta_statistic(Y, S, max_delay, w)
        channel, delay = (int(i) for i in np.unravel_index(np.argmax(beta), beta.shape))
    return Delays(tuple(delays[:-1]), tuple(channels[:-1]), tuple(shares))


def theiler_window(S: Float64[np.ndarray, "channels times"]) -> int:
    """The largest first minimum of the channels' mutual information with themselves, in samples."""
    n_times = S.shape[-1]
    lags = THEILER_LAGS if n_times > THEILER_LAGS else max(1, n_times // 4)
    return max(1 + first_minimum(self_mutual_information(channel, lags)) for channel in S)


def _first_choice(S: Float64[np.ndarray, "channels times"], max_delay: int, theiler: int) -> tuple[int, int, int]:
    """The channel to begin with, the channel to add, and its delay."""
    beta = np.stack([beta_statistic(channel[:, None], S, max_delay, theiler) for channel in S])
    i, k, tau = np.unravel_index(np.argmax(beta), beta.shape)
    return int(i), int(k), int(tau)


def beta_statistic(
    Y: Float64[np.ndarray, "points dims"],
    S: Float64[np.ndarray, "channels times"],
    max_delay: int = 50,
    theiler: int = 1,
) -> Float64[np.ndarray, "channels delays"]:
    """Mean over points j of log10 |s(j + tau) - s(n_j + tau)| / |Y_j - Y_{n_j}|, n_j being j's nearest neighbour in Y.

    For every channel s and tau = 0 to `max_delay`. Pairs whose distance is 0 on either side, as in quantised signals,
    do not count.
    """
    n = len(Y) - max_delay
    index, distance = nearest(Y[:n], theiler)
    apart = np.isfinite(distance) & (distance > 0)
    here, there, distance = np.flatnonzero(apart), index[apart], distance[apart]
    beta = np.full((len(S), max_delay + 1), -np.inf)
    for tau in range(max_delay + 1):
        ratio = np.abs(S[:, here + tau] - S[:, there + tau]) / distance
        torn = ratio > 0
        logarithm = np.log10(ratio, where=torn, out=np.zeros_like(ratio))
        counts = torn.sum(1)
        beta[:, tau] = np.where(counts, logarithm.sum(1) / np.maximum(counts, 1), -np.inf)
    return beta


def joined(
    Y: Float64[np.ndarray, "points dims"], s: Float64[np.ndarray, " times"], delay: int
) -> Float64[np.ndarray, "shorter more"]:
    """Y with the column s(t + delay), over the times that both have."""
    n = min(len(Y), len(s) - delay)
    return np.column_stack([Y[:n], s[delay : delay + n]])


def false_neighbours(
    before: Float64[np.ndarray, " points"], after: Float64[np.ndarray, " points"], growth: float = GROWTH
) -> float:
    """Among points nearer than 1 / growth to their neighbour, the share whose distance grew by more than `growth`.

    1 where there is none, as in DelayEmbeddings.jl.
    """
    near = (before < 1 / growth) & (before > 0)
    false = (after[near] > growth * before[near]).sum()
    return float(false / near.sum()) if false else 1.0
