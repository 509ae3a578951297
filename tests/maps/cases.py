"""The registry of maps that tests/properties/test_map_laws.py runs every law over: a new map joins by one line.

A line is `Case(name, build)`, where `build(**options)` makes the map; `options` are `generator`, `dtype`, `device`
and, unless the case says `batched=False`, `batch_shape`. Everything else (sizes, whether it is square, invertible,
orthogonal, complex, what is trainable) the laws read off the map.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from linmap import maps
from linmap.maps import LinearMap


@dataclass(frozen=True)
class Case:
    """One map in one size."""

    name: str
    build: Callable[..., LinearMap]
    batched: bool = True  # the constructor takes batch_shape
    right_inverse: bool = True  # parametrize can keep a weight when this (invertible) map is registered on it
    compiles: bool = True  # torch.compile(fullgraph=True) can trace it

    def __call__(self, dtype: torch.dtype = torch.float64, device: str = "cpu", seed: int = 0, **options: Any):
        """The map, with every trainable entry moved off its initial value: the laws hold everywhere."""
        generator = torch.Generator(device).manual_seed(seed)
        new = self.build(generator=generator, dtype=dtype, device=device, **options)
        with torch.no_grad():
            for parameter in new.parameters():
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator, dtype=dtype, device=device))
        return new


CASES = [
    *(Case(f"Dense({m}, {n})", lambda m=m, n=n, **o: maps.Dense(m, n, **o)) for m, n in [(1, 1), (5, 5), (7, 3)]),
]
