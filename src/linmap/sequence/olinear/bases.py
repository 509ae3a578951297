"""Orthonormal bases of a window that need no data, to compare OrthoTrans with; row k is the k-th basis vector."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Float64
from scipy import fft

from linmap.errors import ArgumentError

WAVELET = re.compile(r"(db|sym|coif)\d+")
LAGUERRE_SPAN = 8.0  # the window covers the weight exp(-x) on [0, 8]


def basis(name: str, length: int, seed: int = 0) -> Float64[np.ndarray, "t t"]:
    """An orthogonal matrix of basis vectors in rows, coarse to fine; the coefficients of x are `x @ Q.T`.

    Parameters
    ----------
    name
        `"identity"`; `"dct"` (orthonormal DCT-II); `"fft"` (real Fourier: constant, then cosine and sine of each
        frequency); `"haar"` (exact for every length: blocks are halved, the first half longer by one if need be);
        an orthogonal wavelet of PyWavelets such as `"db4"`, `"sym8"` or `"coif1"` (periodic at the window's ends);
        `"legendre"`, `"chebyshev"`, `"laguerre"` (polynomials times the root of their weight, orthonormal on the
        window's grid; Laguerre's weight decays into the past); `"random"` (Haar-distributed).
    length
        Window length t.
    seed
        Of `"random"`.

    Raises
    ------
    ValueError
        If there is no such basis, or `length` is not positive.
    """
    if length < 1:
        raise ArgumentError(f"length must be a positive number of steps, got {length}.")
    if name == "random":
        Q, R = np.linalg.qr(np.random.default_rng(seed).standard_normal((length, length)))
        return Q * np.sign(np.diag(R))
    if name in BASES:
        return BASES[name](length)
    if WAVELET.fullmatch(name):
        return _wavelet(name, length)
    raise ArgumentError(
        f"there is no basis {name!r}; choose from {', '.join((*BASES, 'random'))}, or a wavelet such as db4."
    )


def _dct(t: int) -> np.ndarray:
    return np.asarray(fft.dct(np.eye(t), type=2, norm="ortho", axis=0))


def _fourier(t: int) -> np.ndarray:
    coefficients = np.fft.rfft(np.eye(t), norm="ortho", axis=0)
    rows = np.empty((t, t))
    rows[0] = coefficients[0].real
    cosines, sines = coefficients.real[1:], -coefficients.imag[1:]
    rows[1::2] = np.sqrt(2) * cosines
    rows[2::2] = np.sqrt(2) * sines[: (t - 1) // 2]
    if t % 2 == 0 and t > 1:
        rows[-1] /= np.sqrt(2)  # the highest frequency has no sine
    return rows


def _haar(t: int) -> np.ndarray:
    rows, blocks = [np.full(t, 1 / np.sqrt(t))], [(0, t)]
    while blocks:  # breadth first: coarse to fine
        start, stop = blocks.pop(0)
        if stop - start < 2:
            continue
        middle = (start + stop + 1) // 2
        left, right = middle - start, stop - middle
        row = np.zeros(t)
        row[start:middle] = np.sqrt(right / (left * (left + right)))
        row[middle:stop] = -np.sqrt(left / (right * (left + right)))
        rows.append(row)
        blocks += [(start, middle), (middle, stop)]
    return np.stack(rows)


def _wavelet(name: str, t: int) -> np.ndarray:
    """The periodic wavelet transform, level by level while the coarse part is as long as the filter."""
    import pywt

    library: Any = pywt  # which declares no names
    known = library.wavelist(kind="discrete")
    if name not in known:
        raise ArgumentError(
            f"PyWavelets has no wavelet {name!r}; it has {', '.join(filter(WAVELET.fullmatch, known))}."
        )
    wavelet, coarse, details = library.Wavelet(name), np.eye(t), []
    while len(coarse) > 1 and len(coarse) >= wavelet.dec_len:
        even = len(coarse) - len(coarse) % 2
        approximation, detail = pywt.dwt(coarse[:even], wavelet, mode="periodization", axis=0)
        details.append(detail)
        coarse = np.concatenate([approximation, coarse[even:]])  # the last of an odd number waits for the next level
    return np.concatenate([coarse, *details[::-1]])


def _polynomials(grid: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Polynomials of degree 0 .. t-1 that are orthonormal on `grid` under `weight`, times the root of the weight.

    The Arnoldi process on multiplication by x: the QR decomposition of the Vandermonde matrix without forming it.
    """
    rows = np.empty((len(grid), len(grid)))
    new = np.sqrt(weight)
    for k in range(len(grid)):
        for _ in range(2):  # twice is enough (Kahan, Parlett)
            new = new - rows[:k].T @ (rows[:k] @ new)
        rows[k] = new / np.linalg.norm(new)
        new = grid * rows[k]
    return rows


def _legendre(t: int) -> np.ndarray:
    return _polynomials(_midpoints(t), np.ones(t))


def _chebyshev(t: int) -> np.ndarray:
    x = _midpoints(t)
    return _polynomials(x, 1 / np.sqrt(1 - x**2))


def _laguerre(t: int) -> np.ndarray:
    x = LAGUERRE_SPAN * (1 - _midpoints(t)) / 2
    return _polynomials(x, np.exp(-x))


def _midpoints(t: int) -> np.ndarray:
    """t equal steps of (-1, 1)."""
    return (2 * np.arange(t) + 1) / t - 1


BASES: dict[str, Callable[[int], np.ndarray]] = {
    "identity": np.eye,
    "dct": _dct,
    "fft": _fourier,
    "haar": _haar,
    "legendre": _legendre,
    "chebyshev": _chebyshev,
    "laguerre": _laguerre,
}
