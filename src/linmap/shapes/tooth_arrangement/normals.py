"""Normals of triangle meshes."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn import functional as F


def face_crosses(corners: Float[Tensor, "faces 3 3"]) -> Float[Tensor, "faces 3"]:
    """Normals of triangles by the right-hand rule, as long as twice their areas."""
    return torch.linalg.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])


def corner_angles(corners: Float[Tensor, "faces 3 3"]) -> Float[Tensor, "faces 3"]:
    """Angles of triangles in rad."""
    found = []
    for i in range(3):
        u, v = corners[:, (i + 1) % 3] - corners[:, i], corners[:, (i + 2) % 3] - corners[:, i]
        found.append(torch.atan2(torch.linalg.vector_norm(torch.linalg.cross(u, v), dim=-1), (u * v).sum(-1)))
    return torch.stack(found, -1)


def vertex_normals(
    vertices: Float[Tensor, "vertices 3"], faces: Int64[Tensor, "faces 3"]
) -> Float[Tensor, "vertices 3"]:
    """Unit normals at vertices: those of the faces around, weighted by their angles there (Baerentzen and Aanaes 2005).

    They point to the side from which the faces turn counterclockwise; faces without an area do not count.
    """
    corners = vertices[faces]
    normals = F.normalize(face_crosses(corners), dim=-1)
    weighted = normals[:, None] * corner_angles(corners)[..., None]
    return F.normalize(torch.zeros_like(vertices).index_add(0, faces.flatten(), weighted.flatten(0, 1)), dim=-1)
