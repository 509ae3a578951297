"""The small matrices whose Kronecker product transforms an activation: their sizes, their kinds, their application."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import Any, no_type_check

import torch
from jaxtyping import Float
from scipy.linalg import hadamard
from torch import Tensor

from linmap.errors import ArgumentError
from linmap.maps.cayley import cayley_transform
from linmap.maps.kronecker import along_middle

LARGEST_POWER = 128  # up to here, one dense product beats several
LARGEST_PALEY = 512  # beyond, a random orthogonal matrix of the odd part is much cheaper
SEED = 0  # of the orthogonal factors of sizes without a Hadamard matrix


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


def haar_orthogonal(n: int, generator: torch.Generator | None = None) -> Float[Tensor, "{n} {n}"]:
    """A random orthogonal matrix, uniform over all, in float64 (Mezzadri, 2007: QR of a Gaussian, signs fixed)."""
    Q, R = torch.linalg.qr(torch.randn(n, n, dtype=torch.float64, generator=generator, device=_device(generator)))
    return Q * R.diagonal().sign()


def _device(generator: torch.Generator | None) -> torch.device | None:
    return None if generator is None else generator.device


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


# -- Hadamard matrices -------------------------------------------------------------------------------------------------


def hadamard_factors(n: int) -> list[Float[Tensor, "size size"]]:
    """Orthonormal matrices whose Kronecker product has the size n, in float64: Hadamard matrices as far as they go.

    Powers of two by Sylvester's construction, in factors of at most 128; the odd part, with as many twos as it needs,
    by Paley's constructions from primes, as in 576 = 12 * 12 * 4 and 1536 = 12 * 128. Where these have no orders that
    fit up to 512, as for odd n, the odd part gets a fixed random orthogonal matrix.

    Raises
    ------
    ValueError
        If n is no positive integer.

    References
    ----------
    Paley, "On orthogonal matrices" (1933).
    """
    factor_pairs(n)
    return [_orthonormal(size) for size in hadamard_sizes(n)]


def hadamard_sizes(n: int) -> list[int]:
    """Sizes of the factors of `hadamard_factors`, those that are no powers of two first."""
    twos = (n & -n).bit_length() - 1
    odd = n >> twos
    orders = _paley_orders(odd, twos)
    if orders is None:
        return [odd, *_power_sizes(twos)]
    return [*orders, *_power_sizes(((n // math.prod(orders)).bit_length()) - 1)] or [1]


def _paley_orders(odd: int, twos: int) -> list[int] | None:
    """Orders of Paley matrices that use up the odd part of 2^twos odd, of the smallest sum; None if there are none."""
    if odd == 1:
        return []
    found = []
    for m in {d for pair in factor_pairs(odd) for d in pair} - {1}:
        for k in range(2, twos + 1):
            if m << k <= LARGEST_PALEY and _paley_prime(m << k):
                others = _paley_orders(odd // m, twos - k)
                found += [] if others is None else [[m << k, *others]]
    return min(found, key=sum, default=None)


def _power_sizes(twos: int) -> list[int]:
    """Nearly equal powers of two up to `LARGEST_POWER`, whose product is 2^twos."""
    if not twos:
        return []
    parts = -(-twos // (LARGEST_POWER.bit_length() - 1))
    return [2 ** ((twos + i) // parts) for i in range(parts)]


def _paley_prime(order: int) -> tuple[int, int] | None:
    """q and 1 or 2: the prime and the construction of a Paley matrix."""
    for q, kind in ((order - 1, 1), (order // 2 - 1, 2)):
        if q % 4 == (3 if kind == 1 else 1) and len(factor_pairs(q)) == 1 and q > 1:
            return q, kind
    return None


def _orthonormal(size: int) -> Tensor:
    if size & (size - 1) == 0:
        H = torch.from_numpy(hadamard(size)).double()
    elif found := _paley_prime(size) if size % 4 == 0 else None:
        H = paley(*found)
    else:
        return haar_orthogonal(size, torch.Generator().manual_seed(SEED))
    return H / math.sqrt(size)


def paley(q: int, kind: int) -> Float[Tensor, "order order"]:
    """Paley's Hadamard matrix of order q + 1 (kind 1, a prime q = 3 mod 4) or 2 (q + 1) (kind 2, q = 1 mod 4)."""
    squares = {i * i % q for i in range(1, q)}
    character = torch.tensor([0.0] + [1.0 if i in squares else -1.0 for i in range(1, q)], dtype=torch.float64)
    i = torch.arange(q)
    C = torch.ones(q + 1, q + 1, dtype=torch.float64)
    C[0, 0] = 0
    C[1:, 1:] = character[(i[:, None] - i) % q]
    eye = torch.eye(q + 1, dtype=torch.float64)
    if kind == 1:
        C[1:, 0] = -1  # skew
        return eye + C
    two = torch.tensor([[1.0, 1.0], [1.0, -1.0]], dtype=torch.float64)
    diagonal = torch.tensor([[1.0, -1.0], [-1.0, -1.0]], dtype=torch.float64)
    return torch.kron(C, two) + torch.kron(eye, diagonal)


# -- Application -------------------------------------------------------------------------------------------------------


def kronecker_apply(x: Float[Tensor, "*batch n"], factors: Sequence[Tensor]) -> Float[Tensor, "*batch n"]:
    """x (P_1 ⊗ P_2 ⊗ ...) for rows x, never building the product; for two factors, L^T X R of X = x as n1 x n2.

    Raises
    ------
    ValueError
        If the factors are not square, or their sizes do not multiply to n.
    """
    check_factors(factors, x.shape[-1])
    y, left, right = x.reshape(-1, x.shape[-1]), x.shape[-1], 1
    for P in reversed(factors):
        left //= len(P)
        y = along_middle(P.mT, y.reshape(-1, len(P), right))
        right *= len(P)
    return y.reshape(x.shape)


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
