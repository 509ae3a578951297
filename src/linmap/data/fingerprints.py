"""What tells data from other data: a digest of files, and of what is held in memory."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np

from linmap.data.door import refuse_special
from linmap.errors import ArgumentTypeError

LIMIT = 2**26
"""Bytes of arrays that are read whole; of more, so many in evenly spaced rows: 64 MiB take 0.05 s."""
SCALARS = (int, float, bool, str, bytes, complex, type(None))


def fingerprint(path: Path | None) -> str | None:
    """The SHA-256 of what a file holds, or of all files in a folder with their names; None for None."""
    if path is None:
        return None
    digest = hashlib.sha256()
    files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
    for file in files:
        if path.is_dir():
            digest.update(f"{file.relative_to(path)}\0{file.stat().st_size}\0".encode())
        refuse_special(file)
        with file.open("rb") as stream:
            while chunk := stream.read(1 << 20):
                digest.update(chunk)
    return digest.hexdigest()


def content_fingerprint(content: Any, limit: int | None = LIMIT) -> str:
    """The SHA-256 of what is held in memory, the same in every process and on every device.

    Parameters
    ----------
    content
        Tensors, arrays, numbers and text, and lists, tuples, mappings and dataclasses of these. The order of a mapping
        does not count.
    limit
        Bytes of arrays that are read whole. Where there are more, every so many-th row of each array is read, and a
        change elsewhere is not seen; shapes and types always count. None reads all.

    Raises
    ------
    TypeError
        If there is something else in it.
    """
    size = sum(array.nbytes for array in _arrays(content)) if limit is not None else 0
    found = _Digest(1 if limit is None else max(1, -(-size // limit)))
    found.add(content)
    return found.sha256.hexdigest()


class _Digest:
    """Takes in values, each with its kind and its length before it, so that different ones are never the same bytes."""

    def __init__(self, step: int) -> None:
        self.step, self.sha256 = step, hashlib.sha256()

    def add(self, value: Any) -> None:
        parts = _parts(value)
        if _is_array(value):
            self._array(value)
        elif isinstance(value, SCALARS):
            self._text(repr(value))
        elif isinstance(value, Mapping):
            self._text(f"mapping {len(value)}")
            for name in sorted(value, key=repr):
                self.add(name)
                self.add(value[name])
        elif parts is not None and all(type(part) in SCALARS for part in parts):
            self._text(f"{len(parts)} {list(parts)!r}")
        elif parts is not None:
            self._text(f"sequence {len(parts)}")
            for part in parts:
                self.add(part)
        else:
            raise ArgumentTypeError(f"a {type(value).__name__} has no fingerprint; give arrays, numbers or text.")

    def _text(self, text: str) -> None:
        raw = text.encode()
        self.sha256.update(f"{len(raw)} ".encode() + raw)

    def _array(self, array: Any) -> None:
        self._text(f"{str(array.dtype).removeprefix('torch.')} {tuple(array.shape)}")
        if self.step > 1:
            array = array[:: self.step] if array.ndim and len(array) >= self.step else array.reshape(-1)[:: self.step]
        if isinstance(array, np.ndarray | np.generic):
            if array.dtype == object:
                self.add(array.tolist())
                return
            raw = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        else:
            import torch

            raw = array.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
        self.sha256.update(raw.data)


def _is_array(value: Any) -> bool:
    """Tensors by their look, for NumPy is enough to read files."""
    return isinstance(value, np.ndarray | np.generic) or hasattr(value, "untyped_storage")


def _parts(value: Any) -> Sequence[Any] | None:
    """What a sequence or a dataclass holds."""
    if is_dataclass(value) and not isinstance(value, type):
        return [getattr(value, part.name) for part in fields(value)]
    return value if isinstance(value, list | tuple | range) else None


def _arrays(content: Any) -> list[Any]:
    """The arrays in what is held."""
    if _is_array(content):
        return [content]
    inner = list(content.values()) if isinstance(content, Mapping) else _parts(content) or []
    return [array for part in inner if not isinstance(part, SCALARS) for array in _arrays(part)]
