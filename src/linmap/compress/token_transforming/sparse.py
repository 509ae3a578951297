"""Soft assignments kept as those shares that float32 can tell from nothing.

With tau = 0.02 a share falls by e per 0.02 of cosine, so that most shares of a token are below 2^-24, where a sum of 1
is rounded in float32. These are left out, and sums run over the 3 to 20 % that are left: the values are those of the
dense products to their rounding, in a fraction of the time.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from linmap.compress.token_transforming.assignment import sharpness
from linmap.compress.token_transforming.gathering import flat
from linmap.compress.token_transforming.transform import Transform, positive

LEAST_SHARE = 2.0**-24  # of the largest one of a token
SMALLEST = 2**16  # entries of P below which dense products are as fast


class Shares(NamedTuple):
    """The entries of P that are not nothing, in the order of the outputs; samples stand one behind the other."""

    outputs: Int[Tensor, " entries"]
    tokens: Int[Tensor, " entries"]
    values: Float[Tensor, " entries"]


def joined(parts: Sequence[tuple[Shares, int]], M: int, N: int) -> Shares:
    """Shares of all samples from those of some, each with their number."""
    if len(parts) == 1:
        return parts[0][0]
    moved, before = [], 0
    for shares, n_samples in parts:
        moved.append((shares.outputs + before * M, shares.tokens + before * N, shares.values))
        before += n_samples
    return Shares(*(torch.cat(columns) for columns in zip(*moved, strict=True)))


def worth_it(unit: Tensor, M: int) -> bool:
    """Whether shares of features of these tokens are kept as entries: on the CPU, in float32, without gradients."""
    plain = unit.device.type == "cpu" and unit.dtype == torch.float32 and not torch.compiler.is_compiling()
    return plain and not (unit.requires_grad and torch.is_grad_enabled()) and unit[..., 0].numel() * M >= SMALLEST


def sparse_shares(
    cosines: Float[Tensor, "batch outputs tokens"],
    order: Int[Tensor, "batch tokens"] | None,
    rank: Int[Tensor, "batch tokens"] | None,
    centres: Int[Tensor, "batch outputs"],
    s: Float[Tensor, "batch tokens"],
    protect: int,
    tau: float,
) -> Shares:
    """`assignment`, soft, from the cosines of the centres to the tokens, which are written over.

    The tokens stand in `order`, each at its `rank`; None: in their own places.
    """
    B, M, N = cosines.shape
    least = torch.finfo(cosines.dtype).min
    closed = s.gather(1, centres) <= 0
    closed[:, :protect] = True
    bias = torch.zeros_like(closed, dtype=cosines.dtype).masked_fill_(closed, least).unsqueeze(-1)
    logits = torch.add(bias, cosines, alpha=sharpness(tau), out=cosines)
    if protect:
        own = torch.full((M, protect), least, dtype=logits.dtype).fill_diagonal_(0)
        if rank is None:
            logits[..., :protect] = own
        else:
            logits.scatter_(2, rank[:, None, :protect].expand(B, M, protect), own.expand(B, M, protect))
    best = logits.amax(1)
    live = ((s if order is None else s.gather(1, order)) > 0) & (best > least)
    from_here = (best + math.log(LEAST_SHARE)).masked_fill_(~live, math.inf)
    places = (logits >= from_here.unsqueeze(1)).view(-1).nonzero().squeeze(1)
    outputs = places.div(N, rounding_mode="floor")
    in_order = places - N * outputs
    if B > 1:
        in_order += N * outputs.div(M, rounding_mode="floor")
    values = (logits.view(-1)[places] - best.view(-1)[in_order]).exp_()
    sums = values.new_zeros(B * N).index_add_(0, in_order, values)
    tokens = in_order if order is None else flat(order, N)[in_order]
    return Shares(outputs, tokens, values / sums[in_order])


class SparseTransform(Transform):
    """The transformation with a soft assignment that is kept as its entries; nobody is dropped.

    Parameters
    ----------
    shares
        Of all samples.
    n_outputs
        M.
    mass, centres
        As of `Transform`.
    """

    def __init__(self, shares: Shares, n_outputs: int, mass: Tensor, centres: Tensor) -> None:
        parts = {"shares": shares, "n_outputs": n_outputs, "mass": mass, "centres": centres, "W": None, "nearest": None}
        for name, value in parts.items():
            object.__setattr__(self, name, value)
        weights = shares.values * mass.reshape(-1)[shares.tokens]
        mass_out = mass.new_zeros(len(mass) * n_outputs).index_add_(0, shares.outputs, weights)
        object.__setattr__(self, "_weights", weights)
        object.__setattr__(self, "_mass_out", mass_out.view(len(mass), n_outputs))

    shares: Shares
    n_outputs: int
    _weights: Tensor

    @property
    def shape(self) -> tuple[int, int, int]:
        B, N = self.mass.shape
        return B, self.n_outputs, N

    @property
    def P(self) -> Tensor:  # type: ignore[override]
        B, M, N = self.shape
        P = self.mass.new_zeros(B * M * N)
        P[self.shares.outputs * N + self.shares.tokens % N] = self.shares.values
        return P.view(B, M, N)

    def _averaged(self, x: Tensor) -> Tensor:
        if self._dense(x):
            return super()._averaged(x)
        y = _sums(self.shares.outputs, self.shares.tokens, self._weights, x, self.n_outputs)
        return y.div_(positive(self.mass_out).unsqueeze(-1))

    def _spread(self, y: Tensor, hard: bool) -> Tensor:
        if hard or self._dense(y):
            return super()._spread(y, hard)
        order = self.shares.tokens.to(torch.int32).argsort(stable=True)
        outputs, tokens, values = (part[order] for part in self.shares)
        return _sums(tokens, outputs, values, y.to(torch.float32), self.shape[2]).to(y.dtype)

    def _dense(self, x: Tensor) -> bool:
        """Whether gradients or another type are wanted."""
        return x.dtype == torch.float64 or (x.requires_grad and torch.is_grad_enabled())

    def _dropped(self) -> Tensor:
        return self.mass <= 0

    def _may_drop(self) -> bool:
        return False


def _sums(to: Tensor, of: Tensor, weights: Tensor, x: Tensor, n: int) -> Tensor:
    """(B, n, C): weighted sums of rows of x (B, N, C); `to` ascends."""
    B, N, C = x.shape
    first = torch.searchsorted(to, torch.arange(B * n))
    sums = F.embedding_bag(of, x.reshape(B * N, C), first, mode="sum", per_sample_weights=weights)
    return sums.view(B, n, C)
