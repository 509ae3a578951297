"""`Diagonal`: one number a feature."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor, nn

from linmap.errors import ArgumentError, SingularMapError
from linmap.maps.base import LinearMap


class Diagonal(LinearMap):
    """y = d * x with d trainable, all ones at the start.

    Parameters
    ----------
    n
        Size.
    batch_shape
        Leading dimensions of d.
    dtype, device
        As in PyTorch.
    """

    def __init__(
        self,
        n: int,
        *,
        batch_shape: Sequence[int] = (),
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__(n, n, batch_shape=batch_shape, dtype=dtype, device=device)
        self.diagonal = nn.Parameter(torch.ones(*batch_shape, n, dtype=dtype, device=device))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.diagonal.unsqueeze(-2)

    def matrix(self) -> Tensor:
        return torch.diag_embed(self.diagonal)

    def _inverse(self, y: Tensor) -> Tensor:
        return y / self.diagonal.unsqueeze(-2)

    def _inverse_transpose(self, x: Tensor) -> Tensor:
        return self._inverse(x)

    def _check_invertible(self) -> None:
        if self.diagonal.is_meta:
            return
        zeros = int((self.diagonal == 0).sum())
        if zeros:
            raise SingularMapError(
                f"{self} has no inverse: {zeros} of its {self.diagonal.numel()} diagonal entries are zero."
            )

    def transpose(self) -> LinearMap:
        return self

    def logabsdet(self) -> Tensor:
        return self.diagonal.abs().log().sum(-1)

    def flops(self, vectors: int = 1) -> int:
        return self.diagonal.numel() * vectors

    @classmethod
    def _from_matrix(cls, M: Tensor) -> Self:
        """The diagonal of M, the nearest diagonal matrix."""
        if M.shape[-1] != M.shape[-2]:
            raise ArgumentError(f"Diagonal.from_matrix: M must be square, got shape {tuple(M.shape)}.")
        new = cls(M.shape[-1], batch_shape=M.shape[:-2], dtype=M.dtype, device=M.device)
        new.diagonal.copy_(M.diagonal(dim1=-2, dim2=-1))
        return new
