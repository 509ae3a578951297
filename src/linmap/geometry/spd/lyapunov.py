"""The Lyapunov operator of a positive definite B, and functions of it.

L_B: X -> B X + X B multiplies, in the eigenbasis of B, the entry ij by b_i + b_j. Its inverse and the parallel
transports between B and the identity multiply by k(b_i + b_j) with different k, and so does everything here. For a
cotangent R, the gradients are k(L_B)[R] towards X, and towards B, in its eigenbasis,

    Q + Q^T,  Q_ik = sum_j R_ij conj(X_kj) D_ikj,  D_ikj = (k(b_i + b_j) - k(b_k + b_j)) / (b_i - b_k),

where D is a function of K_ij = k(b_i + b_j) and K_kj alone that knows no division by zero.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import torch
from jaxtyping import Inexact
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from linmap.errors import ArgumentError
from linmap.geometry.spd.spectral import Matrices, SymmetricEigen, symmetric_part


@dataclass(frozen=True)
class Kernel:
    """k, and D of K_ij and K_kj."""

    k: Callable[[Tensor], Tensor]
    quotient: Callable[[Tensor, Tensor], Tensor]


def _inverse_quotient(K: Tensor, L: Tensor) -> Tensor:
    return (K * L) ** 2 / (K + L)


INVERSE = Kernel(torch.reciprocal, lambda K, L: -K * L)
TO_IDENTITY = Kernel(lambda x: (2 / x).sqrt(), lambda K, L: -_inverse_quotient(K, L) / 2)
FROM_IDENTITY = Kernel(lambda x: (x / 2).sqrt(), lambda K, L: 0.5 / (K + L))
SHOOT = Kernel(lambda x: (2 * x).rsqrt(), lambda K, L: -2 * _inverse_quotient(K, L))
"""INVERSE after FROM_IDENTITY: k(x) = sqrt(x / 2) / x."""


def apply_kernel(kernel: Kernel, eigen: SymmetricEigen, V: Matrices) -> Matrices:
    """k(L_B)[V], given the eigendecomposition of B."""
    return cast(Tensor, _SumKernel.apply(eigen.matrix, V, eigen.positive, eigen.vectors, kernel))


class _SumKernel(Function):
    @staticmethod
    def forward(ctx: Any, B: Tensor, V: Tensor, b: Tensor, U: Tensor, kernel: Kernel):
        K = kernel.k(b.unsqueeze(-1) + b.unsqueeze(-2))
        inner = U.mH @ symmetric_part(V) @ U
        ctx.save_for_backward(inner, K, U)
        ctx.kernel, ctx.shapes = kernel, (B.shape, V.shape)
        return U @ (K * inner) @ U.mH

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, R: Tensor):
        inner, K, U = ctx.saved_tensors
        shape_B, shape_V = ctx.shapes
        R = U.mH @ symmetric_part(R) @ U
        dV = (U @ (K * R) @ U.mH).sum_to_size(shape_V) if ctx.needs_input_grad[1] else None
        dB = None
        if ctx.needs_input_grad[0]:
            Q = _contract(ctx.kernel, K, R, inner)
            dB = (U @ (Q + Q.mH) @ U.mH).sum_to_size(shape_B)
        return dB, dV, None, None, None


def _contract(kernel: Kernel, K: Tensor, R: Tensor, V: Tensor) -> Inexact[Tensor, "... i k"]:
    """Q_ik = sum_j R_ij conj(V_kj) D_ikj; summed over the batch where all of it shares one B."""
    if kernel is INVERSE:
        return -(K * R) @ (K * V).mH
    D = kernel.quotient(K.unsqueeze(-2), K.unsqueeze(-3))
    if K.ndim == 2:
        n = K.shape[-1]
        return (torch.einsum("bij,bkj->ikj", R.reshape(-1, n, n), V.conj().expand_as(R).reshape(-1, n, n)) * D).sum(-1)
    return (R.unsqueeze(-2) * V.conj().unsqueeze(-3) * D).sum(-1)


def lyapunov(B: Matrices, C: Matrices) -> Matrices:
    """The symmetric X with B X + X B = C.

    Parameters
    ----------
    B
        Positive definite, (..., n, n).
    C
        Symmetric, (..., n, n); batch dimensions broadcast.
    """
    return apply_kernel(INVERSE, SymmetricEigen(B), C)


def bw_transport_to_identity(B: Matrices, V: Matrices) -> Matrices:
    """Parallel transport of tangent vectors at B to the identity, along the Bures-Wasserstein geodesic.

    In the eigenbasis of B the entry ij is multiplied by sqrt(2 / (b_i + b_j)) (Thanwerdas and Pennec); an isometry.

    Parameters
    ----------
    B
        Positive definite, (..., n, n).
    V
        Symmetric, (..., n, n); batch dimensions broadcast.
    """
    return apply_kernel(TO_IDENTITY, SymmetricEigen(B), V)


def bw_transport_from_identity(B: Matrices, V: Matrices) -> Matrices:
    """Parallel transport of tangent vectors at the identity to B; undoes `bw_transport_to_identity`."""
    return apply_kernel(FROM_IDENTITY, SymmetricEigen(B), V)


def bw_transport(A: Matrices, B: Matrices, V: Matrices) -> Matrices:
    """Parallel transport from A to B along the Bures-Wasserstein geodesic, where A and B commute.

    Raises
    ------
    ValueError
        If they do not: there is no closed form then.
    """
    AB = A @ B
    tolerance = 1e3 * torch.finfo(AB.dtype).eps * AB.norm(dim=(-2, -1))
    if bool(((AB - AB.mH).norm(dim=(-2, -1)) > tolerance).any()):
        raise ArgumentError(
            "A and B do not commute, and between such points the transport has no closed form; go through the "
            "identity with bw_transport_to_identity and bw_transport_from_identity, which is another path."
        )
    return bw_transport_from_identity(B, bw_transport_to_identity(A, V))
