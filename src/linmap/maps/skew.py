"""`SkewOrthogonal`: what `Exponential` and `Cayley` share, a rotation from a skew-symmetric matrix times a base.

Source of the base ("trivialisation"): Lezcano-Casado, "Trivializations for gradient-based optimization on manifolds"
(2019).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Self

import torch
from jaxtyping import Int, Shaped
from torch import Tensor, nn

from linmap.errors import ArgumentError, ArgumentTypeError
from linmap.maps.base import LinearMap
from linmap.maps.orthogonal import by_rows, nearest_orthogonal, square_size


class SkewOrthogonal(LinearMap):
    """M = B r(A) with a skew-symmetric A, a map r from skew-symmetric matrices to rotations, and a fixed orthogonal B.

    Parameters
    ----------
    n
        Size of M.
    base
        B, of shape (*batch_shape, n, n), kept as a buffer; the identity when None. Without a base, M is a rotation
        (determinant +1).
    batch_shape
        Leading dimensions of M.
    generator
        Source of the entries of A, drawn from N(0, 1/n): the eigenvalues of A then lie within about ±2i.
    dtype, device
        As in PyTorch. r is computed in float64 whatever the dtype: a float32 M stays orthogonal to rounding
        however far A has been trained.

    Attributes
    ----------
    lower
        The n (n - 1) / 2 entries of A below its diagonal, row by row, of shape (*batch_shape, n (n - 1) / 2).
    """

    orthogonal = True
    base: Tensor | None
    _below: Tensor

    def __init__(
        self,
        n: int,
        *,
        base: Tensor | None = None,
        batch_shape: Sequence[int] = (),
        generator: torch.Generator | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__(n, n, batch_shape=batch_shape, dtype=dtype, device=device)
        expected = (*batch_shape, n, n)
        if base is not None and tuple(base.shape) != expected:
            raise ArgumentError(f"{type(self).__name__}: base must have the shape {expected}, got {tuple(base.shape)}.")
        lower = torch.empty(*batch_shape, n * (n - 1) // 2, dtype=dtype, device=device)
        self.lower = nn.Parameter(lower.normal_(std=1 / math.sqrt(n), generator=generator))
        self.register_buffer("base", None if base is None else base.to(lower).contiguous())
        rows, columns = torch.tril_indices(n, n, -1, device=device)
        self.register_buffer("_below", rows * n + columns, persistent=False)

    def skew_matrix(self) -> Shaped[Tensor, "*batch n n"]:
        """A, of shape (*batch_shape, n, n)."""
        return skew_matrix(self.lower, self._below, self.in_features)

    def forward(self, x: Tensor) -> Tensor:
        y = by_rows(self._rotate, self.lower, x, bool(self.batch_shape))
        return y if self.base is None else y @ self.base.mT

    def _transpose(self, y: Tensor) -> Tensor:
        x = y if self.base is None else y @ self.base
        return by_rows(self._rotate, -self.lower, x, bool(self.batch_shape))

    def _rotate(self, lower: Tensor, x: Tensor) -> Tensor:
        """r(A) x for every row of x, with `lower` the entries of A; r(-A) is the transpose of r(A)."""
        raise ArgumentTypeError("SkewOrthogonal is the common part of Exponential and Cayley; use one of these.")

    def flops(self, vectors: int = 1) -> int:
        """Without the rotation itself, some multiple of n³ once a forward."""
        return super().flops(vectors) * (1 if self.base is None else 2)

    @classmethod
    def _from_matrix(cls, M: Tensor) -> Self:
        """A = 0 on the base M (its nearest orthogonal matrix): every orthogonal M is represented, of either
        determinant and with any eigenvalues."""
        n = square_size(cls.__name__, M)
        new = cls(n, base=nearest_orthogonal(M), batch_shape=M.shape[:-2], dtype=M.dtype, device=M.device)
        new.lower.zero_()
        return new

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *rest: Any) -> None:
        """The base comes and goes with the saved state."""
        saved = state_dict.get(prefix + "base")
        self.base = None if saved is None else torch.empty_like(saved, dtype=self.dtype, device=self.device)
        super()._load_from_state_dict(state_dict, prefix, *rest)


def skew_matrix(
    lower: Shaped[Tensor, "*batch entries"], below: Int[Tensor, " entries"], n: int
) -> Shaped[Tensor, "*batch {n} {n}"]:
    """A from its entries below the diagonal; `below` are their places in the flattened matrix."""
    L = lower.new_zeros(*lower.shape[:-1], n * n).index_copy(-1, below, lower).unflatten(-1, (n, n))
    return L - L.mT
