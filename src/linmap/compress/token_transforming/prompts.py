"""One prompt that became shorter inside a decoder: which tokens take part, and what later layers and steps see of it.

Candidates are the prompt's tokens without the first `sink` and the last `recent`; padding (on the left) takes no part.
Output m stands at the position of its centre. Later layers cache M entries, and decoding goes on at position N.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from linmap.compress.token_transforming.flow import Flow
from linmap.compress.token_transforming.token_transform import TokenTransform
from linmap.compress.token_transforming.transform import Transform
from linmap.errors import ArgumentError


@dataclass(frozen=True)
class PromptBudget:
    """How many tokens of a prompt are left, the first `sink` and the last `recent` counted."""

    M: int | None
    keep: float | None
    sink: int
    recent: int

    def left(self, n_tokens: int) -> int:
        """M for a prompt of so many tokens."""
        candidates = n_tokens - self.sink - self.recent
        if candidates < 1:
            return n_tokens
        if self.M is not None:
            return min(self.M, n_tokens)
        assert self.keep is not None
        return self.sink + self.recent + math.ceil(self.keep * candidates)


@dataclass
class Prefilled:
    """What a cache knows of the prompt that was shortened: N, and what each of the M entries stands for."""

    n_tokens: int
    mass: Float[Tensor, "batch outputs"]
    proportional: bool

    def reorder(self, order: Int[Tensor, "*batch"]) -> None:
        """The samples in another order, as beams need it."""
        self.mass = self.mass.index_select(0, order.to(self.mass.device))


class PromptFlow(Flow):
    """The pass of one prompt through the layers of a decoder."""

    def __init__(
        self,
        tokens: Float[Tensor, "batch tokens channels"],
        padding: Float[Tensor, "batch tokens"] | None,
        budget: PromptBudget,
        layer: int,
        transform: TokenTransform,
    ) -> None:
        super().__init__(tokens, padding, {layer: budget.left(tokens.shape[1])}, replace(transform, protect=0))
        self.budget, self.layer = budget, layer
        self._kept: dict[Any, Tensor] = {}

    def shorten(
        self, x: Tensor, M: int, importance: Float[Tensor, "batch tokens"], keys: Tensor | None
    ) -> Float[Tensor, "batch outputs channels"]:
        """Apply the transformation of the candidates, and note it as one of all tokens."""
        n, sink, recent = self.n_first, self.budget.sink, self.budget.recent
        order = self._order()
        inside = slice(sink, n - recent)
        some = order[:, inside]
        candidates = self.transform.build(
            _rows(x, some),
            M=M - sink - recent,
            k=None if keys is None else _rows(keys, some),
            importance=importance.gather(1, some),
            mass=None if self.padding is None else self.padding.gather(1, some),
        )
        transform = _whole(candidates, order, self.masses_first(), sink, recent)
        self.record(self.layer, transform)
        return transform.apply(x)

    def _order(self) -> Int[Tensor, "batch tokens"]:
        """The tokens with the first `sink` real ones first, then padding, then the others."""
        places = torch.arange(self.n_first, device=self.like.device).expand(self.batch, -1)
        if self.padding is None:
            return places
        real = self.padding > 0
        group = torch.where(real, torch.where(real.cumsum(1) <= self.budget.sink, 0, 2), 1)
        group = group.masked_fill(places >= self.n_first - self.budget.recent, 3)
        return (group * self.n_first + places).argsort(1)

    @property
    def centres(self) -> Int[Tensor, "batch outputs"]:
        """The places of the outputs in the prompt."""
        centres = self.transforms[self.layer].centres
        assert centres is not None
        return centres

    def kept(self, name: str, make: Callable[[], Tensor]) -> Tensor:
        """What is the same in all later layers, made once."""
        if name not in self._kept:
            self._kept[name] = make()
        return self._kept[name]

    def at_centres(self, x: Tensor) -> Tensor:
        """Rows of (1 or B, N, ...) at the centres."""
        x = x.expand(self.batch, *x.shape[1:])
        return x.gather(1, self.centres) if x.ndim == 2 else _rows(x, self.centres)

    def causal_bias(self, dtype: torch.dtype) -> Float[Tensor, "batch 1 outputs outputs"]:
        """log s for the keys whose centre is not later than the query's; the least number for all others."""
        mass, centres = self.masses(), self.centres
        sees = (centres.unsqueeze(1) <= centres.unsqueeze(2)) & (mass > 0).unsqueeze(1)
        return _bias(_log(mass, self.transform.proportional).unsqueeze(1), sees, dtype)


