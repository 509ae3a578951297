"""`DiagonalPlusLowRank`: Λ - P Q*, the state matrices of structured state spaces."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Self

import torch
from jaxtyping import Shaped
from torch import Tensor, nn

from linmap.errors import ArgumentError
from linmap.maps.base import LinearMap, at_least_float32, solved
from linmap.maps.low_rank import balanced_factors, check_rank


class DiagonalPlusLowRank(LinearMap):
    """M = Λ - P Q*, with Λ diagonal, P and Q of shape (n, rank), Q* the conjugate transpose; real or complex.

    Applied in O(n rank), inverted by the Woodbury identity, its determinant by the matrix determinant lemma.
    `transpose()` is the plain transpose, M^T = Λ - conj(Q) P^T, also for complex maps.

    At the start Λ_j = -1/2 + iπj (complex, S4D-Lin) or -(j + 1) (real, S4D-Real), P is drawn from N(0, 1/n) and
    Q = P, so that the eigenvalues of M have negative real parts.

    Parameters
    ----------
    n
        Size.
    rank
        Columns of P and Q, 1 to n.
    batch_shape
        Leading dimensions of Λ, P and Q.
    generator
        Source of the random draw.
    dtype, device
        As in PyTorch; a complex dtype makes a complex map.

    Attributes
    ----------
    diagonal, P, Q
        Λ as a vector, and the factors.
    diagonal_parts, P_parts, Q_parts
        The parameters behind them. Complex numbers are kept as (real, imaginary) pairs on a last dimension, so that
        the optimiser, `.to(dtype)`, DDP, FSDP2 and safetensors meet real tensors only.

    References
    ----------
    Gu, Goel and Ré, "Efficiently Modeling Long Sequences with Structured State Spaces", ICLR 2022, appendix C.
    """

    diagonal_parts: Tensor
    P_parts: Tensor
    Q_parts: Tensor

    def __init__(
        self,
        n: int,
        rank: int = 1,
        *,
        batch_shape: Sequence[int] = (),
        generator: torch.Generator | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        dtype = torch.get_default_dtype() if dtype is None else dtype
        super().__init__(n, n, batch_shape=batch_shape, dtype=dtype.to_real(), device=device)
        check_rank("DiagonalPlusLowRank", rank, n, n)
        self.complex = dtype.is_complex
        steps = torch.arange(n, dtype=dtype.to_real(), device=device)
        diagonal = torch.complex(torch.full_like(steps, -0.5), math.pi * steps) if self.complex else -(steps + 1)
        P = torch.empty(*batch_shape, n, rank, dtype=dtype, device=device).normal_(0, n**-0.5, generator=generator)
        self._set(diagonal.expand(*batch_shape, n), P, P)

    @classmethod
    def from_factors(
        cls,
        diagonal: Shaped[Tensor, "*batch n"],
        P: Shaped[Tensor, "*batch n rank"],
        Q: Shaped[Tensor, "*batch n rank"],
    ) -> Self:
        """The map with the given Λ, P and Q, all real or all complex."""
        new = cls(*P.shape[-2:], batch_shape=P.shape[:-2], dtype=P.dtype, device=P.device)
        new._set(diagonal, P, Q)
        return new

    def _set(self, diagonal: Tensor, P: Tensor, Q: Tensor) -> None:
        for name, value in (("diagonal", diagonal), ("P", P), ("Q", Q)):
            parts = torch.view_as_real(value.resolve_conj()) if self.complex else value
            setattr(self, f"{name}_parts", nn.Parameter(parts.detach().clone(memory_format=torch.contiguous_format)))

    def _read(self, parts: Tensor) -> Tensor:
        return torch.view_as_complex(parts.to(self.dtype.to_real())) if self.complex else parts

    @property
    def dtype(self) -> torch.dtype:
        stored = self._reference.dtype  # Dynamo does not trace super()
        return torch.promote_types(stored, torch.float32).to_complex() if self.complex else stored

    @property
    def diagonal(self) -> Shaped[Tensor, "*batch n"]:
        return self._read(self.diagonal_parts)

    @property
    def P(self) -> Shaped[Tensor, "*batch n rank"]:
        return self._read(self.P_parts)

    @property
    def Q(self) -> Shaped[Tensor, "*batch n rank"]:
        return self._read(self.Q_parts)

    def forward(self, x: Tensor) -> Tensor:
        return dplr_apply(self.diagonal, self.P, self.Q, x)

    def matrix(self) -> Tensor:
        return torch.diag_embed(self.diagonal) - self.P @ self.Q.mH

    def _transpose(self, y: Tensor) -> Tensor:
        return dplr_apply(self.diagonal, self.Q.conj(), self.P.conj(), y)

    def _inverse(self, y: Tensor) -> Tensor:
        if self._woodbury_is_safe():
            return dplr_solve(self.diagonal, self.P, self.Q, y)
        return super()._inverse(y)

    def _inverse_transpose(self, x: Tensor) -> Tensor:
        if self._woodbury_is_safe():
            return dplr_solve(self.diagonal, self.Q.conj(), self.P.conj(), x)
        return super()._inverse_transpose(x)

    def logabsdet(self) -> Tensor:
        if self._woodbury_is_safe():
            return dplr_logabsdet(self.diagonal, self.P, self.Q)
        return super().logabsdet()

    def flops(self, vectors: int = 1) -> int:
        n, rank = self.P.shape[-2:]
        return (2 * n + 4 * n * rank) * vectors * self.batch_shape.numel()

    def _check_invertible(self) -> None:
        """det M = det Λ det K with K = I - Q* Λ^-1 P: M is invertible where K is, beyond the rounding of K.

        Where K may be singular, the singular values of M decide.
        """
        if self.diagonal_parts.is_meta:
            return
        if not self._woodbury_is_safe():
            return super()._check_invertible()
        diagonal, P, Q = (at_least_float32(part.detach()) for part in (self.diagonal, self.P, self.Q))
        smallest = torch.linalg.svdvals(_capacitance(P, Q, diagonal))[..., -1]
        scaled_P = P / diagonal.unsqueeze(-1)
        terms = torch.linalg.matrix_norm(Q) * torch.linalg.matrix_norm(scaled_P)
        if not bool((smallest > self.in_features * torch.finfo(smallest.dtype).eps * (1 + terms)).all()):
            super()._check_invertible()

    def _woodbury_is_safe(self) -> bool:
        """The identity divides by Λ: beside an entry of P Q* that is far larger it cancels, and the dense way is taken.

        A wide range of Λ itself costs no digits.
        """
        if self.diagonal_parts.is_meta:
            return True
        size = self.diagonal.detach().abs()
        rows = torch.linalg.vector_norm(self.P.detach(), dim=-1) * torch.linalg.vector_norm(self.Q.detach(), dim=-1)
        return bool((size > torch.finfo(size.dtype).eps ** 0.5 * rows).all())

    @classmethod
    def _from_matrix(cls, M: Tensor, rank: int = 1, max_steps: int = 2000) -> Self:
        """Alternating projections from the diagonal of M: the best P Q* for Λ, then the best Λ for P Q*.

        The error never grows; where it settles is a local optimum, whose size is in `residual`.
        """
        if M.shape[-1] != M.shape[-2]:
            raise ArgumentError(f"DiagonalPlusLowRank.from_matrix: M must be square, got shape {tuple(M.shape)}.")
        unit = float(M.abs().amax()) or 1.0  # so that no square over- or underflows
        target = at_least_float32(M) / unit
        diagonal, previous = target.diagonal(dim1=-2, dim2=-1), math.inf
        for _ in range(max_steps):
            P, Qh = balanced_factors(torch.diag_embed(diagonal) - target, rank)
            low_rank = P @ Qh
            diagonal = (target + low_rank).diagonal(dim1=-2, dim2=-1)
            error = float(torch.linalg.vector_norm(torch.diag_embed(diagonal) - low_rank - target))
            if error >= previous * (1 - 1e-6):
                break
            previous = error
        parts = diagonal * unit, P * unit**0.5, Qh.mH * unit**0.5
        return cls.from_factors(*(part.to(M.dtype) for part in parts))


def dplr_apply(diagonal: Tensor, P: Tensor, Q: Tensor, x: Tensor) -> Tensor:
    """(Λ - P Q*) x on the last dimension of x (..., rows, n)."""
    return x * diagonal.unsqueeze(-2) - x @ Q.conj() @ P.mT


def dplr_solve(diagonal: Tensor, P: Tensor, Q: Tensor, y: Tensor) -> Tensor:
    """(Λ - P Q*)^-1 y = Λ^-1 y + Λ^-1 P (I - Q* Λ^-1 P)^-1 Q* Λ^-1 y (Woodbury)."""
    scaled = y / diagonal.unsqueeze(-2)
    scaled_P = P / diagonal.unsqueeze(-1)
    return scaled + solved(_capacitance(P, Q, diagonal), scaled @ Q.conj()) @ scaled_P.mT


def dplr_logabsdet(diagonal: Tensor, P: Tensor, Q: Tensor) -> Tensor:
    """log |det(Λ - P Q*)| = sum log |Λ| + log |det(I - Q* Λ^-1 P)| (matrix determinant lemma)."""
    size = diagonal.abs()
    lemma = torch.linalg.slogdet(at_least_float32(_capacitance(P, Q, diagonal))).logabsdet
    return size.log().sum(-1) + lemma.to(size.dtype)


def _capacitance(P: Tensor, Q: Tensor, diagonal: Tensor) -> Tensor:
    """I - Q* Λ^-1 P, of shape (rank, rank)."""
    identity = torch.eye(P.shape[-1], dtype=P.dtype, device=P.device)
    return identity - Q.mH @ (P / diagonal.unsqueeze(-1))
