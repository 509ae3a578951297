"""Functions of the eigenvalues of symmetric matrices, with gradients that hold where eigenvalues coincide.

Complex matrices are Hermitian where real ones are symmetric, and ^T is the conjugate transpose, here and below. With
A = U diag(a) U^T and a cotangent R, the gradient of f(A) is U (K o (U^T R U)) U^T, where K holds the divided
differences K_ij = (f(a_i) - f(a_j)) / (a_i - a_j) (Daleckii-Krein). Each function here knows K in a form without a
difference in its denominator, so that nothing is lost between close eigenvalues and nothing is divided by zero.

Functions of positive eigenvalues see them raised to `eps * largest`, the resolution of the floating-point type; what
was raised gets the gradient of a constant.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any, cast

import torch
from jaxtyping import Inexact
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

Matrices = Inexact[Tensor, "... n n"]
SPLIT = 400_000  # count * n^3 from where threads pay


def symmetric_part(A: Matrices) -> Matrices:
    """(A + A^T) / 2, the Hermitian part of complex A."""
    return (A + A.mH) / 2


def congruence(A: Inexact[Tensor, "... m n"], X: Matrices) -> Inexact[Tensor, "... m m"]:
    """A X A^T for symmetric X: one shared matrix A, or one for each X."""
    return A @ X @ A.mH if A.ndim > 2 or X.ndim == 2 else cast(Tensor, _Congruence.apply(A, X))


class _Congruence(Function):
    """With one A, all products but the last are single ones of stacked matrices, forward and backward."""

    @staticmethod
    def forward(ctx: Any, A: Tensor, X: Tensor):
        ctx.save_for_backward(A, X)
        return A @ (X @ A.mH)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, R: Tensor):
        A, X = ctx.saved_tensors
        RA = symmetric_part(R) @ A
        dA = None
        if ctx.needs_input_grad[0]:
            m, n = A.shape
            dA = 2 * RA.reshape(-1, m, n).transpose(0, 1).reshape(m, -1) @ X.reshape(-1, n)
        return dA, A.mH @ RA if ctx.needs_input_grad[1] else None


@dataclass(frozen=True)
class SpectralFunction:
    """A function of eigenvalues and the matrix of its divided differences."""

    values: Callable[[Tensor], Tensor]
    quotients: Callable[[Tensor], Tensor]
    positive: bool = True
    """Whether it is of positive eigenvalues only."""


class SymmetricEigen:
    """The eigendecomposition of symmetric matrices, shared by all functions of them.

    Parameters
    ----------
    A
        Symmetric or Hermitian matrices (..., n, n), of single or double precision. Gradients of what is computed here
        flow to them.

    Attributes
    ----------
    values
        Eigenvalues (..., n), ascending, as LAPACK returns them.
    vectors
        Eigenvectors (..., n, n), in columns.
    """

    def __init__(self, A: Matrices) -> None:
        self.matrix = A
        self.values: Tensor
        self.vectors: Tensor
        self.values, self.vectors = _eigh(A.detach())

    def inverse(self) -> SymmetricEigen:
        """That of A^(-1), for positive definite A; its eigenvalues descend."""
        eigen = object.__new__(SymmetricEigen)
        eigen.matrix, eigen.values, eigen.vectors = self.pow(-1), 1 / self.positive, self.vectors
        return eigen

    @cached_property
    def floor(self) -> Tensor:
        """The smallest eigenvalue that is told from zero, (..., 1)."""
        limits = torch.finfo(self.values.dtype)
        return (self.values.abs().amax(-1, keepdim=True) * limits.eps).clamp_min(limits.tiny)

    @cached_property
    def raised(self) -> Tensor:
        """Which eigenvalues lie below the floor, (..., n)."""
        return self.values < self.floor

    @cached_property
    def positive(self) -> Tensor:
        """Eigenvalues, at least `floor`."""
        return torch.maximum(self.values, self.floor)

    def apply(self, function: SpectralFunction) -> Matrices:
        """f(A), symmetric up to rounding."""
        floor = self.floor if function.positive and bool(self.raised.any()) else None
        values = self.positive if function.positive else self.values
        parts = self.matrix, values, self.values, self.vectors, floor, function
        return cast(Tensor, _Spectral.apply(*parts))

    def sqrt(self) -> Matrices:
        """A^(1/2)."""
        return self.apply(SQRT)

    def invsqrt(self) -> Matrices:
        """A^(-1/2)."""
        return self.apply(INVSQRT)

    def pow(self, p: float) -> Matrices:
        """A^p."""
        return self.apply(power(p))


def _eigh(A: Tensor) -> tuple[Tensor, Tensor]:
    """`torch.linalg.eigh`, which takes the matrices of a batch one after the other; here on as many threads as PyTorch
    may use."""
    threads = torch.get_num_threads()
    if A.ndim < 3 or threads == 1 or A.device.type != "cpu" or A.numel() * A.shape[-1] < SPLIT:
        values, vectors = torch.linalg.eigh(A)
        return values, vectors
    parts = _pool(threads).map(torch.linalg.eigh, A.flatten(0, -3).tensor_split(threads))
    values, vectors = (torch.cat(part) for part in zip(*parts, strict=True))
    return values.reshape(A.shape[:-1]), vectors.reshape(A.shape)


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, "linmap-eigh")


os.register_at_fork(after_in_child=_pool.cache_clear)  # a child has none of the threads


class _Spectral(Function):
    @staticmethod
    def forward(ctx: Any, A: Tensor, values: Tensor, a: Tensor, U: Tensor, floor: Tensor | None, f: SpectralFunction):
        ctx.save_for_backward(values, a, U, floor)
        ctx.function = f
        return (U * f.values(values).unsqueeze(-2)) @ U.mH

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, R: Tensor):
        values, a, U, floor = ctx.saved_tensors
        K = ctx.function.quotients(values)
        if floor is not None:
            K = K * _rectified_quotients(a, floor)
        return (U @ (K * (U.mH @ symmetric_part(R) @ U)) @ U.mH, *[None] * 5)


# -- divided differences ----------------------------------------------------------------------------------------------


def _rows_columns(a: Tensor) -> tuple[Tensor, Tensor]:
    return a.unsqueeze(-1), a.unsqueeze(-2)


def _log_ratio(a: Tensor) -> tuple[Tensor, Tensor]:
    """log(smaller / larger) <= 0 and the larger of each pair."""
    logs = a.log()
    rows, columns = _rows_columns(logs)
    return -(rows - columns).abs(), torch.maximum(*_rows_columns(a))


def _sqrt_quotients(a: Tensor) -> Tensor:
    r, c = _rows_columns(a.sqrt())
    return 1 / (r + c)


def _invsqrt_quotients(a: Tensor) -> Tensor:
    r, c = _rows_columns(a.rsqrt())
    return -((r * c) ** 2) / (r + c)


def _log_quotients(a: Tensor) -> Tensor:
    t, larger = _log_ratio(a)
    return torch.where(t == 0, 1.0, t / torch.expm1(t)) / larger


def _exp_quotients(a: Tensor) -> Tensor:
    r, c = _rows_columns(a)
    d = -(r - c).abs()
    return torch.where(d == 0, 1.0, torch.expm1(d) / d) * torch.maximum(r, c).exp()


def _rectified_quotients(a: Tensor, floor: Tensor | float) -> Tensor:
    """Of max(a, floor): 1 above, 0 below, between them the quotient; at a = floor the derivative from below."""
    above = a > floor
    r, c = _rows_columns(torch.where(above, a, floor))
    difference = torch.sub(*_rows_columns(a))
    up, down = _rows_columns(above)
    mixed = up != down
    return torch.where(mixed, (r - c) / torch.where(mixed, difference, 1.0), (up & down).to(a.dtype))


SQRT = SpectralFunction(torch.sqrt, _sqrt_quotients)
INVSQRT = SpectralFunction(torch.rsqrt, _invsqrt_quotients)
LOG = SpectralFunction(torch.log, _log_quotients)
EXP = SpectralFunction(torch.exp, _exp_quotients, positive=False)


def power(p: float) -> SpectralFunction:
    """a^p of positive a."""

    def quotients(a: Tensor) -> Tensor:
        t, larger = _log_ratio(a)
        return torch.where(t == 0, p, torch.expm1(p * t) / torch.expm1(t)) * larger ** (p - 1)

    return SpectralFunction(lambda a: a**p, quotients)


def rectifier(floor: float) -> SpectralFunction:
    """max(a, floor)."""
    return SpectralFunction(lambda a: a.clamp_min(floor), lambda a: _rectified_quotients(a, floor), positive=False)


def rectified_log(floor: float) -> SpectralFunction:
    """log(max(a, floor)), by the chain rule of divided differences."""
    return SpectralFunction(
        lambda a: a.clamp_min(floor).log(),
        lambda a: _log_quotients(a.clamp_min(floor)) * _rectified_quotients(a, floor),
        positive=False,
    )


# -- functions --------------------------------------------------------------------------------------------------------


def sym_sqrt(A: Matrices) -> Matrices:
    """A^(1/2) of positive definite matrices (..., n, n)."""
    return symmetric_part(SymmetricEigen(A).sqrt())


def sym_invsqrt(A: Matrices) -> Matrices:
    """A^(-1/2) of positive definite matrices (..., n, n)."""
    return symmetric_part(SymmetricEigen(A).invsqrt())


def sym_pow(A: Matrices, p: float) -> Matrices:
    """A^p of positive definite matrices (..., n, n), for any real p."""
    return symmetric_part(SymmetricEigen(A).pow(p))


def sym_log(A: Matrices) -> Matrices:
    """The logarithm of positive definite matrices (..., n, n)."""
    return symmetric_part(SymmetricEigen(A).apply(LOG))


def sym_exp(A: Matrices) -> Matrices:
    """The exponential of symmetric matrices (..., n, n)."""
    return symmetric_part(SymmetricEigen(A).apply(EXP))


def sym_rectify(A: Matrices, floor: float) -> Matrices:
    """Symmetric matrices (..., n, n) with their eigenvalues raised to `floor` (ReEig)."""
    return symmetric_part(SymmetricEigen(A).apply(rectifier(floor)))


def sym_rectified_log(A: Matrices, floor: float) -> Matrices:
    """ReEig and the logarithm (LogEig) in one eigendecomposition, (..., n, n)."""
    return symmetric_part(SymmetricEigen(A).apply(rectified_log(floor)))
