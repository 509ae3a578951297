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


def rotation_vector(R: Float[Tensor, "*batch 3 3"]) -> Float[Tensor, "*batch 3"]:
    """The axis of a rotation by less than half a turn, times its angle in rad."""
    twice_sine = torch.stack(
        [R[..., 2, 1] - R[..., 1, 2], R[..., 0, 2] - R[..., 2, 0], R[..., 1, 0] - R[..., 0, 1]], -1
    )
    sine = torch.linalg.vector_norm(twice_sine, dim=-1, keepdim=True) / 2
    angle = torch.atan2(sine, (R.diagonal(dim1=-2, dim2=-1).sum(-1, keepdim=True) - 1) / 2)
    return twice_sine / 2 * torch.where(sine > 1e-9, angle / sine.clamp_min(1e-9), 1.0)
