"""NumPy files (`.npz`, `.npy`), read without pickle and checked against what the caller expects."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from linmap.data import require_file
from linmap.errors import ArgumentError, DataError


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
    require_file(path)
    try:
        archive = np.load(path, allow_pickle=False)
        if not isinstance(archive, np.lib.npyio.NpzFile):
            raise ArgumentError("it holds a single array")
        with archive:
            wanted = [name for name in archive.files if name not in ignore and (only is None or name in only)]
            arrays, held = {name: archive[name] for name in wanted}, sorted(archive.files)
    except FileNotFoundError:
        raise DataError(f"{path}: there is no such file.") from None
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"{path}: this is not a plain .npz archive{_why(error)}; write it with numpy.savez.") from None
    missing = [name for name in names if name not in arrays]
    if missing:
        raise DataError(f"{path} has no array {missing[0]!r}; it holds {', '.join(held) or 'nothing'}.")
    for name, array in arrays.items():
        if array.dtype.kind == "U" and name in texts:
            continue
        if array.dtype.kind not in "biufc" or (array.dtype.kind in "fc" and not np.isfinite(array).all()):
            raise DataError(f"{path}: the array {name!r} holds something other than finite numbers ({array.dtype}).")
    return arrays


def open_rows(path: Path | str) -> np.ndarray:
    """The matrix of a `.npy` file, one vector a row, mapped into memory.

    Raises
    ------
    DataError
        If the file is missing, empty, no `.npy` file, or holds something other than one matrix of numbers.
    """
    require_file(path)
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise DataError(f"{path}: there is no such file.") from None
    except (ValueError, OSError, EOFError) as error:
        raise DataError(f"{path}: this is not a .npy file of numbers{_why(error)}; write it with numpy.save.") from None
    if not isinstance(array, np.ndarray) or array.ndim != 2 or 0 in array.shape or array.dtype.kind not in "fiu":
        raise DataError(f"{path} must hold one matrix of numbers, one vector a row; write it with numpy.save.")
    return array


def _why(error: Exception) -> str:
    """What NumPy says of a file, but for its advice to unpickle it, which would run what is in there."""
    text = str(error)
    if text.startswith("Object arrays"):
        return " (it holds Python objects, not numbers)"
    return "" if "pickle" in text or "PosixPath" in text or not text else f" ({text.rstrip('.')})"
