"""Point sets: distances, neighbours in a ball, farthest-point sampling; all over batches."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from linmap.errors import ArgumentError, check_count
from linmap.geometry.rigid import floating


def square_distances(P: Any, Q: Any) -> Float[Tensor, "*batch n m"]:
    """Squared distances of points P (..., n, 3) from Q (..., m, 3), by differences, so that none is negative.

    Raises
    ------
    ValueError
        If the points are not of three coordinates, or the batches do not go together.
    """
    P, Q = _points("P", P), _points("Q", Q)
    try:
        torch.broadcast_shapes(P.shape[:-2], Q.shape[:-2])
    except RuntimeError:
        raise ArgumentError(
            f"the batches of P and Q do not go together: {tuple(P.shape)} and {tuple(Q.shape)}."
        ) from None
    total = (P[..., :, None, 0] - Q[..., None, :, 0]).square()
    for axis in (1, 2):
        total = total + (P[..., :, None, axis] - Q[..., None, :, axis]).square()
    return total


def ball_query(P: Any, Q: Any, radius: float, k: int, mask: Any = None) -> Int64[Tensor, "*batch m k"]:
    """The first k points of P within `radius` of each centre in Q, as PointNet++ groups them.

    Parameters
    ----------
    P, Q
        (..., n, 3) points and (..., m, 3) centres, with the same batch.
    radius
        Of the ball, its surface included.
    k
        Neighbours a centre.
    mask
        (..., n): points that count; all of them without.

    Returns
    -------
    Tensor
        (..., m, k) indices into P in index order. Balls of fewer points repeat their first; an empty one has the
        nearest point.

    Raises
    ------
    ValueError
        If a shape or number does not fit, or a value of a point that counts is not finite.
    """
    P, Q = _points("P", P), _points("Q", Q)
    if P.shape[:-2] != Q.shape[:-2]:
        raise ArgumentError(f"P and Q must have the same batch, got {tuple(P.shape)} and {tuple(Q.shape)}.")
    if not radius > 0:
        raise ArgumentError(f"radius must be positive, got {radius}.")
    check_count("k", k)
    n, m = P.shape[-2], Q.shape[-2]
    counted = P if mask is None else P[_mask(mask, P)]
    for name, values in (("P", counted), ("Q", Q)):
        if not values.isfinite().all():
            raise ArgumentError(f"{name} holds points that are not finite; leave them out.")
    distances = square_distances(Q.detach(), P.detach()).flatten(0, -3) if P.ndim > 2 else square_distances(Q, P)[None]
    if mask is not None:
        counts = _mask(mask, P).reshape(-1, 1, n)
        distances = distances.masked_fill(~counts, torch.inf)
    rows = distances.reshape(-1, n)
    inside = rows <= radius**2
    row, column = inside.nonzero(as_tuple=True)  # in index order
    count = inside.sum(-1)
    place = torch.arange(len(row), device=row.device) - (count.cumsum(0) - count)[row]
    first = torch.where(count > 0, inside.to(torch.uint8).argmax(-1), rows.argmin(-1))
    found = first[:, None].repeat(1, k)
    keep = place < k
    found[row[keep], place[keep]] = column[keep]
    return found.reshape(*P.shape[:-2], m, k)


def farthest_points(P: Any, k: int, start: int = 0, mask: Any = None) -> Int64[Tensor, "*batch k"]:
    """Indices of k points, each the farthest from those before it (the first of equals).

    Parameters
    ----------
    P
        (n, 3), or (B, n, 3): all sets of a batch go through one loop.
    k
        How many. Where there are fewer different points, the first one repeats.
    start
        Index of the first; with a mask, the first from there on that counts.
    mask
        (n,) or (B, n): points that count.

    Raises
    ------
    ValueError
        If a shape or number does not fit, a value is not finite, or no point of a set counts.
    """
    P = _points("P", P).detach()
    if P.ndim > 3:
        raise ArgumentError(f"P must be (n, 3) or (B, n, 3), got shape {tuple(P.shape)}.")
    n = P.shape[-2]
    check_count("k", k)
    if not 0 <= start < n:
        raise ArgumentError(f"start must be an index of the {n} points, got {start}.")
    batch = P if P.ndim == 3 else P[None]
    counts = torch.ones(batch.shape[:2], dtype=torch.bool, device=P.device)
    if mask is not None:
        counts = _mask(mask, P).reshape(batch.shape[:2])
    if not batch.isfinite().all(-1)[counts].all():
        raise ArgumentError("P holds points that are not finite; leave them out by `mask`.")
    chosen = _farthest(batch, k, _first(counts, start), counts)
    return chosen if P.ndim == 3 else chosen[0]


def _farthest(P: Tensor, k: int, current: Tensor, counts: Tensor) -> Tensor:
    planes = P.masked_fill(~counts[..., None], 0).movedim(-1, 0).contiguous()  # (3, B, n)
    nearest = P.new_full(counts.shape, torch.inf).masked_fill(~counts, -1.0)
    chosen = torch.empty(len(P), k, dtype=torch.int64, device=P.device)
    for step in range(k):
        chosen[:, step] = current
        x, y, z = planes - planes.gather(2, current.expand(3, -1)[..., None])
        nearest = torch.minimum(nearest, x.square_().add_(y.square_()).add_(z.square_()))
        current = nearest.argmax(-1)
    return chosen


def _first(counts: Tensor, start: int) -> Tensor:
    if not counts.any(-1).all():
        raise ArgumentError("mask leaves a set without points; give each set one or more.")
    later = counts.roll(-start, -1).to(torch.uint8).argmax(-1)
    return (later + start) % counts.shape[-1]


def _points(name: str, values: Any) -> Tensor:
    points = floating(name, values)
    if points.ndim < 2 or points.shape[-1] != 3 or not points.shape[-2]:
        raise ArgumentError(f"{name} must be (..., n, 3) with n >= 1, got shape {tuple(points.shape)}.")
    return points


def _mask(values: Any, P: Tensor) -> Tensor:
    mask = torch.as_tensor(values, device=P.device)
    if mask.shape != P.shape[:-1]:
        raise ArgumentError(f"mask must be {tuple(P.shape[:-1])}, one value a point, got shape {tuple(mask.shape)}.")
    return mask.bool()
