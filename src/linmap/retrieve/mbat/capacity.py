"""How much one vector holds: the probability that a leaf is read back, and the dimension that it takes.

L equal-weight ±1 leaves in D dimensions, N candidates. The true candidate scores 1 + s0 z, any other s1 z', with
s0 = sqrt((L-1)/D), s1 = sqrt(L/D) and standard normal z, z'.
"""

from __future__ import annotations

import math

import numpy as np
from scipy.special import log_ndtr, ndtri

from linmap.errors import ArgumentError


def capacity(dim: int, leaves: int, candidates: int) -> float:
    """Probability of the right answer: the integral of phi(z) Phi((1 + s0 z) / s1)^(N-1) over z.

    Parameters
    ----------
    dim
        D.
    leaves
        L, leaves of the document.
    candidates
        N, values to choose from, the right one among them.

    Raises
    ------
    ValueError
        If one of them is less than 1.
    """
    for name, value in (("dim", dim), ("leaves", leaves), ("candidates", candidates)):
        if value < 1:
            raise ArgumentError(f"{name} must be at least 1, got {value!r}.")
    s0, s1 = math.sqrt((leaves - 1) / dim), math.sqrt(leaves / dim)
    # The integrand is smooth and vanishes at ±10: the trapezoidal rule converges faster than any power of the step.
    z = np.linspace(-10, 10, 2001)
    log_density = -(z**2) / 2 - math.log(2 * math.pi) / 2
    integrand = np.exp(log_density + (candidates - 1) * log_ndtr((1 + s0 * z) / s1))
    return float(min(integrand.sum() * (z[1] - z[0]), 1.0))


def dimension_for(leaves: int, candidates: int, probability: float) -> int:
    """The smallest D with `capacity(D, leaves, candidates) >= probability`.

    Raises
    ------
    ValueError
        If the probability is not strictly between 0 and 1.
    """
    if not 0 < probability < 1:
        raise ArgumentError(f"probability must lie strictly between 0 and 1, got {probability!r}.")
    high = 1
    while capacity(high, leaves, candidates) < probability:
        high *= 2
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if capacity(middle, leaves, candidates) >= probability else (middle, high)
    return high


def smallest_significant_z(candidates: int, false_alarms: float = 1e-3) -> float:
    """z_min = Phi^-1(1 - false_alarms / N): with nothing at the path, the best of N scores passes it that rarely."""
    return float(-ndtri(min(false_alarms / candidates, 1.0)))
