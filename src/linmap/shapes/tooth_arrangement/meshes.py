"""Meshes of teeth as the mesh encoder reads them: vertices, and the faces of each patch.

Every tooth is a mesh of subdivision connectivity (`remesh`): a few coarse faces, each cut three times into 64, which
are one patch. Simulated teeth share the faces of their template; teeth of a scan each have their own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from linmap.errors import ArgumentError
from linmap.shapes.tooth_arrangement.features import PATCH, face_features, patches
from linmap.shapes.tooth_arrangement.normals import face_crosses, vertex_normals
from linmap.shapes.tooth_arrangement.remeshing import closest_on_faces, remesh
from linmap.shapes.tooth_arrangement.slots import FDI, MIRROR, TEETH, slot_of

if TYPE_CHECKING:
    from linmap.shapes.tooth_arrangement.tooth_set import ToothSet

UNIT = 4.0  # mm, the radius of a tooth: features are about 1; the paper's unit of 40 mm drowns places and areas
NUMBERS = 13  # of each face: ten features, and its centre
MIRRORED = (1.0, -1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, -1.0, 1.0, 1.0)  # their signs in a mirror x -> -x
LEAST = 4  # patches of a tooth: a tetrahedron
STRETCH = 0.25  # standard deviation of the logarithm of what axes are stretched by
THIN = 1e-5  # least area of a face over the square of its longest edge, which float32 still tells from none


class Patches(NamedTuple):
    """What `MeshEncoder` takes, of some teeth or of the slots of cases."""

    numbers: Float[Tensor, "*teeth patches 64 13"]
    """Ten features of each face, and its centre about the tooth's."""
    mask: Bool[Tensor, "*teeth patches"]


