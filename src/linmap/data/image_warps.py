"""Affine maps of images: random ones of stated ranges, and the one that brings an image to a standard pose.

Points are (x, y) with x along the width, y along the height (down) and the image on [-1, 1]^2. A map (h, shift) takes
an image f to f(h^-1 (z - shift)): what was at z is at h z + shift afterwards.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Generator, Tensor

from linmap.errors import ArgumentError, ArgumentTypeError

Pose = Literal["upright", "affine"]
THINNEST = 0.02
"""Least deviation of an image's matter along an axis, of half its side: what is thinner is a line."""


@dataclass(frozen=True)
class WarpRanges:
    """What random affine maps are drawn from, uniformly; the ranges are those of affNIST.

    Raises
    ------
    ValueError
        If a range is negative or no number, or the smallest scale is not positive.
    """

    rotation: float = 20.0
    """Largest turn either way, in degrees."""
    shear: float = 0.2
    """Largest shear of x along y, either way."""
    scale: float = 0.2
    """Each axis is scaled by 1 - scale to 1 + scale."""
    shift: float = 0.1
    """Largest shift along each axis, as a share of the image's side."""

    def __post_init__(self) -> None:
        for name in ("rotation", "shear", "scale", "shift"):
            value = getattr(self, name)
            if not (value >= 0 and math.isfinite(value)):
                raise ArgumentError(f"{name} must be a number of at least 0, got {value}.")
        if self.scale >= 1:
            raise ArgumentError(f"scale must be below 1, so that 1 - scale is positive, got {self.scale}.")

    def times(self, strength: float) -> WarpRanges:
        """All ranges times a strength; 0 leaves images as they are."""
        if not (strength >= 0 and math.isfinite(strength)):
            raise ArgumentError(f"strength must be a number of at least 0, got {strength}.")
        names = ("rotation", "shear", "scale", "shift")
        return replace(self, **{name: strength * getattr(self, name) for name in names})

    def draw(self, n: int, generator: Generator | None = None) -> tuple[Float[Tensor, "n 2 2"], Float[Tensor, "n 2"]]:
        """n maps: linear parts rotation @ shear @ scale, and shifts."""
        turn, shear, wide, high, x, y = 2 * torch.rand(6, n, generator=generator) - 1
        turn = math.radians(self.rotation) * turn
        cos, sin, one = turn.cos(), turn.sin(), torch.ones(n)
        turned = torch.stack([cos, -sin, sin, cos], -1).unflatten(-1, (2, 2))
        sheared = torch.stack([one, self.shear * shear, 0 * one, one], -1).unflatten(-1, (2, 2))
        scaled = torch.stack([1 + self.scale * wide, 1 + self.scale * high], -1).diag_embed()
        return turned @ sheared @ scaled, 2 * self.shift * torch.stack([x, y], -1)


def warp(
    images: Tensor,
    h: Tensor,
    shift: Tensor | None = None,
) -> Float[Tensor, "n channels height width"]:
    """Images under affine maps, bilinear; outside of an image its border goes on.

    Parameters
    ----------
    images
        (n, channels, height, width), of floating point.
    h, shift
        One map for each image or one for all.

    Raises
    ------
    ValueError
        If shapes do not fit, or a map has no inverse.
    TypeError
        If images are not of floating point.
    """
    _check(images)
    n = len(images)
    shift = torch.zeros(2, dtype=images.dtype) if shift is None else shift
    if h.shape not in ((2, 2), (n, 2, 2)) or shift.shape not in ((2,), (n, 2)):
        raise ArgumentError(
            f"h must have shape (2, 2) or ({n}, 2, 2) and shift (2,) or ({n}, 2), got {tuple(h.shape)} and "
            f"{tuple(shift.shape)}."
        )
    h, shift = h.to(images).expand(n, 2, 2), shift.to(images).expand(n, 2)
    det = torch.linalg.det(h)
    if not bool((det.abs() > 1e-6).all()):
        raise ArgumentError(f"h has a determinant of {float(det.abs().min()):.2g}; a map must have an inverse.")
    back = torch.linalg.inv(h)
    return _sampled(images, back, -(back @ shift.unsqueeze(-1)).squeeze(-1))


