"""Axes of equal eigenvalues: what the eigensolver gives there is any rotation, so the points have to choose."""

from __future__ import annotations

import itertools
import math

import torch
from jaxtyping import Bool, Float64
from torch import Tensor

MOST_BASES = 4096
"""Candidates of equal rank that are followed; a shape with more is regular, and they are all alike."""
MOST_DISTANCES = 2**22
"""In profiles that break ties between anchors."""


def tied_to_next(
    eigenvalues: Float64[Tensor, "batch d"], nonzero: Bool[Tensor, "batch d"], tie_tol: float
) -> Bool[Tensor, "batch d-1"]:
    """Whether (λ_k - λ_{k+1}) / λ_1 is at most `tie_tol`, both of them non-zero."""
    gaps = eigenvalues[:, :-1] - eigenvalues[:, 1:]
    return (gaps <= tie_tol * eigenvalues[:, :1]) & nonzero[:, 1:]


def blocks(tied: list[bool]) -> list[tuple[int, int]]:
    """Begin and end of each run of equal eigenvalues, simple ones included."""
    ends = [k + 1 for k, same in enumerate(tied) if not same] + [len(tied) + 1]
    return list(zip([0, *ends[:-1]], ends, strict=True))


def bases(
    P: Float64[Tensor, "d n"], squares: Float64[Tensor, " n"], tied: list[bool], tol: float
) -> tuple[Float64[Tensor, "c d d"], list[int], list[int]]:
    """Candidates for the axes of a cloud, as rotations of its principal coordinates.

    Parameters
    ----------
    P
        Principal coordinates.
    squares
        Squared distances to the mean.
    tied
        As of `tied_to_next`.
    tol
        Relative size up to which a vector counts as zero and two lengths as equal.

    Returns
    -------
    rotations
        Block-diagonal; the new coordinates are their transposes times P. One, if nothing was degenerate.
    free
        Columns whose sign nothing has chosen.
    degenerate
        Columns of blocks that needed the anchor rule.
    """
    d = len(P)
    choices, spans = [], blocks(tied)
    free, degenerate = [], []
    for begin, end in spans:
        free.append(end - 1)
        if end - begin == 1:
            choices.append(torch.ones(1, 1, 1, dtype=P.dtype, device=P.device))
            continue
        Y = P[begin:end]
        axes = radial_axes(Y, squares, tol)
        if len(axes) < end - begin - 1:
            degenerate += range(begin, end)
            found = anchored(Y, axes, P, tol)
        else:
            found = axes[None]
        choices.append(completed(found))
    picks = itertools.islice(itertools.product(*(range(len(choice)) for choice in choices)), MOST_BASES)
    picks = list(picks)
    rotations = torch.zeros(len(picks), d, d, dtype=P.dtype, device=P.device)
    for place, (begin, end) in enumerate(spans):
        rotations[:, begin:end, begin:end] = choices[place][[pick[place] for pick in picks]].mT
    return rotations, free, degenerate


def radial_axes(Y: Float64[Tensor, "r n"], squares: Float64[Tensor, " n"], tol: float) -> Float64[Tensor, "m r"]:
    """Gram-Schmidt basis of v_p = Σ |x|^p x in a block, p = 2, 4, 6, ...: r - 1 axes, fewer where these vanish."""
    r = len(Y)
    axes = Y.new_zeros(0, r)
    ratio = squares / squares.abs().mean()
    lengths = Y.norm(dim=0)
    for p in range(1, r + 3):
        if len(axes) == r - 1:
            break
        weight = ratio**p
        v = Y @ weight
        rest = v - axes.mT @ (axes @ v)
        if rest.norm() > tol * (weight.abs() @ lengths):
            rest = rest - axes.mT @ (axes @ rest)
            axes = torch.cat([axes, (rest / rest.norm())[None]])
    return axes


def anchored(
    Y: Float64[Tensor, "r n"], axes: Float64[Tensor, "m r"], P: Float64[Tensor, "d n"], tol: float
) -> Float64[Tensor, "c r-1 r"]:
    """Axes towards points of the cloud: all choices that the rule does not tell apart.

    The next anchor is the point with the largest residual; ties go to the largest coordinates along the axes so far,
    then to the largest sorted profile of distances.
    """
    found = axes[None]
    for _ in range(len(Y) - 1 - len(axes)):
        along = found @ Y  # (c, m, n)
        residual = Y - found.mT @ along
        length = residual.norm(dim=1)
        size = length.max()
        kept = lexicographic([length, *along.unbind(1)], tol * size)
        kept = _by_profile(kept, P, tol)
        parents, points = kept.unbind(1)
        new = residual[parents, :, points]
        new = new / new.norm(dim=1, keepdim=True)
        found = _distinct(torch.cat([found[parents], new[:, None]], 1), tol)[:MOST_BASES]
    return found


def lexicographic(keys: list[Tensor], tol: Tensor | float) -> Tensor:
    """Indices of the entries with the largest first key, among these the largest second key, and so on."""
    best = torch.ones_like(keys[0], dtype=torch.bool)
    for key in keys:
        best &= key >= key[best].max() - tol
    return best.nonzero()


def _by_profile(kept: Tensor, P: Tensor, tol: float) -> Tensor:
    """Of candidates (parent, point), those whose point has the largest sorted distances to all points."""
    points = kept[:, 1].unique()
    if len(points) == 1 or len(points) * P.shape[1] > MOST_DISTANCES:
        return kept
    profiles = torch.cdist(P[:, points].mT, P.mT, compute_mode="donot_use_mm_for_euclid_dist").sort(1).values
    tol = tol * float(profiles.max())
    best = profiles[0]
    for profile in profiles[1:]:
        differs = ((profile - best).abs() > tol).nonzero()
        if len(differs) and profile[differs[0, 0]] > best[differs[0, 0]]:
            best = profile
    largest = points[((profiles - best).abs() <= tol).all(1)]
    return kept[torch.isin(kept[:, 1], largest)]


def _distinct(found: Float64[Tensor, "c m r"], tol: float) -> Float64[Tensor, "kept m r"]:
    """Drop candidates that are equal: points may lie above each other in a block. The order stays."""
    digits = max(1, min(9, math.floor(-math.log10(max(tol, 1e-9)))))
    _, group = found.round(decimals=digits).reshape(len(found), -1).unique(dim=0, return_inverse=True)
    first = torch.full((int(group.max()) + 1,), len(found), device=found.device)
    first.scatter_reduce_(0, group, torch.arange(len(found), device=found.device), "amin")
    return found[first.sort().values]


def completed(axes: Float64[Tensor, "c m r"]) -> Float64[Tensor, "c r r"]:
    """The last axis of each basis, up to its sign: the direction that the others leave."""
    r = axes.shape[-1]
    rest = torch.eye(r, dtype=axes.dtype, device=axes.device) - axes.mT @ axes
    longest = rest.norm(dim=-1).argmax(-1)
    last = rest[torch.arange(len(axes), device=axes.device), longest]
    last = last - (axes.mT @ (axes @ last.unsqueeze(-1))).squeeze(-1)
    return torch.cat([axes, (last / last.norm(dim=-1, keepdim=True))[:, None]], 1)
