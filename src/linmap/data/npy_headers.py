"""What NumPy files declare, looked at before NumPy takes memory for it."""

from __future__ import annotations

import ast
import math
import os
import re
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from linmap.data.door import most_bytes, too_large
from linmap.errors import DataError

LONGEST = 10_000
"""Characters of a header, as NumPy has it."""
MOST_AXES = 32
LONG_INTEGER = re.compile(r"(?<=\d)L\b")
"""How Python 2 wrote 5L."""


def check_npy(path: Path | str) -> None:
    """Refuse an `.npy` file that is none, holds Python objects, or declares more than it holds.

    Raises
    ------
    DataError
        With what is wrong.
    """
    with open(path, "rb") as file:
        _check(file, os.fstat(file.fileno()).st_size, str(path))


def check_npz(path: Path | str, archive: zipfile.ZipFile, names: list[str]) -> None:
    """The same of arrays of an archive; together they unpack to no more than `linmap.data.door.most_bytes`.

    Raises
    ------
    DataError
        With what is wrong.
    """
    held = {info.filename: info for info in archive.infolist()}
    members = [held[name] for name in (f"{name}.npy" if f"{name}.npy" in held else name for name in names)]
    if sum(info.file_size for info in members if info.compress_type != zipfile.ZIP_STORED) > most_bytes():
        raise too_large(path, "its arrays unpack to more than")
    size = os.stat(path).st_size
    for info in members:
        if info.compress_type == zipfile.ZIP_STORED and info.file_size > size:
            raise DataError(f"{path}: the array {info.filename!r} says that it is larger than the file.")
        with archive.open(info) as file:
            _check(file, info.file_size, f"{path}: {info.filename}")


def _check(file: Any, size: int, where: str) -> None:
    magic = file.read(8)
    if magic[:6] != b"\x93NUMPY" or len(magic) < 8 or magic[6] not in (1, 2, 3):
        raise DataError(f"{where} is no array that numpy.save wrote.")
    digits = 2 if magic[6] == 1 else 4
    length = int.from_bytes(file.read(digits), "little")
    if length > LONGEST:
        raise DataError(f"{where} has a header of {length} bytes, more than arrays of numbers or text have.")
    header = file.read(length).decode("latin-1" if magic[6] < 3 else "utf-8", "replace")
    shape, dtype = _declared(header, where)
    if dtype.hasobject:
        raise DataError(f"{where} holds Python objects; save numbers or text.")
    count = math.prod(shape)
    if count and not dtype.itemsize:
        raise DataError(f"{where} holds {count} values of no size; save numbers or text.")
    if count * dtype.itemsize > size - 8 - digits - length:
        raise DataError(f"{where} declares the shape {shape} of {dtype}, which is more than the file holds.")


def _declared(header: str, where: str) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Shape and type of values."""
    try:
        said = ast.literal_eval(LONG_INTEGER.sub("", header.strip()))
        shape, order = said["shape"], said["fortran_order"]
        dtype = np.lib.format.descr_to_dtype(said["descr"])
    except Exception:  # whatever Python makes of a damaged text
        raise DataError(f"{where} has a damaged header; write it with numpy.save.") from None
    whole = isinstance(shape, tuple) and all(type(n) is int and n >= 0 for n in shape)
    if not whole or len(shape) > MOST_AXES or type(order) is not bool:
        raise DataError(f"{where} has a damaged header; write it with numpy.save.")
    return shape, dtype
