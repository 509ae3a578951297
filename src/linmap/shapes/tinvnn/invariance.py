"""How much a network's output changes with the pose of its input."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal

import torch
from jaxtyping import Float64
from torch import Tensor

from linmap.errors import ArgumentError, ArgumentTypeError
from linmap.shapes.tinvnn.points import check_choice, read_points

Group = Literal["E(d)xR+", "SE(d)xR+", "E(d)", "SE(d)", "O(d)", "SO(d)"]
LARGEST_FACTOR = 10.0
LARGEST_SHIFT = 3.0
"""Standard deviation of a coordinate of the shift, in sizes of the cloud."""


@torch.no_grad()
def invariance_error(
    net: Callable[[Any], Tensor],
    X: Any,
    group: Group = "E(d)xR+",
    n: int = 16,
    generator: torch.Generator | None = None,
) -> float:
    """The largest |net(T X) - net(X)| / |net(X)| over random transformations of each cloud.

    Parameters
    ----------
    net
        From clouds to a tensor.
    X
        (B, n, d), or one cloud (n, d).
    group
        E: with shifts, O: without; S: without reflections; xR+: with scaling, by 0.1 to 10.
    n
        Transformations, the same for all clouds of a batch.
    generator
        Nothing else decides what is drawn; a new one of seed 0 by default.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as above.
    """
    check_choice("group", group, Group)
    if isinstance(n, bool) or not isinstance(n, int) or n < 1:
        raise ArgumentError(f"n={n!r} must be a whole number of at least 1.")
    points = read_points(X)
    generator = torch.Generator().manual_seed(0) if generator is None else generator
    X64 = points.X.double()
    if not X64.isfinite().all():
        cloud = int((~X64.isfinite()).any(-1).any(-1).nonzero()[0])
        raise ArgumentError(f"X is not finite: cloud {cloud} holds NaN or inf.")
    size = (X64 - X64.mean(1, keepdim=True)).square().sum(-1).mean(1).sqrt()[:, None, None]
    d = X64.shape[-1]
    given = points.X.to(points.dtype)
    reference = net(given[0] if points.single else given)
    if not isinstance(reference, Tensor):
        raise ArgumentTypeError(f"net must return a tensor, got {type(reference).__name__}.")
    largest = 0.0
    for _ in range(n):
        moved = X64 @ random_orthogonal(d, "S" in group, generator).to(X64).mT
        if "R+" in group:
            exponent = 2 * torch.rand((), generator=generator, dtype=torch.float64, device=generator.device) - 1
            moved = moved * LARGEST_FACTOR ** float(exponent)
        if group.startswith(("E", "SE")):
            shift = torch.randn(d, generator=generator, dtype=torch.float64, device=generator.device).to(X64)
            moved = moved + LARGEST_SHIFT * size * shift
        moved = moved.to(points.dtype)
        change = float((net(moved[0] if points.single else moved) - reference).double().norm())
        norm = float(reference.double().norm())
        ratio = change / norm if norm else (math.inf if change else 0.0)
        largest = max(largest, ratio) if not math.isnan(ratio) else math.nan
        if math.isnan(largest):
            return largest
    return largest


def random_orthogonal(d: int, special: bool, generator: torch.Generator) -> Float64[Tensor, "d d"]:
    """A matrix of O(d), or of SO(d), uniformly distributed (Haar)."""
    A = torch.randn(d, d, generator=generator, dtype=torch.float64, device=generator.device)
    Q, R = torch.linalg.qr(A)
    Q = Q * R.diagonal().sign()
    if special and torch.linalg.det(Q) < 0:
        Q[:, 0] = -Q[:, 0]
    return Q
