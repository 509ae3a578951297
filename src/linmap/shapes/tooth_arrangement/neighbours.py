"""How deep teeth stand in each other, fast enough to ask for every stage of a plan.

A vertex of one tooth is inside another where it lies behind the tangent plane of the nearest vertex of that; the depth
is its distance to that plane. `metrics.collision_depth` is the exact, slower answer for one pair.
"""

from __future__ import annotations

import numpy as np
from scipy.spatial import KDTree

from linmap.errors import ArgumentError
from linmap.shapes.tooth_arrangement.slots import slot_of
from linmap.shapes.tooth_arrangement.tooth_set import ToothSet

JAW = 16
MOST = 800
"""Vertices of a tooth that are looked at."""


class NeighbourDepths:
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
        present = np.flatnonzero(np.asarray(teeth.mask))
        self.pairs = [
            (int(a), int(b))
            for jaw in (present[present < JAW], present[present >= JAW])
            for i, a in enumerate(jaw)
            for b in jaw[i + 1 : i + 1 + reach]
        ]
        """Slots of neighbours."""
        self._teeth = {slot: _Surface(*mesh) for slot, mesh in _by_slot(teeth).items()}

    def depths(self, motions: np.ndarray) -> np.ndarray:
        """Penetration of every pair in mm under motions (32, 4, 4), 0 where apart, (pairs,)."""
        return np.array([self.depth(a, b, motions[a], motions[b]) for a, b in self.pairs])

    def depth(self, a: int, b: int, of_a: np.ndarray, of_b: np.ndarray) -> float:
        """Penetration of the teeth in two slots under a motion of each."""
        first, second = self._teeth[a], self._teeth[b]
        apart = of_a[:3, :3] @ first.middle + of_a[:3, 3] - of_b[:3, :3] @ second.middle - of_b[:3, 3]
        if apart @ apart >= (first.radius + second.radius) ** 2:
            return 0.0
        R = of_b[:3, :3].T @ of_a[:3, :3]
        t = of_b[:3, :3].T @ (of_a[:3, 3] - of_b[:3, 3])
        return max(first.into(second, R, t), second.into(first, R.T, -R.T @ t))


class _Surface:
    """Vertices, outward normals and a search tree of one tooth."""

    def __init__(self, vertices: np.ndarray, faces: np.ndarray) -> None:
        self.normals = vertex_normals(vertices, faces)
        step = max(1, len(vertices) // MOST)
        self.points, self.normals = vertices[::step], self.normals[::step]
        self.tree = KDTree(self.points)
        self.low, self.high = vertices.min(0), vertices.max(0)
        self.middle = (self.low + self.high) / 2
        self.radius = float(np.linalg.norm(vertices - self.middle, axis=1).max())

    def into(self, other: _Surface, R: np.ndarray, t: np.ndarray) -> float:
        """How deep this one's vertices stand in the other, moved into its coordinates by R p + t."""
        points = self.points @ R.T + t
        points = points[((points > other.low) & (points < other.high)).all(1)]
        if not len(points):
            return 0.0
        _, nearest = other.tree.query(points)
        behind = np.einsum("ij,ij->i", other.points[nearest] - points, other.normals[nearest])
        return float(max(behind.max(), 0.0))


def vertex_normals(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Unit normals at vertices, weighted by area, pointing outwards where the faces are oriented either way, (v, 3)."""
    corners = vertices[faces]
    of_faces = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    normals = np.zeros_like(vertices)
    for corner in range(3):
        np.add.at(normals, faces[:, corner], of_faces)
    if np.einsum("ij,ij->", vertices - vertices.mean(0), normals) < 0:
        normals = -normals
    return normals / np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-12)


def _by_slot(teeth: ToothSet) -> dict[int, tuple[np.ndarray, np.ndarray]]:
    return {
        slot_of(fdi): (np.asarray(vertices, dtype=float), np.asarray(faces))
        for fdi, (vertices, faces) in teeth.meshes.items()
    }
