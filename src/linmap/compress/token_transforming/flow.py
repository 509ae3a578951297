"""One forward pass of a compressed model: how many tokens there are by now, what each stands for, who went where."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from linmap.compress.token_transforming.importance import class_attention, importance
from linmap.compress.token_transforming.precision import working_dtype
from linmap.compress.token_transforming.token_transform import TokenTransform
from linmap.compress.token_transforming.transform import Transform, compose
from linmap.errors import ArgumentError

Roles = dict[str, Tensor]


class Flow:
    """The state of one forward pass.

    Parameters
    ----------
    tokens
        What enters the first block.
    padding
        The attention mask as masses, or None where all tokens are real.
    schedule
        {layer: M} for this number of tokens.
    transform
        How transformations are built.

    Attributes
    ----------
    mass
        What each token stands for, or None while all are ones.
    transforms
        {layer: transformation}, of those layers that left fewer tokens.
    captured
        Queries, keys and values of the block that runs, by role.
    """

    def __init__(
        self,
        tokens: Float[Tensor, "batch tokens channels"],
        padding: Float[Tensor, "batch tokens"] | None,
        schedule: dict[int, int],
        transform: TokenTransform,
    ) -> None:
        self.batch, self.n_first = tokens.shape[:2]
        self.count = self.n_first
        self.like = tokens[:, :, 0].detach()
        self.padding, self.schedule, self.transform = padding, schedule, transform
        self.mass = padding
        self.transforms: dict[int, Transform] = {}
        self.captured: Roles = {}
        self._bias: Tensor | None = None
        self._built = False

    def wanted(self, layer: int) -> int:
        """M after a layer."""
        return min(self.schedule.get(layer, self.count), self.count)

    def masses(self) -> Float[Tensor, "batch outputs"]:
        """What each token stands for by now."""
        return torch.ones_like(self.like, dtype=torch.float32) if self.mass is None else self.mass

    def bias(self, dtype: torch.dtype) -> Float[Tensor, "batch 1 1 outputs"] | None:
        """What is added to the logits of the keys: log s, or only -inf for padding; None where nothing is."""
        if self._bias is None and self.mass is not None:
            self._bias = key_bias(self.mass, self.transform.proportional, self.padding is not None)
        return None if self._bias is None else self._bias.to(dtype)

    def build(self, x: Tensor, M: int, projections: Roles, scale: float | None, score: str) -> Transform:
        """The transformation of the tokens x into M; masses of None tell it that it is the first one."""
        mass = self.masses() if self._built else self.mass
        self._built = True
        k = projections["key"].mean(1) if self.transform.feature == "k" else None
        a = None if score != "cls" or self.padding is not None else self._class_attention(projections, mass, scale)
        if a is None:
            a = token_importance(self.transform, score, projections, mass, scale)
        return self.transform.build(x, M=M, k=k, importance=a, mass=mass)

    def _class_attention(self, projections: Roles, mass: Tensor | None, scale: float | None) -> Tensor | None:
        """The importance where all tokens have mass, from the bias that the attention had; None where it has no say."""
        if self.transform.select not in ("informative", "importance"):
            return None
        q, k = projections["query"], projections["key"]
        dtype = working_dtype(q, k, mass)
        bias = None
        if mass is not None:
            bias = self.bias(dtype) if self.transform.proportional else mass.log()[:, None, None]
        with torch.no_grad():
            return class_attention(q, k, bias, q.shape[-1] ** -0.5 if scale is None else scale, dtype)

    def record(self, layer: int, transform: Transform, follows: bool = True) -> None:
        """Note a transformation; later tokens are its outputs if it `follows` the ones before."""
        self.transforms[layer] = transform
        if follows:
            self.count, self.mass, self._bias = transform.shape[1], transform.mass_out, None

    def restore(
        self,
        y: Float[Tensor, "batch outputs channels"],
        *,
        hard: bool,
        pruned: Literal["error", "zero", "nearest"],
        layer: int | None = None,
    ) -> Float[Tensor, "batch tokens channels"]:
        """R y for the tokens after a layer (-1: before the first), or after the last one that gave so many."""
        behind = self._behind(y.shape[1], layer)
        if not behind:
            return y
        if hard and len(behind) > 1 and not self.transform.drops:
            index = compose(behind)[1].argmax(-1)
            real = self.masses_first().unsqueeze(-1) > 0
            return y.gather(1, index.unsqueeze(-1).expand(-1, -1, y.shape[-1])) * real.to(y.dtype)
        for transform in reversed(behind):
            y = transform.restore(y, hard=hard, pruned=pruned)
        return y

    def _behind(self, n_tokens: int, layer: int | None) -> list[Transform]:
        """The transformations that lie behind so many tokens, the first one first."""
        layers = list(self.transforms)
        counts = [self.n_first, *(self.transforms[each].shape[1] for each in layers)]
        fits = [i for i, n in enumerate(counts) if n == n_tokens]  # a list: Dynamo traces no generator into `max`
        number = fits[-1] if fits else None
        if layer is not None:
            number = sum(each <= layer for each in layers)
        if number is None or counts[number] != n_tokens:
            where = "" if layer is None else f" after layer {layer}"
            given = counts if layer is None or number is None else counts[number : number + 1]
            there = ", ".join(map(str, given))
            raise ArgumentError(f"y holds {n_tokens} tokens, and in the last forward pass there were {there}{where}.")
        return [self.transforms[each] for each in layers[:number]]

    def masses_first(self) -> Float[Tensor, "batch tokens"]:
        """What each token stood for before the first block."""
        return torch.ones_like(self.like, dtype=torch.float32) if self.padding is None else self.padding


def key_bias(mass: Tensor, proportional: bool, padded: bool) -> Float[Tensor, "batch 1 1 outputs"] | None:
    """log s of the keys, or only -inf where s = 0."""
    if proportional:
        return mass.log()[:, None, None]
    if not padded:
        return None
    return torch.zeros_like(mass).masked_fill(mass <= 0, -torch.inf)[:, None, None]


def needs(transform: TokenTransform, score: str) -> tuple[str, ...]:
    """Which projections a transformation is built from."""
    roles = {"key"} if transform.feature == "k" else set()
    if transform.select in ("informative", "importance"):
        by_score = {
            "cls": ("query", "key"),
            "received": ("query", "key"),
            "key_norm": ("key",),
            "value_norm": ("value",),
        }
        roles |= set(by_score.get(score, ("query", "key", "value")))
    return tuple(role for role in ("query", "key", "value") if role in roles)


def token_importance(
    transform: TokenTransform, score: str, projections: Roles, mass: Tensor | None, scale: float | None
) -> Float[Tensor, "batch tokens"] | None:
    """What the score says of each token; None where it does not matter."""
    if transform.select not in ("informative", "importance"):
        return None
    with torch.no_grad():
        if callable(transform.score):
            q, k, v = (projections[role] for role in ("query", "key", "value"))
            ones = torch.ones(k.shape[0], k.shape[2], device=k.device) if mass is None else mass
            return transform.score(q, k, v, ones)
        if score in ("cls", "received"):
            kind: Literal["cls", "received"] = "cls" if score == "cls" else "received"
            return importance(projections["query"], projections["key"], kind=kind, mass=mass, scale=scale)
        part = projections["key" if score == "key_norm" else "value"]
        return part.to(working_dtype(part)).mean(1).norm(dim=-1)