@dataclass(frozen=True)
class ToothMeshes:
    """The surfaces of the teeth of some cases before treatment, in mm.

    Raises
    ------
    ValueError
        If a shape does not fit.
    """

    vertices: Tensor
    """(B, 32, V, 3); zeros where there is none."""
    faces: Tensor
    """(K, patches, 64, 3): vertices of the faces of each patch, of K kinds of meshes; -1 where there is no patch."""
    kind: Tensor
    """(B, 32): which of them a tooth has, counted from 1; negative for its mirror image, whose faces run the other way
    round; 0 where there is no tooth."""

    def __post_init__(self) -> None:
        shape, faces = self.vertices.shape, self.faces.shape
        if len(shape) != 4 or shape[1] != TEETH or shape[3] != 3:
            raise ArgumentError(f"vertices must be (B, {TEETH}, V, 3), got shape {tuple(shape)}.")
        if len(faces) != 4 or tuple(faces[2:]) != (PATCH, 3):
            raise ArgumentError(f"faces must be (K, patches, {PATCH}, 3), got shape {tuple(faces)}.")
        if self.kind.shape != shape[:2]:
            raise ArgumentError(f"kind must be {tuple(shape[:2])}, got shape {tuple(self.kind.shape)}.")

    @property
    def patches(self) -> int:
        """Of each tooth, at most."""
        return self.faces.shape[1]

    def each(self, function: Callable[[Tensor], Tensor]) -> ToothMeshes:
        """The same function of what belongs to cases: vertices and kinds."""
        return replace(self, vertices=function(self.vertices), kind=function(self.kind))

    def tooth(self, case: int, slot: int, center: Float[Tensor, " 3"]) -> tuple[Tensor, Tensor]:
        """Vertices about a centre in network units and faces of one tooth, in the order that `patch_features` reads."""
        kind = int(self.kind[case, slot])
        own = self.faces[abs(kind) - 1]
        own = own[own[:, 0, 0] >= 0].transpose(0, 1).flatten(0, 1)
        return (self.vertices[case, slot] - center) / UNIT, own if kind > 0 else own.flip(-1)

    def mirrored(self) -> ToothMeshes:
        """x -> -x, left and right slots swapped."""
        flip = self.vertices.new_tensor([-1.0, 1.0, 1.0])
        return replace(self, vertices=self.vertices[:, MIRROR] * flip, kind=-self.kind[:, MIRROR])

    def to(self, dtype: torch.dtype) -> ToothMeshes:
        """The vertices in another floating type."""
        return replace(self, vertices=self.vertices.to(dtype))

    @classmethod
    def of(cls, sets: Sequence[ToothSet], most: int) -> ToothMeshes:
        """Of tooth sets: each tooth is remeshed to at most `most` patches.

        Raises
        ------
        ValueError
            If a tooth cannot be remeshed; the message names it.
        """
        check_patches(most)
        found = [(row, slot_of(fdi), *remeshed(fdi, V, F, most)) for row, teeth in enumerate(sets)
                 for fdi, (V, F) in teeth.meshes.items()]  # fmt: skip
        vertices = torch.zeros(len(sets), TEETH, max(len(V) for _, _, V, _ in found), 3, dtype=torch.float64)
        faces = torch.full((len(found), most, PATCH, 3), -1)
        kind = torch.zeros(len(sets), TEETH, dtype=torch.long)
        for number, (row, slot, V, F) in enumerate(found):
            vertices[row, slot, : len(V)] = torch.from_numpy(V)
            faces[number, : len(F) // PATCH] = by_patches(F)
            kind[row, slot] = number + 1
        return cls(vertices, faces, kind)

    @classmethod
    def joined(cls, parts: Sequence[ToothMeshes]) -> ToothMeshes:
        """The cases of several as one.

        Raises
        ------
        ValueError
            If they differ in the number of patches.
        """
        if len({part.patches for part in parts}) > 1:
            raise ArgumentError("meshes of pairs that are joined must have the same number of patches.")
        most, before, kinds, vertices = max(part.vertices.shape[2] for part in parts), 0, [], []
        for part in parts:
            vertices.append(torch.nn.functional.pad(part.vertices, (0, 0, 0, most - part.vertices.shape[2])))
            kinds.append(part.kind + before * part.kind.sign())
            before += len(part.faces)
        return cls(torch.cat(vertices), torch.cat([part.faces for part in parts]), torch.cat(kinds))


def check_patches(most: int) -> None:
    """Refuse what is no number of patches.

    Raises
    ------
    ValueError
        If it is less than the four of a coarse tetrahedron, or no whole number.
    """
    if isinstance(most, bool) or not isinstance(most, int) or most < LEAST:
        raise ArgumentError(f"patches must be a whole number of at least {LEAST}, got {most!r}.")


def by_patches(faces: np.ndarray) -> Int64[Tensor, "patches 64 3"]:
    """The faces of a mesh of subdivision connectivity, patch by patch."""
    F = torch.from_numpy(faces.astype(np.int64))
    return F[patches(F)]


def remeshed(fdi: int, V: np.ndarray, F: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray]:
    """A tooth as a mesh of at most `most` patches, with faces that run counterclockwise as seen from outside.

    Where the vertices put onto the surface leave faces without an area, as at sharp folds, they are not put there.

    Raises
    ------
    ValueError
        If there is no such mesh.
    """
    for project in (True, False):
        found, faces = remesh(V, F, base=most, project=project)
        if not _is_thin(found, faces):
            break
    else:
        raise ArgumentError(f"tooth {fdi} cannot be remeshed: its faces fold onto themselves; repair the mesh.")
    if len(faces) > PATCH * most:
        raise ArgumentError(
            f"tooth {fdi} cannot be made of patches={most} coarse faces; repair the mesh, or give more."
        )
    points, corners = torch.from_numpy(found), torch.from_numpy(faces)
    outwards = ((points - points.mean(0)) * vertex_normals(points, corners)).sum() >= 0
    return found, faces if outwards else np.ascontiguousarray(faces[:, ::-1])


def read_patches(
    vertices: Float[Tensor, "teeth vertices 3"],
    faces: Int64[Tensor, "kinds patches 64 3"],
    kind: Int64[Tensor, " teeth"],
) -> Patches:
    """The patches of teeth whose vertices are in network units; `kind` as in `ToothMeshes`."""
    own = faces[kind.abs() - 1]
    own = torch.where((kind < 0)[:, None, None, None], own.flip(-1), own)
    there = own[..., 0] >= 0
    first = torch.arange(len(vertices), device=vertices.device)[:, None, None, None] * vertices.shape[1]
    corners, flat = (own + first)[there], vertices.flatten(0, 1)
    numbers = vertices.new_zeros(*there.shape, NUMBERS)
    numbers[there] = torch.cat([face_features(flat, corners), flat[corners].mean(1)], -1)
    return Patches(numbers, there[..., 0])


def framed_patches(
    meshes: ToothMeshes,
    centroid: Float[Tensor, "cases 32 3"],
    turn: Float[Tensor, "cases 32 3 3"],
    mask: Bool[Tensor, "cases 32"],
) -> Patches:
    """The patches of all teeth of the mask, turned about their centroids; in half precision, for they are the largest
    part of the training data (0.9 MB a case of 16 patches a tooth)."""
    numbers = torch.zeros(*mask.shape, meshes.patches, PATCH, NUMBERS, dtype=torch.half)
    there = torch.zeros(*mask.shape, meshes.patches, dtype=torch.bool)
    for case, here in enumerate(mask & (meshes.kind != 0)):
        V = (meshes.vertices[case, here] - centroid[case, here, None]) @ turn[case, here].mT / UNIT
        found = read_patches(V, meshes.faces, meshes.kind[case, here])
        numbers[case, here], there[case, here] = found.numbers.half(), found.mask
    return Patches(numbers, there)


@dataclass(frozen=True)
class Templates:
    """Meshes of subdivision connectivity on mean shapes, whose vertices follow every shape with the same faces."""

    faces: Int64[Tensor, "ways teeth patches 64 3"]
    corners: Int64[Tensor, "ways teeth vertices 3"]
    """Vertices of the shape between which each vertex lies."""
    weights: Float[Tensor, "ways teeth vertices 3"]
    """Its barycentric coordinates; zeros for vertices that a tooth does not have."""

    @classmethod
    def of(
        cls,
        shapes: Float[Tensor, "teeth v 3"],
        faces: Int64[Tensor, "teeth f 3"],
        slots: Int64[Tensor, " teeth"],
        most: int,
        ways: int = 1,
    ) -> Templates:
        """Each mean shape is remeshed in several ways: as it is, and stretched, so that coarse faces lie elsewhere."""
        check_patches(most)
        rng = np.random.default_rng(0)
        found = []
        for way in range(ways):
            for V, F, slot in zip(shapes.double().numpy(), faces.numpy(), slots.tolist(), strict=True):
                V = V * np.exp(STRETCH * rng.standard_normal(3)) if way else V
                points, parts = remeshed(FDI[slot], V, F, most)
                found.append((by_patches(parts), *(torch.from_numpy(part) for part in barycentric(points, V, F))))
        longest = max(len(weights) for _, _, weights in found)
        table = torch.full((len(found), most, PATCH, 3), -1)
        corners = torch.zeros(len(found), longest, 3, dtype=torch.long)
        weights = torch.zeros(len(found), longest, 3)
        for number, (parts, at, by) in enumerate(found):
            table[number, : len(parts)], corners[number, : len(at)], weights[number, : len(by)] = parts, at, by.float()
        return cls(*(part.unflatten(0, (ways, -1)) for part in (table, corners, weights)))

    def on(
        self, shapes: Float[Tensor, "cases teeth v 3"], way: Int64[Tensor, "cases teeth"]
    ) -> Float[Tensor, "cases teeth vertices 3"]:
        """The vertices on shapes with the same faces as the mean ones, each in one of the ways."""
        teeth = torch.arange(shapes.shape[1])
        corners, weights = self.corners[way, teeth], self.weights[way, teeth].to(shapes)
        found = torch.zeros(*corners.shape, dtype=shapes.dtype)
        for corner in range(3):
            index = corners[..., corner, None].expand(-1, -1, -1, 3)
            found += shapes.gather(2, index) * weights[..., corner, None]
        return found


def barycentric(points: np.ndarray, V: np.ndarray, F: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Corners (n, 3) of the face of a surface that is nearest to each point, and the weights of the nearest place."""
    near, number = closest_on_faces(points, V, F)
    a, b, c = V[F[number]].transpose(1, 0, 2)
    edges = np.stack([b - a, c - a], -1)
    weights = np.linalg.solve(edges.mT @ edges, edges.mT @ (near - a)[..., None])[..., 0]
    weights = np.concatenate([1 - weights.sum(1, keepdims=True), weights], 1).clip(min=0)
    return F[number].astype(np.int64), weights / weights.sum(1, keepdims=True)


def _is_thin(V: np.ndarray, F: np.ndarray) -> bool:
    """Whether a face has next to no area."""
    corners = torch.from_numpy(V)[torch.from_numpy(F)]
    longest = (corners - corners.roll(1, 1)).square().sum(-1).amax(-1)
    return bool((torch.linalg.vector_norm(face_crosses(corners), dim=-1) <= THIN * longest).any())
