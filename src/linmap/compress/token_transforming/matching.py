"""Bipartite matching: tokens of one set merge into the most similar token of another (Bolya et al., ICLR 2023)."""

from __future__ import annotations

import warnings
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from linmap.compress.token_transforming.gathering import rows

PADDING, ONTO_PADDING, NEVER = -5.0, -10.0, -float("inf")  # below any cosine, in the order in which edges are taken


class Match(NamedTuple):
    """Which tokens are outputs, and where the others go."""

    centres: Int[Tensor, "batch outputs"]
    targets: Int[Tensor, "batch tokens"]
    """The output of each token."""
    similarity: Float[Tensor, "batch tokens"]
    """Of each token to the centre of its output; 1 for a centre."""


def clamp_removals(r: int, n_tokens: int, n_protected: int, stacklevel: int) -> int:
    """At most half of the tokens that are not protected can merge away in one matching; warns where r is more."""
    most = max((n_tokens - n_protected) // 2, 0)
    if r > most:
        warnings.warn(
            f"r = {r} of {n_tokens} tokens ({n_protected} protected): a bipartite matching merges at most half of the "
            f"tokens that are not protected; r = {most} is used.",
            UserWarning,
            stacklevel=stacklevel + 1,
        )
        return most
    return r


def match_even_odd(
    unit: Float[Tensor, "batch tokens channels"],
    mass: Float[Tensor, "batch tokens"],
    r: int,
    protected: Bool[Tensor, " tokens"],
) -> Match:
    """ToMe: of the tokens at even places, the r most similar to a token at an odd place merge into it.

    Protected tokens neither merge nor are merged into. Padding is not merged into, and merges after all others, so
    that r tokens with mass merge, however long the padding.
    """
    N = unit.shape[1]
    places = torch.arange(N, device=unit.device)
    even, odd = places[::2].expand(len(unit), -1), places[1::2].expand(len(unit), -1)
    similarity, best = edges(mass, protected, even, odd, unit[:, ::2], unit[:, 1::2])
    order = similarity.argsort(dim=-1, descending=True, stable=True)[:, :r]
    sources, similarity = even.gather(1, order), similarity.gather(1, order)
    return _merged(N, sources, odd.gather(1, best.gather(1, order)), similarity)


def match_by_energy(
    unit: Float[Tensor, "batch tokens channels"],
    mass: Float[Tensor, "batch tokens"],
    r: int,
    protect: int,
    margin: float,
) -> Match:
    """PiToMe: of the 2r tokens of highest energy, every second one merges into the most similar of the others.

    The energy of a token is the mean over all tokens j of elu(cos(i, j) - margin): high within large groups of alike
    tokens. Candidates stand in the order of their energies, the first merges, the second is a destination, and so on
    (Tran et al., NeurIPS 2024, and the authors' `pitome_vision`).
    """
    tokens, real = unit[:, protect:], mass[:, protect:] > 0
    elu = F.elu(tokens @ tokens.mT - margin)
    n_real = real.sum(-1, keepdim=True).clamp(min=1)
    energy = (elu * real.unsqueeze(-2)).sum(-1) / n_real
    order = energy.masked_fill(~real, NEVER).argsort(dim=-1, descending=True, stable=True)[:, : 2 * r] + protect
    sources, others = order[:, ::2], order[:, 1::2]
    nobody = torch.zeros(unit.shape[1], dtype=torch.bool, device=unit.device)
    similarity, best = edges(mass, nobody, sources, others, rows(unit, sources), rows(unit, others))
    return _merged(unit.shape[1], sources, others.gather(1, best), similarity)


def edges(
    mass: Tensor, protected: Tensor, sources: Tensor, others: Tensor, unit_sources: Tensor, unit_others: Tensor
) -> tuple[Tensor, Tensor]:
    """The most similar of the others for each source, the lower one of equals, and how similar it is."""
    padding = torch.where(mass.gather(1, others) > 0, 0.0, ONTO_PADDING).to(mass.dtype)
    bias = padding.masked_fill(protected[others], NEVER).unsqueeze(-2)
    similarity, best = torch.baddbmm(bias, unit_sources, unit_others.mT).max(-1)
    similarity = similarity.masked_fill(mass.gather(1, sources) <= 0, PADDING)
    return similarity.masked_fill(protected[sources], NEVER), best


def _merged(N: int, sources: Tensor, destinations: Tensor, similarity: Tensor) -> Match:
    """Outputs are the tokens that are no source, in their order."""
    B, r = sources.shape
    kept = torch.ones(B, N, dtype=torch.bool, device=sources.device).scatter(1, sources, False)
    targets = kept.cumsum(-1) - 1  # of a kept token
    centres = (~kept).to(torch.uint8).argsort(dim=-1, stable=True)[:, : N - r]
    targets = targets.scatter(1, sources, targets.gather(1, destinations))
    return Match(centres, targets, similarity.new_ones(B, N).scatter(1, sources, similarity))
