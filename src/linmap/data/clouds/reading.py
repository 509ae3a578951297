"""Clouds from a path, whatever it holds, and the shapes that come with the package."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np

from linmap.data import EMBEDDED, find
from linmap.data.clouds.archives import ARCHIVES, read_archive
from linmap.data.clouds.point_clouds import GEOGRAPHIC, PointClouds, geographic, same_dimension
from linmap.data.clouds.surfaces import SURFACES, read_surface
from linmap.data.clouds.tables import TABLES, read_table
from linmap.data.compressed import is_compressed, suffix_of, with_compressed
from linmap.data.door import files_inside
from linmap.errors import DataError

LAYOUTS = (
    "an .npz or .npy of clouds, a table of points (.csv, .txt, .xyz), a surface (.off, .ply, .stl, .obj), or a folder "
    "of such files, in folders named by class"
)
PARTS = {"train": False, "test": True}
"""Folders that divide a data set, as in ModelNet."""
UNLIKE = 30.0
"""Sizes of shapes in one folder that differ by so much are in different units, more likely than not."""


def load_clouds(path: Path | str, n_points: int = 1024, seed: int = 0) -> PointClouds:
    """The clouds of a path.

    Parameters
    ----------
    path
        An archive (`.npz`, `.npy`, ModelNet40's `.h5`); a table of the points of one cloud (`.csv`, `.tsv`, `.txt`,
        `.xyz`, `.pts`); a surface (`.off`, `.ply`, `.stl`, `.obj`, `.glb`); or a folder of such files at any depth. The
        first folder below it names the class, unless there is only one; folders `train` and `test` in a path are the
        split, as in ModelNet, and so are those words in the names of archives.
    n_points
        Drawn from each surface, uniformly by area.
    seed
        Of these draws.

    Raises
    ------
    DataError
        If there are no clouds, or one cannot be used: a point alone, coordinates that are not finite, points of another
        dimension, a surface without faces; the message names it.
    """
    path = Path(path)
    if not path.exists():
        raise DataError(f"{path}: there is no such file or folder; expected {LAYOUTS}.")
    if path.is_dir():
        found = _folder(path, n_points, seed)
    elif path.suffix.lower() in ARCHIVES:
        found = read_archive(path)
    else:
        cloud, notes = _one(path, n_points, seed, path.name)
        found = PointClouds((cloud,), (path.name,), name=path.stem, notes=tuple(notes))
    return _noted(found)


def ldraw_shapes(points: Literal[512, 1024] = 512) -> PointClouds:
    """681 real shapes of 14 classes: parts of the LDraw library as points on their surfaces, 477 to train by.

    The axes are those of the library (-y is up), so all shapes stand as their designers put them. Centred at their
    mean, the farthest point at distance 1. LDraw Parts Library, CC BY 2.0.

    Parameters
    ----------
    points
        Of each shape: 512, which come with the package, or 1,024.

    Raises
    ------
    FileNotFoundError
        If 1,024 are asked for, and the file is in none of the places where `linmap.data.find` looks.
    """
    if points == 512:
        path = EMBEDDED / "ldraw14_512.npz"
    else:
        path = find("shapes3d/ldraw14_1024.npz", "512 points a shape are: ldraw_shapes(512).")
    return replace(read_archive(path), name="LDraw")


# -- folders -----------------------------------------------------------------------------------------------------------


def _folder(path: Path, n_points: int, seed: int) -> PointClouds:
    found = files_inside(path, with_compressed((*ARCHIVES, *SURFACES, *TABLES)), below=True)
    files = [file for file in found if file.is_file() and file.name != "shape_names.txt"]
    files = [file for file in files if not (suffix_of(file) == ".txt" and _describes(file, files))]
    if not files:
        raise DataError(f"{path}: this folder holds no clouds; expected {LAYOUTS}.")
    if all(file.suffix.lower() in ARCHIVES for file in files):
        return _joined(path, [(file, read_archive(file)) for file in files])
    if archive := [file for file in files if file.suffix.lower() in ARCHIVES]:
        raise DataError(f"{path}: {archive[0].name} is an archive beside single clouds; give one kind of files.")
    clouds, notes = [], []
    inside = [file.relative_to(path) for file in files]
    for file, name in zip(files, inside, strict=True):
        cloud, said = _one(file, n_points, seed, name.as_posix())
        clouds.append(cloud)
        notes += said
    names = tuple(name.as_posix() for name in inside)
    same_dimension(clouds, names, str(path))
    drawn = sum(file.suffix.lower() in SURFACES for file in files)
    if drawn:
        notes.append(f"{n_points} points were drawn by area from each surface, seed {seed}")
    labels, classes = _by_folder(path, inside)
    return PointClouds(tuple(clouds), names, labels, classes, _split(inside), path.name, tuple(_few(notes)))


def _one(path: Path, n_points: int, seed: int, name: str) -> tuple[np.ndarray, list[str]]:
    """The cloud of one file."""
    if path.suffix.lower() in SURFACES:
        return read_surface(path, n_points, seed, name)
    if suffix_of(path) in TABLES:
        return read_table(path)
    kind = "".join(path.suffixes[-2:]) if is_compressed(path) else path.suffix
    raise DataError(f"{path}: clouds are not read from {kind or 'such'} files; expected {LAYOUTS}.")


def _describes(text: Path, files: Sequence[Path]) -> bool:
    """Whether a .txt lies beside files of another kind, and so says something of them."""
    return any(file.parent == text.parent and suffix_of(file) != ".txt" for file in files)


def _by_folder(path: Path, inside: Sequence[Path]) -> tuple[np.ndarray | None, tuple[str, ...]]:
    """Classes from the first folder that is no part of a split."""
    first = [[part for part in file.parts[:-1] if part.lower() not in PARTS] for file in inside]
    classes = sorted({parts[0] for parts in first if parts})
    if len(classes) < 2:
        return None, ()
    if alone := [file for file, parts in zip(inside, first, strict=True) if not parts]:
        raise DataError(
            f"{path}: {alone[0]} lies beside folders of clouds ({', '.join(classes[:3])}); move it into its class, or "
            "all clouds into one folder."
        )
    return np.array([classes.index(parts[0]) for parts in first], np.int64), tuple(classes)


def _split(inside: Sequence[Path]) -> np.ndarray | None:
    parts = [next((PARTS[part.lower()] for part in file.parts[:-1] if part.lower() in PARTS), None) for file in inside]
    return None if None in parts or len(set(parts)) < 2 else np.array(parts, bool)


def _joined(path: Path, found: Sequence[tuple[Path, PointClouds]]) -> PointClouds:
    """Archives of one data set, as ModelNet40 comes: train or test is in the names of the files."""
    sets = [clouds for _, clouds in found]
    if len({clouds.labels is None for clouds in sets}) > 1:
        raise DataError(f"{path}: some of its archives have labels and others have none.")
    clouds = tuple(cloud for part in sets for cloud in part.clouds)
    names = tuple(f"{file.relative_to(path).as_posix()}/{name}" for file, part in found for name in part.names)
    same_dimension(clouds, names, str(path))
    classes = tuple(sorted({name for part in sets for name in part.classes}, key=_by_number))
    labels = None
    if sets[0].labels is not None:
        words = [part.classes[label] for part in sets for label in part.labels.tolist()]  # pyright: ignore
        labels = np.array([classes.index(word) for word in words], np.int64)
    said = [[part for part in ("test", "train") if part in file.stem.lower()] for file, _ in found]
    test: np.ndarray | None = None
    if all(said) and len({words[0] for words in said}) == 2:
        test = np.concatenate([np.full(len(part), words[0] == "test") for words, part in zip(said, sets, strict=True)])
    elif all(part.test is not None for part in sets):
        test = np.concatenate([part.test for part in sets if part.test is not None])
    notes = tuple(dict.fromkeys(note for part in sets for note in part.notes))
    return PointClouds(clouds, names, labels, classes, test, path.name, notes)


def _by_number(word: str) -> tuple[int, str]:
    return (int(word), "") if word.isdecimal() else (10**9, word)


# -- what is said of them ----------------------------------------------------------------------------------------------


def _noted(found: PointClouds) -> PointClouds:
    """With hints at what the coordinates may mean."""
    notes = list(found.notes)
    if geographic(found.clouds[0]) and not any("latitudes" in note for note in notes):
        notes.append(GEOGRAPHIC.format(name=found.name))
    size = [float(np.ptp(cloud, axis=0).max()) for cloud in found.clouds]
    if min(size) > 0 and max(size) / min(size) > UNLIKE:
        small, large = (found.names[int(place)] for place in (np.argmin(size), np.argmax(size)))
        notes.append(
            f"{large} is {max(size) / min(size):.0f} times as large as {small}; coordinates carry no units, so see "
            "that all are in the same"
        )
    return replace(found, notes=tuple(notes))


def _few(notes: Sequence[str], most: int = 4) -> list[str]:
    """The first of many notes, and how many there are more."""
    return list(notes) if len(notes) <= most else [*notes[: most - 1], f"and {len(notes) - most} more such", notes[-1]]