def standard_pose(
    images: Tensor, pose: Pose = "upright", spread: float = 0.3
) -> Float[Tensor, "n channels height width"]:
    """Each image moved so that its first and second moments are standard: pose normalisation by moments.

    The moments are those of the matter, |value - background| summed over channels, where the background is the median
    of the image's border. Afterwards the matter has its centre in the middle and the standard deviation `spread` along
    both axes, without correlation. An image of nothing but background stays as it is.

    Parameters
    ----------
    images
        (n, channels, height, width), of floating point.
    pose
        "upright": shears along x and scales of both axes are undone, and rotations only as far as they are like shears;
        "affine": every affine map without reflection is undone; the angle that is left comes from the third moments,
        and is unstable for shapes that look alike after a turn.
    spread
        Of the matter afterwards, in halves of the side.

    Raises
    ------
    ValueError
        If images have another rank, pose is another, or spread is not positive.
    TypeError
        If images are not of floating point.
    """
    _check(images)
    if pose not in get_args(Pose):
        raise ArgumentError(f"pose must be one of {', '.join(get_args(Pose))}, got {pose!r}.")
    if not spread > 0:
        raise ArgumentError(f"spread must be positive, got {spread}.")
    mass, points = _matter(images), _pixels(images)
    total = mass.sum(-1, keepdim=True)
    empty = total.squeeze(-1) <= 1e-6 * images.abs().amax((1, 2, 3)).clamp(min=1e-12)
    mass = torch.where(empty[:, None], torch.full_like(mass, 1 / mass.shape[1]), mass / total.clamp(min=1e-30))
    centre = mass @ points
    away = points - centre.unsqueeze(1)
    covariance = torch.einsum("np,npa,npb->nab", mass, away, away) + THINNEST**2 * torch.eye(2, dtype=mass.dtype)
    root = _upper_root(covariance) if pose == "upright" else _turned_root(covariance, mass, away)
    back = root / spread
    back[empty], centre[empty] = torch.eye(2, dtype=back.dtype), 0.0
    return _sampled(images, back.to(images), centre.to(images))


def _upper_root(covariance: Float[Tensor, "n 2 2"]) -> Float[Tensor, "n 2 2"]:
    """The upper triangular U with U U^T the covariance: x moves with y, and y stays y."""
    (a, b), (_, d) = covariance[:, 0].unbind(-1), covariance[:, 1].unbind(-1)
    high = d.sqrt()
    lean = b / high
    wide = (a - lean * lean).clamp(min=0).sqrt()
    return torch.stack([wide, lean, torch.zeros_like(lean), high], -1).unflatten(-1, (2, 2))


def _turned_root(
    covariance: Float[Tensor, "n 2 2"], mass: Float[Tensor, "n p"], away: Float[Tensor, "n p 2"]
) -> Float[Tensor, "n 2 2"]:
    """The symmetric root times the rotation that brings the third moment |w|^2 w of whitened points w to point down."""
    values, vectors = torch.linalg.eigh(covariance)
    root = (vectors * values.sqrt().unsqueeze(-2)) @ vectors.mT
    white = away @ ((vectors * values.rsqrt().unsqueeze(-2)) @ vectors.mT)
    moment = torch.einsum("np,npa->na", mass * white.square().sum(-1), white)
    moment = torch.where(moment.norm(dim=-1, keepdim=True) > 1e-9, moment, moment.new_tensor([0.0, 1.0]))
    x, y = (moment / moment.norm(dim=-1, keepdim=True)).unbind(-1)
    return root @ torch.stack([y, x, -x, y], -1).unflatten(-1, (2, 2))


def _matter(images: Tensor) -> Float[Tensor, "n p"]:
    """How far each pixel is from the background, in float64."""
    x = images.double()
    border = torch.cat([x[:, :, 0], x[:, :, -1], x[:, :, :, 0], x[:, :, :, -1]], -1)
    return (x - border.median(-1).values[:, :, None, None]).abs().sum(1).flatten(1)


def _pixels(images: Tensor) -> Float[Tensor, "p 2"]:
    """The centres of the pixels, (x, y)."""
    y, x = ((2 * torch.arange(size, dtype=torch.float64) + 1) / size - 1 for size in images.shape[-2:])
    y, x = torch.meshgrid(y, x, indexing="ij")
    return torch.stack([x, y], -1).flatten(0, 1)


def _sampled(images: Tensor, linear: Float[Tensor, "n 2 2"], offset: Float[Tensor, "n 2"]) -> Tensor:
    """Images at the points linear z + offset."""
    grid = F.affine_grid(torch.cat([linear, offset.unsqueeze(-1)], -1), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)


def _check(images: Tensor) -> None:
    if not isinstance(images, Tensor) or not images.is_floating_point():
        kind = images.dtype if isinstance(images, Tensor) else type(images).__name__
        raise ArgumentTypeError(f"images must be a floating-point tensor, got {kind}; scale them to [0, 1] first.")
    if images.ndim != 4 or 0 in images.shape:
        raise ArgumentError(f"images must have shape (n, channels, height, width), got {tuple(images.shape)}.")
