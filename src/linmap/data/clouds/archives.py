"""Many clouds in one file: `.npz`, `.npy`, and the `.h5` files of ModelNet40."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from linmap.data import require_file
from linmap.data.arrays import read_as_they_are, read_npy
from linmap.data.clouds.point_clouds import PointClouds, checked
from linmap.data.door import most_bytes, read_text, too_large, understood
from linmap.data.labels import one_for_each
from linmap.errors import DataError

ARCHIVES = (".npz", ".npy", ".h5", ".hdf5")
POINTS, LABELS = ("points", "X", "data"), ("label", "labels", "y")
TEST, TRAIN = ("test", "1"), ("train", "0")


def read_archive(path: Path | str) -> PointClouds:
    """The clouds of an archive.

    Parameters
    ----------
    path
        An `.npz` with `points` (clouds, points, coordinates) or one cloud (points, coordinates), and where known
        `label` (a number or text for each), `classes` (names by number), `split` (train or test, 0 or 1) and `mask`
        (clouds, points), True where there is a point; an `.npy` of clouds or of one; or an `.h5` with `data` and
        `label`, as ModelNet40 is published.

    Raises
    ------
    DataError
        If the file cannot be used; the message names the array and the first cloud that is wrong.
    """
    path = Path(path)
    require_file(path)
    arrays = _hdf5(path) if path.suffix.lower() in (".h5", ".hdf5") else _numpy(path)
    found = next((name for name in POINTS if name in arrays), None)
    if found is None:
        raise DataError(f"{path} has no array 'points' (clouds, points, coordinates); it holds {', '.join(arrays)}.")
    points = arrays[found]
    points = points[None] if points.ndim == 2 else points
    if points.ndim != 3 or points.dtype.kind not in "iuf" or 0 in points.shape:
        raise DataError(
            f"{path}: {found} must be numbers (clouds, points, coordinates), got {arrays[found].dtype} of shape "
            f"{arrays[found].shape}."
        )
    notes = []
    if points.shape[1] < points.shape[2]:
        notes.append(
            f"{path.name}: clouds have {points.shape[1]} points of {points.shape[2]} coordinates; if it is the other "
            "way round, save points.transpose(0, 2, 1)"
        )
    names = tuple(f"{number:0{len(str(len(points) - 1))}d}" for number in range(len(points)))
    clouds = _clouds(points, arrays.get("mask"), path)
    labels, classes = _labels(arrays, len(points), path)
    test = _test(arrays["split"], len(points), path) if "split" in arrays else None
    return PointClouds(clouds, names, labels, classes, test, path.stem, tuple(notes))


def _numpy(path: Path) -> dict[str, np.ndarray]:
    if path.suffix.lower() == ".npz":
        texts = ("classes", "split", "mask", *LABELS)
        arrays = read_as_they_are(path)  # of numbers that are not finite, the cloud is named later
        return {name: array for name, array in arrays.items() if name in (*POINTS, *texts)} or arrays
    return {"points": read_npy(path)}


def _hdf5(path: Path) -> dict[str, np.ndarray]:
    try:
        import h5py
    except ModuleNotFoundError:
        raise DataError(f"{path}: .h5 files need h5py: pip install h5py; or save the arrays as .npz.") from None
    with understood(path, "an HDF5 file"), h5py.File(path, "r") as file:
        arrays = {name: _dataset(file, name, path) for name in ("data", "label") if name in file}
        held = ", ".join(file)
    if "data" not in arrays:
        raise DataError(
            f"{path} has no 'data' (clouds, points, 3), as ModelNet40 has it; it holds {held or 'nothing'}."
        )
    if "label" in arrays:
        arrays["label"] = arrays["label"].reshape(len(arrays["label"]), -1)[:, 0]
    names = path.with_name("shape_names.txt")
    if names.is_file():
        arrays["classes"] = np.array(read_text(names).split())
    return arrays


def _dataset(file: Any, name: str, path: Path) -> np.ndarray:
    """An array that lies in the file itself: it could name others to be read, or a size that no memory holds."""
    found = file.get(name, getlink=True)
    if type(found).__name__ != "HardLink" or not hasattr(file[name], "nbytes") or file[name].external:
        raise DataError(f"{path}: {name!r} is no array of its own; save the numbers themselves.")
    if file[name].nbytes > most_bytes():
        raise too_large(path, f"{name!r} has more than")
    return np.asarray(file[name])


def _clouds(points: np.ndarray, mask: np.ndarray | None, path: Path) -> tuple[np.ndarray, ...]:
    if mask is None:
        return tuple(checked(cloud, f"{path}: cloud {i}") for i, cloud in enumerate(points))
    if mask.shape != points.shape[:2] or mask.dtype.kind not in "biu":
        raise DataError(
            f"{path}: mask must be True or False of shape {points.shape[:2]}, got {mask.dtype} {mask.shape}."
        )
    return tuple(checked(cloud[mask[i].astype(bool)], f"{path}: cloud {i}") for i, cloud in enumerate(points))


def _labels(arrays: dict[str, np.ndarray], n: int, path: Path) -> tuple[np.ndarray | None, tuple[str, ...]]:
    name = next((name for name in LABELS if name in arrays), None)
    if name is None:
        return None, ()
    labels = one_for_each(arrays[name], n, f"{path}: {name}", "clouds")
    if labels.dtype.kind == "f" and not (np.isfinite(labels).all() and (labels == np.round(labels)).all()):
        raise DataError(f"{path}: {name} must be whole numbers or text.")
    labels = labels.astype(np.int64) if labels.dtype.kind in "fb" else labels
    classes = arrays.get("classes")
    if classes is not None and labels.dtype.kind in "iu":
        if labels.min() < 0 or labels.max() >= len(classes):
            raise DataError(
                f"{path}: {name} goes from {labels.min()} to {labels.max()}, and classes has {len(classes)}."
            )
        return labels.astype(np.int64), tuple(map(str, classes))
    values, numbers = np.unique(labels, return_inverse=True)
    return numbers.astype(np.int64), tuple(map(str, values))


def _test(split: np.ndarray, n: int, path: Path) -> np.ndarray:
    split = one_for_each(split, n, f"{path}: split", "clouds")
    words = [str(int(value)) if split.dtype.kind in "biuf" else str(value).lower() for value in split.tolist()]
    if strange := sorted(set(words) - {*TEST, *TRAIN, "val", "validation"}):
        raise DataError(f"{path}: split holds {strange[0]!r}; expected train or test, 0 or 1.")
    return np.isin(words, TEST)
