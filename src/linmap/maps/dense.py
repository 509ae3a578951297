"""`Dense`: a matrix with no structure, the yardstick of all the others."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor, nn

from linmap.maps.base import LinearMap


class Dense(LinearMap):
    """y = W x with every entry of W trainable; drawn uniformly from ±1/sqrt(in_features), as `nn.Linear` does.

    Parameters
    ----------
    in_features, out_features
        Sizes; square when `out_features` is None.
    batch_shape
        Leading dimensions of W.
    generator
        Source of the random draw.
    dtype, device
        As in PyTorch.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int | None = None,
        *,
        batch_shape: Sequence[int] = (),
        generator: torch.Generator | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        out_features = in_features if out_features is None else out_features
        super().__init__(in_features, out_features, batch_shape=batch_shape, dtype=dtype, device=device)
        bound = 1 / math.sqrt(in_features)
        weight = torch.empty(*batch_shape, out_features, in_features, dtype=dtype, device=device)
        self.weight = nn.Parameter(weight.uniform_(-bound, bound, generator=generator))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight.mT

    def matrix(self) -> Tensor:
        return self.weight

    @classmethod
    def _from_matrix(cls, M: Tensor) -> Self:
        new = cls(M.shape[-1], M.shape[-2], batch_shape=M.shape[:-2], dtype=M.dtype, device=M.device)
        new.weight.copy_(M)
        return new
