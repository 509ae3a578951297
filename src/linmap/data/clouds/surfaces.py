"""One cloud from a surface: `.off`, `.ply`, `.stl`, `.obj` and `.glb`, by trimesh."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from linmap.data import require_file
from linmap.data.clouds.point_clouds import checked, draws
from linmap.data.door import read_bytes, understood
from linmap.errors import DataError

SURFACES = (".off", ".ply", ".stl", ".obj", ".glb")
BACKWARD = re.compile(rb"^\s*f\s[^#\n]*-\d", re.MULTILINE)
"""A face of .obj that counts back."""


def read_surface(path: Path | str, n_points: int, seed: int = 0, name: str = "") -> tuple[np.ndarray, list[str]]:
    """Points drawn uniformly by area from a surface, and what was guessed; the points of a `.ply` without faces.

    Parameters
    ----------
    path
        Of the file. Parts of a scene count as one shape.
    n_points
        To draw; points without faces are taken as they are.
    seed, name
        Of the draws; the name is that of the file when left out.

    Raises
    ------
    DataError
        If it cannot be read, holds no surface or one without area, or a vertex that is not finite.
    ModuleNotFoundError
        If trimesh is not installed.
    """
    path = Path(path)
    require_file(path)
    scene = _scene(path)
    with understood(path, f"a {path.suffix.lower()} surface"):
        parts = [part for part in scene.dump() if len(getattr(part, "vertices", ()))]
    meshes = [part for part in parts if len(getattr(part, "faces", ()))]
    if not parts:
        raise DataError(f"{path} holds no vertices; expected a surface.")
    for part in parts:
        if np.shape(part.vertices)[1:] != (3,):
            raise DataError(f"{path}: vertices of shape {np.shape(part.vertices)}; expected three coordinates.")
        if not np.isfinite(np.asarray(part.vertices)).all():
            raise DataError(f"{path}: a vertex has a coordinate that is not a finite number.")
    if not meshes:
        if path.suffix.lower() == ".ply":
            points = np.concatenate([np.asarray(part.vertices) for part in parts])
            return checked(points, str(path)), [f"{path.name} has points and no faces; they are taken as they are"]
        raise DataError(f"{path} has vertices and no faces; save points as .xyz or .ply, a surface with its triangles.")
    notes = [f"{path.name} is a scene of {len(meshes)} parts; they count as one shape"] if len(meshes) > 1 else []
    if len(meshes) < len(parts):
        notes.append(f"{path.name}: points and lines beside its surfaces are left out")
    with understood(path, f"a {path.suffix.lower()} surface"):
        return _sampled(meshes, n_points, draws(seed, name or path.name), path), notes


def _scene(path: Path) -> Any:
    try:
        import trimesh
    except ModuleNotFoundError:
        raise ModuleNotFoundError("surfaces need trimesh: pip install 'linmap[shapes]'.", name="trimesh") from None
    with understood(path, f"a {path.suffix.lower()} surface"):
        return trimesh.load_scene(open_surface(path), file_type=path.suffix[1:].lower(), process=False)


def open_surface(path: Path) -> io.BytesIO:
    """The file, open, in a form that trimesh reads as it is meant.

    Many of ModelNet's .off files have the counts in the line of the word OFF. In .obj a negative number counts back
    from its line, and trimesh takes it from the end of the file (5.2 does; its issue 2364).
    """
    data = read_bytes(path)
    if path.suffix.lower() == ".off" and data[:3] == b"OFF" and data[3:4].isdigit():
        data = b"OFF\n" + data[3:]
    if path.suffix.lower() == ".off":
        _refuse_cut(data, path)
    if path.suffix.lower() == ".obj" and BACKWARD.search(data):
        data = _counted_forward(data)
    return io.BytesIO(data)


def _refuse_cut(data: bytes, path: Path) -> None:
    """Refuse an .off file that ends before what it declares, of which trimesh takes what is there.

    Raises
    ------
    DataError
        With the counts.
    """
    lines = [line for line in (line.partition(b"#")[0].strip() for line in data.splitlines()) if line]
    counts = lines[1].split()[:2] if len(lines) > 1 and lines[0] == b"OFF" else []
    if len(counts) < 2 or not all(count.isdigit() and len(count) < 12 for count in counts):
        return  # trimesh says what is wrong with it
    vertices, faces = map(int, counts)
    rest = lines[2:]
    if len(rest) < vertices + faces and sum(len(line.split()) for line in rest) < 3 * vertices + 4 * faces:
        raise DataError(
            f"{path} declares {vertices} vertices and {faces} faces, and {len(rest)} lines follow; it is cut off."
        )


def _counted_forward(data: bytes) -> bytes:
    """A file of .obj whose faces count vertices, textures and normals from the first one on."""
    seen, lines = {b"v": 0, b"vt": 0, b"vn": 0}, []
    for line in data.splitlines():
        word, *corners = line.split() or [b""]
        if word in seen:
            seen[word] += 1
        if word == b"f":
            counts = tuple(seen.values())
            line = b" ".join([word, *(_forward(corner, counts) for corner in corners)])
        lines.append(line)
    return b"\n".join(lines) + b"\n"


def _forward(corner: bytes, counts: Sequence[int]) -> bytes:
    numbers = corner.split(b"/")
    for place, (number, count) in enumerate(zip(numbers, counts, strict=False)):
        if number.startswith(b"-") and number[1:].isdigit():
            numbers[place] = b"%d" % (count + 1 - int(number[1:]))
    return b"/".join(numbers)


def _sampled(meshes: list[Any], n_points: int, random: np.random.Generator, path: Path) -> np.ndarray:
    """By area: a triangle, then a point within it."""
    corners = np.concatenate([np.asarray(mesh.triangles, np.float64) for mesh in meshes])
    sides = corners[:, 1:] - corners[:, :1]
    area = np.linalg.norm(np.cross(sides[:, 0], sides[:, 1]), axis=1)
    if not area.sum() > 0:
        raise DataError(f"{path}: its {len(area)} triangles have no area; nothing can be drawn from them.")
    edges = np.cumsum(area)
    chosen = np.searchsorted(edges, random.random(n_points) * edges[-1], side="right").clip(max=len(area) - 1)
    u = random.random((n_points, 2, 1))
    u = np.where(u.sum(1, keepdims=True) > 1, 1 - u, u)
    return corners[chosen, 0] + (u * sides[chosen]).sum(1)
