"""Pairs before and after treatment from files: the user's own folders, and the published set TeethAlign3D.

The user's folders: `before/` and `after/` with a mesh for each tooth, in one folder, or in a folder for each patient.

TeethAlign3D (Dong and Chen, ICCV 2025; zenodo.org/records/15834700; free for non-commercial use, downloaded by the
user) by the layout on its page: `data_NNN/crown/up/1.stl` to `16.stl`, `crown/down/17.stl` to `32.stl`, and
`target_matrix.txt` with a line for each tooth: its number and 16 numbers, R00 R01 R02 0 R10 R11 R12 0 R20 R21 R22 0
Tx Ty Tz 1. The shift stands last, so the matrix acts on row vectors. Teeth are counted as in the universal system, as
seen by the one who looks at the patient: 1 is FDI 18, 16 is 28, 17 is 38, 32 is 48. `load_case` warns where the
geometry says otherwise. The set itself was not at hand here: the reader is tested on a folder of the same form.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.spatial import KDTree

from linmap.data.door import files_inside, read_lines
from linmap.errors import ArgumentError, DataError
from linmap.geometry.rigid import kabsch
from linmap.shapes.tooth_arrangement.cases import read_mesh, teeth_of, tooth_files
from linmap.shapes.tooth_arrangement.meshes import ToothMeshes, check_patches
from linmap.shapes.tooth_arrangement.pairs import ToothPairs
from linmap.shapes.tooth_arrangement.slots import slot_of
from linmap.shapes.tooth_arrangement.tooth_set import ToothSet

MATRICES = "target_matrix.txt"
UNIVERSAL = (
    18,
    17,
    16,
    15,
    14,
    13,
    12,
    11,
    21,
    22,
    23,
    24,
    25,
    26,
    27,
    28,
    38,
    37,
    36,
    35,
    34,
    33,
    32,
    31,
    41,
    42,
    43,
    44,
    45,
    46,
    47,
    48,
)
"""FDI number of the teeth 1 to 32 of TeethAlign3D."""
SAME_MM = 0.1
"""Root mean square distance up to which two meshes of a tooth are the same mesh moved."""
ROUNDS = 60
"""Of iterated closest points."""


@dataclass(frozen=True)
class ClinicalCase:
    """A tooth set, and the motion of each tooth to its place after treatment."""

    name: str
    before: ToothSet
    motions: np.ndarray
    """(32, 4, 4) on columns, mm; the identity for absent teeth."""


def load_pairs(path: Path | str, points: int = 64, patches: int | None = None) -> ToothPairs:
    """Pairs for training and for comparisons, from any of the layouts above, with `points` points a tooth.

    With `patches` they carry meshes, too: each tooth is remeshed to at most so many patches of 64 faces.

    Raises
    ------
    DataError
        If no pair is found, or a file cannot be used.
    """
    return pairs_of(load_clinical_cases(path), points, patches)


def load_clinical_cases(path: Path | str) -> list[ClinicalCase]:
    """As `load_pairs`, with whole meshes."""
    path = Path(path)
    if not path.is_dir():
        raise DataError(f"{path} is no folder; give one with before/ and after/, or one with a folder for each case.")
    folders = [path, *sorted(part for part in path.iterdir() if part.is_dir())]
    found = [read(folder) for folder in folders for kind, read in _READERS.items() if _is(folder, kind)]
    if not found:
        raise DataError(
            f"{path} holds no pairs; expected before/ and after/ with a mesh for each tooth (11.stl, ...), in the "
            f"folder or in a folder for each case, or the folders data_NNN of TeethAlign3D ({MATRICES})."
        )
    return found


def pairs_of(cases: Sequence[ClinicalCase], points: int, patches: int | None = None) -> ToothPairs:
    """Cases as arrays: `points` vertices of each tooth, farthest from each other, before and after, and their meshes.

    Raises
    ------
    DataError
        If a tooth cannot be remeshed.
    ValueError
        If `patches` is less than 4.
    """
    if patches is not None:
        check_patches(patches)
    before = np.stack([np.asarray(case.before.points(points), dtype=float) for case in cases])
    mask = np.stack([np.asarray(case.before.mask, dtype=bool) for case in cases])
    centers = np.stack([np.asarray(case.before.centroids(), dtype=float) for case in cases])
    before[~mask], centers[~mask] = 0.0, 0.0
    motions = np.stack([case.motions for case in cases])
    R, t = motions[..., :3, :3], motions[..., :3, 3]
    after = before @ R.swapaxes(-1, -2) + t[..., None, :]
    after_centers = np.einsum("bsij,bsj->bsi", R, centers) + t
    arrays = [torch.from_numpy(x).float() for x in (before, after, centers, after_centers, R)]
    meshes = _meshes(cases, patches) if patches is not None else None
    return ToothPairs(arrays[0], arrays[1], arrays[2], arrays[3], arrays[4], torch.from_numpy(mask), meshes)


def _meshes(cases: Sequence[ClinicalCase], patches: int) -> ToothMeshes:
    parts = []
    for case in cases:
        try:
            parts.append(ToothMeshes.of([case.before], patches).to(torch.float32))
        except ArgumentError as error:
            raise DataError(f"{case.name}: {error}") from None
    return ToothMeshes.joined(parts)


# -- folders of the user's own -----------------------------------------------------------------------------------------


def _is(folder: Path, kind: str) -> bool:
    if kind == MATRICES:
        return (folder / MATRICES).is_file()
    return (folder / "before").is_dir() and (folder / "after").is_dir()


def _own(folder: Path) -> ClinicalCase:
    """`before/` and `after/`; teeth that only one of them has are left out with a warning."""
    files, later = tooth_files(folder / "before"), tooth_files(folder / "after")
    common = sorted(files.keys() & later.keys())
    if not common:
        raise DataError(f"{folder}: no tooth is both in before/ and in after/.")
    if left := sorted(files.keys() ^ later.keys()):
        named = ", ".join(map(str, left))
        warnings.warn(f"{folder}: teeth {named} are only in before/ or after/ and are left out.", stacklevel=4)
    meshes, motions, unlike = {}, np.tile(np.eye(4), (32, 1, 1)), []
    for fdi in common:
        first, second = read_mesh(files[fdi]), read_mesh(later[fdi])
        meshes[fdi] = first.merged()
        try:
            motion, same = register(first.vertices, second.vertices)
        except ArgumentError as error:
            raise DataError(f"{folder}: tooth {fdi} cannot be registered: {error}") from None
        motions[slot_of(fdi)] = motion
        unlike += [] if same else [str(fdi)]
    if unlike:
        warnings.warn(
            f"{folder}: the meshes of teeth {', '.join(unlike)} differ before and after; they are registered by "
            "closest points, which is less exact and can slide along round crowns.",
            stacklevel=4,
        )
    return ClinicalCase(folder.name, teeth_of(folder, meshes), motions)


def register(before: np.ndarray, after: np.ndarray) -> tuple[np.ndarray, bool]:
    """The rigid motion (4, 4) of a tooth, and whether both meshes are the same one.

    Corner by corner (Kabsch) where there are as many and they fit within `SAME_MM`, else by iterated closest points
    from the shift of the centres.
    """
    if len(before) == len(after):
        motion = _fitted(before, after)
        off = before @ motion[:3, :3].T + motion[:3, 3] - after
        if np.sqrt((off**2).sum(1).mean()) <= SAME_MM:
            return motion, True
    return _closest_points(np.unique(before, axis=0), np.unique(after, axis=0)), False


def _fitted(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    R, t = kabsch(before, after)
    motion = np.eye(4)
    motion[:3, :3], motion[:3, 3] = R.numpy(), t.numpy()
    return motion


def _closest_points(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Iterated closest points, the tenth of the pairs that is farthest apart left out."""
    moving = before[:: max(1, len(before) // 2000)]
    tree, motion = KDTree(after), np.eye(4)
    motion[:3, 3] = after.mean(0) - before.mean(0)
    for _ in range(ROUNDS):
        placed = moving @ motion[:3, :3].T + motion[:3, 3]
        found: Any = tree.query(placed)
        distances, nearest = found
        near = distances <= np.quantile(distances, 0.9)
        step = _fitted(placed[near], after[nearest[near]])
        motion = step @ motion
        if np.abs(step - np.eye(4)).max() < 1e-7:
            break
    return motion


# -- TeethAlign3D ------------------------------------------------------------------------------------------------------


def _teeth_align(folder: Path) -> ClinicalCase:
    """One case of TeethAlign3D: the crowns, and their target matrices."""
    matrices = _matrices(folder / MATRICES)
    meshes, motions = {}, np.tile(np.eye(4), (32, 1, 1))
    for path in files_inside(folder / "crown", (".stl",), below=True):
        number = int(path.stem) if path.stem.isdecimal() else 0
        if not 1 <= number <= 32:
            raise DataError(f"{path}: expected a file for each tooth, 1.stl to 32.stl.")
        if number not in matrices:
            continue  # a tooth without a target is no pair
        fdi = UNIVERSAL[number - 1]
        meshes[fdi] = read_mesh(path).merged()
        motions[slot_of(fdi)] = matrices[number].T
    if not meshes:
        raise DataError(f"{folder}: no crown in crown/up and crown/down has a line in {MATRICES}.")
    return ClinicalCase(folder.name, teeth_of(folder, meshes), motions)


def _matrices(path: Path) -> dict[int, np.ndarray]:
    """By the number of a tooth its matrix, which acts on row vectors (4, 4)."""
    found = {}
    for number, line in enumerate(read_lines(path, errors="replace"), 1):
        cells = line.replace(",", " ").split()
        if not cells:
            continue
        try:
            tooth, values = int(cells[0]), np.array(cells[1:], dtype=float).reshape(4, 4)
        except ValueError:
            raise DataError(f"{path}, line {number}: expected the number of a tooth and 16 numbers.") from None
        R = values[:3, :3]
        if not (np.isfinite(values).all() and np.abs(R @ R.T - np.eye(3)).max() < 1e-2 and np.linalg.det(R) > 0):
            raise DataError(f"{path}, line {number}: the matrix of tooth {tooth} is no rotation and shift.")
        if np.abs(values[:, 3] - [0, 0, 0, 1]).max() > 1e-6:
            raise DataError(f"{path}, line {number}: the shift of tooth {tooth} does not stand in the last row.")
        found[tooth] = values
        U, _, V = np.linalg.svd(R)
        found[tooth][:3, :3] = U @ V
    return found


_READERS = {"before": _own, MATRICES: _teeth_align}
