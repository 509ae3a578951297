"""A tooth as a mesh of subdivision connectivity: a coarse mesh whose faces are cut in four, again and again.

The mesh encoder takes 64 faces from each of up to 256 coarse ones. The coarse mesh comes from fast-simplification
(quadric errors), or, where that is not installed, from collapsing the shortest edges; each cut halves the edges and
puts the new vertices onto the surface (Liu et al., SubdivNet, build theirs from MAPS instead, for the same layout).
"""

from __future__ import annotations

import heapq
import importlib.util
from typing import Any

import numpy as np
from scipy.spatial import KDTree

from linmap.errors import ArgumentError

NEAR = 8
"""Faces that are looked at first for the closest point of a surface."""


def remesh(
    vertices: np.ndarray, faces: np.ndarray, base: int = 256, levels: int = 3, project: bool = True
) -> tuple[np.ndarray, np.ndarray]:
    """A mesh of subdivision connectivity near a surface.

    Parameters
    ----------
    vertices, faces
        The surface, (v, 3) and (f, 3); it may be open.
    base
        Most faces of the coarse mesh; each becomes one patch.
    levels
        How often each face is cut in four; 3 give the 64 faces that `patch_features` expects.
    project
        Whether vertices are put onto the surface.

    Returns
    -------
    vertices, faces
        With n coarse faces, faces is (4**levels * n, 3), and row j * n + p is the j-th part of coarse face p.

    Raises
    ------
    ValueError
        If the surface has no face, is not finite, or the numbers are no sizes.
    """
    vertices, faces = np.asarray(vertices, dtype=float), np.asarray(faces)
    if base < 4 or levels < 0:
        raise ArgumentError(f"base={base} must be at least 4, and levels={levels} not negative.")
    if vertices.ndim != 2 or vertices.shape[1] != 3 or not np.isfinite(vertices).all():
        raise ArgumentError(f"vertices are of shape {vertices.shape}; expected (v, 3), finite.")
    if faces.ndim != 2 or faces.shape[1] != 3 or not len(faces):
        raise ArgumentError(f"faces are of shape {faces.shape}; expected (f, 3) with at least one.")
    found, coarse = simplified(vertices, faces, base)
    if project:
        found = closest_points(found, vertices, faces)
    parts = coarse[None]
    for _ in range(levels):
        found, parts, new = _cut(found, parts)
        if project:
            found[new:] = closest_points(found[new:], vertices, faces)
    return found, parts.reshape(-1, 3)


