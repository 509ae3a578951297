"""`TriangularPair`: low rank with a lower + upper triangular core, whose rank can grow in training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Self

import torch
from jaxtyping import Float
from torch import Tensor, nn

from linmap.maps.base import LinearMap
from linmap.maps.low_rank import balanced_factors, check_rank


class TriangularPair(LinearMap):
    """y = B C A x with C = L + U: L lower and U upper triangular, both with their diagonal; all four are trainable.

    Direction i of the map is one piece: row i of A, column i of B, row i of L up to the diagonal, column i of U down
    to the diagonal. Growing the rank appends pieces and never touches old ones: the new row of L and the new column
    of U couple the new direction with all the old ones.

    At the start L, U and A are drawn from N(0, 0.02^2) and B = 0, so that M = 0 with a gradient that is not zero.

    Parameters
    ----------
    n_in, n_out
        Sizes.
    rank
        1 to min(n_in, n_out).
    max_rank
        Rank to keep room for (default: `rank`). Up to it `grow` changes no parameter object, shape or entry, so that
        optimisers, schedulers, DDP and FSDP never notice; the pieces beyond `rank` have zero gradients.
    init
        "zero": B = 0. "normal": B is drawn from N(0, 0.02^2) too.
    batch_shape
        Leading dimensions of A, B, L and U.
    generator
        Source of the random draws.
    dtype, device
        As in PyTorch.

    Attributes
    ----------
    A, B, lower, upper
        Of shapes (max_rank, n_in), (n_out, max_rank), (max_rank, max_rank) twice; the forward reads the first `rank`
        pieces, the lower triangle of `lower` and the upper triangle of `upper`.
    rank
        The rank in use; it travels in the state dict.

    References
    ----------
    Liang et al., "TriAdaptLoRA", arXiv 2501.08008. There a grown piece starts with random u and b, which moves M a
    little; here the part of u above the diagonal and b start at zero, which keeps M.
    """

    def __init__(
        self,
        n_in: int,
        n_out: int,
        rank: int,
        *,
        max_rank: int | None = None,
        init: Literal["zero", "normal"] = "zero",
        batch_shape: Sequence[int] = (),
        generator: torch.Generator | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__(n_in, n_out, batch_shape=batch_shape, dtype=dtype, device=device)
        check_rank("TriangularPair", rank, n_in, n_out)
        if init not in ("zero", "normal"):
            raise ValueError(f"TriangularPair: init must be 'zero' or 'normal', got {init!r}.")
        max_rank = rank if max_rank is None else max_rank
        check_rank("TriangularPair", max_rank, n_in, n_out)
        if max_rank < rank:
            raise ValueError(f"TriangularPair: max_rank = {max_rank} is below rank = {rank}; raise max_rank.")
        self.rank = rank

        def drawn(*shape: int) -> Tensor:
            return torch.empty(*batch_shape, *shape, dtype=dtype, device=device).normal_(0, 0.02, generator=generator)

        self.A = nn.Parameter(drawn(max_rank, n_in))
        self.lower = nn.Parameter(drawn(max_rank, max_rank).tril())
        upper = drawn(max_rank, max_rank).triu()
        upper[..., rank:] *= torch.eye(max_rank, dtype=dtype, device=device)[:, rank:]  # grown pieces: u = 0 above
        self.upper = nn.Parameter(upper)
        B = drawn(n_out, max_rank)
        B[..., (0 if init == "zero" else rank) :] = 0
        self.B = nn.Parameter(B)

    @property
    def max_rank(self) -> int:
        return self.A.shape[-2]

    @property
    def rank_bound(self) -> int:
        return self.rank

    @property
    def core(self) -> Float[Tensor, "*batch rank rank"]:
        """C = L + U at the rank in use."""
        return self.lower[..., : self.rank, : self.rank].tril() + self.upper[..., : self.rank, : self.rank].triu()

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.A[..., : self.rank, :].mT @ self.core.mT @ self.B[..., : self.rank].mT

    def matrix(self) -> Tensor:
        return self.B[..., : self.rank] @ (self.core @ self.A[..., : self.rank, :])

    def _transpose(self, y: Tensor) -> Tensor:
        return y @ self.B[..., : self.rank] @ self.core @ self.A[..., : self.rank, :]

    def flops(self, vectors: int = 1) -> int:
        per_vector = 2 * self.rank * (self.in_features + self.rank + self.out_features)
        return per_vector * vectors * self.batch_shape.numel()

    def grow(self, rank: int, *, generator: torch.Generator | None = None) -> None:
        """Raise the rank; M and the old entries stay as they are.

        Up to `max_rank` the parameters stay the same objects. Beyond it A, B, lower and upper are replaced by larger
        parameters, which an optimiser has to be given.

        Raises
        ------
        ValueError
            If `rank` is below the present rank or above min(n_in, n_out).
        """
        check_rank("TriangularPair.grow", rank, self.in_features, self.out_features)
        if rank < self.rank:
            raise ValueError(f"TriangularPair.grow: rank must be at least the present {self.rank}, got {rank}.")
        if rank > self.max_rank:
            self._make_room(rank, generator)
        self.rank = rank

    @torch.no_grad()
    def _make_room(self, max_rank: int, generator: torch.Generator | None) -> None:
        larger = TriangularPair(
            self.in_features,
            self.out_features,
            self.rank,
            max_rank=max_rank,
            batch_shape=self.batch_shape,
            generator=generator,
            dtype=self.dtype,
            device=self.device,
        )
        for name, new in list(larger.named_parameters()):
            old = getattr(self, name)
            new[tuple(slice(size) for size in old.shape)] = old
            setattr(self, name, new.requires_grad_(old.requires_grad))

    def get_extra_state(self) -> Tensor:
        return torch.tensor(self.rank)

    def set_extra_state(self, state: Tensor) -> None:
        self.rank = int(state)

    @classmethod
    def _from_matrix(cls, M: Tensor, rank: int, max_rank: int | None = None) -> Self:
        """The truncated SVD in A and B, with C = I shared evenly by L and U."""
        n_out, n_in = M.shape[-2:]
        new = cls(n_in, n_out, rank, max_rank=max_rank, batch_shape=M.shape[:-2], dtype=M.dtype, device=M.device)
        new.B[..., :rank], new.A[..., :rank, :] = balanced_factors(M, rank)
        half = torch.eye(rank, dtype=M.dtype, device=M.device) / 2
        new.lower[..., :rank, :rank], new.upper[..., :rank, :rank] = half, half
        return new
