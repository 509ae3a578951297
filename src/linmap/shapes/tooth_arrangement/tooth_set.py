"""`ToothSet`: the teeth of one patient as meshes in mm, by FDI number."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from linmap.data.clouds.surfaces import open_surface
from linmap.data.door import files_inside
from linmap.errors import ArgumentError, DataError
from linmap.geometry.points import farthest_points
from linmap.ownership import make_folder
from linmap.shapes.tooth_arrangement.slots import FDI, JAWS, TEETH, slot_of

Mesh = tuple[np.ndarray, np.ndarray]
LEAST, LARGEST, ABSURD = 3.0, 20.0, 60.0  # mm: the smallest crown, a crown with gum, no tooth at all
NO_AREA = 1e-12  # of a face, over the square of the tooth's extent
ORDER = np.deg2rad(3.0)  # by which a tooth may stand before its neighbour, as seen from the middle of the arch


class ToothSet:
    """Teeth as meshes, in one coordinate system, in mm.

    Parameters
    ----------
    meshes
        By FDI number, vertices (V, 3) and triangles (F, 3). Open meshes are fine. They are copied.

    Raises
    ------
    ValueError
        If there is no mesh, a number is unknown, or a mesh has values that are not finite, faces without area, or an
        extent that is no tooth's in mm. The message names the tooth.

    Warns
    -----
    UserWarning
        If there is one jaw only, or teeth do not follow each other in the order of their numbers.
    """

    def __init__(self, meshes: Mapping[int, Any]) -> None:
        if not isinstance(meshes, Mapping) or not meshes:
            raise ArgumentError("meshes is empty: give a mesh (vertices, faces) for one tooth or more, by FDI number.")
        self.meshes: dict[int, Mesh] = {}
        for fdi, mesh in sorted(meshes.items(), key=lambda item: slot_of(item[0])):
            self.meshes[int(fdi)] = checked_mesh(int(fdi), mesh)
        self._warn()

    @property
    def mask(self) -> Tensor:
        """(32,) bool: the teeth that are there."""
        mask = torch.zeros(TEETH, dtype=torch.bool)
        mask[[slot_of(fdi) for fdi in self.meshes]] = True
        return mask

    def centroids(self) -> Float[Tensor, "32 3"]:
        """Area-weighted centroids, in float64; zero where there is no tooth."""
        centers = torch.zeros(TEETH, 3, dtype=torch.float64)
        for fdi, (V, F) in self.meshes.items():
            centers[slot_of(fdi)] = torch.from_numpy(area_centroid(V, F))
        return centers

    def points(self, n: int) -> Float[Tensor, "32 n 3"]:
        """The n farthest vertices of each tooth, from its first; zero where there is no tooth.

        Faces of a tooth with fewer vertices are divided into four until there are enough. Distances are compared to a
        millionth of a mm, so that rounding does not choose between vertices that are equally far.
        """
        sets = {slot_of(fdi): torch.from_numpy(_at_least(n, V, F)) for fdi, (V, F) in self.meshes.items()}
        most = max(len(V) for V in sets.values())
        padded, mask = (
            torch.zeros(len(sets), most, 3, dtype=torch.float64),
            torch.zeros(len(sets), most, dtype=torch.bool),
        )
        for row, V in enumerate(sets.values()):
            padded[row, : len(V)], mask[row, : len(V)] = V, True
        middle = padded.sum(1, keepdim=True) / mask.sum(1)[:, None, None]
        chosen = farthest_points((padded - middle).round(decimals=6), n, mask=mask)
        points = torch.zeros(TEETH, n, 3, dtype=torch.float64)
        points[list(sets)] = padded.gather(1, chosen[..., None].expand(-1, -1, 3))
        return points

    def apply(self, motions: Any) -> ToothSet:
        """The teeth moved by matrices (32, 4, 4) that act on columns (x, y, z, 1); this set stays as it is.

        Raises
        ------
        ValueError
            If the matrices are no rigid motions.
        """
        motions = rigid_motions(motions)
        moved = object.__new__(type(self))
        moved.meshes = {}
        for fdi, (V, F) in self.meshes.items():
            T = motions[slot_of(fdi)]
            still = np.array_equal(T, np.eye(4))
            moved.meshes[fdi] = (V.copy() if still else V @ T[:3, :3].T + T[:3, 3], F.copy())
        return moved

    def export(self, folder: Path | str) -> None:
        """Write `<fdi>.stl` of each tooth into a folder, which is made where it is missing."""
        import trimesh

        folder = Path(folder)
        make_folder(folder)
        for fdi, (V, F) in self.meshes.items():
            trimesh.Trimesh(V, F, process=False).export(folder / f"{fdi}.stl")

    @classmethod
    def from_stl(cls, folder: Path | str) -> Self:
        """The set of a folder of `<fdi>.stl`, in mm; corners at the same place become one vertex.

        Raises
        ------
        ValueError
            If there is no such file, a name is no FDI number, a file cannot be read, or as for the set itself.
        """
        import trimesh

        folder = Path(folder)
        files = files_inside(folder, (".stl",))
        if not files:
            raise DataError(f"{folder} holds no .stl file; name the file of each tooth by its FDI number, as 11.stl.")
        meshes: dict[int, Mesh] = {}
        for path in files:
            if not (path.stem.isascii() and path.stem.isdecimal()):
                raise DataError(f"{path} is not named by an FDI number, as 11.stl; rename it or take it away.")
            try:
                mesh: Any = trimesh.load(open_surface(path), file_type="stl", force="mesh", process=False)
            except Exception as error:  # a reader of files of all kinds raises errors of all kinds
                raise DataError(f"{path} cannot be read as STL ({error}); export it again.") from None
            mesh.merge_vertices(merge_tex=True, merge_norm=True)
            meshes[int(path.stem)] = (np.asarray(mesh.vertices, np.float64), np.asarray(mesh.faces, np.int64))
        return cls(meshes)

    def _warn(self) -> None:
        mask = self.mask
        if len(present := [name for name, jaw in JAWS.items() if mask[jaw].any()]) == 1:
            warnings.warn(f"there is one jaw only ({present[0]}): nothing is said about the bite.", stacklevel=3)
        centers = self.centroids().numpy()
        for name, jaw in JAWS.items():
            slots = [slot for slot in range(jaw.start, jaw.stop) if mask[slot]]
            if pairs := _out_of_order(centers[slots], [FDI[slot] for slot in slots]):
                named = ", ".join(f"{a} and {b}" for a, b in pairs)
                warnings.warn(
                    f"the {name} teeth {named} do not follow the order of the arch; are their numbers swapped?",
                    stacklevel=3,
                )


def checked_mesh(fdi: int, mesh: Any) -> Mesh:
    """Copies of vertices and faces.

    Raises
    ------
    ValueError
        As `ToothSet`.
    """
    try:
        V, F = np.array(mesh[0], np.float64), np.array(mesh[1])
    except (TypeError, ValueError, IndexError):
        raise ArgumentError(f"tooth {fdi}: a mesh must be (vertices (V, 3), faces (F, 3)).") from None
    if V.ndim != 2 or V.shape[1:] != (3,) or len(V) < 3:
        raise ArgumentError(f"tooth {fdi}: vertices must be (V, 3) with V >= 3, got shape {V.shape}.")
    if F.ndim != 2 or F.shape[1:] != (3,) or not len(F) or not np.issubdtype(F.dtype, np.integer):
        raise ArgumentError(f"tooth {fdi}: faces must be whole numbers (F, 3), got {F.dtype} of shape {F.shape}.")
    if F.min() < 0 or F.max() >= len(V):
        raise ArgumentError(f"tooth {fdi}: faces name vertices {F.min()} to {F.max()}; there are {len(V)}.")
    if bad := int((~np.isfinite(V).all(1)).sum()):
        raise ArgumentError(f"tooth {fdi} has {bad} vertices that are not finite; repair the mesh.")
    F = F.astype(np.int64)
    used = V[np.unique(F)]
    extent = float(np.ptp(used, axis=0).max())
    if extent < LEAST or extent > ABSURD:
        raise ArgumentError(f"tooth {fdi} has an extent of {extent:.3g}, which is no tooth in mm; convert the units.")
    if extent > LARGEST:
        raise ArgumentError(
            f"tooth {fdi} has an extent of {extent:.1f} mm, more than {LARGEST:g} mm: is gum or root attached? "
            "Cut it off."
        )
    if empty := int((face_areas(V, F) <= NO_AREA * extent**2).sum()):
        raise ArgumentError(f"tooth {fdi} has {empty} zero-area faces; remove them (trimesh: `nondegenerate_faces`).")
    return V, F


def face_areas(V: np.ndarray, F: np.ndarray) -> np.ndarray:
    """(F,) areas of the triangles."""
    a, b, c = V[F[:, 0]], V[F[:, 1]], V[F[:, 2]]
    return np.linalg.norm(np.cross(b - a, c - a), axis=1) / 2


def area_centroid(V: np.ndarray, F: np.ndarray) -> np.ndarray:
    """(3,): the mean of the faces' centres, weighted by their areas."""
    areas = face_areas(V, F)
    return (V[F].mean(1) * areas[:, None]).sum(0) / areas.sum()


