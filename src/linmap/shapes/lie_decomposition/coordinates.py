"""Where kernels are evaluated: g^-1 z for offsets z of pixels, and the coordinates of g^-1 g~ for pairs of samples."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from linmap.errors import check_count
from linmap.geometry.groups import GroupSamples, PolarGroup
from linmap.geometry.groups.polar import polar_unchecked
from linmap.geometry.groups.polar_groups import full_angle
from linmap.geometry.groups.rotations import rotation_angle

Angle = Literal["cos_sin", "radians"]
Mask = Literal["auto", "disc", "smooth", "none"]
SLOPE = 2.0  # of the smooth mask


def kernel_grid(k: int, dtype: torch.dtype = torch.float32) -> Float[Tensor, "k k 2"]:
    """The pixel centres (2 i + 1) / k - 1 of a grid on [-1, 1]^2: [row, column] -> (x, y).

    x runs along the width and y along the height, down. Grids of even k have no pixel at 0, their centre.

    Raises
    ------
    ValueError
        If k < 1.
    """
    centres = (2 * torch.arange(check_count("k", k), dtype=torch.float64) + 1) / k - 1
    y, x = torch.meshgrid(centres, centres, indexing="ij")
    return torch.stack([x, y], -1).to(dtype)


def offsets(samples: GroupSamples, k: int) -> Float[Tensor, "N k k 2"]:
    """g^-1 z for each sample g and each z of the kernel's grid."""
    z = kernel_grid(k, samples.g.dtype).to(samples.g.device)
    return torch.einsum("nab,hwb->nhwa", samples.g_inv, z)


def relative_coordinates(
    group: PolarGroup, samples_in: GroupSamples, samples_out: GroupSamples, angle: Angle
) -> tuple[Float[Tensor, "N_out N_in D"], Float[Tensor, "N_out N_in dim"]]:
    """The coordinates of g^-1 g~, g of samples_out and g~ of samples_in, for the kernel and for the mask.

    "radians": both see the angle in [0, 2 pi), which jumps at the identity. "cos_sin": the kernel sees the cosine and
    the sine in its place, and the mask the angle in (-pi, pi].
    """
    relative = samples_out.g_inv.unsqueeze(1) @ samples_in.g.unsqueeze(0)
    log_P, R = polar_unchecked(relative)
    v, i = group.vee(log_P), group.angle_index
    before, after = v[..., :i], v[..., i + 1 :]
    if angle == "radians":
        both = torch.cat([before, full_angle(R).unsqueeze(-1), after], -1)
        return both, both
    kernel = torch.cat([before, R[..., 0, :1], R[..., 1, :1], after], -1)
    return kernel, torch.cat([before, rotation_angle(R).unsqueeze(-1), after], -1)


def squared(v: Float[Tensor, "*shape dim"]) -> Float[Tensor, "*shape"]:
    """The squared norms of coordinates."""
    return (v * v).sum(-1)


def mask_kind(mask: Mask, group: PolarGroup) -> Mask:
    """What "auto" stands for: a smooth mask where the group scales, else the disc."""
    return mask if mask != "auto" else "disc" if group.volume_preserving else "smooth"


def mask_factor(norms: Float[Tensor, "*shape"], kind: Mask) -> Float[Tensor, "*shape"]:
    """The mask at places with these squared norms of their coordinates."""
    if kind == "none":
        return torch.ones_like(norms)
    if kind == "disc":
        return (norms <= 1).to(norms.dtype)
    return torch.sigmoid(SLOPE * (1 - _root(norms)))


def _root(squared: Tensor) -> Tensor:
    """The square root, with gradient 0 at 0."""
    zero = squared == 0
    return torch.where(zero, 0.0, torch.where(zero, 1.0, squared).sqrt())


def inverse_volume(samples: GroupSamples) -> Float[Tensor, " N"]:
    """1 / |det g| of each sample."""
    (a, b), (c, d) = samples.g_inv[:, 0].unbind(-1), samples.g_inv[:, 1].unbind(-1)
    return (a * d - b * c).abs()
