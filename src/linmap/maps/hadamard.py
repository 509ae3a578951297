"""Hadamard matrices of many orders, and the one fast transform by them: a Kronecker product of small ones.

Sources: Sylvester (1867) for powers of two, Paley, "On orthogonal matrices" (1933), for orders from primes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from linmap.errors import ArgumentError
from linmap.maps.kronecker import kronecker_product
from linmap.maps.orthogonal import haar_orthogonal

LARGEST_POWER = 128
"""Of `hadamard_factors`: up to here, one dense product beats several."""
LARGEST_PALEY = 512
"""Beyond, a random orthogonal matrix of the odd part is much cheaper."""
SEED = 0
"""Of the orthogonal factors of sizes without a Hadamard matrix."""


# -- Matrices ----------------------------------------------------------------------------------------------------------


def hadamard(n: int) -> Float[Tensor, "{n} {n}"]:
    """Sylvester's Hadamard matrix of order n = 2^p, entries ±1."""
    H = torch.ones(1, 1)
    while len(H) < n:
        H = torch.cat([torch.cat([H, H], 1), torch.cat([H, -H], 1)])
    return H


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


def hadamard_factors(n: int) -> list[Tensor]:
    """Orthonormal matrices whose Kronecker product has the size n, in float64: Hadamard matrices as far as they go.

    Powers of two by Sylvester's construction, in factors of at most 128; the odd part, with as many twos as it needs,
    by Paley's constructions from primes, as in 576 = 12 * 12 * 4 and 1536 = 12 * 128. Where these have no orders that
    fit up to 512, as for odd n, the odd part gets a fixed random orthogonal matrix.

    Raises
    ------
    ValueError
        If n is no positive integer.
    """
    return [_orthonormal(size) for size in hadamard_sizes(n)]


def hadamard_sizes(n: int) -> list[int]:
    """Sizes of the factors of `hadamard_factors`, those that are no powers of two first."""
    if not isinstance(n, int) or isinstance(n, bool) or n < 1:
        raise ArgumentError(f"n must be a positive integer, got {n!r}.")
    twos = (n & -n).bit_length() - 1
    odd = n >> twos
    orders = _paley_orders(odd, twos)
    if orders is None:
        return [odd, *_powers(twos, LARGEST_POWER.bit_length() - 1)]
    return [*orders, *_powers((n // math.prod(orders)).bit_length() - 1, LARGEST_POWER.bit_length() - 1)] or [1]


def _orthonormal(size: int) -> Tensor:
    if size & (size - 1) == 0:
        H = hadamard(size).double()
    elif found := _paley_prime(size) if size % 4 == 0 else None:
        H = paley(*found)
    else:
        return haar_orthogonal(size, torch.Generator().manual_seed(SEED))
    return H / math.sqrt(size)


def _paley_orders(odd: int, twos: int) -> list[int] | None:
    """Orders of Paley matrices that use up the odd part of 2^twos odd, of the smallest sum; None if there are none."""
    if odd == 1:
        return []
    found = []
    for m in _divisors(odd) - {1}:
        for k in range(2, twos + 1):
            if m << k <= LARGEST_PALEY and _paley_prime(m << k):
                others = _paley_orders(odd // m, twos - k)
                found += [] if others is None else [[m << k, *others]]
    return min(found, key=sum, default=None)


def _paley_prime(order: int) -> tuple[int, int] | None:
    """q and 1 or 2: the prime and the construction of a Paley matrix."""
    for q, kind in ((order - 1, 1), (order // 2 - 1, 2)):
        if q % 4 == (3 if kind == 1 else 1) and len(_divisors(q)) == 2:
            return q, kind
    return None


def _divisors(n: int) -> set[int]:
    return {d for small in range(1, math.isqrt(n) + 1) if n % small == 0 for d in (small, n // small)}


def _powers(twos: int, most: int) -> list[int]:
    """Nearly equal powers of two of at most `most` twos each, whose product is 2^twos."""
    parts = -(-twos // most)
    return [2 ** ((twos + i) // parts) for i in range(parts)]


# -- Transforms --------------------------------------------------------------------------------------------------------


def transform_factors(n: int) -> list[Tensor]:
    """The Hadamard matrices of `hadamard_transform` for n = 2^p, entries ±1: their Kronecker product is that of n.

    Up to 128 one matrix product is fastest; beyond, products with matrices of about 32.

    Raises
    ------
    ValueError
        If n is no power of two.
    """
    if n < 1 or n & (n - 1):
        raise ArgumentError(f"a Sylvester matrix has a power of two as its order, got {n}; pad with zeros.")
    bits = n.bit_length() - 1
    return [hadamard(size) for size in _powers(bits, 7 if bits <= 7 else 5)]


def hadamard_transform(
    x: Float[Tensor, "*batch n"], factors: Sequence[Tensor] | None = None
) -> Float[Tensor, "*batch n"]:
    """H x / sqrt(n) on the last dimension, n = 2^p and H in Sylvester's order: orthonormal, and its own inverse.

    Parameters
    ----------
    x
        Floating-point numbers.
    factors
        `transform_factors(n)` on the device of x and in its dtype, where many transforms share them.

    Raises
    ------
    ValueError
        If n is no power of two.
    """
    n = x.shape[-1]
    factors = [H.to(x) for H in transform_factors(n)] if factors is None else factors
    return kronecker_product(factors, x) * n**-0.5
