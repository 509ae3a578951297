"""How deep neighbouring teeth stand in each other, fast enough to ask for every stage of a plan.

A vertex of one tooth is inside another where it lies behind the tangent plane of the nearest vertex of that; the depth
is its distance to that plane. `metrics.collision_depth` is the exact, slower answer for one pair.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from jaxtyping import Float

from linmap.errors import ArgumentError
from linmap.shapes.tooth_arrangement.slots import JAWS, slot_of
from linmap.shapes.tooth_arrangement.surfaces import Surface
from linmap.shapes.tooth_arrangement.tooth_set import ToothSet

EDGE = 0.8  # mm between points of a surface; scans are finer
MOST = 1_500
"""Vertices of a tooth that are tried against its neighbour."""
ALLOWED = 0.1  # mm to which neighbours may reach into each other once they have been moved apart
ROUNDS = 40

Motions = Float[np.ndarray, "32 4 4"]
Pair = tuple[int, int]


class Neighbours:
    """The neighbours of a tooth set, prepared for many arrangements of the same teeth.

    Parameters
    ----------
    teeth
        The set that motions are applied to.
    reach
        Teeth of a jaw at most so many present teeth apart are neighbours.
    """

    def __init__(self, teeth: ToothSet, reach: int = 2) -> None:
        if reach < 1:
            raise ArgumentError(f"reach={reach} must be at least 1.")
        self.teeth = {slot_of(fdi): _Tooth(V, F) for fdi, (V, F) in teeth.meshes.items()}
        self.centers = teeth.centroids().numpy()
        jaws = [[slot for slot in range(jaw.start, jaw.stop) if slot in self.teeth] for jaw in JAWS.values()]
        self.pairs = [(a, b) for jaw in jaws for i, a in enumerate(jaw) for b in jaw[i + 1 : i + 1 + reach]]
        """Slots of neighbours."""

    def depth(self, pair: Pair, motions: Motions) -> float:
        """Of one pair, in mm; 0 where apart."""
        a, b = pair
        return self.between(pair, motions[a], motions[b])

    def depths(self, motions: Motions) -> Float[np.ndarray, " pairs"]:
        """Of every pair, in mm."""
        return np.array([self.depth(pair, motions) for pair in self.pairs])

    def deepest(self, motions: Motions) -> float:
        """Of all pairs, in mm."""
        return max((self.depth(pair, motions) for pair in self.pairs), default=0.0)

    def between(self, pair: Pair, of_a: Float[np.ndarray, "4 4"], of_b: Float[np.ndarray, "4 4"]) -> float:
        """Depth in mm of a pair under a motion of each tooth."""
        first, second = (self.teeth[slot] for slot in pair)
        apart = of_a[:3, :3] @ first.middle + of_a[:3, 3] - of_b[:3, :3] @ second.middle - of_b[:3, 3]
        if apart @ apart >= (first.radius + second.radius) ** 2:
            return 0.0
        R = of_b[:3, :3].T @ of_a[:3, :3]
        t = of_b[:3, :3].T @ (of_a[:3, 3] - of_b[:3, 3])
        return max(first.into(second, R, t), second.into(first, R.T, -R.T @ t))

    def center(self, slot: int, motion: Float[np.ndarray, "4 4"]) -> Float[np.ndarray, 3]:
        """Where a motion puts the centroid of a tooth."""
        return motion[:3, :3] @ self.centers[slot] + motion[:3, 3]

    def apart(
        self,
        motions: Motions,
        fixed: Sequence[int] = (),
        allowed: Mapping[Pair, float] | None = None,
        deep: Iterable[Pair] | None = None,
    ) -> Motions:
        """The motions with shifts that take neighbours out of each other; `fixed` slots stay.

        Each pair that is deeper than it may be moves apart along the line of its centres, each tooth by half, to half
        of 0.1 mm less than it may be, over and over, until none is left or 40 rounds are done.

        Parameters
        ----------
        motions
            (32, 4, 4).
        fixed
            Slots.
        allowed
            Depths in mm of pairs; 0.1 for one that is not named.
        deep
            The pairs to begin with, where they are known.
        """
        motions = motions.copy()
        held, waiting = set(fixed), set(self.pairs if deep is None else deep)
        for _ in range(ROUNDS):
            moved: set[int] = set()
            for a, b in sorted(waiting):
                limit = ALLOWED if allowed is None else allowed.get((a, b), ALLOWED)
                excess = self.depth((a, b), motions) - limit
                if excess <= 0 or {a, b} <= held:
                    continue
                line = self.center(b, motions[b]) - self.center(a, motions[a])
                line = line / max(float(np.linalg.norm(line)), 1e-9) * (excess + ALLOWED / 2)
                share = 0.5 if not held & {a, b} else 1.0
                if a not in held:
                    motions[a, :3, 3] -= share * line
                if b not in held:
                    motions[b, :3, 3] += share * line
                moved |= {a, b} - held
            waiting = {pair for pair in self.pairs if moved & set(pair)}
            if not waiting:
                break
        return motions


class _Tooth:
    """The surface of a tooth, the vertices of it that are tried, and a ball around it."""

    def __init__(self, V: np.ndarray, F: np.ndarray) -> None:
        self.surface = Surface(V, F, EDGE)
        V = self.surface.V
        self.tried = V[:: -(-len(V) // MOST)]
        self.low, self.high = V.min(0), V.max(0)
        self.middle = (self.low + self.high) / 2
        self.radius = float(np.linalg.norm(V - self.middle, axis=1).max())

    def into(self, other: _Tooth, R: np.ndarray, t: np.ndarray) -> float:
        """How deep this one's vertices stand in the other, moved into its coordinates by R p + t."""
        points = self.tried @ R.T + t
        points = points[((points > other.low) & (points < other.high)).all(1)]
        if not len(points):
            return 0.0
        surface = other.surface
        nearest = surface.tree.query(points)[1]
        behind = ((surface.V[nearest] - points) * surface.normals[nearest]).sum(1)
        return max(0.0, float(behind.max()))
