"""A choice between poses that moments do not tell apart: by sums over the points of functions without any symmetry.

Poses of equal sums are the same point set to working precision, so that either may be taken.
"""

from __future__ import annotations

import itertools
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float64
from torch import Tensor

from linmap.shapes.tinvnn.signs import column_signs
from linmap.shapes.tinvnn.ties import bases

SUMS = 4
MOST_FLIPS = 8
"""Columns whose signs are tried in all combinations; those of further ones stay +."""
AT_ONCE = 2**21
"""Coordinates of candidates that are held at once."""


class Chosen(NamedTuple):
    """The pose of one cloud."""

    rotation: Float64[Tensor, "d d"]
    """From principal coordinates; its transpose is applied to them."""
    ambiguous: Bool[Tensor, " q"]
    degenerate: list[int]


def choose(
    P: Float64[Tensor, "d n"],
    squares: Float64[Tensor, " n"],
    count: Float64[Tensor, ""],
    tied: list[bool],
    nonzero: Bool[Tensor, " d"],
    q: int,
    tau: float,
    right_handed: Float64[Tensor, ""] | None,
) -> Chosen:
    """The canonical pose of a cloud with equal eigenvalues or columns without a sign.

    Parameters
    ----------
    P
        Principal coordinates; masked points are zero.
    squares
        Squared distances to the mean.
    count
        Points that are not masked.
    tied, nonzero
        Of the eigenvalues.
    q
        Columns of the representation.
    tau
        Relative size up to which a moment, a vector or a difference counts as zero.
    right_handed
        The determinant of the principal axes, where the last column is to make that of the pose +1; else None.
    """
    rotations, free, degenerate = bases(P, squares, tied, tau)
    q = min(q, len(P))
    signs, ambiguous = [], []
    for part in rotations.split(max(1, AT_ONCE // P.numel())):
        sign, without, _ = column_signs((part.mT @ P)[:, :q], count.expand(len(part)), tau)
        signs.append(sign)
        ambiguous.append(without)
    rotations[:, :, :q] *= torch.cat(signs)[:, None]
    without = torch.cat(ambiguous)
    open_ = torch.zeros(q, dtype=torch.bool, device=P.device)
    open_[[k for k in free if k < q]] = True
    open_ &= nonzero[:q] & without.any(0)
    if right_handed is not None and q == len(P):
        open_[q - 1] = False
    rotations, without = _flipped(rotations, without, open_.nonzero()[:, 0].tolist()[:MOST_FLIPS])
    if right_handed is not None:
        rotations[:, :, -1] *= (torch.linalg.det(rotations) * right_handed).sign()[:, None]
    best = _largest(rotations, P, q, count, tau)
    return Chosen(rotations[best], without[best], degenerate)


def _flipped(rotations: Tensor, without: Tensor, columns: list[int]) -> tuple[Tensor, Tensor]:
    """Each candidate with every combination of signs of the columns that have none."""
    kept, flags = [], []
    for flips in itertools.product((False, True), repeat=len(columns)):
        new = rotations.clone()
        for column, flip in zip(columns, flips, strict=True):
            if flip:
                new[:, :, column] *= torch.where(without[:, column], -1.0, 1.0)[:, None]
        kept.append(new)
        flags.append(without)
    return torch.cat(kept), torch.cat(flags)


def _largest(rotations: Tensor, P: Tensor, q: int, count: Tensor, tau: float) -> int:
    """The candidate whose sums are lexicographically the largest."""
    if len(rotations) == 1:
        return 0
    scale = (P.square().sum() / count).sqrt()
    order = torch.arange(1, SUMS * (q + 1) + 1, dtype=P.dtype, device=P.device).reshape(SUMS, q + 1)
    weights = 2 * torch.sin(order**1.5)  # no two alike, and none zero
    sums = []
    for part in rotations.split(max(1, AT_ONCE // (P.numel() * SUMS))):
        H = (part.mT @ P)[:, :q] / scale
        sums.append(torch.cos(weights[:, :q] @ H + weights[:, q:]).sum(-1) / count)
    rest = torch.arange(len(rotations), device=P.device)
    for value in torch.cat(sums).unbind(1):
        rest = rest[value[rest] >= value[rest].max() - 1e-2 * tau]
    return int(rest[0])
