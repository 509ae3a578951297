"""The Bures-Wasserstein geometry of positive definite matrices (Bhatia, Jain, Lim; Malago, Montrucchio, Pistone).

With A = B the optimal transport map is the identity; the metric at B is <U, V> = tr(L_B^{-1}[U] V) / 2. All functions
take matrices (..., n, n), symmetric or complex Hermitian, whose batch dimensions broadcast, and are differentiable,
also at the identity and where eigenvalues or matrices coincide.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial

import torch
from jaxtyping import Float, Inexact, Real
from torch import Tensor

from linmap.errors import ArgumentError
from linmap.geometry.spd.lyapunov import INVERSE, apply_kernel
from linmap.geometry.spd.spectral import (
    Matrices,
    SymmetricEigen,
    congruence,
    sym_invsqrt,
    sym_pow,
    symmetric_part,
)

Numbers = Float[Tensor, "..."]


def bw_dist2(A: Matrices, B: Matrices) -> Numbers:
    """Squared distance, tr A + tr B - 2 tr (A^(1/2) B A^(1/2))^(1/2), never negative."""
    S = SymmetricEigen(A).sqrt()
    return (_trace(A) + _trace(B) - 2 * _trace(SymmetricEigen(S @ B @ S).sqrt())).clamp_min(0)


def gbw_dist2(P: Matrices, Q: Matrices, M: Matrices, theta: float = 1.0) -> Numbers:
    """Squared distance of the generalised, power-deformed metric (Han et al.).

    That of M^(-1/2) P^theta M^(-1/2) and M^(-1/2) Q^theta M^(-1/2), divided by theta^2. M = I and theta = 1 is
    Bures-Wasserstein; M = P is, near P, the affine-invariant metric times a constant.

    Raises
    ------
    ValueError
        If theta is not positive.
    """
    if not theta > 0:
        raise ArgumentError(f"theta must be positive, got {theta}.")
    N = sym_invsqrt(M)
    if theta != 1:
        P, Q = sym_pow(P, theta), sym_pow(Q, theta)
    return bw_dist2(symmetric_part(N @ P @ N), symmetric_part(N @ Q @ N)) / theta**2


def bw_transport_map(A: Matrices, B: Matrices) -> Matrices:
    """The optimal transport map from A to B: the positive definite T with T A T = B."""
    eigen = SymmetricEigen(A)
    S, N = eigen.sqrt(), eigen.invsqrt()
    return symmetric_part(N @ SymmetricEigen(S @ B @ S).sqrt() @ N)


def bw_log(A: Matrices, B: Matrices) -> Matrices:
    """The tangent vector at A that points to B: T A + A T - 2 A."""
    TA = bw_transport_map(A, B) @ A
    return TA + TA.mH - 2 * A


def bw_exp(A: Matrices, V: Matrices) -> Matrices:
    """Where the geodesic from A with velocity V is at time 1: J A J with J = I + L_A^{-1}[V].

    Positive semi-definite for every V, and the inverse of `bw_log` while J is positive definite.
    """
    J = apply_kernel(INVERSE, SymmetricEigen(A), V) + _identity_like(A)
    return symmetric_part(J @ A @ J)


def bw_geodesic(A: Matrices, B: Matrices, t: float | Numbers) -> Matrices:
    """The point at time t between A (t = 0) and B (t = 1); t is a number, or one for each pair."""
    if isinstance(t, Tensor):
        t = t[..., None, None]
    G = (1 - t) * _identity_like(A) + t * bw_transport_map(A, B)
    return symmetric_part(G @ A @ G)


def bw_mean(
    X: Inexact[Tensor, "count ... n n"],
    weights: Real[Tensor, " count"] | None = None,
    n_iter: int = 200,
    tol: float | None = None,
) -> Matrices:
    """The Frechet mean: the B whose mean transport map to the X_i is the identity.

    The fixed point iteration B <- T B T, where T is the mean of the maps from B to the X_i (Alvarez-Esteban et al.),
    from the arithmetic mean. It converges linearly, and slowly where the X_i are ill-conditioned.

    Parameters
    ----------
    X
        Positive definite matrices, along the first dimension.
    weights
        Non-negative weights; equal ones by default.
    n_iter
        Steps at most. One is what Bures-Wasserstein batch normalisation takes, and exact where all X_i commute.
    tol
        Relative change of B at which to stop; by default a hundred times the resolution of the type. A warning tells
        when `n_iter` > 1 steps do not reach it.

    Raises
    ------
    ValueError
        If X is empty, n_iter is not positive, or the weights are not one finite non-negative number for each matrix, of
        which one at least is positive.
    """
    if X.shape[0] == 0 or n_iter < 1:
        raise ArgumentError(
            f"X must hold a matrix and n_iter be positive, got shape {tuple(X.shape)}, n_iter {n_iter}."
        )
    tol = 100 * torch.finfo(X.dtype).eps if tol is None else tol
    B, change = bw_mean_steps(X, n_iter, tol, None if weights is None else _checked_weights(weights, X))
    if n_iter > 1 and change > tol:
        warnings.warn(
            f"bw_mean: the last of n_iter = {n_iter} steps changed the mean by {change:.1g} of its norm, more than "
            f"tol = {tol:.1g}; raise n_iter, or add shrinkage where matrices are nearly singular.",
            stacklevel=2,
        )
    return B


def _checked_weights(weights: Tensor, X: Tensor) -> Tensor:
    if weights.shape != X.shape[:1]:
        raise ArgumentError(
            f"weights must have one number for each of {len(X)} matrices, got shape {tuple(weights.shape)}."
        )
    wrong = ~(torch.isfinite(weights) & (weights >= 0))
    if bool(wrong.any()):
        first = int(wrong.nonzero()[0])
        raise ArgumentError(f"weights must be finite and not negative, got {float(weights[first])} at {first}.")
    if not bool(weights.any()):
        raise ArgumentError("weights must not all be zero: there is nothing to average.")
    return weights.to(X)


def bw_mean_steps(
    X: Inexact[Tensor, "count ... n n"],
    n_iter: int,
    tol: float,
    weights: Inexact[Tensor, " count"] | None = None,
    through: Inexact[Tensor, "m n"] | None = None,
    mean: Callable[[Tensor], Tensor] | None = None,
) -> tuple[Inexact[Tensor, "... m m"], float]:
    """`bw_mean` without checks: the mean of all `through` X_i `through`^T, and its relative change in the last step (0
    where only one was due). `mean` replaces the mean over X, where others have a part of it."""
    if mean is None:
        w = X.new_full((X.shape[0],), 1 / X.shape[0]) if weights is None else weights / weights.sum()
        mean = partial(torch.tensordot, w, dims=1)
    B, change = mean(X), 0.0
    B = B if through is None else congruence(through, B)
    for _ in range(n_iter):
        before, B = B, _mean_step(B, X, mean, through)
        if n_iter > 1:
            change = float(((B - before).detach().norm(dim=(-2, -1)) / B.detach().norm(dim=(-2, -1))).max())
            if change <= tol:
                break
    return B, change


def _mean_step(B: Matrices, X: Tensor, mean: Callable[[Tensor], Tensor], through: Tensor | None) -> Matrices:
    """B^(-1/2) (mean_i (B^(1/2) X_i B^(1/2))^(1/2))^2 B^(-1/2)."""
    eigen = SymmetricEigen(B)
    S = eigen.sqrt() if through is None else eigen.sqrt() @ through
    root = eigen.invsqrt() @ mean(SymmetricEigen(congruence(S, X)).sqrt())
    return symmetric_part(root @ root.mH)


def _trace(A: Matrices) -> Numbers:
    return A.diagonal(dim1=-2, dim2=-1).sum(-1).real


def _identity_like(A: Matrices) -> Inexact[Tensor, "n n"]:
    return torch.eye(A.shape[-1], dtype=A.dtype, device=A.device)
