"""Batch normalisation of positive definite matrices under the generalised Bures-Wasserstein metric (GBWBN).

With the metric matrix M, the bias W, the scale s and the power theta (arXiv 2504.00660), all happens in the image space

    Y_i = M^(-1/2) X_i^theta M^(-1/2),    G = M^(-1/2) W^theta M^(-1/2),

where the geometry is plain Bures-Wasserstein:

    centre   V_i = PT_{B -> I} Log_B(Y_i)                   B the Frechet mean of the Y_i
    scale    L_i = s / sqrt(v2 + eps) V_i                   v2 = mean_i d2(Y_i, B) / theta^2
    bias     Z_i = Exp_G PT_{I -> G}(L_i)
    undo     X_i' = (M^(1/2) Z_i M^(1/2))^(1/theta)

The transport is an isometry, so that d2(Y_i, B) = |V_i|^2 / 4 needs no further decomposition. Two eigendecompositions
of each matrix are made where theta = 1, else four.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from linmap.errors import ArgumentError
from linmap.geometry.spd.bures_wasserstein import bw_mean_steps
from linmap.geometry.spd.lyapunov import FROM_IDENTITY, SHOOT, apply_kernel
from linmap.geometry.spd.spectral import SymmetricEigen, congruence, symmetric_part
from linmap.training import parts

Batch = Float[Tensor, "batch n n"]
Matrix = Float[Tensor, "n n"]
Scalar = Float[Tensor, ""]
Variance = Literal["centered", "official", "uncentered"]


class Image(NamedTuple):
    """The way to the image space and back, and the bias there."""

    P: Batch
    """X_i^theta."""
    bias: SymmetricEigen
    """Of G."""
    root: Matrix
    """M^(1/2)."""
    inverse: Matrix
    """M^(-1/2)."""
    values: Float[Tensor, "batch n"] | None
    """Eigenvalues of X; None where theta = 1 needs none."""


def to_image(X: Batch, M: Matrix, W: Matrix, theta: float) -> Image:
    """Powers, and the roots of M.

    Raises
    ------
    ValueError
        If M or W is not positive definite.
    """
    metric = _definite("M", SymmetricEigen(M))
    root, inverse = metric.sqrt(), metric.invsqrt()
    values = None
    if theta != 1:
        eigen = SymmetricEigen(X)
        values = eigen.values
        X, W = eigen.pow(theta), _definite("W", SymmetricEigen(W)).pow(theta)
    bias = _definite("W", SymmetricEigen(symmetric_part(inverse @ W @ inverse)))
    return Image(X, bias, root, inverse, values)


def _definite(name: str, eigen: SymmetricEigen) -> SymmetricEigen:
    if bool(eigen.raised.any()):
        raise ArgumentError(
            f"{name} has left the positive definite matrices; train it with a Riemannian optimiser (geoopt.optim), or "
            'make the layer with parametrization="logm" for any other, and put no weight decay on it.'
        )
    return eigen


class Centred(NamedTuple):
    """Tangent vectors at the identity, and what was seen on the way to them."""

    V: Batch
    residual: Scalar
    """|mean_i T_i - I| / sqrt(n), where T_i are the maps from B to Y_i: 0 if B is the Frechet mean."""
    values: Float[Tensor, "batch n"]
    """Eigenvalues of B^(1/2) Y_i B^(1/2)."""
    condition: Scalar
    """Condition number of B."""


def centre(P: Batch, inverse: Matrix, B: Matrix) -> Centred:
    """PT_{B -> I} Log_B(Y_i), where Y_i = M^(-1/2) P_i M^(-1/2).

    With R_i = (B^(1/2) Y_i B^(1/2))^(1/2), in the eigenbasis of B, log and transport multiply R_i by
    sqrt(2 / b_i + 2 / b_j) and subtract 2 B^(1/2). The factor is twice that of a transport from I to B^(-1), by way of
    which gradients reach B; where B is a constant, R_i is taken in its eigenbasis at once.
    """
    base = SymmetricEigen(B)
    if B.requires_grad:
        S = base.sqrt()
        eigen = SymmetricEigen(congruence(S @ inverse, P))
        R = eigen.sqrt()
        V = 2 * (apply_kernel(FROM_IDENTITY, base.inverse(), R) - S)
        R = base.vectors.mT @ parts.mean(R.detach()) @ base.vectors
    else:
        b, U = base.positive, base.vectors
        eigen = SymmetricEigen(congruence(b.sqrt().unsqueeze(-1) * U.mT @ inverse, P))
        R = eigen.sqrt()
        factor = (2 / b.unsqueeze(-1) + 2 / b).sqrt()
        V = congruence(U, factor * R - 2 * b.sqrt().diag())
        R = parts.mean(R.detach())
    n = len(B)
    r = base.positive.rsqrt()
    residual = torch.linalg.matrix_norm(r.unsqueeze(-1) * R * r - torch.eye(n, dtype=B.dtype, device=B.device)) / n**0.5
    return Centred(V, residual, eigen.values, base.positive[-1] / base.positive[0])


def frechet_variance(V: Batch, theta: float) -> Scalar:
    """mean_i d2(Y_i, B) / theta^2 from the centred tangent vectors."""
    return parts.mean(V.square().sum((-2, -1))) / (4 * theta**2)


def uncentred_variance(P: Batch, inverse: Matrix, theta: float) -> Scalar:
    """mean_i d2(Y_i, I) / theta^2: what the authors' code measures, about the identity instead of the mean."""
    root = torch.linalg.eigvalsh(congruence(inverse, P).detach()).clamp_min(0).sqrt()
    return parts.mean((root - 1).square().sum(-1)) / theta**2


def return_from_image(L: Batch, image: Image, theta: float) -> tuple[Batch, Bool[Tensor, " batch"]]:
    """Exp_G PT_{I -> G}(L_i) = J_i G J_i, back in the space of the X_i; and whether J_i is not positive definite, so
    that Exp_G is not injective there."""
    G = image.bias.matrix
    J = apply_kernel(SHOOT, image.bias, L) + torch.eye(G.shape[-1], dtype=G.dtype, device=G.device)
    folded = torch.linalg.cholesky_ex(J.detach())[1] != 0
    F = image.root @ J
    P = symmetric_part(F @ G @ F.mT)
    return P if theta == 1 else SymmetricEigen(P).pow(1 / theta), folded


def batch_mean(P: Batch, inverse: Matrix, n_iter: int, tol: float) -> Matrix:
    """The Frechet mean of the Y_i = M^(-1/2) P_i M^(-1/2), or as far as `n_iter` steps come."""
    together = None if parts.current() is None else parts.mean
    return bw_mean_steps(P, n_iter, tol, through=inverse, mean=together)[0]


def groups(domains: Int[Tensor, " batch"]) -> list[tuple[int, Int[Tensor, " rows"], int]]:
    """The domains that occur in any process, each with the rows where, and how many there are in all processes."""
    found, counts = parts.everyones(domains).unique(return_counts=True)
    return [(d, (domains == d).nonzero()[:, 0], n) for d, n in zip(found.tolist(), counts.tolist(), strict=True)]