def continued_bias(
    state: Prefilled, mask: Tensor | None, n_past: int, n_new: int, like: Tensor
) -> Float[Tensor, "batch 1 new keys"]:
    """The bias of later layers for tokens after a shortened prompt: M entries, those decoded since, the new ones.

    Raises
    ------
    ValueError
        If the mask does not cover the prompt and all that followed.
    """
    batch, M = state.mass.shape
    since = n_past - state.n_tokens
    if mask is not None and mask.shape != (batch, n_past + n_new):
        raise ArgumentError(
            f"attention_mask must have the shape (B, N) = {(batch, n_past + n_new)} for a prompt of {state.n_tokens} "
            f"tokens and what followed; got {tuple(mask.shape)}."
        )
    followed = torch.ones(batch, since + n_new, dtype=torch.bool, device=like.device)
    if mask is not None:
        followed = mask[:, state.n_tokens :] != 0
    keys = torch.cat([state.mass > 0, followed], 1).unsqueeze(1)
    places = torch.arange(M + since + n_new, device=like.device)
    sees = keys & (places <= (M + since + torch.arange(n_new, device=like.device)).unsqueeze(1))
    logs = torch.cat([_log(state.mass, state.proportional), torch.zeros_like(followed, dtype=state.mass.dtype)], 1)
    return _bias(logs.unsqueeze(1), sees, like.dtype)


def _log(mass: Tensor, proportional: bool) -> Tensor:
    return torch.where(mass > 0, mass, torch.ones_like(mass)).log() if proportional else torch.zeros_like(mass)


def _bias(logs: Tensor, sees: Bool[Tensor, ...], dtype: torch.dtype) -> Tensor:
    """A row in which nothing is seen (padding) gets no NaN, and nobody reads it."""
    return torch.where(sees, logs.to(dtype), torch.finfo(dtype).min).unsqueeze(1)


def _rows(x: Tensor, index: Tensor) -> Tensor:
    return x.gather(1, index.unsqueeze(-1).expand(-1, -1, x.shape[-1]))


def _whole(candidates: Transform, order: Tensor, mass: Tensor, sink: int, recent: int) -> Transform:
    """blockdiag(I, P of the candidates, I), with the tokens back in their own order."""
    batch, inner, some = candidates.shape
    n, M = order.shape[1], inner + sink + recent
    P = mass.new_zeros(batch, M, n)
    real = mass.gather(1, order) > 0
    for first, out, size in ((0, 0, sink), (n - recent, M - recent, recent)):
        eye = torch.eye(size, device=mass.device, dtype=P.dtype)
        P[:, out : out + size, first : first + size] = eye * real[:, None, first : first + size]
    P[:, sink : sink + inner, sink : sink + some] = candidates.P.to(P.dtype)
    own = torch.arange(n, device=mass.device).expand(batch, -1)
    edges = (own[:, :sink], own[:, n - recent :])
    assert candidates.centres is not None
    places = torch.cat([edges[0], candidates.centres + sink, edges[1]], 1)
    back = order.argsort(1)
    nearest = None
    if candidates.nearest is not None:
        nearest = torch.cat([edges[0], candidates.nearest + sink, edges[1] - n + M], 1).gather(1, back)
    P = P.gather(2, back.unsqueeze(1).expand(-1, M, -1))
    return Transform(P, mass, order.gather(1, places), None, nearest)
