"""Activations and factors that both forms of the kernel are run on."""

from __future__ import annotations

import torch
from torch import Tensor

SIZES = (
    (1, 2), (2, 2), (1, 16), (1, 17), (3, 5), (5, 6), (6, 5), (4, 10), (7, 10), (9, 64), (16, 16), (24, 24), (24, 25),
    (32, 48), (17, 34), (64, 64), (86, 128),
)  # fmt: skip
DTYPES = (torch.float32, torch.float16, torch.bfloat16)
CLIPS = ((1.0, 1.0), (0.75, 0.5))


def exact(n1: int, n2: int, dtype: torch.dtype, seed: int = 0) -> dict[str, Tensor]:
    """Whole numbers, whose products every order of summation gives alike; zero tokens and massive activations."""
    generator = torch.Generator().manual_seed(seed)

    def whole(most: int, *shape: int) -> Tensor:
        return torch.randint(-most, most + 1, shape, generator=generator).float()

    x = whole(15, 6, n1 * n2)
    x[1] = 0
    x[2, 0] = 2048.0
    x[3] = x[3].abs()
    x[4] = -x[4].abs()
    return {"x": x.to(dtype), "left": whole(2, n1, n1), "right": whole(2, n2, n2)}


def any_numbers(n1: int, n2: int, dtype: torch.dtype, seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    return {"x": normal(2, 3, n1 * n2).to(dtype), "left": normal(n1, n1), "right": normal(n2, n2)}
