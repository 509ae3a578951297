"""`Identity`: y = x."""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor

from linmap.errors import ArgumentError
from linmap.maps.base import LinearMap


class Identity(LinearMap):
    """The map that changes nothing.

    Parameters
    ----------
    n
        Size.
    dtype, device
        Those of `matrix()`.
    """

    orthogonal = True

    def __init__(self, n: int, *, dtype: torch.dtype | None = None, device: torch.device | str | None = None) -> None:
        super().__init__(n, n, dtype=dtype, device=device)

    def forward(self, x: Tensor) -> Tensor:
        return x

    def matrix(self) -> Tensor:
        return torch.eye(self.in_features, dtype=self.dtype, device=self.device)

    def _transpose(self, y: Tensor) -> Tensor:
        return y

    def transpose(self) -> LinearMap:
        return self

    def flops(self, vectors: int = 1) -> int:
        return 0

    @classmethod
    def _from_matrix(cls, M: Tensor) -> Self:
        if M.shape[-1] != M.shape[-2]:
            raise ArgumentError(f"Identity.from_matrix: M must be square, got shape {tuple(M.shape)}.")
        return cls(M.shape[-1], dtype=M.dtype, device=M.device)
