"""Features of mesh faces, and patches of a mesh with subdivision connectivity (MeshMAE; SubdivNet)."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from linmap.errors import ArgumentError
from linmap.geometry.points import farthest_points
from linmap.geometry.rigid import floating
from linmap.shapes.tooth_arrangement.normals import corner_angles, face_crosses, vertex_normals

PATCH = 64  # faces that three subdivisions make of one
PATCH_VERTICES = 45  # their vertices: 9 x 10 / 2


def face_features(vertices: Any, faces: Any) -> Float[Tensor, "faces 10"]:
    """Ten numbers for each face: its area, its unit normal, its angles, and its normal's products with its vertices'.

    Angles (rad) and products are each sorted, smallest first; vertex normals are weighted by the angles of their faces.

    Parameters
    ----------
    vertices, faces
        (v, 3) and (f, 3), oriented outwards.

    Raises
    ------
    ValueError
        If a shape does not fit, a vertex is not finite, or faces have no area (they are counted).
    """
    vertices, faces = _mesh(vertices, faces)
    corners = vertices[faces]
    normal, area = _normals(corners)
    at_vertices = vertex_normals(vertices, faces)
    products = (at_vertices[faces] * normal[:, None]).sum(-1)
    return torch.cat([area[:, None], normal, corner_angles(corners).sort(-1).values, products.sort(-1).values], -1)


def patch_features(vertices: Any, faces: Any) -> tuple[Float[Tensor, "patches 64 10"], Float[Tensor, "patches 64 3"]]:
    """Features and centres of the faces by patches: slot j of patch p is face j n + p of a mesh with 64 n faces.

    Raises
    ------
    ValueError
        As `face_features`, or if the number of faces is no multiple of 64.
    """
    vertices, faces = _mesh(vertices, faces)
    order = patches(faces)
    return face_features(vertices, faces)[order], vertices[faces].mean(1)[order]


def patches(faces: Int64[Tensor, "faces 3"]) -> Int64[Tensor, "patches 64"]:
    """The faces of each patch.

    Raises
    ------
    ValueError
        If their number is no multiple of 64.
    """
    if len(faces) % PATCH:
        raise ArgumentError(
            f"faces must be a multiple of {PATCH}, three subdivisions of a base mesh, got {len(faces)}; remesh first."
        )
    return torch.arange(len(faces), device=faces.device).reshape(PATCH, -1).T


def patch_vertices(vertices: Any, faces: Any) -> Float[Tensor, "patches 45 3"]:
    """The 45 vertices of each patch of three subdivisions; of a patch with more, the 45 farthest, with fewer, the
    first one repeats.

    Raises
    ------
    ValueError
        As `patch_features`.
    """
    vertices, faces = _mesh(vertices, faces)
    corners = faces[patches(faces)].flatten(1).sort(1).values
    new = torch.ones_like(corners, dtype=torch.bool)
    new[:, 1:] = corners[:, 1:] != corners[:, :-1]
    if (new.sum(1) == PATCH_VERTICES).all():
        return vertices[corners[new].unflatten(0, (-1, PATCH_VERTICES))]
    parts = [vertices[patch[first]] for patch, first in zip(corners, new, strict=True)]
    return torch.stack([part[farthest_points(part, PATCH_VERTICES)] for part in parts])


def _mesh(vertices: Any, faces: Any) -> tuple[Tensor, Tensor]:
    vertices, faces = floating("vertices", vertices), torch.as_tensor(faces)
    if vertices.ndim != 2 or vertices.shape[1] != 3:
        raise ArgumentError(f"vertices must be (v, 3), got shape {tuple(vertices.shape)}.")
    if faces.ndim != 2 or faces.shape[1] != 3 or not len(faces) or faces.is_floating_point():
        raise ArgumentError(f"faces must be whole numbers (f, 3), got {faces.dtype} of shape {tuple(faces.shape)}.")
    faces = faces.long()
    if faces.min() < 0 or faces.max() >= len(vertices):
        raise ArgumentError(f"faces name vertices {int(faces.min())} to {int(faces.max())} of {len(vertices)}.")
    if bad := int((~vertices.isfinite().all(-1)).sum()):
        raise ArgumentError(f"vertices holds {bad} that are not finite; repair the mesh.")
    return vertices, faces


def _normals(corners: Tensor) -> tuple[Tensor, Tensor]:
    cross = face_crosses(corners)
    twice = torch.linalg.vector_norm(cross, dim=-1)
    longest = torch.linalg.vector_norm(corners - corners.roll(1, 1), dim=-1).amax(-1)
    if empty := int((twice <= 8 * torch.finfo(corners.dtype).eps * longest.square()).sum()):
        raise ArgumentError(f"faces holds {empty} zero-area faces; remove them or remesh.")
    return cross / twice[:, None], twice / 2
