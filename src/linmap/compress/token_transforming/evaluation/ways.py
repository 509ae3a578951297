"""The ways to have fewer tokens that are compared: each a transform that `compress` takes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from linmap.compress.token_transforming import (
    TokenTransform,
    Transform,
    evit,
    solve_stages,
    stage_schedule,
    transformer_macs,
)
from linmap.compress.token_transforming.cost import LEAST_KEEP
from linmap.experiment import Kind


@dataclass(frozen=True)
class Way:
    """One of them."""

    name: str
    kind: Kind
    transform: TokenTransform
    note: str


@dataclass(frozen=True)
class Fusion(TokenTransform):
    """EViT (Liang et al., ICLR 2022): the tokens with the most attention of the class token stay, and the rest becomes
    one, weighted by it."""

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
        """As `TokenTransform.build`: the class token, M - 2 patches, and the fused token."""
        tokens, kept = x.shape[1], M - 2
        if tokens <= M or kept < 1 or importance is None:
            plain = replace(PRUNING, score=self.score, protect=self.protect)
            return plain.build(x, M=M, k=k, importance=importance, mass=mass, generator=generator)
        return evit(importance[:, 1:], (kept - 0.5) / (tokens - 1), fuse=True, normalize=True, mass=mass)


PAIRS, HALF = ("bipartite", "energy"), 0.5
PRUNING = TokenTransform(select="importance", assign="prune")


def encoder_ways(ours: TokenTransform, class_token: bool = True) -> Iterator[Way]:
    """For models that read images, and for sentence encoders; the user's own settings are the system.

    Parameters
    ----------
    ours
        The method.
    class_token
        Whether the model has one, whose attention EViT asks for.
    """
    merging = TokenTransform(assign="hard", score=ours.score)
    yield Way("Token Transforming", "system", ours, "many to many" if ours.assign == "soft" else "")
    if ours.assign == "soft":
        yield Way("hard", "ablation", replace(ours, assign="hard"), 'the same, many to one: assign="hard"')
    yield Way("ToMe on x", "baseline", replace(merging, select="bipartite"), "pairs of tokens, by the tokens")
    by_keys = replace(merging, select="bipartite", feature="k")
    yield Way("ToMe on keys", "baseline", by_keys, "pairs of tokens, by their keys, as published")
    yield Way("PiToMe on x", "baseline", replace(merging, select="energy"), "pairs among the tokens of high energy")
    if class_token:
        fused = Fusion(select="importance", score="cls")
        yield Way("EViT", "baseline", fused, "the rest fused into one token")
    yield Way("pruning", "baseline", replace(PRUNING, score=ours.score), "by the same importance")
    yield Way("random centres", "ablation", TokenTransform(select="random", score=ours.score), "merged softly")


def early_enough(keep: float, at: Sequence[int], n_tokens: int, dim: int, depth: int) -> tuple[float, tuple[int, ...]]:
    """The share and the blocks, or where so small a share would be left of late blocks, earlier ones at equal cost."""
    if keep >= LEAST_KEEP:
        return keep, tuple(at)
    cost = macs(keep, at, n_tokens, dim, depth) / transformer_macs(n_tokens, dim, depth)
    return solve_stages(cost, n_tokens, dim, depth, feature_dim=dim)


def stages(
    transform: TokenTransform, keep: float, at: Sequence[int], n_tokens: int, dim: int, depth: int
) -> tuple[float, tuple[int, ...]]:
    """The share that stays and the blocks where that happens, for `compress(stages=...)`.

    Pairs remove at most half of a block's tokens. Where more must go, they do it in two blocks, the first one earlier,
    and keep the share with which the model costs as much as with `keep` in one.
    """
    if keep >= HALF or transform.select not in PAIRS:
        return keep, tuple(at)
    twice = tuple(sorted({block for last in at for block in (max(last - 1, 0), max(last, 1))}))
    wanted, low, high = macs(keep, at, n_tokens, dim, depth), HALF, 1.0
    for _ in range(20):
        middle = (low + high) / 2
        low, high = (middle, high) if macs(middle, twice, n_tokens, dim, depth) < wanted else (low, middle)
    return low, twice


def macs(keep: float, at: Sequence[int], n_tokens: int, dim: int, depth: int) -> int:
    """Of an encoder whose blocks `at` keep this share."""
    schedule = stage_schedule(n_tokens, keep, at)
    return transformer_macs(n_tokens, dim, depth, schedule=schedule, feature_dim=dim)


def decoder_ways(ours: TokenTransform) -> Iterator[Way]:
    """For the prompts of language models."""
    yield Way("Token Transforming", "system", ours, "drops what is unlike every centre")
    yield Way("FastV", "baseline", PRUNING, "pruning by the last token's attention")
    everything = TokenTransform(select="importance")
    yield Way("merging everything", "baseline", everything, "the same centres, nothing dropped")
    yield Way("random", "baseline", TokenTransform(select="random", assign="prune"), "random tokens dropped")
