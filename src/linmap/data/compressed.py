"""Files that may be compressed, by the last suffix of their name: `.gz`, `.bz2`, `.xz`, `.zst`."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from linmap.errors import DataError

DAMAGED = (gzip.BadGzipFile, lzma.LZMAError, zlib.error, EOFError)


def suffix_of(path: Path) -> str:
    """The suffix of what is inside: `.jsonl` of `a.jsonl` and of `a.jsonl.gz`, in lower case."""
    return Path(path.stem).suffix.lower() if is_compressed(path) else path.suffix.lower()


def is_compressed(path: Path) -> bool:
    return path.suffix.lower() in OPENERS


@contextmanager
def open_bytes(path: Path) -> Iterator[BinaryIO]:
    """A file's bytes, decompressed where its name says that it is compressed.

    Raises
    ------
    DataError
        If it is not compressed the way its name says, or cut off.
    """
    if not is_compressed(path):
        with open(path, "rb") as file:
            yield file
        return
    try:
        with OPENERS[path.suffix.lower()](path) as file:
            yield file
    except DAMAGED as error:
        raise DataError(f"{path} is damaged, or not compressed as its name says ({error}); write it again.") from None
    except OSError as error:
        if error.errno is not None:  # of the system, not of what the file holds
            raise
        raise DataError(f"{path} is damaged, or not compressed as its name says ({error}); write it again.") from None


def _zstandard(path: Path) -> Any:
    """By pyarrow, for Python has it from 3.14 on alone."""
    try:
        import pyarrow
    except ModuleNotFoundError:
        raise DataError(f"reading {path} needs pyarrow: pip install 'linmap[retrieve]'.") from None
    return io.BufferedReader(pyarrow.CompressedInputStream(pyarrow.OSFile(str(path)), "zstd"), 2**16)


OPENERS: dict[str, Callable[[Path], Any]] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open, ".zst": _zstandard}
