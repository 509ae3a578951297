"""The left polar decomposition g = exp(log P) R of matrices of positive determinant, by P in the manifold of positive
definite matrices and R in SO(n): global, unique and smooth on GL+(n) and SL(n), where the exponential is not onto.

In the plane it is a closed form without iteration. With g = K + A, K = [[p, -q], [q, p]] conformal and
A = [[u, v], [v, -u]] anticonformal: R is the angle of K, P = |K| I + A R^T, and with m = |K| = hypot(p, q),
r = hypot(u, v), the eigenvalues of P are m + r and m - r. Hence log P = log(det g)/2 I + (atanh(r/m)/r) A R^T, where
atanh(r/m)/r is a smooth function of r^2: at rotations and at multiples of the identity all derivatives exist.
"""

from __future__ import annotations

import math
import warnings
from numbers import Real
from typing import Any, cast

import torch
from jaxtyping import Float, Shaped
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from linmap.errors import ArgumentError, ArgumentTypeError
from linmap.geometry.spd import sym_exp

LARGEST_CONDITION = 1e7  # from where a float32 matrix does not tell its rotation
SERIES = 0.01  # (r/m)^2 below which atanh is summed
TERMS = 9

Matrices = Float[Tensor, "... n n"]


def polar(g: Shaped[Tensor, "*_"]) -> tuple[Matrices, Matrices]:
    """log P and R of the left polar decompositions g = exp(log_P) R, in float64 inside.

    Parameters
    ----------
    g
        Matrices (..., n, n) of positive determinant, n >= 2; float32 or float64 (others are computed in float32).

    Returns
    -------
    log_P
        Symmetric matrices (..., n, n).
    R
        Rotations (..., n, n).

    Raises
    ------
    ValueError
        If g is not square, not finite, or has a determinant that is not positive.
    TypeError
        If g is of integers or complex.

    Warns
    -----
    UserWarning
        If the condition number of a float32 matrix is above 1e7: its rounded entries do not tell R.

    References
    ----------
    Mironenco and Forré, "Lie Group Decompositions for Equivariant Neural Networks", ICLR 2024.
    """
    check_matrices(g)
    return polar_unchecked(g, warn=g.dtype != torch.float64)


def polar_unchecked(g: Matrices, warn: bool = False) -> tuple[Matrices, Matrices]:
    """`polar` of matrices that are known to be of positive determinant."""
    dtype = g.dtype if g.dtype == torch.float64 else torch.float32
    scale = g.detach().double().abs().amax((-2, -1), keepdim=True)
    wide = g.double() / scale
    log_P, R, condition = _planar(wide) if g.shape[-1] == 2 else _spatial(wide)
    if warn and condition.numel() and float(condition.max()) > LARGEST_CONDITION:
        warnings.warn(
            f"g has a condition number of {float(condition.max()):.1e}: in {g.dtype} its polar decomposition is "
            "unreliable; use float64.",
            stacklevel=3,
        )
    log_P = log_P + scale.log() * torch.eye(g.shape[-1], dtype=torch.float64, device=g.device)
    return log_P.to(dtype), R.to(dtype)


def check_floating(value: Any, name: str) -> None:
    """That an argument is a tensor of floating point."""
    if not isinstance(value, Tensor):
        raise ArgumentTypeError(f"{name} must be a floating-point tensor, got {type(value).__name__}.")
    if not value.is_floating_point():
        raise ArgumentTypeError(f"{name} must be a floating-point tensor, got {value.dtype}; convert it with .to().")


