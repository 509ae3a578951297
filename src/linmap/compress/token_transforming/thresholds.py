"""Merging by thresholds of similarity, so that plain images lose more tokens than rich ones: ATM and ALGM.

How many tokens merge depends on the sample. In a batch the number of outputs is that of the sample that merges fewest;
the others get outputs without mass, which no attention and no pool sees. What merges is a `Transform` like any other.
The M that a schedule asks for is the least that is left; a budget is met only by choosing the threshold.

Where one sample merges nothing the others keep as many outputs, some without mass; a layer in which no sample merges is
left alone. The count is read back from the device, so that `torch.compile` breaks the graph here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from linmap.compress.token_transforming.gathering import rows, unit_rows
from linmap.compress.token_transforming.matching import edges
from linmap.compress.token_transforming.precision import (
    check_budget,
    check_floating,
    full_precision,
    masses,
)
from linmap.compress.token_transforming.token_transform import Assign, Select, TokenTransform
from linmap.compress.token_transforming.transform import Transform
from linmap.errors import ArgumentError, ArgumentTypeError, check_count

UNUSED: dict[str, Any] = {
    "tau": 0.02,
    "min_sim": None,
    "topk": None,
    "keep_self": False,
    "causal": False,
    "proportional": True,
}


@dataclass(frozen=True)
class ThresholdTransform(TokenTransform):
    """What `AdaptiveMerging` and `LocalGlobalMerging` share: tokens merge where they are similar enough.

    Raises
    ------
    TypeError, ValueError
        If a setting of `TokenTransform` that means nothing here is not as it stands by default, or the threshold is no
        cosine.
    """

    select: Select = "bipartite"
    assign: Assign = "hard"
    threshold: float = 0.9

    fixed: ClassVar[dict[str, Any]] = {"select": "bipartite", "assign": "hard"} | UNUSED

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, value in self.fixed.items():
            if getattr(self, name) != value:
                raise ArgumentError(f"{type(self).__name__} takes no {name}; leave it at {value!r}.")
        if not isinstance(self.threshold, int | float) or isinstance(self.threshold, bool):
            raise ArgumentTypeError(f"threshold must be a number, got {self.threshold!r}.")
        if not -1 <= self.threshold <= 1:
            raise ArgumentError(f"threshold is a cosine in [-1, 1], got {self.threshold}.")

    @full_precision
    @torch.no_grad()
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
        """The transformation of N tokens into as many as are not similar enough, at least M.

        Parameters
        ----------
        x, k, mass
            As of `TokenTransform.build`; masses of None say that nothing has been merged yet.
        M
            The least number of tokens that is left, the protected ones counted.
        importance, generator
            Not used.

        Raises
        ------
        TypeError, ValueError
            As `TokenTransform.build`.
        """
        check_floating("x", x, "(B, N, C)")
        M, _ = check_budget(M, self.protect)
        s = masses(mass, x, x.shape[1])
        if x.shape[1] <= M:
            return Transform.identity(s)
        return self._merge(unit_rows(self._features(x, k), s.dtype), s, x.shape[1] - M, mass is None)

    def _merge(self, unit: Tensor, s: Tensor, most: int, first: bool) -> Transform:
        raise NotImplementedError


@dataclass(frozen=True)
class AdaptiveMerging(ThresholdTransform):
    """ATM: every token of one half whose best match in the other half is similar enough merges into it.

    From the paper's abstract: thresholds instead of fixed counts, tokens that become fewer layer by layer and batch by
    batch, and a matching that looks at merging sizes as well as at similarity. Its formulas were not at hand, so that
    the rest is our reading: one threshold for all layers; and with `by_size` the lighter half of the tokens merges into
    the heavier half, since joining two tokens with masses a and b moves their mass by a b / (a + b) times their squared
    distance, which is least where a small one joins a large one. Among tokens of one mass the halves are ToMe's.

    Parameters
    ----------
    threshold
        Cosine from which on tokens merge.
    by_size
        Whether masses tell the halves apart, or, as in ToMe, even and odd places.
    feature, protect
        As of `TokenTransform`; its other settings mean nothing here.

    References
    ----------
    Lee and Choi, "Lossless token merging even without fine-tuning in vision transformers", ECAI 2025.
    """

    by_size: bool = True

    def _merge(self, unit: Tensor, s: Tensor, most: int, first: bool) -> Transform:
        if not self.by_size:
            return merge_where(*even_odd_pairs(unit, s, self.protect, self.threshold), s, most, self.protect)
        places = torch.arange(unit.shape[1], device=unit.device)
        real, free = s > 0, places >= self.protect
        light = real & self._lighter(s, real)
        cosines = (unit @ unit.mT).masked_fill(~(real & ~light & free).unsqueeze(-2), -math.inf)
        similarity, best = cosines.max(-1)
        similarity = similarity.masked_fill(~(light & free), -math.inf)
        return merge_where(
            similarity >= self.threshold, similarity, places.expand_as(best), best, s, most, self.protect
        )

    @staticmethod
    def _lighter(s: Tensor, real: Tensor) -> Bool[Tensor, "batch tokens"]:
        """The half of the tokens with mass that has less of it; of equals those at even places first."""
        places = torch.arange(s.shape[1], device=s.device)
        order = torch.cat([places[::2], places[1::2]]).expand_as(s)
        order = order.gather(1, s.masked_fill(~real, math.inf).gather(1, order).argsort(dim=-1, stable=True))
        return order.argsort(dim=-1) < (real.sum(-1, keepdim=True) + 1) // 2


@dataclass(frozen=True)
class LocalGlobalMerging(ThresholdTransform):
    """ALGM: first whole windows of the grid whose tokens are alike, later pairs from anywhere; for dense outputs.

    The first transformation of a forward pass (masses of None) merges the windows whose mean cosine between different
    tokens reaches the threshold. Later ones match even and odd places as ToMe does, and merge those pairs whose
    similarity is at least its mean over the sample plus its standard deviation over `layer`. Both rules, the windows of
    2 x 2, the threshold 0.88 and the layers 1 and 5 (0 and 4 in a schedule here) are those of the authors' code for
    ViT-S. Ours: each sample has its own mean, deviation and number of merges, where the code takes one for the batch;
    outputs stay in the order of the image; rows and columns that fill no window stay as they are.

    Parameters
    ----------
    threshold
        Mean cosine from which on a window merges.
    window
        (rows, columns).
    grid
        (rows, columns) of the tokens that are not protected; None for a square.
    layer
        The number, from 1 on, of the layer of the later merging.
    feature, protect
        As of `TokenTransform`; its other settings mean nothing here.

    References
    ----------
    Norouzi et al., "ALGM: adaptive local-then-global token merging for efficient semantic segmentation with plain
    vision transformers", CVPR 2024.
    """

    threshold: float = 0.88
    window: tuple[int, int] = (2, 2)
    grid: tuple[int, int] | None = None
    layer: int = 5

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count("layer", self.layer, 1)
        for name, pair in (("window", self.window), ("grid", self.grid)):
            if pair is None and name == "grid":
                continue
            if not isinstance(pair, tuple | list) or len(pair) != 2:
                raise ArgumentTypeError(f"{name} must be a pair (rows, columns), got {pair!r}.")
            for size in pair:
                check_count(name, size, 1)
        if math.prod(self.window) < 2:
            raise ArgumentError(f"window must hold at least two tokens, got {self.window}.")

    def _merge(self, unit: Tensor, s: Tensor, most: int, first: bool) -> Transform:
        return self._merge_windows(unit, s, most) if first else self._merge_pairs(unit, s, most)

    def _merge_windows(self, unit: Tensor, s: Tensor, most: int) -> Transform:
        tokens = self._windows(unit.shape[1]).to(unit.device)
        n, size = tokens.shape
        inside = rows(unit, tokens.reshape(1, -1).expand(len(unit), -1)).unflatten(1, (n, size))
        off_diagonal = (inside @ inside.mT).sum((-1, -2)) - inside.square().sum((-1, -2))
        alike = off_diagonal / (size * (size - 1))
        chosen = _strongest(alike >= self.threshold, alike, most // (size - 1))
        expanded = tokens.expand(len(unit), -1, -1)
        merges, similarity = (each.unsqueeze(-1).expand(-1, -1, size - 1).flatten(1) for each in (chosen, alike))
        sources = expanded[..., :-1].flatten(1)
        destinations = expanded[..., -1:].expand(-1, -1, size - 1).flatten(1)
        return merge_where(merges, similarity, sources, destinations, s, most, self.protect)

    def _merge_pairs(self, unit: Tensor, s: Tensor, most: int) -> Transform:
        _, similarity, sources, destinations = even_odd_pairs(unit, s, self.protect, -1.0)
        real = similarity >= -1
        n = real.sum(-1, keepdim=True).to(s.dtype)
        values = torch.where(real, similarity, 0)
        mean = values.sum(-1, keepdim=True) / n.clamp(min=1)
        deviation = (torch.where(real, values - mean, 0).square().sum(-1, keepdim=True) / (n - 1).clamp(min=1)).sqrt()
        merges = real & (similarity >= mean + deviation / self.layer)
        return merge_where(merges, similarity, sources, destinations, s, most, self.protect)

    def _windows(self, n_tokens: int) -> Int[Tensor, "windows size"]:
        """The tokens of each whole window of the grid."""
        patches = n_tokens - self.protect
        height, width = self.grid or (math.isqrt(patches), math.isqrt(patches))
        if height * width != patches:
            raise ArgumentError(
                f"{n_tokens} tokens with protect = {self.protect} are no grid of {height} x {width}; pass grid=(rows, "
                "columns)."
            )
        h, w = self.window
        places = torch.arange(self.protect, n_tokens).reshape(height, width)
        places = places[: height // h * h, : width // w * w]
        if not places.numel():
            raise ArgumentError(f"a window of {h} x {w} does not fit into the grid {height} x {width}.")
        return places.unflatten(0, (-1, h)).unflatten(-1, (-1, w)).transpose(1, 2).reshape(-1, h * w)


def even_odd_pairs(unit: Tensor, s: Tensor, protect: int, threshold: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Tokens at even places whose best match at an odd one reaches a threshold; similarities, sources, destinations."""
    places = torch.arange(unit.shape[1], device=unit.device)
    sources, others = (places[start::2].expand(len(unit), -1) for start in (0, 1))
    similarity, best = edges(s, places < protect, sources, others, unit[:, ::2], unit[:, 1::2])
    return similarity >= threshold, similarity, sources, others.gather(1, best)


