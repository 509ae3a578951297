"""Soft assignments of a few tokens, as dense matrices in as few operators as can be.

Of some hundred tokens of one image the products take a fraction of a millisecond, and so do the calls around them. Here
is what is left of the method where no token is padding and no further option is set: the protected tokens stay outside,
since their rows and columns of P are known, and nothing has to be masked.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from linmap.compress.token_transforming.assignment import sharpness
from linmap.compress.token_transforming.gathering import rows, unit_rows
from linmap.compress.token_transforming.importance import select_centres
from linmap.compress.token_transforming.precision import working_dtype
from linmap.compress.token_transforming.similarity import WHOLE, products
from linmap.compress.token_transforming.sparse import SMALLEST
from linmap.compress.token_transforming.transform import Transform


class FewTransform(Transform):
    """The transformation diag(I, P) of protected tokens and others, all of which have mass.

    Parameters
    ----------
    inner
        (B, M - protect, N - protect): P of the others.
    mass
        As of `Transform`.
    chosen
        (B, M - protect): the centres among the others.
    protect
        How many tokens are protected.
    ones
        Whether all masses are 1.
    """

    def __init__(self, inner: Tensor, mass: Tensor, chosen: Tensor, protect: int, ones: bool) -> None:
        weights = inner if ones else inner * mass[:, None, protect:]
        sums = weights.sum(-1)
        parts = {"inner": inner, "mass": mass, "chosen": chosen, "protect": protect, "W": None, "nearest": None}
        for name, value in (parts | {"_weights": weights, "_sums": sums.unsqueeze(-1)}).items():
            object.__setattr__(self, name, value)
        object.__setattr__(self, "_mass_out", torch.cat([mass[:, :protect], sums], 1) if protect else sums)

    inner: Tensor
    chosen: Tensor
    protect: int
    _weights: Tensor
    _sums: Tensor

    @property
    def shape(self) -> tuple[int, int, int]:
        B, M, N = self.inner.shape
        return B, M + self.protect, N + self.protect

    @property
    def P(self) -> Tensor:  # type: ignore[override]
        P = self.inner.new_zeros(self.shape)
        P.diagonal(dim1=1, dim2=2)[:, : self.protect] = 1
        P[:, self.protect :, self.protect :] = self.inner
        return P

    @property
    def centres(self) -> Int[Tensor, "batch outputs"]:  # type: ignore[override]
        first = torch.arange(self.protect, device=self.chosen.device).expand(len(self.chosen), -1)
        return torch.cat([first, self.chosen + self.protect], 1)

    def _averaged(self, x: Tensor) -> Tensor:
        return self._beside(x, (self._weights.to(x.dtype) @ x[:, self.protect :]) / self._sums)

    def _spread(self, y: Tensor, hard: bool) -> Tensor:
        if hard:
            return super()._spread(y, hard)
        dtype = working_dtype(self.inner, y)
        return self._beside(y, (self.inner.mT.to(dtype) @ y[:, self.protect :].to(dtype)).to(y.dtype))

    def _beside(self, tokens: Tensor, others: Tensor) -> Tensor:
        """The protected ones of some tokens, and others after them."""
        return torch.cat([tokens[:, : self.protect], others], 1) if self.protect else others

    def _may_drop(self) -> bool:
        return False


def are_few(features: Float[Tensor, "batch tokens channels"], M: int, mass: Tensor | None) -> bool:
    """Whether `few_transform` is for these tokens: few ones on the CPU, without gradients and without padding."""
    B, N, _ = features.shape
    if (
        features.device.type != "cpu"
        or torch.compiler.is_compiling()
        or (torch.is_grad_enabled() and features.requires_grad)
    ):
        return False
    return N <= WHOLE and B * N * M < SMALLEST and (mass is None or bool(mass.amin() > 0))


def few_transform(
    features: Float[Tensor, "batch tokens channels"],
    importance: Float[Tensor, "batch tokens"],
    s: Float[Tensor, "batch tokens"],
    M: int,
    *,
    ones: bool,
    protect: int,
    tau: float,
) -> FewTransform:
    """Informative centres, and the softmax over them."""
    cosines = products(unit_rows(features[:, protect:], s.dtype))
    rank = importance[:, protect:].argsort(dim=-1, descending=True, stable=True).argsort(dim=-1)
    before = rank.unsqueeze(-2) < rank.unsqueeze(-1)
    c = 1 - torch.where(before, cosines, -math.inf).amax(-1)
    chosen = select_centres(c if ones else c * s[:, protect:], M - protect)
    inner = rows(cosines, chosen).mul_(sharpness(tau)).softmax(1)
    return FewTransform(inner, s, chosen, protect, ones)
