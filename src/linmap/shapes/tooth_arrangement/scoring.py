"""What makes one proposal better than another: teeth inside each other, and how smooth the arches are."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from jaxtyping import Float
from scipy.spatial import KDTree

from linmap.shapes.tooth_arrangement.slots import JAWS, slot_of
from linmap.shapes.tooth_arrangement.surfaces import Surface
from linmap.shapes.tooth_arrangement.tooth_set import ToothSet

EDGE = 0.8  # mm between points of a surface; scans are finer
MOST_POINTS = 4_000  # of a surface that are tried against its neighbour
ALLOWED = 0.1  # mm to which neighbours may reach into each other once they have been moved apart
ROUNDS = 40

Motions = Float[np.ndarray, "32 4 4"]


class Neighbours:
    """The pairs of teeth next to each other in an arch, and how deep they reach into each other.

    The depth of a pair is that of the deepest surface point of either tooth behind the other's surface, along the
    normal at the nearest surface vertex.
    """

    def __init__(self, teeth: ToothSet) -> None:
        self.surfaces = {slot_of(fdi): Surface(V, F, EDGE) for fdi, (V, F) in teeth.meshes.items()}
        self.centers = teeth.centroids().numpy()
        self.pairs = [
            (a, b)
            for jaw in JAWS.values()
            for slots in [[slot for slot in range(jaw.start, jaw.stop) if slot in self.surfaces]]
            for a, b in pairwise(slots)
        ]

    def depth(self, pair: tuple[int, int], motions: Motions) -> float:
        """Of one pair, in mm."""
        a, b = pair
        return max(self._into(a, b, motions), self._into(b, a, motions))

    def deepest(self, motions: Motions) -> float:
        """Of all pairs, in mm."""
        return max((self.depth(pair, motions) for pair in self.pairs), default=0.0)

    def apart(self, motions: Motions, fixed: Sequence[int] = ()) -> Motions:
        """The motions with shifts that take neighbours out of each other; `fixed` slots stay.

        Each pair that is deeper than 0.1 mm moves apart along the line of its centres, each tooth by half, over and
        over, until none is left or 40 rounds are done.
        """
        motions = motions.copy()
        held = set(fixed)
        waiting = set(self.pairs)
        for _ in range(ROUNDS):
            moved: set[int] = set()
            for a, b in sorted(waiting):
                excess = self.depth((a, b), motions) - ALLOWED / 2
                if excess <= ALLOWED / 2 or {a, b} <= held:
                    continue
                line = self._center(b, motions) - self._center(a, motions)
                line = line / max(float(np.linalg.norm(line)), 1e-9) * excess
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

    def smoothness(self, motions: Motions) -> float:
        """How far tooth centres lie from a smooth arch: the r.m.s. distance in mm from polynomials of degree four in
        the place along the arch, the mean of the jaws."""
        found = []
        for jaw in JAWS.values():
            slots = [slot for slot in range(jaw.start, jaw.stop) if slot in self.surfaces]
            if len(slots) < 6:
                continue
            centers = np.stack([self._center(slot, motions) for slot in slots])
            along = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(centers, axis=0), axis=1))])
            powers = np.vander(along / max(along[-1], 1e-9) * 2 - 1, 5)
            rest = centers - powers @ np.linalg.lstsq(powers, centers, rcond=None)[0]
            found.append(float(np.sqrt((rest**2).sum(1).mean())))
        return float(np.mean(found)) if found else 0.0

    def _center(self, slot: int, motions: Motions) -> np.ndarray:
        return motions[slot, :3, :3] @ self.centers[slot] + motions[slot, :3, 3]

    def _into(self, a: int, b: int, motions: Motions) -> float:
        """How deep points of a lie in b, in the frame of b."""
        surface, points = self.surfaces[b], self._tried(a)
        R, t = motions[b, :3, :3], motions[b, :3, 3]
        points = (points @ motions[a, :3, :3].T + motions[a, :3, 3] - t) @ R
        near = points[((points > surface.V.min(0)) & (points < surface.V.max(0))).all(1)]
        if not len(near):
            return 0.0
        tree: KDTree = surface.tree
        nearest = tree.query(near)[1]
        return max(0.0, float(-((near - surface.V[nearest]) * surface.normals[nearest]).sum(1).min()))

    def _tried(self, slot: int) -> np.ndarray:
        V = self.surfaces[slot].V
        return V[:: -(-len(V) // MOST_POINTS)]
