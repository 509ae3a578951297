"""Dental arches as plane curves, and the distance of two curves."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from jaxtyping import Float

from linmap.errors import ArgumentError

Curve = Literal["quartic", "beta", "spline"]
FINE = 2_000  # points of a curve from which those at equal distances are read
BETA_PEAK = 3.0314  # of Braun, Hnat, Fender, Legan 1998: makes D the height at x = 0


def frechet_distance(A: Any, B: Any) -> float:
    """The discrete Fréchet distance of two curves A (n, d) and B (m, d) (Eiter and Mannila 1994).

    Raises
    ------
    ValueError
        If they are no curves of points of one dimension, or a value is not finite.
    """
    A, B = np.asarray(A, np.float64), np.asarray(B, np.float64)
    for name, curve in (("A", A), ("B", B)):
        if curve.ndim != 2 or not len(curve) or not np.isfinite(curve).all():
            raise ArgumentError(f"{name} must be (n, d) finite points with n >= 1, got shape {curve.shape}.")
    if A.shape[1] != B.shape[1]:
        raise ArgumentError(f"A and B must have points of one dimension, got {A.shape[1]} and {B.shape[1]}.")
    n, m = len(A), len(B)
    distances = np.linalg.norm(A[:, None] - B[None], axis=-1)
    reach = np.full((n + 1, m + 1), np.inf)  # one row and column before the curves
    reach[0, 0] = 0.0
    for diagonal in range(n + m - 1):  # entries of a diagonal do not depend on each other
        i = np.arange(max(0, diagonal - m + 1), min(n, diagonal + 1))
        j = diagonal - i
        before = np.minimum(np.minimum(reach[i, j], reach[i, j + 1]), reach[i + 1, j])
        reach[i + 1, j + 1] = np.maximum(before, distances[i, j])
    return float(reach[n, m])


def flattened(
    centers: Float[np.ndarray, "teeth 3"], true: Float[np.ndarray, "teeth 3"]
) -> Float[np.ndarray, "teeth 2"]:
    """Centres in the occlusal plane of the true jaw: x from its first tooth to its last, y to the front."""
    middle = true.mean(0)
    axes = np.linalg.svd(true - middle)[2][:2]
    span = axes @ (true[-1] - true[0])
    x, y = axes if abs(span[0]) >= abs(span[1]) else axes[::-1]
    x = x if x @ (true[-1] - true[0]) >= 0 else -x
    height = (true - middle) @ y
    y = y if height[[0, -1]].mean() <= height.mean() else -y
    return (centers - middle) @ np.stack([x, y], 1)


def arch(points: Float[np.ndarray, "teeth 2"], curve: Curve, samples: int) -> Float[np.ndarray, "samples 2"]:
    """A curve through points, at equal distances along it."""
    fine = {"quartic": _quartic, "beta": _beta, "spline": _spline}[curve](points)
    along = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(fine, axis=0), axis=1))])
    at = np.linspace(0, along[-1], samples)
    return np.stack([np.interp(at, along, fine[:, axis]) for axis in range(2)], 1)


def _quartic(points: np.ndarray) -> np.ndarray:
    polynomial = np.polynomial.Polynomial.fit(points[:, 0], points[:, 1], 4)
    x = np.linspace(points[:, 0].min(), points[:, 0].max(), FINE)
    return np.stack([x, polynomial(x)], 1)


def _beta(points: np.ndarray) -> np.ndarray:
    """y = y0 + 3.0314 D ((x - x0) / W + 1/2)^0.8 (1/2 - (x - x0) / W)^0.8, by least squares."""
    from scipy.optimize import least_squares

    x, y = points.T

    def height(parameters: np.ndarray, at: np.ndarray) -> np.ndarray:
        D, W, x0, y0 = parameters
        u = ((at - x0) / W).clip(-0.5, 0.5)
        return y0 + BETA_PEAK * D * ((u + 0.5) * (0.5 - u)) ** 0.8

    width = np.ptp(x)
    start = np.array([np.ptp(y), 1.05 * width, (x.min() + x.max()) / 2, y.min()])
    low, high = [0, 0.5 * width, x.min(), y.min() - 4 * np.ptp(y) - 1], [np.inf, 4 * width, x.max(), y.max() + 1e-6]
    fitted = least_squares(
        lambda p: height(p, x) - y, start, bounds=(low, high), x_scale=np.maximum(np.abs(start), 1)
    ).x
    at = np.linspace(x.min(), x.max(), FINE)
    return np.stack([at, height(fitted, at)], 1)


def _spline(points: np.ndarray) -> np.ndarray:
    from scipy.interpolate import CubicSpline

    along = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(points, axis=0), axis=1))])
    keep = np.concatenate([[True], np.diff(along) > 0])
    return CubicSpline(along[keep], points[keep])(np.linspace(0, along[-1], FINE))