def merge_where(
    merges: Bool[Tensor, "batch sources"],
    similarity: Float[Tensor, "batch sources"],
    sources: Int[Tensor, "batch sources"],
    destinations: Int[Tensor, "batch sources"],
    s: Float[Tensor, "batch tokens"],
    most: int,
    protect: int,
) -> Transform:
    """Sources go to their destinations where they merge, at most the `most` most similar of a sample.

    There are as many outputs as the sample with most tokens needs; others fill up with outputs without mass, which come
    last, so that even and odd places are what they would be without the rest of the batch. The identity where no sample
    merges anything.
    """
    merges = _strongest(merges, similarity, most)
    if not bool(merges.any()):
        return Transform.identity(s)
    score = torch.full_like(s, -math.inf).masked_fill(s <= 0, math.inf)  # -inf for tokens that stay
    score = score.scatter(1, sources, torch.where(merges, similarity.to(s.dtype), score.gather(1, sources)))
    score[:, :protect] = -math.inf
    M = max(int((score == -math.inf).sum(-1).max()), s.shape[1] - most)
    centres = score.argsort(dim=-1, stable=True)[:, :M]  # in their order, and then those without mass
    slots = torch.arange(M, device=s.device).expand_as(centres)
    own = torch.full(s.shape, -1, dtype=torch.int64, device=s.device).scatter(1, centres, slots)
    to = torch.where(merges, own.gather(1, destinations), own.gather(1, sources))
    targets = own.scatter(1, sources, to)
    return Transform.from_targets(targets, M, s, centres=centres, nearest=targets)


def _strongest(chosen: Tensor, similarity: Tensor, most: int) -> Tensor:
    """Those of the chosen that are among the `most` most similar ones, the lower one of equals."""
    if most >= chosen.shape[1]:
        return chosen
    order = similarity.masked_fill(~chosen, -math.inf).argsort(dim=-1, descending=True, stable=True)
    return chosen & (order.argsort(dim=-1) < most)
