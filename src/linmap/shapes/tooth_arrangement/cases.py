"""One patient's teeth from a folder of meshes: STL, OBJ or PLY, one file a tooth, named by its FDI number."""

from __future__ import annotations

import re
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from linmap.data.clouds.surfaces import open_surface
from linmap.data.door import files_inside
from linmap.errors import ArgumentError, DataError
from linmap.shapes.tooth_arrangement.movements import JAW, up_of
from linmap.shapes.tooth_arrangement.slots import slot_of
from linmap.shapes.tooth_arrangement.tooth_set import ToothSet

SUFFIXES = (".stl", ".obj", ".ply")
NAME = re.compile(r"(?:tooth[ _-]?)?(\d\d)", re.IGNORECASE)
APART_MM = 3.0
"""Jaws whose centres are nearer than this along the vertical do not say which of them is above."""


@dataclass(frozen=True)
class MeshFile:
    """The corners of a mesh file as they stand in it."""

    vertices: np.ndarray
    """(v, 3)."""
    faces: np.ndarray
    """(f, 3)."""

    def merged(self) -> tuple[np.ndarray, np.ndarray]:
        """Vertices that stand in the same place as one, and their faces.

        The vertices keep the order of the file, which does not change with the pose of the model.
        """
        vertices, first, numbers = np.unique(self.vertices, axis=0, return_index=True, return_inverse=True)
        order = np.argsort(first)
        place = np.argsort(order)
        return vertices[order], place[numbers.reshape(-1)][self.faces]


def load_case(folder: Path | str) -> ToothSet:
    """Read the teeth of one patient, in mm.

    Parameters
    ----------
    folder
        With a file for each tooth: `11.stl`, `tooth_11.ply`, `46.obj`. Other kinds of files are passed over.

    Raises
    ------
    DataError
        If there is no mesh, a name holds no FDI number, a tooth is there twice, a file cannot be read, or a mesh
        cannot be a tooth in mm (`ToothSet`).
    """
    folder = Path(folder)
    return teeth_of(folder, {fdi: read_mesh(path).merged() for fdi, path in tooth_files(folder).items()})


def teeth_of(folder: Path, meshes: dict[int, tuple[np.ndarray, np.ndarray]]) -> ToothSet:
    """The tooth set of meshes that were read from a folder.

    Raises
    ------
    DataError
        If a mesh cannot be a tooth in mm (`ToothSet`).
    """
    try:
        teeth = ToothSet(meshes)
    except ArgumentError as error:
        raise DataError(f"{folder}: {error}") from None
    check_sides(teeth)
    return teeth


def tooth_files(folder: Path) -> dict[int, Path]:
    """The mesh files of a folder by FDI number, in the order of the numbers.

    Raises
    ------
    DataError
        As `load_case`.
    """
    if not folder.is_dir():
        what = "is a file; give the folder that holds a mesh file for each tooth" if folder.exists() else "is not there"
        raise DataError(f"{folder} {what}.")
    found: dict[int, Path] = {}
    for path in files_inside(folder, SUFFIXES):
        match = NAME.fullmatch(path.stem)
        if match is None:
            raise DataError(
                f"{path.name} in {folder} names no tooth; name each file by its FDI number, such as 11.stl or "
                "tooth_11.ply."
            )
        fdi = int(match[1])
        try:
            slot_of(fdi)
        except ArgumentError as error:
            raise DataError(f"{path.name} in {folder}: {error}") from None
        if fdi in found:
            raise DataError(f"{folder} holds tooth {fdi} twice: {found[fdi].name} and {path.name}; keep one.")
        found[fdi] = path
    if not found:
        raise DataError(f"{folder} holds no mesh; expected .stl, .obj or .ply files named by FDI number, as 11.stl.")
    return dict(sorted(found.items()))


def read_mesh(path: Path) -> MeshFile:
    """Corners and triangles in the order of the file.

    Raises
    ------
    DataError
        If it is no mesh that can be read.
    """
    import trimesh

    try:
        mesh = trimesh.load(open_surface(path), file_type=path.suffix[1:].lower(), force="mesh", process=False)
        vertices, faces = np.asarray(mesh.vertices, dtype=float), np.asarray(mesh.faces)  # pyright: ignore[reportAttributeAccessIssue]
    except Exception as error:  # whatever a reader of damaged files raises
        raise DataError(f"{path} cannot be read as a mesh: {' '.join(str(error).split()) or 'damaged'}.") from None
    if not len(vertices) or not len(faces):
        raise DataError(f"{path} holds no triangles.")
    return MeshFile(vertices, faces)


def check_sides(teeth: ToothSet) -> None:
    """Warn where left and right are swapped: the upper jaw would stand below the lower one.

    The order of the numbers along a jaw says which way is up, and both jaws together say which way it is in truth.
    """
    centers, mask = np.asarray(teeth.centroids()), np.asarray(teeth.mask)
    upper, lower = centers[:JAW][mask[:JAW]], centers[JAW:][mask[JAW:]]
    ups = [up for jaw in (upper, lower) if (up := up_of(jaw)) is not None]
    if len(ups) < 2:
        return
    if ups[0] @ ups[1] < 0:
        warnings.warn(
            "left and right seem to be swapped in one of the jaws: their teeth run in opposite directions.",
            stacklevel=3,
        )
        return
    height = float((upper.mean(0) - lower.mean(0)) @ (ups[0] + ups[1]) / 2)
    if height < -APART_MM:
        warnings.warn(
            "left and right seem to be swapped: by their numbers the upper teeth would stand below the lower ones "
            "(tooth 11 is the patient's right upper central incisor).",
            stacklevel=3,
        )
