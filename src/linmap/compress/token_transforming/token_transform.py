"""`TokenTransform`: the settings of a transformation, which build it for the tokens of a layer."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor

from linmap.compress.token_transforming.assignment import check_options, nearest_output, shares
from linmap.compress.token_transforming.importance import novelty, select_centres
from linmap.compress.token_transforming.matching import (
    Match,
    clamp_removals,
    match_by_energy,
    match_even_odd,
    unit_rows,
)
from linmap.compress.token_transforming.precision import (
    check_budget,
    check_count,
    check_floating,
    full_precision,
    masses,
)
from linmap.compress.token_transforming.special import keep_first, merged, selected
from linmap.compress.token_transforming.transform import Transform
from linmap.errors import ArgumentError, ArgumentTypeError

Select: TypeAlias = Literal["informative", "importance", "bipartite", "energy", "random"]
Assign: TypeAlias = Literal["soft", "hard", "prune"]
Score: TypeAlias = Literal["auto", "cls", "received", "key_norm", "value_norm"]
Feature: TypeAlias = Literal["x", "k"]
MARGIN = 0.5  # of PiToMe's energy


@dataclass(frozen=True)
class TokenTransform:
    """How M tokens are made of N: which tokens outputs grow around, and who goes where.

    Parameters
    ----------
    select
        What chooses the centres. "informative": tokens that no more important one is like. "importance": the most
        important ones. "bipartite": the ones that token merging leaves. "energy": the ones that PiToMe leaves.
        "random": a baseline.
    assign
        "soft": many to many, a softmax over the outputs. "hard": each token to one output; the most similar one, or
        with "bipartite" and "energy" the one of the matching, so that these are ToMe and PiToMe. "prune": the centres
        stay and all others are dropped.
    tau, topk, keep_self, min_sim, causal
        As of `assignment`. With `causal` the last token is always a centre; a matching cannot be causal.
    feature
        What similarity is measured on: "x", the tokens, or "k", the mean of the heads' keys.
    score
        What importance is, where a model is compressed: attention of the class token ("cls"), attention received
        ("received"), the norm of the mean key or value of the heads, or `score(q, k, v, mass) -> (B, N)` of tensors
        (B, H, N, d) and the masses. "auto" takes "cls" where there is a class token.
    protect
        How many first tokens are protected.
    proportional
        Whether later attentions add log s to the logits of the keys, where a model is compressed.

    Raises
    ------
    TypeError, ValueError
        If a setting is not as above.
    """

    select: Select = "informative"
    assign: Assign = "soft"
    tau: float = 0.02
    min_sim: float | None = None
    feature: Feature = "x"
    score: Score | Callable[[Tensor, Tensor, Tensor, Tensor], Tensor] = "auto"
    protect: int = 1
    proportional: bool = True
    topk: int | None = None
    keep_self: bool = False
    causal: bool = False

    def __post_init__(self) -> None:
        for name, kinds in (("select", Select), ("assign", Assign), ("feature", Feature), ("score", Score)):
            value = getattr(self, name)
            if name == "score" and callable(value):
                continue
            if value not in get_args(kinds):
                also = ", or a function" if name == "score" else ""
                raise ArgumentError(f"{name}={value!r} must be one of {', '.join(map(repr, get_args(kinds)))}{also}.")
        check_options(self.tau, self.topk, self.min_sim)
        check_count("protect", self.protect, 0)
        for name in ("proportional", "keep_self", "causal"):
            if not isinstance(getattr(self, name), bool):
                raise ArgumentTypeError(f"{name} must be True or False, got {getattr(self, name)!r}.")
        if self.causal and self.select in ("bipartite", "energy"):
            raise ArgumentError(
                f"select={self.select!r} cannot be causal: it merges tokens into earlier ones; choose 'informative' or "
                "'importance'."
            )

    @property
    def drops(self) -> bool:
        """Whether tokens with mass can be dropped."""
        return self.assign == "prune" or self.min_sim is not None

    @full_precision
    def build(
        self,
        x: Float[Tensor, "batch tokens channels"],
        *,
        M: int,
        k: Float[Tensor, "batch tokens width"] | None = None,
        importance: Float[Tensor, "batch tokens"] | None = None,
        mass: Float[Tensor, "batch tokens"] | None = None,
        generator: torch.Generator | None = None,
    ) -> Transform:
        """The transformation of N tokens into M.

        Parameters
        ----------
        x
            (B, N, C).
        M
            How many tokens are left, the protected ones counted; M >= N changes nothing. "bipartite" and "energy" merge
            at most half of the tokens that are not protected, and warn where M asks for more.
        k
            (B, N, c): keys, for feature="k".
        importance
            (B, N), for select="informative" and "importance".
        mass
            (B, N), None for ones; 0 for padding. A sample with fewer than M tokens gets outputs without mass.
        generator
            Of select="random", one draw for the whole batch; None for a generator with seed 0.

        Raises
        ------
        TypeError, ValueError
            If a tensor is missing or not as above, or M leaves no token beside the protected ones.
        """
        check_floating("x", x, "(B, N, C)")
        M, protect = check_budget(M, self.protect)
        N = x.shape[1]
        s = masses(mass, x, N)
        if M >= N:
            return Transform.identity(s)
        unit = unit_rows(self._features(x, k), s.dtype)
        with torch.no_grad():
            match = self._matching(unit, s, N - M)
            centres = match.centres if match is not None else self._centres(unit, s, M, importance, generator)
        if centres.shape[1] == N:
            return Transform.identity(s)
        if self.assign == "prune":
            return selected(centres, s, unit.detach())
        if self.assign == "hard":
            return self._hard(unit.detach(), centres, s, match)
        options = {"topk": self.topk, "keep_self": self.keep_self, "min_sim": self.min_sim, "causal": self.causal}
        P = shares(unit, centres, s, protect, tau=self.tau, **options)
        nearest = None if self.min_sim is None else self._nearest(unit.detach(), centres, s)
        return Transform(P, s, centres, None, nearest)

    def _features(self, x: Tensor, k: Tensor | None) -> Tensor:
        if self.feature == "x":
            return x
        if k is None:
            raise ArgumentError("feature='k' needs the keys k (B, N, c); got None.")
        check_floating("k", k, "(B, N, c)")
        if k.shape[:2] != x.shape[:2]:
            raise ArgumentError(f"k must have the shape {(*x.shape[:2], 'c')}, got {tuple(k.shape)}.")
        return k

    def _matching(self, unit: Tensor, s: Tensor, r: int) -> Match | None:
        if self.select not in ("bipartite", "energy"):
            return None
        N = unit.shape[1]
        r = clamp_removals(r, N, self.protect, stacklevel=6)
        if self.select == "energy":
            return match_by_energy(unit, s, r, self.protect, MARGIN)
        return match_even_odd(unit, s, r, torch.arange(N, device=unit.device) < self.protect)

    def _centres(
        self, unit: Tensor, s: Tensor, M: int, importance: Tensor | None, generator: torch.Generator | None
    ) -> Int[Tensor, "batch outputs"]:
        N = unit.shape[1]
        if self.select == "random":
            generator = torch.Generator(unit.device).manual_seed(0) if generator is None else generator
            draw = torch.rand(N, generator=generator, device=generator.device, dtype=s.dtype)
            scores = keep_first(draw.to(unit.device).expand_as(s), s, self.protect)
        else:
            importance = self._importance(importance, s)
            if self.select == "importance":
                scores = keep_first(importance, s, self.protect)
            else:
                scores = novelty(unit, importance, s, self.protect)
        if self.causal:
            scores = scores.masked_fill(torch.arange(N, device=s.device) == N - 1, math.inf)
        return select_centres(scores, M)

    def _importance(self, importance: Tensor | None, s: Tensor) -> Tensor:
        if importance is None:
            raise ArgumentError(f"select={self.select!r} needs the importance (B, N) of the tokens; got None.")
        check_floating("importance", importance, "(B, N)")
        if importance.shape != s.shape:
            raise ArgumentError(f"importance must have the shape {tuple(s.shape)}, got {tuple(importance.shape)}.")
        return importance.to(s.dtype)

    def _hard(self, unit: Tensor, centres: Tensor, s: Tensor, match: Match | None) -> Transform:
        if match is None:
            options = {"keep_self": self.keep_self, "min_sim": self.min_sim, "causal": self.causal}
            targets = nearest_output(unit, centres, s, self.protect, **options)
        elif self.min_sim is None:
            return merged(match, s)
        else:
            targets = match.targets.masked_fill(match.similarity < self.min_sim, -1)
        nearest = targets if self.min_sim is None else self._nearest(unit, centres, s)
        return Transform.from_targets(
            targets, centres.shape[1], s, centres=centres, nearest=nearest, drops=self.min_sim is not None
        )

    def _nearest(self, unit: Tensor, centres: Tensor, s: Tensor) -> Int[Tensor, "batch tokens"]:
        nearest = selected(centres, s, unit).nearest
        assert nearest is not None
        return nearest
