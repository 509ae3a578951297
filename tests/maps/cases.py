"""The registry of maps that tests/properties/test_map_laws.py runs every law over: a new map joins by one line.

A line is `Case(name, build)`, where `build(**options)` makes the map; `options` are `generator`, `dtype`, `device`
and, unless the case says `batched=False`, `batch_shape`. Everything else (sizes, whether it is square, invertible,
orthogonal, complex, what is trainable) the laws read off the map.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch.nn.functional import pad

from linmap import maps
from linmap.maps import LinearMap


@dataclass(frozen=True)
class Case:
    """One map in one size."""

    name: str
    build: Callable[..., LinearMap]
    batched: bool = True  # the constructor takes batch_shape
    from_matrix: dict[str, Any] | None = None  # options with which from_matrix finds the map's own matrix again
    compiles: bool = True  # torch.compile(fullgraph=True) can trace it

    def __call__(
        self, dtype: torch.dtype = torch.float64, device: str = "cpu", seed: int = 0, **options: Any
    ) -> LinearMap:
        """The map, with every trainable entry moved off its initial value: the laws hold everywhere."""
        generator = torch.Generator(device).manual_seed(seed)
        new = self.build(generator=generator, dtype=dtype, device=device, **options)
        with torch.no_grad():
            for parameter in new.parameters():
                noise = torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype, device=device)
                parameter.add_(0.3 * noise)
        return new

    def __repr__(self) -> str:
        return self.name


def spectral_relu(**o: Any) -> LinearMap:
    """Trainable singular values of which the relu cuts one off."""
    new = maps.Spectral(4, 4, 3, **o)
    with torch.no_grad():
        new.shift[..., 1] = -9
    return new


def compose(sizes: list[int], **o: Any) -> LinearMap:
    return maps.Compose(*(maps.Dense(n, m, **o) for m, n in pairwise(sizes)))


def row_stochastic(m: int, n: int, transform: Any, **o: Any) -> LinearMap:
    return maps.RowStochastic(m, n, transform=transform, **o)


def mixed_product(**o: Any) -> LinearMap:
    generator = o.pop("generator")
    scaled = maps.Permutation(5, generator=generator, **o) @ maps.Diagonal(5, **o)
    return scaled @ maps.Dense(5, generator=generator, **o) @ maps.Permutation(5, generator=generator, **o).T


def permuted_twice(**o: Any) -> LinearMap:
    return maps.Permutation(7, **o) @ maps.Permutation(7, **o).T


def mixed_kronecker(**o: Any) -> LinearMap:
    return maps.Kronecker(maps.Householder(3, **o), maps.Dense(2, 1, **o), maps.Cayley(2, **o).T)


def based(structure: type[maps.Cayley] | type[maps.Exponential], **o: Any) -> LinearMap:
    """On a base of determinant -1."""
    base = -structure(3, **o).matrix().detach()
    return structure(3, base=base, **o)


def running_sum(generator: torch.Generator, **o: Any) -> LinearMap:
    return maps.Implicit(5, 5, lambda x: x.cumsum(-1), lambda y: y.flip(-1).cumsum(-1).flip(-1), **o)


def differences(generator: torch.Generator, **o: Any) -> LinearMap:
    return maps.Implicit(5, 4, lambda x: x.diff(dim=-1), lambda y: -pad(y, (1, 1)).diff(dim=-1), **o)


# fmt: off
CASES = [
    *(Case(f"Dense({m}, {n})", lambda m=m, n=n, **o: maps.Dense(m, n, **o), from_matrix={})
      for m, n in [(5, 5), (1, 1), (7, 3), (3, 7)]),
    *(Case(f"Diagonal({n})", lambda generator, n=n, **o: maps.Diagonal(n, **o), from_matrix={}) for n in [5, 1]),
    Case("Identity(3)", lambda generator, **o: maps.Identity(3, **o), batched=False, from_matrix={}),
    *(Case(f"Permutation({n})", lambda n=n, **o: maps.Permutation(n, **o), from_matrix={}) for n in [7, 1]),
    *(Case(f"LowRank({m}, {n}, {r})", lambda m=m, n=n, r=r, **o: maps.LowRank(m, n, r, **o), from_matrix={"rank": r})
      for m, n, r in [(7, 5, 2), (1, 1, 1), (3, 3, 3), (4, 4, 3), (2, 11, 1)]),
    *(Case(f"TriangularPair({m}, {n}, {r}, max_rank={top})",
           lambda m=m, n=n, r=r, top=top, **o: maps.TriangularPair(m, n, r, max_rank=top, **o),
           from_matrix={"rank": r, "max_rank": top})
      for m, n, r, top in [(7, 5, 2, 4), (1, 1, 1, 1), (3, 3, 3, 3), (5, 5, 3, 5)]),
    *(Case(f"BlockAffine({m}, {n}, {r}, {s})", lambda m=m, n=n, r=r, s=s, **o: maps.BlockAffine(m, n, r, s, **o),
           from_matrix={"block_in": r, "block_out": s})
      for m, n, r, s in [(6, 9, 3, 3), (1, 1, 1, 1), (7, 5, 3, 2), (4, 6, 2, 6), (6, 4, 6, 2), (3, 3, 3, 3)]),
    *(Case(f"Spectral({m}, {n}, {k})", lambda m=m, n=n, k=k, **o: maps.Spectral(m, n, k, **o), from_matrix={"k": k})
      for m, n, k in [(5, 5, 2), (1, 1, 1), (7, 3, 2), (3, 7, None), (4, 4, 0)]),
    Case("Spectral(4, 4, 3) with a zero", spectral_relu, from_matrix={"k": 3}),
    Case("Spectral(5, 5, 4, nonnegative=False)", lambda **o: maps.Spectral(5, 5, 4, nonnegative=False, **o),
         from_matrix={"k": 4, "nonnegative": False}),
    *(Case(f"RowStochastic({m}, {n}, {t})", lambda m=m, n=n, t=t, **o: row_stochastic(m, n, t, **o),
           from_matrix={"transform": t})
      for m, n, t in [(5, 5, "softplus"), (1, 1, "softplus"), (7, 3, "softplus"), (3, 5, "softmax")]),
    *(Case(f"DiagonalPlusLowRank({n}, {r})", lambda n=n, r=r, **o: maps.DiagonalPlusLowRank(n, r, **o),
           from_matrix={"rank": r})
      for n, r in [(7, 1), (1, 1), (11, 2)]),
    Case("DiagonalPlusLowRank(4, 4)", lambda **o: maps.DiagonalPlusLowRank(4, 4, **o)),
    Case("DiagonalPlusLowRank(7, 2), complex",
         lambda dtype, **o: maps.DiagonalPlusLowRank(7, 2, dtype=dtype.to_complex(), **o), from_matrix={"rank": 2}),
    *(Case(f"Rigid({d})", lambda d=d, **o: maps.Rigid(d, **o), from_matrix={}) for d in [3, 1, 2, 4]),
    *(Case(f"Householder({n}, {k})", lambda n=n, k=k, **o: maps.Householder(n, k, **o),
           from_matrix={"n_reflections": k})
      for n, k in [(5, None), (7, 3), (1, 1), (2, 2), (3, 5)]),
    *(Case(f"Exponential({n})", lambda n=n, **o: maps.Exponential(n, **o), from_matrix={}) for n in [5, 1, 2, 8]),
    *(Case(f"Cayley({n})", lambda n=n, **o: maps.Cayley(n, **o), from_matrix={}) for n in [5, 1, 2, 8]),
    *(Case(f"{s}(3), based", lambda s=s, **o: based(getattr(maps, s), **o), from_matrix={})
      for s in ["Exponential", "Cayley"]),
    *(Case(f"SignedHadamard({n}, rounds={r})", lambda n=n, r=r, **o: maps.SignedHadamard(n, rounds=r, **o))
      for n, r in [(7, None), (1, None), (2, None), (3, 1), (8, 2), (12, 3)]),
    *(Case(f"Kronecker{sizes}", lambda sizes=sizes, **o: maps.Kronecker(*sizes, **o), from_matrix={"sizes": sizes})
      for sizes in [(2, 3), (5, 1), ((3, 2), (1, 2)), (2, (2, 1), (1, 2)), ((2, 3), (3, 2))]),
    Case("Kronecker of Householder, Dense and Cayley.T", mixed_kronecker),
    Case("Implicit running sum", running_sum, batched=False, from_matrix={}),
    Case("Implicit differences", differences, batched=False, from_matrix={}),
    Case("Dense(5, 3) @ Dense(5, 5)", lambda **o: compose([3, 5, 5], **o)),
    Case("Dense(4, 2) @ Dense(2, 4)", lambda **o: compose([2, 4, 2], **o)),
    Case("Dense(2, 4) @ Dense(4, 2)", lambda **o: compose([4, 2, 4], **o)),
    Case("Permutation @ Diagonal @ Dense @ Permutation.T", mixed_product),
    Case("Permutation @ Permutation.T", permuted_twice),
]
# fmt: on
