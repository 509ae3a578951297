"""Cosines of all pairs of tokens, computed once for the two questions of the method.

Whether a more important token already says the same, and how similar a token is to the chosen centres, ask for the same
matrix. Tokens stand in the order of importance, where "more important" means "before", so that one triangle is
computed, in blocks of rows, and its maxima are taken while a block is at hand; the other is its mirror image.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from linmap.compress.token_transforming.gathering import rows

BLOCK, WHOLE = 128, 320  # rows of similarities that are computed at once on the CPU; so many are not cut


def importance_order(
    importance: Float[Tensor, "batch tokens"], s: Float[Tensor, "batch tokens"], protect: int
) -> Int[Tensor, "batch tokens"]:
    """Tokens from the most important one on, the lower of equals first; padding and protected tokens come last."""
    others = (s <= 0) | (torch.arange(s.shape[1], device=s.device) < protect)
    return importance.masked_fill(others, -math.inf).argsort(dim=-1, descending=True, stable=True)


class Similarities:
    """Of the tokens of one or more samples.

    Parameters
    ----------
    unit
        (B, N, c) features of norm 1.
    order
        (B, N): tokens in the order of importance.
    keep
        Whether the matrix is kept for `to`.
    """

    def __init__(
        self, unit: Float[Tensor, "batch tokens channels"], order: Int[Tensor, "batch tokens"], keep: bool = True
    ) -> None:
        self.order, self.rank = order, order.argsort(dim=-1)
        ordered = rows(unit, order)
        N = unit.shape[1]
        in_blocks = unit.device.type == "cpu" and not torch.compiler.is_compiling() and N > WHOLE
        block = math.ceil(N / (N // BLOCK)) if in_blocks else N
        later = torch.ones(block, block, dtype=torch.bool, device=unit.device).triu()
        self.cosines: Tensor | None = None
        if not in_blocks:
            cosines = ordered @ ordered.mT
            self.cosines = cosines if keep else None
            self._largest = cosines.masked_fill(later, -math.inf).amax(-1)
            return
        self.cosines = unit.new_empty(len(unit), N, N) if keep else None
        largest = []
        for first in range(0, N, block):
            here, so_far = slice(first, first + block), slice(0, first + block)
            G = None if self.cosines is None else self.cosines[:, here, so_far]
            G = torch.bmm(ordered[:, here], ordered[:, so_far].mT, out=G)
            size = G.shape[1]
            best = G[..., first:].masked_fill(later[:size, :size], -math.inf).amax(-1)
            largest.append(torch.maximum(best, G[..., :first].amax(-1)) if first else best)
            if self.cosines is not None and first:
                self.cosines[:, :first, here] = G[..., :first].mT
        self._largest = torch.cat(largest, dim=-1)

    def largest_before(self) -> Float[Tensor, "batch tokens"]:
        """The largest cosine of each token to a more important one; -inf for the most important one."""
        return self._largest.gather(1, self.rank)

    def of(self, centres: Int[Tensor, "batch outputs"]) -> Float[Tensor, "batch outputs tokens"]:
        """Cosine of each centre to each token, these in the order of importance."""
        assert self.cosines is not None
        return rows(self.cosines, self.rank.gather(1, centres))

    def to(self, centres: Int[Tensor, "batch outputs"]) -> Float[Tensor, "batch tokens outputs"]:
        """Cosine of each token to each centre."""
        return rows(self.of(centres).mT, self.rank)


def informative(largest: Tensor, s: Tensor, protect: int) -> Float[Tensor, "batch tokens"]:
    """c_n = s_n (1 - the largest cosine to a more important token), with +inf and -inf where the rule says so."""
    c = torch.where(largest == -math.inf, math.inf, s * (1 - largest)).masked_fill(s <= 0, -math.inf)
    return c.masked_fill(torch.arange(s.shape[1], device=s.device) < protect, math.inf)
