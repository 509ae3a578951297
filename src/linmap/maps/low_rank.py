"""`LowRank`: the product of a tall and a wide matrix."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, Self

import torch
from torch import Tensor, nn

from linmap.errors import ArgumentError
from linmap.maps.base import LinearMap


class LowRank(LinearMap):
    """y = B (A x) with A of shape (rank, n_in) and B of shape (n_out, rank), both trainable.

    As in LoRA, A is drawn uniformly from ±1/sqrt(n_in) and B starts at zero, so that M = 0 and a weight that the map
    is added to keeps its value, while the gradient of B is not zero.

    Parameters
    ----------
    n_in, n_out
        Sizes.
    rank
        1 to min(n_in, n_out).
    init
        "zero": B = 0. "normal": B is drawn from N(0, 1/rank), for a map that stands alone.
    batch_shape
        Leading dimensions of A and B.
    generator
        Source of the random draws.
    dtype, device
        As in PyTorch.

    Raises
    ------
    ValueError
        If the rank is out of range or `init` is unknown.

    References
    ----------
    Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", ICLR 2022.
    """

    def __init__(
        self,
        n_in: int,
        n_out: int,
        rank: int,
        *,
        init: Literal["zero", "normal"] = "zero",
        batch_shape: Sequence[int] = (),
        generator: torch.Generator | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__(n_in, n_out, batch_shape=batch_shape, dtype=dtype, device=device)
        check_rank("LowRank", rank, n_in, n_out)
        if init not in ("zero", "normal"):
            raise ArgumentError(f"LowRank: init must be 'zero' or 'normal', got {init!r}.")
        self.rank = rank
        bound = 1 / math.sqrt(n_in)
        A = torch.empty(*batch_shape, rank, n_in, dtype=dtype, device=device)
        B = torch.zeros(*batch_shape, n_out, rank, dtype=dtype, device=device)
        self.A = nn.Parameter(A.uniform_(-bound, bound, generator=generator))
        self.B = nn.Parameter(B if init == "zero" else B.normal_(0, 1 / math.sqrt(rank), generator=generator))

    @property
    def rank_bound(self) -> int:
        return self.rank

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.A.mT @ self.B.mT

    def matrix(self) -> Tensor:
        return self.B @ self.A

    def _transpose(self, y: Tensor) -> Tensor:
        return y @ self.B @ self.A

    def flops(self, vectors: int = 1) -> int:
        return 2 * self.rank * (self.in_features + self.out_features) * vectors * self.batch_shape.numel()

    @classmethod
    def _from_matrix(cls, M: Tensor, rank: int) -> Self:
        """The truncated SVD, shared evenly between the factors (Eckart-Young)."""
        new = cls(M.shape[-1], M.shape[-2], rank, batch_shape=M.shape[:-2], dtype=M.dtype, device=M.device)
        B, A = balanced_factors(M, rank)
        new.A.copy_(A)
        new.B.copy_(B)
        return new


def balanced_factors(M: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """(U_k S_k^1/2, S_k^1/2 V_k^T), whose product is the best rank-k approximation of M."""
    U, S, Vh = torch.linalg.svd(M.to(torch.promote_types(M.dtype, torch.float32)), full_matrices=False)
    root = S[..., :rank].sqrt()
    return U[..., :rank] * root.unsqueeze(-2), root.unsqueeze(-1) * Vh[..., :rank, :]


def check_rank(structure: str, rank: int, n_in: int, n_out: int) -> None:
    """Raise `ValueError` unless 1 <= rank <= min(n_in, n_out)."""
    if not isinstance(rank, int) or isinstance(rank, bool) or not 1 <= rank <= min(n_in, n_out):
        raise ArgumentError(
            f"{structure}: rank must be an integer from 1 to min(n_in, n_out) = {min(n_in, n_out)}, got {rank!r}."
        )
