"""`Compose`: maps one after the other."""

from __future__ import annotations

from functools import reduce
from itertools import pairwise
from typing import cast

import torch
from torch import Tensor, nn

from linmap.errors import ArgumentError, SingularMapError
from linmap.maps.base import LinearMap


class Compose(LinearMap):
    """(A @ B @ C)(x) = A(B(C(x))), without the product being formed; nested compositions are flattened.

    Parameters
    ----------
    *maps
        In the order of the matrix product: the last one acts first.

    Raises
    ------
    ValueError
        If there is no map, or two neighbours do not fit.
    """

    def __init__(self, *maps: LinearMap) -> None:
        flat = [part for m in maps for part in (m.parts if isinstance(m, Compose) else [m])]
        if not flat:
            raise ArgumentError("Compose: at least one map is needed, got none.")
        for left, right in pairwise(flat):
            if left.in_features != right.out_features:
                raise ArgumentError(
                    f"Compose: {left} takes {left.in_features} features, but {right} before it gives "
                    f"{right.out_features}; the sizes must agree."
                )
        super().__init__(
            flat[-1].in_features,
            flat[0].out_features,
            batch_shape=torch.broadcast_shapes(*(m.batch_shape for m in flat)),
        )
        self.maps = nn.ModuleList(flat)
        self.orthogonal = all(m.orthogonal for m in flat)

    @property
    def parts(self) -> list[LinearMap]:
        """The maps, in the order of the matrix product."""
        return [cast(LinearMap, part) for part in self.maps]

    @property
    def dtype(self) -> torch.dtype:
        return reduce(torch.promote_types, (m.dtype for m in self.parts))

    @property
    def device(self) -> torch.device:
        return self.parts[0].device

    @property
    def rank_bound(self) -> int:
        return min(m.rank_bound for m in self.parts)

    def forward(self, x: Tensor) -> Tensor:
        for part in reversed(self.parts):
            x = part(x)
        return x

    def matrix(self) -> Tensor:
        """The parts applied to the identity from the side that has fewer vectors to carry."""
        if self.out_features < self.in_features:
            M = self._transpose(torch.eye(self.out_features, dtype=self.dtype, device=self.device))
        else:
            M = self(torch.eye(self.in_features, dtype=self.dtype, device=self.device)).mT
        return M.expand(*self.batch_shape, -1, -1)

    def _transpose(self, y: Tensor) -> Tensor:
        for part in self.parts:
            y = part._transpose(y)
        return y

    def _inverse(self, y: Tensor) -> Tensor:
        if not self._all_square:
            return super()._inverse(y)
        for part in self.parts:
            y = part._inverse(y)
        return y

    def _inverse_transpose(self, x: Tensor) -> Tensor:
        if not self._all_square:
            return super()._inverse_transpose(x)
        for part in reversed(self.parts):
            x = part._inverse_transpose(x)
        return x

    def transpose(self) -> LinearMap:
        return Compose(*(part.T for part in reversed(self.parts)))

    def inverse(self) -> LinearMap:
        """The inverses of the parts in reverse order; the dense inverse where a part is not square."""
        if not self._all_square:
            return super().inverse()
        try:
            return Compose(*(part.inverse() for part in reversed(self.parts)))
        except SingularMapError as error:
            raise SingularMapError(f"{self} has no inverse: {error}") from error

    def logabsdet(self) -> Tensor:
        if not self._all_square:
            return super().logabsdet()
        parts = [part.logabsdet() for part in self.parts]
        return torch.stack([part.expand(self.batch_shape) for part in parts]).sum(0)

    def flops(self, vectors: int = 1) -> int:
        total, batch = 0, torch.Size()
        for part in reversed(self.parts):  # the batch grows from the first part that has one
            batch = torch.broadcast_shapes(batch, part.batch_shape)
            total += part.flops(vectors * (batch.numel() // part.batch_shape.numel()))
        return total

    @property
    def _all_square(self) -> bool:
        return all(part.square for part in self.parts)

    def __repr__(self) -> str:
        return " @ ".join(map(repr, self.parts))
