"""`TokenTransform`: the settings of a transformation, which build it for the tokens of a layer."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeAlias, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor

from linmap.compress.token_transforming.assignment import check_options, nearest_centres, nearest_output, shares
from linmap.compress.token_transforming.few import are_few, few_transform
from linmap.compress.token_transforming.gathering import rows, unit_rows
from linmap.compress.token_transforming.importance import select_centres
from linmap.compress.token_transforming.matching import Match, clamp_removals, match_by_energy, match_even_odd
from linmap.compress.token_transforming.precision import (
    check_budget,
    check_floating,
    full_precision,
    masses,
)
from linmap.compress.token_transforming.similarity import Similarities, importance_order, informative
from linmap.compress.token_transforming.sparse import Shares, SparseTransform, joined, sparse_shares, worth_it
from linmap.compress.token_transforming.special import keep_first, merged, selected
from linmap.compress.token_transforming.transform import Transform
from linmap.errors import ArgumentError, ArgumentTypeError, check_count

Select: TypeAlias = Literal["informative", "importance", "bipartite", "energy", "random"]
Assign: TypeAlias = Literal["soft", "hard", "prune"]
Score: TypeAlias = Literal["auto", "cls", "received", "key_norm", "value_norm"]
Feature: TypeAlias = Literal["x", "k"]
MARGIN = 0.5  # of PiToMe's energy
AT_ONCE = 2**21  # similarities
MOST_TOKENS = 2048  # whose similarities are kept for a moment


class _Part(NamedTuple):
    """What is found for some samples: centres, and shares (tokens, outputs) or outputs of the tokens."""

    centres: Tensor
    assigned: Tensor | Shares | None = None
    nearest: Tensor | None = None


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
        As of `assignment`. With `causal` the last real token is always a centre; a matching cannot be causal.
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
        M, _ = check_budget(M, self.protect)
        N = x.shape[1]
        s = masses(mass, x, N)
        if M >= N:
            return Transform.identity(s)
        features = self._features(x, k)
        if self.select == "informative" and self._plain and are_few(features, M, mass):
            a, ones = self._importance(importance, s), mass is None
            return few_transform(features, a, s, M, ones=ones, protect=self.protect, tau=self.tau)
        unit = unit_rows(features, s.dtype)
        match, scores = None, None
        if self.select in ("bipartite", "energy"):
            match = self._matching(unit.detach(), s, N - M)
            if match.centres.shape[1] == N:
                return Transform.identity(s)
            if self.assign == "hard" and self.min_sim is None:
                return merged(match, s)
        else:
            scores = self._scores(s, importance, generator)
        sparse = self._plain and worth_it(unit, M)
        parts = [
            self._part(
                unit[i],
                s[i],
                M,
                sparse=sparse,
                scores=None if scores is None else scores[i],
                match=None if match is None else Match(*(some[i] for some in match)),
            )
            for i in samples_at_once(unit)
        ]
        return self._transform(parts, s, unit.detach())

    def _features(self, x: Tensor, k: Tensor | None) -> Tensor:
        if self.feature == "x":
            return x
        if k is None:
            raise ArgumentError("feature='k' needs the keys k (B, N, c); got None.")
        check_floating("k", k, "(B, N, c)")
        if k.shape[:2] != x.shape[:2]:
            raise ArgumentError(f"k must have the shape {(*x.shape[:2], 'c')}, got {tuple(k.shape)}.")
        return k

    def _matching(self, unit: Tensor, s: Tensor, r: int) -> Match:
        N = unit.shape[1]
        r = clamp_removals(r, N, self.protect, stacklevel=4)
        if self.select == "energy":
            return match_by_energy(unit, s, r, self.protect, MARGIN)
        return match_even_odd(unit, s, r, torch.arange(N, device=unit.device) < self.protect)

    def _scores(
        self, s: Tensor, importance: Tensor | None, generator: torch.Generator | None
    ) -> Float[Tensor, "batch tokens"]:
        """What centres are chosen by: the importance, or random numbers."""
        if self.select != "random":
            return self._importance(importance, s)
        N = s.shape[1]
        draw = _first_draw(N) if generator is None else torch.rand(N, generator=generator, device=generator.device)
        return draw.to(s).expand_as(s)

    def _importance(self, importance: Tensor | None, s: Tensor) -> Tensor:
        if importance is None:
            raise ArgumentError(f"select={self.select!r} needs the importance (B, N) of the tokens; got None.")
        check_floating("importance", importance, "(B, N)")
        if importance.shape != s.shape:
            raise ArgumentError(f"importance must have the shape {tuple(s.shape)}, got {tuple(importance.shape)}.")
        return importance.detach().to(s.dtype)

    def _part(
        self, unit: Tensor, s: Tensor, M: int, *, sparse: bool, scores: Tensor | None, match: Match | None
    ) -> _Part:
        """The outcome for some samples."""
        if match is not None:
            centres, cosines = match.centres, None
        else:
            assert scores is not None
            centres, similarities = self._centres(unit, s, M, scores)
            if similarities is not None and sparse:
                order, rank = similarities.order, similarities.rank
                found = sparse_shares(similarities.of(centres), order, rank, centres, s, self.protect, self.tau)
                return _Part(centres, found)
            cosines = None if similarities is None else similarities.to(centres)
        if self.assign == "prune":
            return _Part(centres)
        nearest = None
        if self.min_sim is not None:
            cosines = unit @ rows(unit, centres).mT if cosines is None else cosines
            nearest = nearest_centres(cosines.detach(), centres, s)
        options = {"keep_self": self.keep_self, "min_sim": self.min_sim, "causal": self.causal, "cosines": cosines}
        if self.assign == "soft":
            P = shares(unit, centres, s, self.protect, tau=self.tau, topk=self.topk, **options)
            return _Part(centres, P.mT, nearest)
        if match is not None:
            assert self.min_sim is not None
            return _Part(centres, match.targets.masked_fill(match.similarity < self.min_sim, -1), nearest)
        return _Part(centres, nearest_output(unit.detach(), centres, s, self.protect, **options), nearest)

    def _centres(
        self, unit: Tensor, s: Tensor, M: int, scores: Tensor
    ) -> tuple[Int[Tensor, "batch outputs"], Similarities | None]:
        """The centres, and the cosines of all tokens where they were computed on the way."""
        similarities = None
        if self.select != "informative":
            c = keep_first(scores, s, self.protect)
        else:
            differentiable = self.assign == "soft" and torch.is_grad_enabled() and unit.requires_grad
            keep = self.assign != "prune" and not differentiable and unit.shape[1] <= MOST_TOKENS
            similarities = Similarities(unit.detach(), importance_order(scores, s, self.protect), keep)
            c = informative(similarities.largest_before(), s, self.protect)
            similarities = similarities if keep else None
        if self.causal:
            places = torch.arange(s.shape[1], device=s.device)
            last = (places * (s > 0)).amax(-1, keepdim=True)  # padding may follow it
            c = c.masked_fill(places == last, math.inf)
        return select_centres(c, M), similarities

    @property
    def _plain(self) -> bool:
        """Whether shares are those of the softmax alone."""
        options = (self.topk, self.min_sim, self.keep_self or None, self.causal or None)
        return self.assign == "soft" and all(option is None for option in options)

    def _transform(self, parts: list[_Part], s: Tensor, unit: Tensor) -> Transform:
        centres = _joined([part.centres for part in parts])
        if self.assign == "prune":
            return selected(centres, s, unit)
        shares = [(part.assigned, len(part.centres)) for part in parts if isinstance(part.assigned, Shares)]
        if shares:
            return SparseTransform(joined(shares, centres.shape[1], s.shape[1]), centres.shape[1], s, centres)
        assigned = _joined([part.assigned for part in parts if isinstance(part.assigned, Tensor)])
        found = [part.nearest for part in parts if part.nearest is not None]
        if self.assign == "soft":
            return Transform(assigned.mT, s, centres, None, _joined(found) if found else None)
        nearest = _joined(found) if found else assigned
        return Transform.from_targets(assigned, centres.shape[1], s, centres=centres, nearest=nearest, drops=self.drops)


def _joined(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts)


@torch.compiler.assume_constant_result
def _first_draw(n_tokens: int) -> Float[Tensor, " tokens"]:
    return torch.rand(n_tokens, generator=torch.Generator().manual_seed(0))


def samples_at_once(unit: Float[Tensor, "batch tokens channels"]) -> list[slice]:
    """Parts of a batch whose matrices stay in the cache of a CPU; the whole batch elsewhere."""
    B, N = unit.shape[:2]
    if unit.device.type != "cpu" or torch.compiler.is_compiling():
        return [slice(None)]
    size = max(1, AT_ONCE // (N * N))
    return [slice(first, first + size) for first in range(0, B, size)]
