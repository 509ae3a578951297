"""A last step after a proposal: neighbours that stand in each other are moved apart, no more than that."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from linmap.errors import ArgumentError
from linmap.shapes.tooth_arrangement.neighbours import Neighbours
from linmap.shapes.tooth_arrangement.slots import FDI, slots_of
from linmap.shapes.tooth_arrangement.tooth_set import ToothSet, rigid_motions

ROUNDS = 60


def relieve(
    teeth: ToothSet,
    motions: np.ndarray,
    fixed: Collection[int] = (),
    *,
    tolerance: float = 0.1,
    most: float = 2.0,
    rounds: int = ROUNDS,
    neighbours: Neighbours | None = None,
) -> np.ndarray:
    """Shift teeth of a plan until neighbours are no deeper in each other than `tolerance`, where shifts alone can.

    In each round every pair that is too deep is moved apart along the line between its centres, each tooth by half, or
    one by all where the other is fixed. Rotations stay as they are, and so do fixed teeth, exactly.

    Parameters
    ----------
    teeth
        Before treatment.
    motions
        The plan, (32, 4, 4) on columns, mm.
    fixed
        FDI numbers of teeth that must not move.
    tolerance
        Penetration in mm that is left.
    most
        Farthest that a tooth is shifted from its place in the plan, mm.
    rounds
        Most rounds.
    neighbours
        Of the same teeth, where they are at hand.

    Returns
    -------
    numpy.ndarray
        The motions, (32, 4, 4); a copy.
    """
    motions = rigid_motions(motions).copy()
    if not tolerance >= 0 or not most > 0:
        raise ArgumentError(f"tolerance={tolerance} must not be negative, and most={most} must be positive.")
    neighbours = neighbours or Neighbours(teeth)
    held = set(slots_of("fixed", fixed))
    start = motions[:, :3, 3].copy()
    centers, depths = np.asarray(teeth.centroids()), neighbours.depths(motions)
    for _ in range(rounds):
        deep = [i for i, depth in enumerate(depths) if depth > tolerance]
        if not deep:
            break
        push = np.zeros((32, 3))
        for i in deep:
            a, b = neighbours.pairs[i]
            placed = [motions[slot, :3, :3] @ centers[slot] + motions[slot, :3, 3] for slot in (a, b)]
            away = placed[1] - placed[0]
            away /= max(float(np.linalg.norm(away)), 1e-9)
            move = (depths[i] - 0.7 * tolerance) * away
            share_a, share_b = (0.0 if slot in held else 1.0 for slot in (a, b))
            if share_a + share_b:
                push[a] -= share_a / (share_a + share_b) * move
                push[b] += share_b / (share_a + share_b) * move
        off = motions[:, :3, 3] + push - start
        length = np.linalg.norm(off, axis=1, keepdims=True)
        motions[:, :3, 3] = start + off * np.minimum(1, most / np.maximum(length, 1e-9))
        for i, (a, b) in enumerate(neighbours.pairs):
            if push[a].any() or push[b].any():
                depths[i] = neighbours.depth(a, b, motions[a], motions[b])
    return motions


def collisions(
    teeth: ToothSet, motions: np.ndarray, neighbours: Neighbours | None = None
) -> list[tuple[int, int, float]]:
    """Every pair of neighbours that stand in each other: two FDI numbers and the depth in mm, deepest first."""
    neighbours = neighbours or Neighbours(teeth)
    depths = neighbours.depths(rigid_motions(motions))
    found = [(int(FDI[a]), int(FDI[b]), float(d)) for (a, b), d in zip(neighbours.pairs, depths, strict=True) if d > 0]
    return sorted(found, key=lambda one: -one[2])
