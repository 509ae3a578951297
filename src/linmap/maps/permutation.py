"""`Permutation`: the features in another order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import torch
from jaxtyping import Int
from torch import Tensor

from linmap.errors import ArgumentError
from linmap.maps.base import LinearMap


class Permutation(LinearMap):
    """y_i = x_order[i]: a fixed order of the features, drawn at random when none is given.

    Parameters
    ----------
    n
        Size.
    order
        Which feature of x goes to each place of y, of shape (*batch_shape, n): each of 0..n-1 once.
    batch_shape
        Leading dimensions of a random order; an `order` that is given brings its own.
    generator
        Source of the random order.
    dtype, device
        Those of `matrix()`.

    Raises
    ------
    ValueError
        If `order` is not a permutation of 0..n-1.
    """

    orthogonal = True
    order: Tensor

    def __init__(
        self,
        n: int,
        order: Int[Tensor, "*batch n"] | Sequence[int] | None = None,
        *,
        batch_shape: Sequence[int] = (),
        generator: torch.Generator | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        if order is not None:
            order = torch.as_tensor(order, device=device).long()
            batch_shape = order.shape[:-1]
        super().__init__(n, n, batch_shape=batch_shape, dtype=dtype, device=device)
        if order is None:
            order = torch.rand(*batch_shape, n, generator=generator, device=device).argsort(-1)
        elif order.shape[-1] != n or not (order.is_meta or _is_permutation(order)):
            raise ArgumentError(f"Permutation: order must hold each of 0..{n - 1} once, got {order.tolist()!s:.100}.")
        self.register_buffer("order", order)

    def forward(self, x: Tensor) -> Tensor:
        x, order = self._aligned(x)
        return x.gather(-1, order)

    def matrix(self) -> Tensor:
        identity = torch.eye(self.in_features, dtype=self.dtype, device=self.device)
        return identity[self.order]

    def _transpose(self, y: Tensor) -> Tensor:
        y, order = self._aligned(y)
        return torch.empty_like(y).scatter(-1, order, y)

    def flops(self, vectors: int = 1) -> int:
        return 0

    def _aligned(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x and the order, broadcast against each other."""
        x, order = torch.broadcast_tensors(x, self.order.unsqueeze(-2))
        return x, order

    @classmethod
    def _from_matrix(cls, M: Tensor) -> Self:
        """The nearest permutation: ||M - P||^2 = const - 2 <M, P>, a linear assignment."""
        from scipy.optimize import linear_sum_assignment

        n = M.shape[-1]
        if M.shape[-2] != n:
            raise ArgumentError(f"Permutation.from_matrix: M must be square, got shape {tuple(M.shape)}.")
        scores = M.real.double().cpu().reshape(-1, n, n).numpy()
        orders = [torch.from_numpy(linear_sum_assignment(score, maximize=True)[1]) for score in scores]
        return cls(n, torch.stack(orders).reshape(M.shape[:-1]), dtype=M.dtype, device=M.device)


def _is_permutation(order: Int[Tensor, "*batch n"]) -> bool:
    return torch.equal(order.sort(-1).values, torch.arange(order.shape[-1], device=order.device).expand(order.shape))
