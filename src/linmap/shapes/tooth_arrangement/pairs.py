"""Motions of teeth, and sets of cases before and after treatment."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from linmap.errors import ArgumentError
from linmap.geometry.rigid import floating, rotation_from_six, six_from_rotation
from linmap.shapes.tooth_arrangement.meshes import ToothMeshes
from linmap.shapes.tooth_arrangement.slots import MIRROR, TEETH

if TYPE_CHECKING:
    from linmap.shapes.tooth_arrangement.tooth_set import ToothSet


def apply_motion(points: Any, centroid: Any, y: Any) -> Float[Tensor, "*batch points 3"]:
    """p' = (p - c) M + c' of points (..., P, 3) with centroids (..., 3) and y (..., 9) = [c', six numbers of M].

    Raises
    ------
    ValueError
        If a shape does not fit.
    """
    points, centroid, y = floating("points", points), floating("centroid", centroid), floating("y", y)
    if y.ndim < 1 or y.shape[-1] != 9:
        raise ArgumentError(f"y must be (..., 9), a centroid and six numbers, got shape {tuple(y.shape)}.")
    if points.ndim < 2 or points.shape[-1] != 3:
        raise ArgumentError(f"points must be (..., P, 3), got shape {tuple(points.shape)}.")
    if centroid.shape[-1:] != (3,):
        raise ArgumentError(f"centroid must be (..., 3), got shape {tuple(centroid.shape)}.")
    moved, M = y[..., None, :3], rotation_from_six(y[..., 3:])
    dtype = torch.promote_types(points.dtype, M.dtype)
    return (points - centroid[..., None, :]).to(dtype) @ M.to(dtype) + moved


def motion_matrices(centroid: Any, y: Any) -> Float[Tensor, "*batch 4 4"]:
    """The motions y = [c', six numbers of M] of teeth with centroids c as matrices that act on columns (x, y, z, 1)."""
    centroid, y = floating("centroid", centroid), floating("y", y)
    R = rotation_from_six(y[..., 3:]).mT
    T = torch.zeros(*y.shape[:-1], 4, 4, dtype=R.dtype, device=R.device)
    T[..., :3, :3], T[..., 3, 3] = R, 1.0
    T[..., :3, 3] = y[..., :3] - (R @ centroid.to(R)[..., None])[..., 0]
    return T


ARRAYS = ("before", "after", "centroid", "after_centroid", "rotation", "mask")


@dataclass(frozen=True)
class ToothPairs:
    """Cases before and after treatment, in mm: after = R (before - c) + c' of every tooth that is there.

    Raises
    ------
    ValueError
        If a shape does not fit; the message names the field.
    """

    before: Tensor
    """(B, 32, P, 3): points of each tooth; zeros where there is no tooth."""
    after: Tensor
    """(B, 32, P, 3): the same points in the set-up."""
    centroid: Tensor
    """(B, 32, 3): area-weighted, before."""
    after_centroid: Tensor
    """(B, 32, 3): the same, after."""
    rotation: Tensor
    """(B, 32, 3, 3): R, which acts on columns."""
    mask: Tensor
    """(B, 32): whether the tooth is there, before and after."""
    meshes: ToothMeshes | None = None
    """The surfaces before treatment, which the mesh encoder needs."""

    def __post_init__(self) -> None:
        for name, value in self._parts():
            if not isinstance(value, Tensor):
                object.__setattr__(self, name, torch.as_tensor(value))
        object.__setattr__(self, "mask", self.mask.bool())
        shape = self.before.shape
        if len(shape) != 4 or shape[1] != TEETH or shape[3] != 3:
            raise ArgumentError(f"before must be (B, {TEETH}, P, 3), got shape {tuple(shape)}.")
        batch = tuple(shape[:2])
        expected = {
            "after": tuple(shape),
            "centroid": (*batch, 3),
            "after_centroid": (*batch, 3),
            "rotation": (*batch, 3, 3),
            "mask": batch,
        }
        for name, wanted in expected.items():
            if tuple(getattr(self, name).shape) != wanted:
                raise ArgumentError(f"{name} must be {wanted}, got shape {tuple(getattr(self, name).shape)}.")
        if self.meshes is not None and tuple(self.meshes.kind.shape) != batch:
            raise ArgumentError(f"meshes must be of {batch[0]} cases, got {len(self.meshes.kind)}.")

    def __len__(self) -> int:
        return len(self.mask)

    def __getitem__(self, index: Any) -> ToothPairs:
        """Some of the cases: a slice, or a tensor of indices or booleans; one number gives a set of one case."""
        index = slice(index, index + 1 or None) if isinstance(index, int) else index
        return self._map(lambda value: value[index])

    @property
    def points(self) -> int:
        """Points of each tooth."""
        return self.before.shape[2]

    @property
    def y(self) -> Float[Tensor, "cases 32 9"]:
        """[c', six numbers of R^T]."""
        return torch.cat([self.after_centroid, six_from_rotation(self.rotation.mT)], -1)

    def mirrored(self) -> ToothPairs:
        """The cases in a mirror: x -> -x, left and right slots swapped, R -> D R D with D = diag(-1, 1, 1)."""
        flip = self.before.new_tensor([-1.0, 1.0, 1.0])
        swapped = self._map(lambda value: value[:, torch.as_tensor(MIRROR, device=value.device)])
        return ToothPairs(
            swapped.before * flip,
            swapped.after * flip,
            swapped.centroid * flip,
            swapped.after_centroid * flip,
            swapped.rotation * flip[:, None] * flip,
            swapped.mask,
            None if self.meshes is None else self.meshes.mirrored(),
        )

    def to(self, dtype: torch.dtype) -> ToothPairs:
        """The same numbers in another floating type."""
        meshes = None if self.meshes is None else self.meshes.to(dtype)
        parts = {name: value.to(dtype) for name, value in self._parts() if name != "mask"}
        return replace(self, **parts, meshes=meshes)

    def _map(self, function: Callable[[Tensor], Tensor]) -> ToothPairs:
        meshes = None if self.meshes is None else self.meshes.each(function)
        return replace(self, **{name: function(value) for name, value in self._parts()}, meshes=meshes)

    def _parts(self) -> Iterator[tuple[str, Tensor]]:
        """All but the meshes."""
        return ((name, getattr(self, name)) for name in ARRAYS)


def joined(*parts: ToothPairs) -> ToothPairs:
    """The cases of several sets as one; with meshes where all have them."""
    arrays = {name: torch.cat([getattr(part, name) for part in parts]) for name in ARRAYS}
    meshes = [part.meshes for part in parts if part.meshes is not None]
    return ToothPairs(**arrays, meshes=ToothMeshes.joined(meshes) if len(meshes) == len(parts) else None)


def unmoved(sets: Sequence[ToothSet], points: int, patches: int | None = None) -> ToothPairs:
    """Cases whose set-up is what it is, in float64: what a network sees of teeth whose set-up is not known.

    Raises
    ------
    ValueError
        With `patches`, if a tooth cannot be remeshed.
    """
    before = torch.stack([teeth.points(points) for teeth in sets])
    centers = torch.stack([teeth.centroids() for teeth in sets])
    eye = torch.eye(3, dtype=before.dtype).expand(len(sets), TEETH, 3, 3)
    mask = torch.stack([teeth.mask for teeth in sets])
    meshes = None if patches is None else ToothMeshes.of(sets, patches)
    return ToothPairs(before, before, centers, centers, eye, mask, meshes)
