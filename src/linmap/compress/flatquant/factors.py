"""The small matrices whose Kronecker product transforms an activation: their sizes, their kinds, their application."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import Any, no_type_check

import torch
from jaxtyping import Float
from torch import Tensor

from linmap.errors import ArgumentError
from linmap.maps.cayley import cayley_transform
from linmap.maps.kronecker import kronecker_product

# -- Sizes -------------------------------------------------------------------------------------------------------------


def kronecker_factors(n: int) -> tuple[int, int]:
    """(n1, n2) with n1 <= n2, n1 n2 = n and the smallest n1 + n2: n1 is the largest divisor up to sqrt(n).

    Raises
    ------
    ValueError
        If n is no positive integer.

    Warns
    -----
    UserWarning
        If n is prime or twice a prime, so that the larger factor is (nearly) dense.
    """
    n1, n2 = factor_pairs(n)[-1]
    if n1 <= 2 and n > 4 and (n1 == 1 or len(factor_pairs(n2)) == 1):
        warnings.warn(
            f"a Kronecker product of size {n} degenerates to the factors ({n1}, {n2}), which cost about as much as a "
            "dense matrix; pad the dimension to a size with divisors near its square root.",
            UserWarning,
            stacklevel=2,
        )
    return n1, n2


def factor_pairs(n: int) -> list[tuple[int, int]]:
    """All (n1, n2) with n1 <= n2 and n1 n2 = n, n1 = 1 first.

    Raises
    ------
    ValueError
        If n is no positive integer.
    """
    if not isinstance(n, int) or isinstance(n, bool) or n < 1:
        raise ArgumentError(f"n must be a positive integer, got {n!r}.")
    return [(d, n // d) for d in range(1, math.isqrt(n) + 1) if n % d == 0]


# -- Orthogonal matrices -----------------------------------------------------------------------------------------------


def cayley(raw: Float[Tensor, "*batch n n"]) -> Float[Tensor, "*batch n n"]:
    """U = (I - A/2)^-1 (I + A/2) with A = tril(raw) - tril(raw)^T: orthogonal, of determinant +1, for every raw.

    Computed in at least float32, whatever the dtype of raw and under autocast too; only the entries below the
    diagonal count.

    Raises
    ------
    ValueError
        If raw is not square.
    """
    if raw.ndim < 2 or raw.shape[-1] != raw.shape[-2]:
        raise ArgumentError(f"raw must hold square matrices, got the shape {tuple(raw.shape)}.")
    return CayleyMatrix.apply(raw.to(torch.promote_types(raw.dtype, torch.float32)))  # pyright: ignore


@no_type_check  # Dynamo traces the methods, but no run-time checks around them
class CayleyMatrix(torch.autograd.Function):
    """`cayley`. With Z = (I - A/2)^-1 = (U + I) / 2: dU = Z dA Z, so that no gradient needs to solve again."""

    @staticmethod
    def forward(ctx: Any, raw: Tensor) -> Tensor:
        L = raw.tril(-1)
        with torch.autocast(raw.device.type, enabled=False):
            U = cayley_transform(L - L.mT)
        ctx.save_for_backward(U)
        return U

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (U,) = ctx.saved_tensors
        with torch.autocast(grad.device.type, enabled=False):
            Z_T = U.mT.clone()
            Z_T.diagonal(dim1=-2, dim2=-1).add_(1)
            grad_A = Z_T @ grad @ Z_T
        return (grad_A - grad_A.mT).tril(-1) / 4


# -- Application -------------------------------------------------------------------------------------------------------


def kronecker_apply(x: Float[Tensor, "*batch n"], factors: Sequence[Tensor]) -> Float[Tensor, "*batch n"]:
    """x (P_1 ⊗ P_2 ⊗ ...) for rows x, never building the product; for two factors, L^T X R of X = x as n1 x n2.

    Raises
    ------
    ValueError
        If the factors are not square, or their sizes do not multiply to n.
    """
    check_factors(factors, x.shape[-1])
    return kronecker_product([P.mT for P in factors], x)


def check_factors(factors: Sequence[Tensor], n: int) -> None:
    """Whether square factors multiply to n.

    Raises
    ------
    ValueError
        If they do not, with the pairs of sizes that do.
    """
    shapes = [tuple(P.shape) for P in factors]
    if any(len(shape) != 2 or shape[0] != shape[1] for shape in shapes):
        raise ArgumentError(f"the factors must be square matrices, got {', '.join(map(str, shapes))}.")
    check_sizes([shape[0] for shape in shapes], n)


def check_sizes(sizes: Sequence[int], n: int) -> None:
    """Whether sizes of factors multiply to n.

    Raises
    ------
    ValueError
        If they do not, with the pairs of sizes that do.
    """
    if math.prod(sizes) != n:
        given, pairs = ", ".join(map(str, sizes)), ", ".join(map(str, factor_pairs(n)))
        raise ArgumentError(f"factors of sizes ({given}) do not multiply to n = {n}; pairs that do: {pairs}.")
