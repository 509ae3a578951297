"""Multiply-accumulates (MACs, half of the FLOPs) of a transformer encoder whose tokens become fewer."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping
from typing import Any

from linmap.compress.token_transforming.precision import check_share
from linmap.compress.token_transforming.schedules import (
    removals_to_schedule,
    stage_layers,
    stage_schedule,
    tome_removals,
)
from linmap.errors import ArgumentError, ArgumentTypeError, check_count

LEAST_KEEP = 1 / 3  # of the tokens, that a stage keeps; where it had to keep less, stages stand earlier


def transformer_macs(
    n_tokens: int,
    dim: int,
    depth: int,
    *,
    schedule: Mapping[int, int] | None = None,
    hidden: int | None = None,
    patch_features: int | None = None,
    n_classes: int | None = None,
    feature_dim: int | None = None,
    protect: int = 1,
) -> int:
    """MACs of the matrix products of one sample.

    A block with n tokens in and m out costs 4 n C^2 (projections) + 2 n^2 C (attention) + 2 m C hidden (MLP), and where
    m < n, with feature_dim c, the transformation n^2 c (similarities) + m n C (its product).

    Parameters
    ----------
    n_tokens
        N, protected tokens included.
    dim, depth
        C, and how many blocks there are.
    schedule
        {layer: M}; None for a plain model.
    hidden
        Width of the MLP, None for 4 C.
    patch_features
        Values of a patch, where the patch embedding is counted: (n_tokens - protect) patch_features C.
    n_classes
        Where the head is counted: C n_classes.
    feature_dim
        Width of the features that similarity is measured on, where the transformations are counted.
    protect
        Protected tokens, which no patch stands behind.

    Raises
    ------
    TypeError, ValueError
        If a size is no whole number from 1 on, a layer lies beyond the depth, or M < 1.
    """
    n, C, depth = check_count("n_tokens", n_tokens, 1), check_count("dim", dim, 1), check_count("depth", depth, 1)
    protect = check_count("protect", protect, 0)
    hidden = 4 * C if hidden is None else check_count("hidden", hidden, 1)
    c = 0 if feature_dim is None else check_count("feature_dim", feature_dim, 1)
    left = check_schedule({} if schedule is None else schedule, depth)
    total = 0
    if patch_features is not None:
        total += max(n - protect, 0) * check_count("patch_features", patch_features, 1) * C
    if n_classes is not None:
        total += C * check_count("n_classes", n_classes, 0)
    for layer in range(depth):
        m = min(left.get(layer, n), n)
        total += 4 * n * C * C + 2 * n * n * C + 2 * m * C * hidden
        if c and m < n:
            total += n * n * c + m * n * C
        n = m
    return total


def solve_removals(target: float, n_tokens: int, dim: int, depth: int, **cost: Any) -> int:
    """The smallest constant r per layer with which the MACs are at most `target` of the plain model's.

    Parameters
    ----------
    target
        In (0, 1].
    n_tokens, dim, depth
        As of `transformer_macs`.
    **cost
        Its other settings, without `schedule`.

    Raises
    ------
    TypeError, ValueError
        As `transformer_macs`; if no r reaches the target, with the smallest share that can be reached.
    """
    target = check_share("target", target)
    if "schedule" in cost:
        raise ArgumentTypeError("solve_removals finds the schedule; it takes none.")
    full = transformer_macs(n_tokens, dim, depth, **cost)
    protect, least = cost.get("protect", 1), full
    for r in range(n_tokens):
        schedule = removals_to_schedule(tome_removals(depth, r), n_tokens, protect=protect)
        macs = transformer_macs(n_tokens, dim, depth, schedule=schedule, **cost)
        if macs <= target * full:
            return r
        least = min(least, macs)
    raise ArgumentError(
        f"target = {target} cannot be reached by removing tokens: the smallest share of the {full} MACs of the plain "
        f"model is {least / full:.4f}, with one token left beside the protected ones."
    )


def solve_stages(target: float, n_tokens: int, dim: int, depth: int, **cost: Any) -> tuple[float, tuple[int, ...]]:
    """The share that three stages keep, and their layers, with MACs of at most `target` of the plain model's.

    Stages stand a quarter, half and three quarters into the model: late, where tokens are alike. What comes before them
    is paid in full, so that for a small target they would have to drop nearly all tokens at once; where each had to
    keep less than `LEAST_KEEP`, all three stand earlier, by as few blocks as it takes. This rule is ours.

    Parameters
    ----------
    target
        In (0, 1].
    n_tokens, dim, depth
        As of `transformer_macs`.
    **cost
        Its other settings, without `schedule`.

    Returns
    -------
    keep, layers
        For `compress(stages=(keep, layers))`. The largest share to one part in a thousand.

    Raises
    ------
    TypeError, ValueError
        As `transformer_macs`; if no share reaches the target, with the smallest part that can be reached.
    """
    target = check_share("target", target)
    if "schedule" in cost:
        raise ArgumentTypeError("solve_stages finds the schedule; it takes none.")
    full, protect = transformer_macs(n_tokens, dim, depth, **cost), cost.get("protect", 1)

    def part(keep: float, layers: tuple[int, ...]) -> float:
        schedule = stage_schedule(n_tokens, keep, layers, protect=protect)
        return transformer_macs(n_tokens, dim, depth, schedule=schedule, **cost) / full

    places = stage_layers(depth)
    layers = next((layers for layers in places if part(LEAST_KEEP, layers) <= target), places[-1])
    steps = range(1, 1001)
    least = part(steps[0] / 1000, layers)
    if least > target:
        raise ArgumentError(
            f"target = {target} cannot be reached by three stages: the smallest part of the {full} MACs of the plain "
            f"model is {least:.4f}."
        )
    return bisect_right(steps, target, key=lambda step: part(step / 1000, layers)) / 1000, layers


def check_schedule(schedule: Mapping[int, int], depth: int) -> dict[int, int]:
    """The schedule, where all layers exist and M >= 1.

    Raises
    ------
    TypeError, ValueError
        If it is no mapping, names a layer beyond the depth, or M < 1.
    """
    if not isinstance(schedule, Mapping):
        raise ArgumentTypeError(f"schedule must map layers to numbers of tokens, got {type(schedule).__name__}.")
    left = {check_count("a layer of the schedule", layer, 0): check_count("M", M, 1) for layer, M in schedule.items()}
    if left and max(left) >= depth:
        raise ArgumentError(
            f"the schedule names layer {max(left)} of a model with depth {depth} (layers 0 ... {depth - 1})."
        )
    return left
