"""How much the steps of a window correlate: the matrix R_t whose eigenvectors are the basis of OrthoTrans (section 1).

n: training rows, N: variates, t: window length, m = n - t + 1: windows.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd
from jaxtyping import Float64
from numpy.typing import ArrayLike
from scipy import fft

from linmap.data.arrays import array_of
from linmap.data.scaling import Standardiser
from linmap.errors import ArgumentError, ArgumentTypeError

Correlation = Literal["pearson", "official"]

CONSTANT = 1e-6  # deviation of one step over that of the whole variate, below which its windows are constant
COMPLEX = "Complex data not supported:"
OFFICIAL_CONSTANT = 1e-2  # the authors' bound, on the deviation in raw units


def temporal_correlation(X: ArrayLike, length: int, corr: Correlation | str = "pearson") -> Float64[np.ndarray, "t t"]:
    """Correlation between the steps of all windows of `length` rows, averaged over the variates.

    Lagged cross products obey S[a+1, b+1] = S[a, b] - x_a x_b + x_{a+m} x_{b+m}; with the first row from one FFT the
    matrix costs O(N (n log n + t²)) instead of the O(N n t²) of the lagged windows.

    Parameters
    ----------
    X
        Training rows, (n, N) or (n,); no NaN. Every variate may have its own unit and level.
    length
        Window length t; needs n >= t + 2.
    corr
        `"pearson"`: R_j[a, b] = cov_ab / sqrt(var_a var_b), the paper's definition. `"official"`: cov_ab / var_b, as
        the authors' program computes it; slightly asymmetric, and its eigenvectors are those of the lower triangle.

    Returns
    -------
    R of shape (t, t), float64.

    Raises
    ------
    ValueError
        If there are too few rows, values are missing or infinite, or every variate is constant.

    Warns
    -----
    UserWarning
        If a constant variate is left out of the average.

    Source: OLinear (arXiv 2505.08550), section 3; the authors' program for `"official"`.
    """
    rows, names = _rows(X)
    _check(rows, length, corr)
    upper, lower, used = np.zeros((length, length)), np.zeros((length, length)), 0  # [a, d]: R[a, a+d], R[a+d, a]
    for found in _of_each_variate(rows, names, length, corr):
        if found is not None:
            upper += found[0]
            lower = upper if found[1] is found[0] else lower + found[1]
            used += 1
    return _square(upper, lower) / used


def temporal_correlations(
    X: ArrayLike, length: int, corr: Correlation | str = "pearson"
) -> Float64[np.ndarray, "N t t"]:
    """The correlation of each variate by itself; that of a constant variate is the identity.

    Parameters, errors and warnings are those of `temporal_correlation`, which is the mean of these over the variates
    that vary.
    """
    rows, names = _rows(X)
    _check(rows, length, corr)
    return np.stack(
        [np.eye(length) if found is None else _square(*found) for found in _of_each_variate(rows, names, length, corr)]
    )


def _check(rows: np.ndarray, length: int, corr: str) -> None:
    if corr not in get_args(Correlation):
        raise ArgumentError(f"corr must be one of {', '.join(map(repr, get_args(Correlation)))}, got {corr!r}.")
    if length < 1:
        raise ArgumentError(f"length must be a positive number of steps, got {length}.")
    if len(rows) < length + 2:
        raise ArgumentError(
            f"need at least {length + 2} training rows to estimate a {length}-step correlation, got {len(rows)}; "
            "shorten the window or bring more rows."
        )


def _of_each_variate(
    rows: np.ndarray, names: np.ndarray, length: int, corr: str
) -> Iterator[tuple[np.ndarray, np.ndarray] | None]:
    """(R[a, a+d], R[a+d, a]) as [a, d] for each variate, one array twice where R is symmetric; None if constant."""
    skipped = []
    for name, x in zip(names, np.ascontiguousarray(rows.T), strict=True):
        scaler = Standardiser.fit(x[:, None])
        covariance = _lagged_covariance(scaler.standardise(x[:, None])[:, 0], length)
        variance = covariance[:, 0].copy()
        bound = OFFICIAL_CONSTANT / float(scaler.scale[0]) if corr == "official" else CONSTANT
        if variance.min() <= 0 or math.sqrt(variance.min()) <= bound:
            skipped.append(name)
            yield None
        elif corr == "official":
            yield covariance * _ahead(1 / variance, length), covariance / variance[:, None]
        else:
            precision = 1 / np.sqrt(variance)
            covariance *= precision[:, None]
            covariance *= _ahead(precision, length)
            yield covariance, covariance
    if len(skipped) == len(names):
        raise ArgumentError(
            f"all {len(names)} variates are constant in the training rows, so their steps have no correlation."
        )
    if skipped:
        warnings.warn(f"constant in the training rows, left out of the correlation: {', '.join(skipped)}", stacklevel=3)


def _square(upper: np.ndarray, lower: np.ndarray) -> np.ndarray:
    """The matrix with these diagonals, [a, d], above and below the main one."""
    return np.triu(_matrix(upper)) + np.triu(_matrix(lower), 1).T


def _lagged_covariance(x: np.ndarray, t: int) -> np.ndarray:
    """cov[a, a+d] (ddof 1) over the m = n - t + 1 windows of one variate, as [a, d]; meaningless where a + d >= t."""
    m = len(x) - t + 1
    x = x - x.mean()  # against cancellation in the sums below
    sums = np.cumsum(np.concatenate([[0.0], x]))
    mean = (sums[m:] - sums[:t]) / m
    covariance = _lagged_products(x, t)
    covariance -= m * mean[:, None] * _ahead(mean, t)
    covariance /= m - 1
    return covariance


def _lagged_products(x: np.ndarray, t: int) -> np.ndarray:
    """S[a, a+d] = sum_{i < m} x_{a+i} x_{a+d+i} as [a, d]: the first row from an FFT, the rest by the recursion."""
    m = len(x) - t + 1
    size = fft.next_fast_len(len(x), real=True)  # no lag below t wraps around
    ahead = _ahead(x, t)
    S = np.empty((t, t))
    spectra: list[Any] = [fft.rfft(rows, size) for rows in (x, x[:m])]
    product: Any = fft.irfft(spectra[0] * np.conj(spectra[1]), size)
    S[0] = product[:t]
    np.multiply(x[m:, None], ahead[m:], out=S[1:])
    S[1:] -= x[: t - 1, None] * ahead[: t - 1]
    for a in range(t - 1):
        S[a + 1] += S[a]
    return S


def _ahead(x: np.ndarray, t: int) -> np.ndarray:
    """The view [i, d] = x_{i+d}, d < t, with zeros past the end."""
    return np.lib.stride_tricks.sliding_window_view(np.concatenate([x, np.zeros(t - 1)]), t)


def _matrix(along: np.ndarray) -> np.ndarray:
    """The t x t matrix whose entry [a, a+d] is `along[a, d]`; its lower triangle is meaningless."""
    t = len(along)
    return np.pad(along, ((0, 0), (0, 1))).ravel()[: t * t].reshape(t, t)  # a (t + 1) + d = a t + (a + d)


def variate_correlation(X: ArrayLike) -> Float64[np.ndarray, "N N"]:
    """Pearson correlation C of the variates over the training rows, as `OLinear_C` mixes them.

    A constant variate correlates with nothing: its row and column are those of the identity.

    Parameters
    ----------
    X
        Training rows, (n, N), n >= 2; no NaN.
    """
    rows, _ = _rows(X)
    if len(rows) < 2:
        raise ArgumentError(f"need at least 2 training rows to correlate variates, got {len(rows)}.")
    centred = Standardiser.fit(rows).standardise(rows)
    norm = np.linalg.norm(centred, axis=0)
    constant = norm**2 < len(rows) / 2  # it is n but for a constant, which is 0 up to its rounding
    direction = np.where(constant, 0.0, centred / np.where(constant, 1.0, norm))
    C = np.clip(direction.T @ direction, -1.0, 1.0)
    np.fill_diagonal(C, 1.0)
    return C


def _rows(X: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """X as a finite (n, N) float64 array, and the variates' names."""
    names = [str(name) for name in X.columns] if isinstance(X, pd.DataFrame) else None
    rows = real_array(X, "training rows").astype(np.float64, copy=False)
    rows = rows[:, None] if rows.ndim == 1 else rows
    if rows.ndim != 2 or rows.size == 0:
        raise ArgumentError(f"X must hold training rows, (n_rows, n_variates), got shape {rows.shape}.")
    labels = np.array(names or [f"variate {j}" for j in range(rows.shape[1])], dtype=object)
    missing = (~np.isfinite(rows)).sum(0)
    if missing.any():
        counts = ", ".join(f"{label} ({count})" for label, count in zip(labels, missing, strict=True) if count)
        raise ArgumentError(f"X has NaN or infinite values in {counts}; fill or drop them first.")
    return rows, labels


def real_array(X: ArrayLike, what: str) -> np.ndarray:
    """X as an array of real floating numbers, in their own precision; ValueError where it is complex, TypeError where
    it is sparse."""
    if hasattr(X, "toarray"):
        raise ArgumentTypeError(f"sparse input is not supported: {what} must be a dense array; call toarray first.")
    array = array_of(X)
    if np.iscomplexobj(array):
        raise ArgumentError(f"{COMPLEX} got {what} of {array.dtype}; give the real and the imaginary part as variates.")
    return array if np.issubdtype(array.dtype, np.floating) else array.astype(np.float64)
