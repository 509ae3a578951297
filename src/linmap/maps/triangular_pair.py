"""`TriangularPair`: low rank with a lower + upper triangular core, whose rank can grow in training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, Self

import torch
import torch.nn.functional as F
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from linmap.errors import ArgumentError
from linmap.maps.base import LinearMap
from linmap.maps.low_rank import balanced_factors, check_rank
from linmap.maps.numbers import sharded, whole

Init = Literal["zero", "normal"]
Core = Literal["normal", "identity"]
STD = 0.02


class Piece(NamedTuple):
    """Direction i of a `TriangularPair`."""

    a: Float[Tensor, "*batch n_in"]
    """Row i of A."""
    b: Float[Tensor, "*batch n_out"]
    """Column i of B."""
    l: Float[Tensor, "*batch i"]
    """Row i of L, up to and with the diagonal."""
    u: Float[Tensor, "*batch i"]
    """Column i of U, down to and with the diagonal."""


def new_piece(
    i: int,
    n_in: int,
    n_out: int,
    *,
    init: Init = "zero",
    core: Core = "normal",
    batch_shape: Sequence[int] = (),
    generator: torch.Generator | None = None,
) -> Piece:
    """Direction i (from 0) as it is born, in float32 on the CPU.

    a, and l and u on the diagonal are drawn from N(0, 0.02^2), and l left of it. With `init` "zero" b and the rest of u
    are zero, so that M does not change; "normal" draws them too. `core` "identity" makes l and u rows of I / 2.
    """

    def drawn(n: int) -> Tensor:
        return torch.empty(*batch_shape, n).normal_(0, STD, generator=generator)

    a, b, l, u = drawn(n_in), drawn(n_out), drawn(i + 1), drawn(i + 1)
    if init == "zero":
        b.zero_()
        u[..., :i] = 0
    if core == "identity":
        l, u = (F.pad(torch.full((*batch_shape, 1), 0.5), (i, 0)) for _ in range(2))
    return Piece(a, b, l, u)


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
        optimisers, schedulers, DDP and FSDP never notice; pieces beyond `rank` are zero, have no part in M, and get
        zero gradients.
    init
        "zero": B = 0. "normal": B is drawn from N(0, 0.02^2) too.
    core
        "normal", or "identity": L = U = I / 2, so that C = I.
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

    _in_lower: Tensor  # ones where L and U are in use, zeros elsewhere
    _in_upper: Tensor

    def __init__(
        self,
        n_in: int,
        n_out: int,
        rank: int,
        *,
        max_rank: int | None = None,
        init: Init = "zero",
        core: Core = "normal",
        batch_shape: Sequence[int] = (),
        generator: torch.Generator | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__(n_in, n_out, batch_shape=batch_shape, dtype=dtype, device=device)
        check_rank("TriangularPair", rank, n_in, n_out)
        if init not in ("zero", "normal"):
            raise ArgumentError(f"TriangularPair: init must be 'zero' or 'normal', got {init!r}.")
        if core not in ("normal", "identity"):
            raise ArgumentError(f"TriangularPair: core must be 'normal' or 'identity', got {core!r}.")
        max_rank = rank if max_rank is None else max_rank
        check_rank("TriangularPair", max_rank, n_in, n_out)
        if max_rank < rank:
            raise ArgumentError(f"TriangularPair: max_rank = {max_rank} is below rank = {rank}; raise max_rank.")

        def drawn(*shape: int) -> Tensor:
            return torch.empty(*batch_shape, *shape, dtype=dtype, device=device).normal_(0, STD, generator=generator)

        spare = max_rank - rank
        half = torch.eye(rank, dtype=dtype, device=device).expand(*batch_shape, rank, rank) / 2
        A, L, U, B = drawn(rank, n_in), drawn(rank, rank).tril(), drawn(rank, rank).triu(), drawn(n_out, rank)
        L, U = (L, U) if core == "normal" else (half, half)
        self.A = nn.Parameter(F.pad(A, (0, 0, 0, spare)))
        self.lower, self.upper = (nn.Parameter(F.pad(half, (0, spare, 0, spare))) for half in (L, U))
        self.B = nn.Parameter(F.pad(B if init == "normal" else torch.zeros_like(B), (0, spare)))
        self.rank = rank

    @property
    def rank(self) -> int:
        return self._rank

    @rank.setter
    def rank(self, rank: int) -> None:
        self._rank = rank
        ones = F.pad(torch.ones(rank, rank), (0, self.max_rank - rank) * 2).to(self.device, self.dtype)
        self.register_buffer("_in_lower", ones.tril(), persistent=False)
        self.register_buffer("_in_upper", ones.triu(), persistent=False)

    @property
    def max_rank(self) -> int:
        return self.A.shape[-2]

    @property
    def rank_bound(self) -> int:
        return self.rank

    @property
    def core(self) -> Shaped[Tensor, "*batch rank rank"]:
        """C = L + U at the rank in use."""
        return self.padded_core()[..., : self.rank, : self.rank]

    def padded_core(self) -> Shaped[Tensor, "*batch max_rank max_rank"]:
        """C = L + U, and zeros beyond the rank in use.

        As all shapes stay as they are when the rank grows, so do the results, bit for bit, and so does compiled code.
        """
        return torch.addcmul(self.lower * self._in_lower, self.upper, self._in_upper)

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.A.mT @ self.padded_core().mT @ self.B.mT

    def matrix(self) -> Tensor:
        return self.B @ (self.padded_core() @ self.A)

    def _transpose(self, y: Tensor) -> Tensor:
        return y @ self.B @ self.padded_core() @ self.A

    def flops(self, vectors: int = 1) -> int:
        per_vector = 2 * self.rank * (self.in_features + self.rank + self.out_features)
        return per_vector * vectors * self.batch_shape.numel()

    @torch.no_grad()
    def grow(
        self, rank: int, *, init: Init = "zero", core: Core = "normal", generator: torch.Generator | None = None
    ) -> None:
        """Raise the rank by pieces as of `new_piece`; old entries stay as they are, and with `init` "zero" so does M.

        Up to `max_rank` no parameter changes its shape. Beyond it the same parameter objects get larger tensors (their
        state in an optimiser has to be enlarged as well; sharded ones cannot).

        Raises
        ------
        ValueError
            If `rank` is below the present rank or above min(n_in, n_out).
        """
        check_rank("TriangularPair.grow", rank, self.in_features, self.out_features)
        if rank < self.rank:
            raise ArgumentError(f"TriangularPair.grow: rank must be at least the present {self.rank}, got {rank}.")
        self.make_room(rank)
        A, B, L, U = wholes = [whole(p) for p in (self.A, self.B, self.lower, self.upper)]
        for i in range(self.rank, rank):
            options: Any = {"init": init, "core": core, "batch_shape": self.batch_shape, "generator": generator}
            piece = new_piece(i, self.in_features, self.out_features, **options)
            parts = [part.to(A.device, A.dtype) for part in piece]
            A[..., i, :], B[..., i], L[..., i, : i + 1], U[..., : i + 1, i] = parts
        for parameter, full in zip((self.A, self.B, self.lower, self.upper), wholes, strict=True):
            if sharded(parameter):
                parameter.copy_(_as_sharded(full, parameter))
        self.rank = rank

    @torch.no_grad()
    def make_room(self, max_rank: int) -> None:
        """Raise `max_rank` by pieces of zeros, if it is below; the parameters stay the same objects."""
        spare = max_rank - self.max_rank
        if spare <= 0:
            return
        for name, parameter in self.named_parameters():
            _replace(parameter, F.pad(parameter, _padding(name, spare)))
        self.rank = self.rank  # masks of the new size

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """Takes the pieces of a map with another `max_rank`; without the extra state, all of them are in use."""
        A = state_dict.get(prefix + "A")
        if A is not None:
            self.make_room(A.shape[-2])
            spare = self.max_rank - A.shape[-2]
            for name in ("A", "B", "lower", "upper") if spare else ():
                if prefix + name in state_dict:
                    state_dict[prefix + name] = F.pad(state_dict[prefix + name], _padding(name, spare))
            if prefix + "_extra_state" not in state_dict:
                self.rank = A.shape[-2]
        super()._load_from_state_dict(state_dict, prefix, *args)

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


def _padding(name: str, spare: int) -> tuple[int, int, int, int]:
    """What `F.pad` adds to a parameter for so many more pieces."""
    return {"A": (0, 0, 0, spare), "B": (0, spare, 0, 0)}.get(name, (0, spare, 0, spare))


def _as_sharded(full: Tensor, like: Any) -> Tensor:
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(full, like.device_mesh, like.placements)


def _replace(parameter: nn.Parameter, tensor: Tensor) -> None:
    """Give a parameter a tensor of another shape."""
    # autograd remembers the old shape as long as an old graph lives; only a change of dtype makes it forget
    other = torch.float32 if parameter.dtype == torch.float64 else torch.float64
    parameter.data = parameter.data.to(other)
    parameter.data, parameter.grad = tensor, None
