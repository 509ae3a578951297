"""Cosines of all pairs of tokens, computed once for the two questions of the method.

Whether a more important token already says the same, and how similar a token is to the chosen centres, ask for the same
matrix. Many tokens are put in the order of importance, where "more important" means "before", so that one triangle is
computed, in blocks of rows, and its maxima are taken while a block is at hand; the other is its mirror image. A few are
left in their places: there the calls cost more than half of a product saves.
"""

from __future__ import annotations

import math
import threading

import torch
from jaxtyping import Float, Int
from torch import Tensor

from linmap.compress.token_transforming.gathering import rows

BLOCK = 128  # rows of similarities that are computed at once on the CPU
WHOLE = 320  # tokens that are not put in order
HALVED = 192  # tokens from which on half of a product is worth its calls
MOST_KEPT = 2**22  # similarities whose memory is kept for the next time, in each thread

_memory = threading.local()


def importance_order(
    importance: Float[Tensor, "batch tokens"], s: Float[Tensor, "batch tokens"], protect: int
) -> Int[Tensor, "batch tokens"]:
    """Tokens from the most important one on, the lower of equals first; padding and protected tokens come last."""
    importance = importance.masked_fill(s <= 0, -math.inf)
    importance[:, :protect] = -math.inf
    return importance.argsort(dim=-1, descending=True, stable=True)


class Similarities:
    """Of the tokens of one or more samples.

    Parameters
    ----------
    unit
        (B, N, c) features of norm 1.
    order
        (B, N): tokens in the order of importance.
    keep
        Whether the matrix is kept for `of` and `to`.

    Attributes
    ----------
    order, rank
        The order that the tokens were put in, and where each of them stands in it; None where they kept their places.
    """

    def __init__(
        self, unit: Float[Tensor, "batch tokens channels"], order: Int[Tensor, "batch tokens"], keep: bool = True
    ) -> None:
        rank = order.argsort(dim=-1)
        self.order: Tensor | None = None
        self.rank: Tensor | None = None
        self.cosines: Tensor | None = None
        if unit.device.type == "cpu" and not torch.compiler.is_compiling() and unit.shape[1] > WHOLE:
            self.order, self.rank = order, rank
            self._largest = self._by_blocks(rows(unit, order), keep).gather(1, rank)
            return
        cosines = products(unit)
        place = rank.to(unit.dtype)
        before = place.unsqueeze(-2) < place.unsqueeze(-1)
        self._largest = torch.where(before, cosines, -math.inf).amax(-1)
        self.cosines = cosines if keep else None

    def _by_blocks(self, ordered: Tensor, keep: bool) -> Float[Tensor, "batch tokens"]:
        """The largest cosine of each token to one before it, in blocks of rows of one triangle."""
        N = ordered.shape[1]
        block = math.ceil(N / (N // BLOCK))
        later = torch.ones(block, block, dtype=torch.bool).triu()
        self.cosines = _square(ordered) if keep else None
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
        return torch.cat(largest, dim=-1)

    def largest_before(self) -> Float[Tensor, "batch tokens"]:
        """The largest cosine of each token to a more important one; -inf for the most important one."""
        return self._largest

    def of(self, centres: Int[Tensor, "batch outputs"]) -> Float[Tensor, "batch outputs tokens"]:
        """Cosine of each centre to each token, these in `order`."""
        assert self.cosines is not None
        return rows(self.cosines, centres if self.rank is None else self.rank.gather(1, centres))

    def to(self, centres: Int[Tensor, "batch outputs"]) -> Float[Tensor, "batch tokens outputs"]:
        """Cosine of each token to each centre."""
        found = self.of(centres).mT
        return found.contiguous() if self.rank is None else rows(found, self.rank)


def products(unit: Float[Tensor, "batch tokens channels"]) -> Float[Tensor, "batch tokens tokens"]:
    """Cosines of all pairs; on the CPU one triangle is computed in blocks of rows, and copied."""
    N = unit.shape[1]
    differentiable = unit.requires_grad and torch.is_grad_enabled()
    if N < HALVED or unit.device.type != "cpu" or differentiable or torch.compiler.is_compiling():
        return unit @ unit.mT
    found = unit.new_empty(len(unit), N, N)
    block = math.ceil(N / math.ceil(N / BLOCK))
    for first in range(0, N, block):
        here, so_far = slice(first, first + block), slice(0, first + block)
        G = torch.bmm(unit[:, here], unit[:, so_far].mT, out=found[:, here, so_far])
        if first:
            found[:, :first, here] = G[..., :first].mT
    return found


def _square(like: Float[Tensor, "batch tokens channels"]) -> Float[Tensor, "batch tokens tokens"]:
    """Memory for the cosines of all pairs: that of the last time, where it is enough, since new pages cost time.

    What it holds is overwritten by the next call in the same thread.
    """
    B, N, _ = like.shape
    size = B * N * N
    if size > MOST_KEPT:
        return like.new_empty(B, N, N)
    kept: Tensor | None = getattr(_memory, "square", None)
    if kept is None or kept.numel() < size or kept.dtype != like.dtype:
        with torch.inference_mode(False):
            kept = _memory.square = torch.empty(size, dtype=like.dtype)
    return kept[:size].view(B, N, N)


def informative(largest: Tensor, s: Tensor, protect: int) -> Float[Tensor, "batch tokens"]:
    """c_n = s_n (1 - the largest cosine to a more important token), with +inf and -inf where the rule says so."""
    c = (s * (1 - largest)).masked_fill(s <= 0, -math.inf)
    c[:, :protect] = math.inf
    return c