def subdivided(V: np.ndarray, F: np.ndarray) -> Mesh:
    """Each triangle in four, by the middles of its edges, which neighbours share."""
    edges = np.sort(np.concatenate([F[:, [0, 1]], F[:, [1, 2]], F[:, [2, 0]]]), axis=1)
    unique, place = np.unique(edges, axis=0, return_inverse=True)
    ab, bc, ca = (place.reshape(3, -1) + len(V)).astype(np.int64)
    a, b, c = F.T
    parts = [(a, ab, ca), (ab, b, bc), (ca, bc, c), (ab, bc, ca)]
    return np.concatenate([V, V[unique].mean(1)]), np.concatenate([np.stack(part, 1) for part in parts])


def rigid_motions(motions: Any) -> np.ndarray:
    """(32, 4, 4) in float64.

    Raises
    ------
    ValueError
        If the shape is another, or a matrix is no rigid motion that acts on columns.
    """
    T = np.asarray(motions.detach().cpu() if isinstance(motions, Tensor) else motions, np.float64)
    if T.shape != (TEETH, 4, 4):
        raise ArgumentError(f"motions must be ({TEETH}, 4, 4), a matrix for each slot, got shape {T.shape}.")
    R = T[:, :3, :3]
    straight = np.abs(R @ R.transpose(0, 2, 1) - np.eye(3)).max((1, 2)) < 1e-3
    proper = (np.linalg.det(R) > 0) & (np.abs(T[:, 3] - [0, 0, 0, 1]).max(1) < 1e-6)
    bad = ~(straight & proper & np.isfinite(T).all((1, 2)))
    if bad.any():
        raise ArgumentError(
            f"motions of tooth {FDI[int(bad.argmax())]} are no rigid motion that acts on columns: "
            "a rotation, a shift, and 0 0 0 1 as the last row."
        )
    return T


def _at_least(n: int, V: np.ndarray, F: np.ndarray) -> np.ndarray:
    """The vertices that faces use, of the mesh divided until there are n."""
    while len(used := np.unique(F)) < n:
        V, F = subdivided(V, F)
    return V[used]


def _out_of_order(centers: np.ndarray, numbers: list[int]) -> list[tuple[int, int]]:
    """Neighbours in the wrong order, by their angles as seen from the middle between the two last teeth of a jaw."""
    if len(centers) < 3:
        return []
    middle = (centers[0] + centers[-1]) / 2
    across = centers[-1] - centers[0]
    across = across / max(np.linalg.norm(across), 1e-9)
    relative = centers - middle
    u = relative @ across
    rest = relative - u[:, None] * across
    forward = np.linalg.svd(rest)[2][0]  # across the chord, where the arch extends most
    v = rest @ forward
    v = np.maximum(v * np.sign(v.sum() or 1.0), 0)
    angle = np.arctan2(v, -u)
    wrong = np.flatnonzero(np.diff(angle) < -ORDER)
    return [(numbers[i], numbers[i + 1]) for i in wrong]
