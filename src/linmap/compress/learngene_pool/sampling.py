"""Which configurations a step of pool tuning trains: a pure function of the step, so that runs resume exactly."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from linmap.errors import ArgumentError

SAMPLERS = ("uniform", "budget", "sandwich")
BINS = 5  # of "budget"


def draw(
    step: int, n: int, *, sampler: str = "uniform", seed: int = 0, macs: Sequence[float] | None = None
) -> tuple[int, ...]:
    """The ids that a step trains; every process of a run draws the same.

    Parameters
    ----------
    step
        Optimiser steps done.
    n
        Number of ids.
    sampler
        "uniform": one id, as in the paper. "budget": one id, flat over MACs, after SN-Netv2: of five bins of equal
        width between the least and the most MACs, one that is not empty, then one of its ids. "sandwich": the least
        MACs, the most MACs, and one at random.
    seed
        Of the draws.
    macs
        Of each id, for "budget" and "sandwich".

    Raises
    ------
    ValueError
        If the sampler is unknown, a number is out of its range, or `macs` is missing or has another length.
    """
    if sampler not in SAMPLERS:
        raise ArgumentError(f"sampler={sampler!r} must be one of {', '.join(SAMPLERS)}.")
    if n < 1 or step < 0 or seed < 0:
        raise ArgumentError(f"step={step} and seed={seed} must not be negative, and n={n} must be at least 1.")
    random = np.random.default_rng([seed, step])
    if sampler == "uniform":
        return (int(random.integers(n)),)
    if macs is None or len(macs) != n:
        raise ArgumentError(f"sampler={sampler!r} needs macs, one of each of the {n} ids; got {macs}.")
    cost = np.asarray(macs, dtype=float)
    if sampler == "sandwich":
        return int(cost.argmin()), int(cost.argmax()), int(random.integers(n))
    bins = bins_of(cost)
    chosen = random.choice(np.unique(bins))
    return (int(random.choice(np.flatnonzero(bins == chosen))),)


def bins_of(cost: np.ndarray) -> np.ndarray:
    """The bin of each cost: `BINS` of equal width between the least and the most; the most is in the last."""
    least, most = cost.min(), cost.max()
    if most == least:
        return np.zeros(len(cost), dtype=int)
    return np.minimum(((cost - least) / (most - least) * BINS).astype(int), BINS - 1)