def check_positive(value: Any, name: str) -> float:
    """A positive, finite number."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise ArgumentTypeError(f"{name} must be a positive number, got {value!r}.")
    number = float(value)
    if not (number > 0 and math.isfinite(number)):
        raise ArgumentError(f"{name} must be positive, got {value}.")
    return number


def check_matrices(g: Tensor, name: str = "g") -> None:
    """That matrices are square, finite, and of positive determinant."""
    check_floating(g, name)
    if g.ndim < 2 or g.shape[-1] != g.shape[-2] or g.shape[-1] < 2:
        raise ArgumentError(f"{name} must be square matrices (..., n, n), n >= 2, got shape {tuple(g.shape)}.")
    flat = g.detach().double().flatten(0, -3) if g.ndim > 2 else g.detach().double().unsqueeze(0)
    if not bool(torch.isfinite(flat).all()):
        raise ArgumentError(f"{name} must be finite; matrix {_first(~torch.isfinite(flat).all(-1).all(-1), g)} is not.")
    size = flat.abs().amax((-2, -1), keepdim=True)
    scaled = determinant(flat / torch.where(size > 0, size, 1.0))
    if bool((scaled <= 0).any()):
        index = int((scaled <= 0).nonzero()[0])
        value = float(scaled[index] * size[index].squeeze() ** g.shape[-1])
        raise ArgumentError(
            f"{name} has det = {value:.6g} (matrix {_first(scaled <= 0, g)}), not in GL+(n), whose determinants are "
            "positive; reflect such matrices first."
        )


def _first(bad: Tensor, g: Tensor) -> str:
    """Where the first of some matrices stands."""
    index = torch.unravel_index(bad.nonzero()[0, 0], g.shape[:-2]) if g.ndim > 2 else ()
    return str([int(i) for i in index])


def determinant(g: Matrices) -> Float[Tensor, "*_"]:
    """det g; in the plane without elimination."""
    if g.shape[-1] == 2:
        return g[..., 0, 0] * g[..., 1, 1] - g[..., 0, 1] * g[..., 1, 0]
    return torch.linalg.det(g)


# -- the plane ---------------------------------------------------------------------------------------------------------


def _planar(g: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    a, b, c, d = g.flatten(-2).unbind(-1)
    p, q, u, v = (a + d) / 2, (c - b) / 2, (a - d) / 2, (b + c) / 2
    mean = torch.sqrt(p * p + q * q)  # of the singular values; positive, as det g = mean^2 - r^2 is
    cos, sin = p / mean, q / mean
    log_det = (a * d - b * c).log()
    delta, beta = u * cos - v * sin, u * sin + v * cos
    kappa = _half_difference(mean, u * u + v * v, log_det)
    half = log_det / 2
    log_P = torch.stack([half + kappa * delta, kappa * beta, kappa * beta, half - kappa * delta], -1)
    R = torch.stack([cos, -sin, sin, cos], -1)
    with torch.no_grad():
        condition = ((mean + (u * u + v * v).sqrt()).log() * 2 - log_det).exp()
    return log_P.unflatten(-1, (2, 2)), R.unflatten(-1, (2, 2)), condition


def _half_difference(mean: Tensor, r2: Tensor, log_det: Tensor) -> Tensor:
    """(log(mean + r) - log(mean - r)) / (2 r), smooth in r^2."""
    y = r2 / (mean * mean)
    near = y < SERIES
    small = torch.where(near, y, 0.0)
    series = torch.zeros_like(y)
    for k in reversed(range(TERMS)):
        series = 1 / (2 * k + 1) + small * series
    r = torch.where(near, 1.0, r2).sqrt()
    far = (2 * (mean + r).log() - log_det) / (2 * r)
    return torch.where(near, series / mean, far)


# -- higher dimensions -------------------------------------------------------------------------------------------------


def _spatial(g: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    log_P, R, singular = cast(Any, _Polar.apply(g))
    return log_P, R, singular[..., 0] / singular[..., -1]


class _Polar(Function):
    """By SVD: with g = U diag(s) W^T, R = U W^T and log P = U diag(log s) U^T.

    The differentials have sums of singular values in their denominators alone, so that coinciding ones do no harm:
    with G = U^T dg W, U^T dR W = (G - G^T) / (s_i + s_j), and U^T dP U = (G_ij s_j + s_i G_ji) / (s_i + s_j).
    """

    @staticmethod
    def forward(ctx: Any, g: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        U, s, Wt = torch.linalg.svd(g)
        ctx.save_for_backward(U, s, Wt)
        ctx.mark_non_differentiable(s)
        log_P = (U * s.log().unsqueeze(-2)) @ U.mT
        return (log_P + log_P.mT) / 2, U @ Wt, s

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_log: Tensor, of_R: Tensor, _: Tensor) -> Tensor:
        U, s, Wt = ctx.saved_tensors
        rows, columns = s.unsqueeze(-1), s.unsqueeze(-2)
        larger, t = torch.maximum(rows, columns), -(rows.log() - columns.log()).abs()
        K = torch.where(t == 0, 1.0, t / torch.expm1(t)) / larger  # divided differences of the logarithm
        M = K * (U.mT @ ((of_log + of_log.mT) / 2) @ U)
        B = U.mT @ of_R @ Wt.mT
        return U @ ((2 * M * columns + B - B.mT) / (rows + columns)) @ Wt


# -- exponentials ------------------------------------------------------------------------------------------------------


def inverse_pair(log_S: Matrices, R: Matrices) -> tuple[Matrices, Matrices]:
    """g = exp(log_S / 2) R and g^-1 = R^T exp(-log_S / 2), of symmetric log_S and rotations R (..., n, n).

    The inverse is not computed from g: both are products of the same factors.

    Raises
    ------
    ValueError
        If the matrices are not square, or not of one size.
    TypeError
        If one is no tensor of floating point.
    """
    for name, value in (("log_S", log_S), ("R", R)):
        check_floating(value, name)
        if value.ndim < 2 or value.shape[-1] != value.shape[-2]:
            raise ArgumentError(f"{name} must be square matrices (..., n, n), got shape {tuple(value.shape)}.")
    if log_S.shape[-1] != R.shape[-1]:
        raise ArgumentError(f"log_S and R must have one n, got {log_S.shape[-1]} and {R.shape[-1]}.")
    dtype = torch.promote_types(torch.promote_types(log_S.dtype, R.dtype), torch.float32)
    wide, turn = log_S.double() / 2, R.double()
    return (sym_exp(wide) @ turn).to(dtype), (turn.mT @ sym_exp(-wide)).to(dtype)


def riemannian_exp(V: Matrices) -> Matrices:
    """exp(V^T) exp(V - V^T): the exponential at the identity of the left-invariant trace metric, for V (..., n, n).

    Raises
    ------
    ValueError
        If V is not square.
    TypeError
        If V is no tensor of floating point.
    """
    check_floating(V, "V")
    if V.ndim < 2 or V.shape[-1] != V.shape[-2]:
        raise ArgumentError(f"V must be square matrices (..., n, n), got shape {tuple(V.shape)}.")
    V = V if V.dtype in (torch.float32, torch.float64) else V.float()
    return torch.linalg.matrix_exp(V.mT) @ torch.linalg.matrix_exp(V - V.mT)
