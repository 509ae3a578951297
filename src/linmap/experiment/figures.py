"""Figures of several runs: mean ± std, paired differences with an interval, and rankings."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from linmap.errors import ArgumentError

LEVEL = 0.95
MANY, RESAMPLES = 30, 2000
"""From so many pairs on, the interval is a bootstrap's; and how many times it draws."""


def mean_std(values: Sequence[float], digits: int = 3) -> str:
    """`mean ± std` over runs, `mean` alone for one, and "—" without any or where one is not finite."""
    if not values or not all(map(math.isfinite, values)):
        return "—"
    mean = f"{statistics.fmean(values):,.{digits}f}"
    return f"{mean} ± {statistics.stdev(values):,.{digits}f}" if len(values) > 1 else mean


@dataclass(frozen=True)
class Difference:
    """A mean difference of pairs, with its interval of 95 %."""

    mean: float
    low: float
    """Lower end; NaN with one pair, which tells nothing about chance."""
    high: float
    n: int
    """Pairs."""
    wins: int
    """Pairs whose difference is above zero."""

    @property
    def certain(self) -> bool:
        """Whether the interval leaves zero out."""
        return self.low > 0 or self.high < 0

    def text(self, digits: int = 3) -> str:
        """`+0.012 (-0.003 to +0.027)`, or the mean alone where there is no interval."""
        if not math.isfinite(self.low):
            return f"{self.mean:+.{digits}f}"
        return f"{self.mean:+.{digits}f} ({self.low:+.{digits}f} to {self.high:+.{digits}f})"


def paired(
    ours: Sequence[float] | np.ndarray, theirs: Sequence[float] | np.ndarray, overlap: float = 0.0, seed: int = 0
) -> Difference:
    """The mean of `ours - theirs` over runs that share a seed, a fold or a test sample.

    Parameters
    ----------
    ours, theirs
        A value for each pair, (n,).
    overlap
        Test samples over training samples where the pairs are folds of one cross-validation, whose training sets
        overlap: the variance is then that of Nadeau and Bengio (2003), (1/n + overlap) instead of 1/n.
    seed
        Of the bootstrap.

    Returns
    -------
    Difference
        With Student's interval for fewer than 30 pairs or folds, otherwise with the percentiles of a bootstrap.

    Raises
    ------
    ValueError
        If the two do not have the same number of values, or none.
    """
    if len(ours) != len(theirs) or not len(ours):
        raise ArgumentError(f"ours and theirs must be pairs, got {len(ours)} and {len(theirs)} values.")
    gaps = np.asarray(ours, float) - np.asarray(theirs, float)
    n, mean, wins = len(gaps), float(gaps.mean()), int((gaps > 0).sum())
    if n == 1 or not np.isfinite(gaps).all():
        return Difference(mean, math.nan, math.nan, n, wins)
    if n >= MANY and not overlap:
        rows = np.random.default_rng(seed).integers(n, size=(RESAMPLES, n))
        low, high = np.percentile(gaps[rows].mean(1), (50 * (1 - LEVEL), 50 * (1 + LEVEL)))
        return Difference(mean, float(low), float(high), n, wins)
    from scipy.special import stdtrit  # of Student's distribution; scipy.stats takes a second to import

    half = float(stdtrit(n - 1, (1 + LEVEL) / 2) * math.sqrt((1 / n + overlap) * gaps.var(ddof=1)))
    return Difference(mean, mean - half, mean + half, n, wins)


def differ(
    ours: Sequence[float] | np.ndarray, theirs: Sequence[float] | np.ndarray | float, overlap: float = 0.0
) -> bool:
    """Whether two methods, or a method and a number, differ by more than chance, as `paired` says; no where nothing
    tells: without pairs, or with one."""
    theirs = np.full(len(ours), float(theirs)) if isinstance(theirs, int | float) else theirs
    return len(ours) == len(theirs) > 1 and paired(ours, theirs, overlap).certain


def ranking(means: Mapping[str, float], better: str) -> list[str]:
    """Names from the best to the worst; those without a finite value last.

    Parameters
    ----------
    means
        By name.
    better
        "lower" or "higher".
    """
    sign = 1 if better == "lower" else -1
    return sorted(means, key=lambda name: (not math.isfinite(means[name]), sign * means[name]))
