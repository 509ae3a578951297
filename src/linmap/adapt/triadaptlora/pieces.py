"""The authors' layout of the parameters: a piece, of four vectors, for each direction."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from linmap.errors import ArgumentError
from linmap.maps import LinearMap
from linmap.maps.low_rank import check_rank
from linmap.maps.triangular_pair import Core, Init, Piece, new_piece

NAMES = ("A", "B", "lower", "upper")


class AppendedPieces(LinearMap):
    """The map of `linmap.maps.TriangularPair`, with parameters of their own for every piece.

    Growing makes new parameters, which an optimiser has to be given; DDP and FSDP do not see them. The state dict is
    that of a `TriangularPair` without room.

    Parameters
    ----------
    n_in, n_out
        Sizes.
    rank
        1 to min(n_in, n_out).
    init, core, generator
        As of `linmap.maps.TriangularPair`.
    """

    def __init__(
        self,
        n_in: int,
        n_out: int,
        rank: int,
        *,
        init: Init = "zero",
        core: Core = "normal",
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(n_in, n_out)
        check_rank("AppendedPieces", rank, n_in, n_out)
        self.rows, self.columns, self.low, self.up = (nn.ParameterList() for _ in range(4))
        for i in range(rank):
            a, b, l, u = new_piece(i, n_in, n_out, core=core, generator=generator)
            if init == "normal":
                b.normal_(0, 0.02, generator=generator)
            if core == "normal":  # the first pieces have no old function to keep
                u.normal_(0, 0.02, generator=generator)
            self._append(Piece(a, b, l, u))

    def _append(self, piece: Piece) -> None:
        lists = (self.rows, self.columns, self.low, self.up)
        for parameters, part in zip(lists, piece, strict=True):
            like = self.rows[0] if len(self.rows) else part
            parameters.append(nn.Parameter(part.to(like.device, like.dtype)))

    @property
    def rank(self) -> int:
        return len(self.rows)

    @property
    def max_rank(self) -> int:
        return self.rank

    @property
    def rank_bound(self) -> int:
        return self.rank

    @property
    def A(self) -> Float[Tensor, "rank n_in"]:
        return torch.stack(list(self.rows))

    @property
    def B(self) -> Float[Tensor, "n_out rank"]:
        return torch.stack(list(self.columns), dim=1)

    @property
    def lower(self) -> Float[Tensor, "rank rank"]:
        return torch.stack([F.pad(l, (0, self.rank - len(l))) for l in self.low])

    @property
    def upper(self) -> Float[Tensor, "rank rank"]:
        return torch.stack([F.pad(u, (0, self.rank - len(u))) for u in self.up], dim=1)

    @property
    def core(self) -> Float[Tensor, "rank rank"]:
        """C = L + U."""
        return self.lower + self.upper

    def padded_core(self) -> Float[Tensor, "rank rank"]:
        return self.core

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.A.mT @ self.core.mT @ self.B.mT

    def matrix(self) -> Tensor:
        return self.B @ (self.core @ self.A)

    def grow(
        self, rank: int, *, init: Init = "zero", core: Core = "normal", generator: torch.Generator | None = None
    ) -> None:
        """Append pieces as of `linmap.maps.triangular_pair.new_piece`."""
        check_rank("AppendedPieces.grow", rank, self.in_features, self.out_features)
        if rank < self.rank:
            raise ArgumentError(f"AppendedPieces.grow: rank must be at least the present {self.rank}, got {rank}.")
        for i in range(self.rank, rank):
            piece = new_piece(i, self.in_features, self.out_features, init=init, core=core, generator=generator)
            self._append(piece)

    def __setattr__(self, name: str, value: Any) -> None:
        """A, B, lower and upper may be set too, as Transformers does with every tensor of a file by its name."""
        if name in NAMES:
            self._set(name, value)
        else:
            super().__setattr__(name, value)

    def _set(self, name: str, value: Tensor) -> None:
        expected = getattr(self, name).shape
        if value.shape != expected:
            raise ArgumentError(
                f"AppendedPieces.{name}: shape {tuple(expected)} is expected, got {tuple(value.shape)}."
            )
        parts: dict[str, tuple[nn.ParameterList, Callable[[int], Tensor]]] = {
            "A": (self.rows, lambda i: value[i]),
            "B": (self.columns, lambda i: value[:, i]),
            "lower": (self.low, lambda i: value[i, : i + 1]),
            "upper": (self.up, lambda i: value[: i + 1, i]),
        }
        parameters, part = parts[name]
        for i, parameter in enumerate(parameters):
            new = part(i).detach().clone()
            if parameter.is_meta:
                parameters[i] = nn.Parameter(new, requires_grad=parameter.requires_grad)
            else:
                parameter.data = new

    # -- the state dict of a TriangularPair ----------------------------------------------------------------------------

    def state_dict(self, *args: Any, destination: Any = None, prefix: str = "", keep_vars: bool = False) -> Any:
        destination = super().state_dict(*args, destination=destination, prefix=prefix, keep_vars=keep_vars)
        for name in [name for name in destination if name.startswith(prefix)]:
            del destination[name]
        for name in NAMES:
            destination[prefix + name] = getattr(self, name) if keep_vars else getattr(self, name).detach()
        return destination

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: Any,
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        found = [state_dict.pop(prefix + name, None) for name in NAMES]
        rank = state_dict.pop(prefix + "_extra_state", None)
        if any(tensor is None for tensor in found):
            missing_keys.extend(prefix + name for name, tensor in zip(NAMES, found, strict=True) if tensor is None)
            return
        A, B, L, U = found
        R = A.shape[0] if rank is None else int(rank)
        for name in ("rows", "columns", "low", "up"):
            setattr(self, name, nn.ParameterList(list(getattr(self, name))[:R]))
        self.grow(R)
        for i in range(self.rank):
            piece = zip(("rows", "columns", "low", "up"), (A[i], B[:, i], L[i, : i + 1], U[: i + 1, i]), strict=True)
            state_dict.update({f"{prefix}{name}.{i}": part for name, part in piece})
