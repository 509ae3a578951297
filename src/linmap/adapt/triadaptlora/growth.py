"""Which layers grow, and by how much: the rules as functions of numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

from linmap.errors import ArgumentError

Growth = Literal["linear", "nonlinear", "none"]


def normalised_norm(norm: float, rank: int) -> float:
    """n = ||C||_F / R, whose change since the last check is the importance of a layer.

    R grows faster than ||C||_F when pieces are added, so that a layer that has just grown scores low at the next check;
    growth thereby goes round among the layers.
    """
    return norm / rank


def importance(now: Mapping[str, float], before: Mapping[str, float]) -> dict[str, float]:
    """I = n(now) - n(at the last check), by layer."""
    return {name: now[name] - before[name] for name in now}


def progress(step: int, init_warmup: int, total_step: int) -> float:
    """m = (t - init_warmup) / (total_step - init_warmup), at most 1."""
    return min(1.0, (step - init_warmup) / (total_step - init_warmup))


def is_due(step: int, init_warmup: int, incre_interval: int) -> bool:
    """Whether step t, counted from 1, is one at which ranks may grow."""
    return step > init_warmup and step % incre_interval == 0


def layers_to_grow(remaining: int, m: float, growth: Growth, n_layers: int) -> int:
    """n, the number of layers that grow now.

    Parameters
    ----------
    remaining
        R* - R_tot, what is left of the budget, at least 1.
    m
        `progress`.
    growth
        "linear": floor((R* - R_tot) m). "nonlinear": floor((R* - R_tot)^m).
    n_layers
        The upper bound; the lower one is 1.
    """
    if growth == "linear":
        n = math.floor(remaining * m)
    elif growth == "nonlinear":
        n = math.floor(remaining**m)
    else:
        raise ArgumentError(f"growth={growth!r} must be 'linear' or 'nonlinear' here.")
    return min(max(n, 1), n_layers)


def ranking(scores: Mapping[str, float]) -> list[str]:
    """Layers by importance, the highest first; ties go by name."""
    return sorted(scores, key=lambda name: (-scores[name], name))


def grown_ranks(
    ranks: Mapping[str, int], chosen: list[str], add_rank: int, limits: Mapping[str, int], target: int
) -> dict[str, int]:
    """The ranks after the chosen layers, in this order, have grown by `add_rank` each.

    A layer stops at its limit, and the last one to grow stops where the sum reaches `target`.
    """
    grown = dict(ranks)
    remaining = target - sum(ranks.values())
    for name in chosen:
        added = min(add_rank, limits[name] - ranks[name], remaining)
        grown[name] += added
        remaining -= added
    return grown
