"""Rotation matrices, acting on columns, of angles and rotation vectors."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def from_rotation_vector(vector: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 3 3"]:
    """The rotation about a vector by its length in rad: Rodrigues' formula."""
    angle = torch.linalg.vector_norm(vector, dim=-1)[..., None, None]
    x, y, z = vector.unbind(-1)
    zero = torch.zeros_like(x)
    cross = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], -1).unflatten(-1, (3, 3))
    half = torch.sinc(angle / (2 * torch.pi))
    return torch.eye(3).to(vector) + torch.sinc(angle / torch.pi) * cross + half.square() / 2 * (cross @ cross)


def about_vertical(angle: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch 3 3"]:
    """The rotation about the y axis."""
    cosine, sine, zero = angle.cos(), angle.sin(), torch.zeros_like(angle)
    return torch.stack([cosine, zero, sine, zero, torch.ones_like(angle), zero, -sine, zero, cosine], -1).unflatten(
        -1, (3, 3)
    )
