"""The loss of predicted motions: moved points, the nine numbers, and the distances between teeth."""

from __future__ import annotations

from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

from linmap.errors import ArgumentError
from linmap.geometry.points import square_distances
from linmap.shapes.tooth_arrangement.pairs import apply_motion
from linmap.shapes.tooth_arrangement.slots import TEETH

POINTS, PARAMETERS, DISTANCES = 1e-3, 3e-2, 1e-3  # the published weights
PUBLISHED_BATCH = 24  # at which they balance sums over the batch against a mean

Reference = Literal["after", "before"]
Reduction = Literal["mean", "sum"]


class ArrangementLoss(NamedTuple):
    """Weighted terms, and their sum."""

    points: Tensor
    parameters: Tensor
    distances: Tensor
    total: Tensor


def arrangement_loss(
    pred: Tensor,
    target: Tensor,
    before: Tensor,
    after: Tensor,
    centroid: Tensor,
    after_centroid: Tensor,
    mask: Tensor,
    *,
    reference: Reference = "after",
    reduction: Reduction = "mean",
) -> ArrangementLoss:
    """0.001 sum |p_pred - p|^2 + 0.03 mean |y_pred - y|^2 + 0.001 sum (|c_i - c_j| - |c'_i - c'_j|)^2.

    Parameters
    ----------
    pred, target
        (B, 32, 9): motions y.
    before, after
        (B, 32, P, 3): points, in network units (mm / 40) as everything here.
    centroid, after_centroid
        (B, 32, 3).
    mask
        (B, 32): present teeth. Absent ones add nothing, and get no gradient.
    reference
        Whose distances the third term wants: "after", as is meant, or "before", as the authors' code takes.
    reduction
        "sum": as in the authors' code, where the first and the third term grow with the batch, and the second is a mean
        over batch and slots. "mean": these two terms times 24 / B, which keeps the published balance.

    Raises
    ------
    ValueError
        If a shape does not fit or an option is unknown.
    """
    for name, value, known in (("reference", reference, Reference), ("reduction", reduction, Reduction)):
        if value not in get_args(known):
            raise ArgumentError(f"{name} must be one of {', '.join(get_args(known))}, got {value!r}.")
    mask = _check(pred, target, before, after, centroid, after_centroid, mask)
    absent = ~mask[..., None]
    pred, target = pred.masked_fill(absent, 0), target.masked_fill(absent, 0)
    centroid, after_centroid = centroid.masked_fill(absent, 0), after_centroid.masked_fill(absent, 0)
    before, after = (points.masked_fill(absent[..., None], 0) for points in (before, after))
    moved = (apply_motion(before, centroid, pred) - after).masked_fill(absent[..., None], 0)
    pairs = (mask[:, :, None] & mask[:, None]).to(pred)
    wanted = _distances(after_centroid if reference == "after" else centroid)
    points = POINTS * moved.square().sum()
    parameters = PARAMETERS * (pred - target).square().sum(-1).mean()
    distances = DISTANCES * (pairs * (wanted - _distances(pred[..., :3])).square()).sum()
    if reduction == "mean":
        points, distances = points * PUBLISHED_BATCH / len(pred), distances * PUBLISHED_BATCH / len(pred)
    return ArrangementLoss(points, parameters, distances, points + parameters + distances)


def _distances(centers: Tensor) -> Tensor:
    """Between all teeth, with gradient 0 where it is 0."""
    squared = square_distances(centers, centers)
    apart = squared > 0
    return torch.where(apart, torch.where(apart, squared, 1).sqrt(), 0)


def _check(
    pred: Tensor, target: Tensor, before: Tensor, after: Tensor, centroid: Tensor, after_centroid: Tensor, mask: Tensor
) -> Tensor:
    if pred.ndim != 3 or tuple(pred.shape[1:]) != (TEETH, 9):
        raise ArgumentError(f"pred must be (B, {TEETH}, 9), got shape {tuple(pred.shape)}.")
    batch = tuple(pred.shape[:2])
    if before.ndim != 4 or tuple(before.shape[:2]) != batch or before.shape[3] != 3:
        raise ArgumentError(f"before must be {(*batch, 'P', 3)}, got shape {tuple(before.shape)}.")
    expected = (
        ("target", target, (*batch, 9)),
        ("after", after, tuple(before.shape)),
        ("centroid", centroid, (*batch, 3)),
        ("after_centroid", after_centroid, (*batch, 3)),
        ("mask", mask, batch),
    )
    for name, value, shape in expected:
        if tuple(value.shape) != shape:
            raise ArgumentError(f"{name} must be {shape}, got shape {tuple(value.shape)}.")
    return mask.bool()