def simplified(vertices: np.ndarray, faces: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray]:
    """The surface with at most `most` faces; as it is where it has no more."""
    faces = faces.astype(np.int64)
    if len(faces) <= most:
        return vertices.copy(), faces
    if importlib.util.find_spec("fast_simplification") is not None:
        import fast_simplification

        for aim in (most, most - 2, most - 8, most - most // 8):
            simplified: Any = fast_simplification.simplify(
                vertices.astype(np.float64), faces.astype(np.int32), target_count=max(aim, 4)
            )
            points, found = simplified
            if 4 <= len(found) <= most and _areas(points, found).min() > 0:
                return _used(np.asarray(points, dtype=float), np.asarray(found, dtype=np.int64))
    return collapsed(vertices, faces, most)


def collapsed(vertices: np.ndarray, faces: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray]:
    """Collapse the shortest edges to their middles until there are at most `most` faces.

    An edge is only collapsed where its ends share no neighbours but the other corners of its faces (the link
    condition), and no face turns over, so the surface stays one.
    """
    points = [np.asarray(point, dtype=float) for point in vertices]
    corners: dict[int, tuple[int, int, int]] = {i: (int(a), int(b), int(c)) for i, (a, b, c) in enumerate(faces)}
    around: list[set[int]] = [set() for _ in points]
    for number, face in corners.items():
        for corner in face:
            around[corner].add(number)
    rim = _rim(faces)
    version = [0] * len(points)
    queue = [_edge(points, version, a, b) for a, b in _edges(faces).tolist()]
    heapq.heapify(queue)
    while len(corners) > most and queue:
        _, a, b, when_a, when_b = heapq.heappop(queue)
        if version[a] != when_a or version[b] != when_b or (a in rim) != (b in rim):
            continue
        shared = around[a] & around[b]
        if not shared or not _may(points, corners, around, a, b, shared):
            continue
        points[a] = (points[a] + points[b]) / 2
        for number in shared:
            for corner in corners.pop(number):
                around[corner].discard(number)
        for number in around[b]:
            corners[number] = tuple(a if corner == b else corner for corner in corners[number])  # pyright: ignore[reportArgumentType]
            around[a].add(number)
        around[b] = set()
        version[a] += 1
        version[b] += 1
        near = {corner for number in around[a] for corner in corners[number]} - {a}
        for other in near:
            heapq.heappush(queue, _edge(points, version, a, other))
    return _used(np.array(points), np.array(list(corners.values()), dtype=np.int64))


def closest_points(queries: np.ndarray, vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """The points of a surface that are nearest to queries, (n, 3)."""
    return closest_on_faces(queries, vertices, faces)[0]


def closest_on_faces(queries: np.ndarray, vertices: np.ndarray, faces: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The points of a surface that are nearest to queries, (n, 3), and the faces (n,) that they lie on.

    Faces are searched by their centres, large ones apart from small ones, until no other can be nearer.
    """
    corners = vertices[faces]
    centers = corners.mean(1)
    radii = np.linalg.norm(corners - centers[:, None], axis=-1).max(1)
    sizes = np.floor(np.log2(np.maximum(radii, 1e-9)))
    points, distances = np.zeros(queries.shape), np.full(len(queries), np.inf)
    numbers = np.zeros(len(queries), np.int64)
    for size in np.unique(sizes):
        of_size = sizes == size
        tree, count, left = KDTree(centers[of_size]), NEAR, np.arange(len(queries))
        while len(left):
            near_by, near = tree.query(queries[left], k=(most := min(count, tree.n)))
            near_by, near = near_by.reshape(len(left), -1), near.reshape(len(left), -1)
            candidates = _on_triangles(queries[left, None], corners[of_size][near])
            lengths = np.linalg.norm(candidates - queries[left, None], axis=-1)
            best = lengths.argmin(1)
            length = lengths[np.arange(len(left)), best]
            nearer = length < distances[left]
            distances[left[nearer]] = length[nearer]
            points[left[nearer]] = candidates[np.flatnonzero(nearer), best[nearer]]
            numbers[left[nearer]] = np.flatnonzero(of_size)[near[np.flatnonzero(nearer), best[nearer]]]
            open_ = (near_by[:, -1] - radii[of_size].max() < distances[left]) & (most < tree.n)
            left, count = left[open_], 4 * count
    return points, numbers


def _on_triangles(p: np.ndarray, corners: np.ndarray) -> np.ndarray:
    """Nearest points of triangles (..., 3, 3) to p: the foot in the plane where inside, else the nearest edge's."""
    a, b, c = corners[..., 0, :], corners[..., 1, :], corners[..., 2, :]
    u, v, w = b - a, c - a, p - a
    uu, uv, vv = (u * u).sum(-1), (u * v).sum(-1), (v * v).sum(-1)
    wu, wv = (w * u).sum(-1), (w * v).sum(-1)
    scale = np.maximum(uu * vv - uv**2, 1e-18)
    s, t = (vv * wu - uv * wv) / scale, (uu * wv - uv * wu) / scale
    inside = (s >= 0) & (t >= 0) & (s + t <= 1)
    foot = a + s[..., None] * u + t[..., None] * v
    edges = np.stack([_on_segment(p, a, b), _on_segment(p, b, c), _on_segment(p, c, a)], axis=-2)
    nearest = ((edges - p[..., None, :]) ** 2).sum(-1).argmin(-1)
    edge = np.take_along_axis(edges, nearest[..., None, None], axis=-2)[..., 0, :]
    return np.where(inside[..., None], foot, edge)


def _on_segment(p: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    along = b - a
    share = ((p - a) * along).sum(-1) / np.maximum((along**2).sum(-1), 1e-18)
    return a + np.clip(share, 0, 1)[..., None] * along


def _cut(vertices: np.ndarray, parts: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
    """Cut every face in four: vertices, faces (4k, n, 3) from (k, n, 3), and the number of the first new vertex."""
    shape, flat = parts.shape[:2], parts.reshape(-1, 3)
    edges = np.sort(flat[:, [[0, 1], [1, 2], [2, 0]]], axis=-1).reshape(-1, 2)
    unique, numbers = np.unique(edges, axis=0, return_inverse=True)
    middles = vertices[unique].mean(1)
    ab, bc, ca = (numbers.reshape(-1, 3) + len(vertices)).T
    a, b, c = flat.T
    quarters = np.stack([np.stack(q, -1) for q in ((a, ab, ca), (ab, b, bc), (ca, bc, c), (ab, bc, ca))])
    return np.concatenate([vertices, middles]), quarters.reshape(4 * shape[0], shape[1], 3), len(vertices)


def _areas(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    corners = vertices[faces]
    return np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1) / 2


def _used(vertices: np.ndarray, faces: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Without vertices that no face has."""
    used, numbers = np.unique(faces, return_inverse=True)
    return vertices[used], numbers.reshape(faces.shape)


def _edges(faces: np.ndarray) -> np.ndarray:
    return np.unique(np.sort(faces[:, [[0, 1], [1, 2], [2, 0]]], axis=-1).reshape(-1, 2), axis=0)


def _rim(faces: np.ndarray) -> set[int]:
    """Vertices on the edge of an open surface."""
    edges, counts = np.unique(
        np.sort(faces[:, [[0, 1], [1, 2], [2, 0]]], axis=-1).reshape(-1, 2), axis=0, return_counts=True
    )
    return {int(corner) for edge in edges[counts == 1] for corner in edge}


def _edge(points: list[np.ndarray], version: list[int], a: int, b: int) -> tuple[float, int, int, int, int]:
    return float(((points[a] - points[b]) ** 2).sum()), a, b, version[a], version[b]


def _may(points, corners, around, a: int, b: int, shared: set[int]) -> bool:
    """Whether an edge may be collapsed to its middle."""
    beside = {corner for number in shared for corner in corners[number]} - {a, b}
    near_a = {corner for number in around[a] for corner in corners[number]}
    near_b = {corner for number in around[b] for corner in corners[number]}
    if (near_a & near_b) - {a, b} != beside:
        return False
    middle = (points[a] + points[b]) / 2
    for number in (around[a] | around[b]) - shared:
        before = [points[corner] for corner in corners[number]]
        after = [middle if corner in (a, b) else points[corner] for corner in corners[number]]
        old, new = (np.cross(x[1] - x[0], x[2] - x[0]) for x in (before, after))
        if old @ new <= 0.1 * np.linalg.norm(old) * np.linalg.norm(new) or new @ new < 1e-16:
            return False
    return True
