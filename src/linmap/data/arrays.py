"""NumPy files (`.npz`, `.npy`): read without pickle and checked against what the caller expects; and written."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from linmap.data import require_file
from linmap.data.door import understood
from linmap.data.npy_headers import check_npy, check_npz
from linmap.errors import DataError

FULL = 4  # bytes of float32, which holds the shorter floating types of PyTorch that NumPy has not
NPZ, NPY = "a plain .npz archive", "a .npy file of numbers"


def array_of(values: Any) -> np.ndarray:
    """`np.asarray`, of PyTorch's tensors too: without their gradient, from any device, bfloat16 as float32."""
    if hasattr(values, "detach"):
        values = values.detach().cpu()
        short = values.is_floating_point() and values.element_size() < FULL
        values = values.float() if short and str(values.dtype) != "torch.float16" else values
    elif isinstance(values, list | tuple) and any(hasattr(one, "detach") for one in values):
        values = [array_of(one) for one in values]
    return np.asarray(values)


def read_npz(
    path: Path | str,
    names: Sequence[str] = (),
    ignore: Sequence[str] = (),
    only: Sequence[str] | None = None,
    texts: Sequence[str] = (),
) -> dict[str, np.ndarray]:
    """The arrays of an archive, by name.

    Parameters
    ----------
    path
        An `.npz` file as `numpy.savez` writes it.
    names
        Arrays that must be there.
    ignore
        Arrays to leave out, such as names.
    only
        Arrays to look at; all that are there when None.
    texts
        Arrays that may hold texts in place of numbers, such as classes.

    Raises
    ------
    DataError
        If the file is missing, empty or no archive, lacks one of `names`, or holds Python objects or values that are
        not finite numbers.
    """
    held = held_names(path)
    arrays = read_as_they_are(path, [name for name in held if name not in ignore and (only is None or name in only)])
    missing = [name for name in names if name not in arrays]
    if missing:
        raise DataError(f"{path} has no array {missing[0]!r}; it holds {', '.join(sorted(held)) or 'nothing'}.")
    for name, array in arrays.items():
        if array.dtype.kind == "U" and name in texts:
            continue
        if array.dtype.kind not in "biufc" or (array.dtype.kind in "fc" and not np.isfinite(array).all()):
            raise DataError(f"{path}: the array {name!r} holds something other than finite numbers ({array.dtype}).")
    return arrays


def held_names(path: Path | str) -> list[str]:
    """The names of an archive's arrays.

    Raises
    ------
    DataError
        If the file is missing, empty or no archive.
    """
    require_file(path)
    with understood(path, NPZ, "write it with numpy.savez"):
        with open(path, "rb") as file:
            if file.read(6) == b"\x93NUMPY":
                raise DataError(f"{path}: this is not {NPZ} (it holds a single array); write it with numpy.savez.")
        with np.load(path, allow_pickle=False) as archive:
            return list(archive.files)


def read_as_they_are(path: Path | str, names: Sequence[str] | None = None) -> dict[str, np.ndarray]:
    """The arrays of an archive that have these names, or all, whatever values they hold; names that it lacks are left
    out.

    Raises
    ------
    DataError
        If the file is missing, empty or no archive, or one of these is damaged or holds Python objects.
    """
    held = held_names(path)
    wanted = held if names is None else [name for name in dict.fromkeys(names) if name in held]
    with understood(path, NPZ, "write it with numpy.savez"), np.load(path, allow_pickle=False) as archive:
        check_npz(path, archive.zip, wanted)
        return {name: np.asarray(archive[name]) for name in wanted}


def read_npy(path: Path | str, mmap_mode: str | None = None) -> np.ndarray:
    """The array of an `.npy` file, mapped into memory where `mmap_mode` says so.

    Raises
    ------
    DataError
        If the file is missing, empty or no `.npy` file, holds Python objects, or declares more than it holds.
    """
    require_file(path)
    with understood(path, NPY, "write it with numpy.save"):
        check_npy(path)
        return np.load(path, mmap_mode=mmap_mode, allow_pickle=False)  # pyright: ignore[reportArgumentType]


def open_rows(path: Path | str) -> np.ndarray:
    """The matrix of a `.npy` file, one vector a row, mapped into memory.

    Raises
    ------
    DataError
        If the file is missing, empty, no `.npy` file, or holds something other than one matrix of numbers.
    """
    array = read_npy(path, mmap_mode="r")
    if array.ndim != 2 or 0 in array.shape or array.dtype.kind not in "fiu":
        raise DataError(
            f"{path} holds {array.dtype} of the shape {array.shape}; expected one matrix of real numbers, "
            "one vector a row."
        )
    return array


def write_npy(path: Path | str, array: np.ndarray) -> None:
    """Write an array as `numpy.save` does, whose own writing does not say why it failed: that a disk is full, say."""
    with open(path, "wb") as file:
        plain: Any = SimpleNamespace(write=file.write)  # what NumPy does not know as a file it writes by these calls
        np.lib.format.write_array(plain, array, allow_pickle=False)
