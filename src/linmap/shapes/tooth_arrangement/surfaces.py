"""Signed distances between two tooth surfaces."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from scipy.spatial import KDTree

from linmap.errors import ArgumentError
from linmap.shapes.tooth_arrangement.normals import vertex_normals
from linmap.shapes.tooth_arrangement.tooth_set import subdivided

EDGE = 0.5  # mm between neighbouring points of a surface, at most on nine of ten edges
MOST = 40_000  # faces from which a surface is not divided further
CLOSE = 4  # vertices whose faces are looked at for the nearest point


class Surface:
    """A triangle mesh with what finds the nearest point on it.

    Parameters
    ----------
    V, F
        Vertices in mm and triangles, all oriented alike; open meshes are fine, away from their boundary.
    edge
        Triangles are divided until nine of ten edges are shorter, in mm.
    """

    def __init__(self, V: np.ndarray, F: np.ndarray, edge: float = EDGE) -> None:
        while len(F) < MOST and np.quantile(_edges(V, F), 0.9) > edge:
            V, F = subdivided(V, F)
        used, F = np.unique(F, return_inverse=True)
        self.V, self.F = np.asarray(V, np.float64)[used], F.reshape(-1, 3)

    @cached_property
    def tree(self) -> KDTree:
        return KDTree(self.V)

    @cached_property
    def normals(self) -> Float[np.ndarray, "vertices 3"]:
        """Outward vertex normals, whichever way round the faces are."""
        found = vertex_normals(torch.from_numpy(self.V), torch.from_numpy(self.F.astype(np.int64))).numpy()
        return found * (np.sign(((self.V - self.V.mean(0)) * found).sum()) or 1.0)

    @cached_property
    def faces_of(self) -> np.ndarray:
        """(V, most): the faces at each vertex, the first one repeated."""
        vertex, face = self.F.ravel(), np.repeat(np.arange(len(self.F)), 3)
        order = np.argsort(vertex, kind="stable")
        vertex, face = vertex[order], face[order]
        count = np.bincount(vertex, minlength=len(self.V))
        first = np.cumsum(count) - count
        table = np.repeat(face[first][:, None], count.max(), axis=1)
        table[vertex, np.arange(len(vertex)) - first[vertex]] = face
        return table

    def signed_distance(self, points: Float[np.ndarray, "points 3"]) -> Float[np.ndarray, " points"]:
        """Distance from the surface in mm, negative inside."""
        near = self.tree.query(points, k=min(CLOSE, len(self.V)))[1].reshape(len(points), -1)
        faces = self.faces_of[near].reshape(len(points), -1)
        closest, weights = _closest_on_triangles(points[:, None], *np.moveaxis(self.V[self.F[faces]], 2, 0))
        offset = points[:, None] - closest
        distance = (offset**2).sum(-1)
        best = distance.argmin(1)
        row = np.arange(len(points))
        corners = self.F[faces[row, best]]
        normal = (self.normals[corners] * weights[row, best][..., None]).sum(1)
        sign = np.where((offset[row, best] * normal).sum(-1) < 0, -1.0, 1.0)
        return sign * np.sqrt(distance[row, best])

    def depth_of(self, points: Float[np.ndarray, "points 3"]) -> float:
        """How deep the deepest of the points lies inside, 0 where none does."""
        low, high = self.V.min(0), self.V.max(0)
        inside = points[((points > low) & (points < high)).all(1)]
        return max(0.0, -float(self.signed_distance(inside).min())) if len(inside) else 0.0

    def least_distance(self, points: Float[np.ndarray, "points 3"], candidates: int = 200) -> float:
        """The least signed distance of the points, negative inside, among those nearest to the vertices."""
        rough = self.tree.query(points)[0]
        nearest = np.argsort(rough)[:candidates]
        return float(self.signed_distance(points[nearest]).min())


def surface(name: str, mesh: Any) -> Surface:
    """The surface of an argument (vertices, faces).

    Raises
    ------
    ValueError
        If it is no mesh.
    """
    try:
        V, F = np.array(mesh[0], np.float64), np.array(mesh[1])
    except (TypeError, ValueError, IndexError):
        raise ArgumentError(f"{name} must be (vertices (V, 3), faces (F, 3)).") from None
    if V.ndim != 2 or V.shape[1:] != (3,) or F.ndim != 2 or F.shape[1:] != (3,) or not len(F):
        raise ArgumentError(f"{name} must be (vertices (V, 3), faces (F, 3)), got {V.shape} and {F.shape}.")
    if not np.issubdtype(F.dtype, np.integer) or F.min() < 0 or F.max() >= len(V):
        raise ArgumentError(f"{name} has faces that name no vertex: whole numbers from 0 to {len(V) - 1} are expected.")
    if not np.isfinite(V).all():
        raise ArgumentError(f"{name} has vertices that are not finite.")
    return Surface(V, F.astype(np.int64))


def depth(first: Surface, second: Surface) -> float:
    """How deep either of two surfaces reaches into the other, in mm."""
    return max(second.depth_of(first.V), first.depth_of(second.V))


def distance(first: Surface, second: Surface) -> float:
    """The distance of two surfaces in mm, 0 where they touch or overlap."""
    return max(0.0, min(second.least_distance(first.V), first.least_distance(second.V)))


def _closest_on_triangles(p: np.ndarray, a: np.ndarray, b: np.ndarray, c: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The nearest points of triangles, and their barycentric weights (Ericson 2005, section 5.1.5)."""
    ab, ac = b - a, c - a
    ap, bp, cp = p - a, p - b, p - c
    d1, d2 = (ab * ap).sum(-1), (ac * ap).sum(-1)
    d3, d4 = (ab * bp).sum(-1), (ac * bp).sum(-1)
    d5, d6 = (ab * cp).sum(-1), (ac * cp).sum(-1)
    va, vb, vc = d3 * d6 - d5 * d4, d5 * d2 - d1 * d6, d1 * d4 - d3 * d2
    with np.errstate(divide="ignore", invalid="ignore"):
        total = va + vb + vc
        v, w = vb / total, vc / total
        cases = (
            ((d1 <= 0) & (d2 <= 0), 0.0, 0.0),
            ((d3 >= 0) & (d4 <= d3), 1.0, 0.0),
            ((d6 >= 0) & (d5 <= d6), 0.0, 1.0),
            ((vc <= 0) & (d1 >= 0) & (d3 <= 0), d1 / (d1 - d3), 0.0),
            ((vb <= 0) & (d2 >= 0) & (d6 <= 0), 0.0, d2 / (d2 - d6)),
            ((va <= 0) & (d4 >= d3) & (d5 >= d6), (d5 - d6) / (d4 - d3 + d5 - d6), (d4 - d3) / (d4 - d3 + d5 - d6)),
        )
    v = np.select([case[0] for case in cases], [np.broadcast_to(case[1], v.shape) for case in cases], v)
    w = np.select([case[0] for case in cases], [np.broadcast_to(case[2], w.shape) for case in cases], w)
    v, w = np.nan_to_num(v), np.nan_to_num(w)
    return a + v[..., None] * ab + w[..., None] * ac, np.stack([1 - v - w, v, w], -1)


def _edges(V: np.ndarray, F: np.ndarray) -> np.ndarray:
    return np.linalg.norm(V[F] - V[F[:, [1, 2, 0]]], axis=-1).ravel()
