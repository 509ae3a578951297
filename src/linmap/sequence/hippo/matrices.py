"""HiPPO's state matrices in closed form: x' = A x + B u keeps the past of u as coefficients on orthonormal functions.

Symbols: n row, k column, both from 0; p_n basis, w weight; the kernels are K_n(t) = (e^{tA} B)_n = p_n(t) w(t), so that
x_n(t) is the coefficient of u(t - s) on p_n(s) under w.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from jaxtyping import Float64
from scipy import special
from torch import Tensor

from linmap.errors import ArgumentError

WINDOWS = {"legt": 2.0, "fout": 2.0, "fourier2": 1.0, "lmu": 1.0}
"""Measures with a window [0, W], and W when none is given: for legt and fout that of timescale 1."""
BETA = {"lagt": 1.0, "tlagt": 1.0, "glagt": 0.01}
FOURIER = ("fout", "fourier2", "foud", "fourier_decay")
MEASURES = ("legs", "legt", "lmu", *FOURIER, "lagt", "tlagt", "glagt")


def hippo_matrices(
    measure: str, N: int, window: float | None = None, *, alpha: float = 0.0, beta: float | None = None
) -> tuple[Float64[Tensor, "N N"], Float64[Tensor, " N"]]:
    """A and B of a measure, in float64.

    Parameters
    ----------
    measure
        "legs" (Legendre polynomials of e^-t, exact for every N), "legt" (Legendre on a window), "lmu" (the same, scaled
        as in Legendre memory units), "fout" (Fourier on a window), "fourier2" (that on [0, 1]), "fourier_decay",
        "foud" (damped rotations), "lagt", "tlagt" and "glagt" (Laguerre).
    N
        States; even for the Fourier measures.
    window
        Length W of the window of "legt", "fout" and "lmu"; 2, 2 and 1 when None.
    alpha, beta
        Of the Laguerre measures: alpha of "glagt"; beta, 1 for "lagt" and "tlagt" and 0.01 for "glagt" when None.

    Raises
    ------
    ValueError
        If there is no such measure, N does not suit it, or it has no window.

    References
    ----------
    Gu, Dao, Ermon, Rudra and Ré, "HiPPO", NeurIPS 2020; Gu, Johnson, Timalsina, Rudra and Ré, "How to Train Your
    HiPPO", ICLR 2023.
    """
    check_measure(measure, N, window)
    beta = BETA.get(measure, 1.0) if beta is None else beta
    n = np.arange(N)
    if measure == "legs":
        A, B = _legs(n)
    elif measure in ("legt", "lmu"):
        A, B = (matrix / (window or WINDOWS[measure]) for matrix in (_legt(n) if measure == "legt" else _lmu(n)))
    elif measure in FOURIER:
        A, B = _fourier(measure, N, window or WINDOWS.get(measure, 1.0))
    elif measure == "glagt":
        A, B = _glagt(n, alpha, beta)
    else:
        tilt = beta / 2 if measure == "tlagt" else 0.0
        A, B = (0.5 - tilt) * np.eye(N) - np.tril(np.ones((N, N))), beta * np.ones(N)
    return torch.from_numpy(A), torch.from_numpy(B)


def check_measure(measure: str, N: int, window: float | None = None) -> None:
    """Raise ValueError unless there is the measure with N states and this window."""
    if measure not in MEASURES:
        raise ArgumentError(f"there is no measure {measure!r}; choose from {', '.join(MEASURES)}.")
    if N < 1:
        raise ArgumentError(f"N must be a positive number of states, got {N}.")
    if measure in FOURIER and N % 2:
        raise ArgumentError(f"{measure} keeps pairs of a cosine and a sine: N must be even, got {N}.")
    if window is not None and measure not in WINDOWS:
        raise ArgumentError(f"{measure} has no window; leave window out (measures with one: {', '.join(WINDOWS)}).")
    if window is not None and not 0 < window < math.inf:
        raise ArgumentError(f"window must be a positive length, got {window}.")


def _legs(n: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    r = np.sqrt(2 * n + 1)
    return -(np.tril(np.outer(r, r), -1) + np.diag(n + 1.0)), r


def _legt(n: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """On the window [0, 1]."""
    r = np.sqrt(2 * n + 1)
    later = n[:, None] < n  # k > n
    return -np.outer(r, r) * np.where(later, (-1.0) ** (n[:, None] - n), 1.0), r


def _lmu(n: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    later = n[:, None] < n
    scale = 2.0 * n + 1
    return scale[:, None] * np.where(later, -1.0, (-1.0) ** (n[:, None] - n + 1)), scale * (-1.0) ** n


def _fourier(measure: str, N: int, window: float) -> tuple[np.ndarray, np.ndarray]:
    """Rotations 2 pi k / W of the pairs (c_k, s_k), and what makes them forget."""
    if measure == "fourier_decay":
        window = 2.0
    frequencies = np.repeat(np.arange(N // 2), 2)[:-1] * (np.arange(N - 1) % 2 == 0)
    rotation = 2 * np.pi / window * (np.diag(frequencies, -1) - np.diag(frequencies, 1))
    b = np.zeros(N)
    b[::2] = math.sqrt(2)
    b[0] = 1
    if measure == "foud":
        return rotation - np.eye(N) / 2, b
    if measure == "fourier_decay":
        return rotation - np.outer(b, b) / 2, b / 2
    return rotation - 2 / window * np.outer(b, b), 2 / window * b


def _glagt(n: np.ndarray, alpha: float, beta: float) -> tuple[np.ndarray, np.ndarray]:
    if not -1 < alpha < 1 or not beta > 0:
        raise ArgumentError(f"glagt needs -1 < alpha < 1 and beta > 0, got alpha = {alpha} and beta = {beta}.")
    A = -(1 + beta) / 2 * np.eye(len(n)) - np.tril(np.ones((len(n), len(n))), -1)
    scale = np.exp((special.gammaln(n + alpha + 1) - special.gammaln(n + 1)) / 2)
    B = special.binom(n + alpha, n) / scale * math.exp(-special.gammaln(1 - alpha) / 2) * beta ** ((1 - alpha) / 2)
    return A / scale[:, None] * scale, B


def basis(
    measure: str,
    N: int,
    t: Float64[Tensor, "*times"] | np.ndarray | float,
    window: float | None = None,
    *,
    beta: float | None = None,
) -> Float64[Tensor, "*times N"]:
    """p_n(t) for times t >= 0 before now: u(now - t) is about sum_n x_n p_n(t).

    Outside its window a measure keeps nothing; what is returned there is the continuation of its functions.

    Raises
    ------
    ValueError
        If the measure has no orthonormal functions in closed form.
    """
    check_measure(measure, N, window)
    beta = BETA.get(measure, 1.0) if beta is None else beta
    s, n = np.asarray(t, np.float64)[..., None], np.arange(N)
    window = window or WINDOWS.get(measure, 1.0)
    if measure == "legs":
        p = np.sqrt(2 * n + 1) * special.eval_legendre(n, 2 * np.exp(-s) - 1)
    elif measure == "legt":
        p = np.sqrt(2 * n + 1) * special.eval_legendre(n, 1 - 2 * s / window)
    elif measure == "lmu":
        p = special.eval_legendre(n, 2 * s / window - 1)
    elif measure in ("fout", "fourier2"):
        phase = 2 * np.pi * (n // 2) * s / window
        p = np.where(n % 2, np.sin(phase), np.cos(phase)) * np.where(n == 0, 1, math.sqrt(2))
    elif measure in ("lagt", "tlagt"):
        p = np.exp(((measure == "tlagt") * beta - 1) * s / 2) * special.eval_laguerre(n, s) / beta
    elif measure == "glagt":
        p = np.exp((beta - 1) * s / 2) * special.eval_laguerre(n, s) / math.sqrt(beta)
    else:
        raise ArgumentError(f"{measure} has no orthonormal functions in closed form.")
    return torch.from_numpy(p)


def low_rank(measure: str, N: int, rank: int = 1) -> Float64[Tensor, "rank N"]:
    """P such that A + sum_r P_r P_r^T is normal, for "legs", "lagt", "foud" (all zero), and "fout" and "legt" (W = 2).

    Raises
    ------
    ValueError
        If the rank is too small, or the measure has no such correction of low rank.
    """
    check_measure(measure, N)
    n = np.arange(N)
    if measure == "legs":
        P = np.sqrt(n + 0.5)[None]
    elif measure == "legt":
        if rank < 2:
            raise ArgumentError(f"legt needs rank 2 or more, got {rank}.")
        P = np.sqrt(n + 0.5) * (n % 2 == np.array([[0], [1]]))
    elif measure == "fout":
        P = np.where(n % 2, 0, np.where(n == 0, 1, math.sqrt(2)))[None]
    elif measure == "lagt":
        P = np.full((1, N), math.sqrt(0.5))
    elif measure == "foud":
        P = np.zeros((1, N))
    else:
        raise ArgumentError(f"{measure} is not normal plus low rank; choose legs, legt, fout, lagt or foud.")
    if rank < 1:
        raise ArgumentError(f"rank must be at least 1, got {rank}.")
    return torch.from_numpy(np.concatenate([P, np.zeros((rank - len(P), N))]).astype(np.float64))
