"""Files that may be compressed, by the last suffix of their name: `.gz`, `.bz2`, `.xz`, `.zst`."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, cast

from linmap.data.door import most_bytes, refuse_special, too_large
from linmap.errors import DataError

BETWEEN, EACH = b",\n[{", 16
"""What stands between values of a text, and the bytes that a value takes in memory beside its letters."""
DAMAGED = (gzip.BadGzipFile, lzma.LZMAError, zlib.error, EOFError)


def suffix_of(path: Path) -> str:
    """The suffix of what is inside: `.jsonl` of `a.jsonl` and of `a.jsonl.gz`, in lower case."""
    return Path(path.stem).suffix.lower() if is_compressed(path) else path.suffix.lower()


def is_compressed(path: Path) -> bool:
    return path.suffix.lower() in OPENERS


def with_compressed(suffixes: Iterable[str]) -> tuple[str, ...]:
    """Suffixes, as they are and with those of compressed files behind."""
    return tuple(f"{suffix}{packed}" for suffix in suffixes for packed in ("", *OPENERS))


@contextmanager
def open_bytes(path: Path, whole: bool = True, text: bool = True) -> Iterator[BinaryIO]:
    """A file's bytes, decompressed where its name says that it is compressed.

    Parameters
    ----------
    path
        Of the file.
    whole
        Whether what is unpacked stays in memory, and so may not be more than `linmap.data.door.most_bytes`.
    text
        Whether it is text with values, each of which counts as `EACH` bytes more.

    Raises
    ------
    DataError
        If it is a pipe or a device, not compressed the way its name says, cut off, or larger.
    """
    refuse_special(path)
    if not is_compressed(path):
        with open(path, "rb") as file:
            yield file
        return
    try:
        with OPENERS[path.suffix.lower()](path) as file:
            yield cast(BinaryIO, io.BufferedReader(_Bounded(path, file, text), 2**16)) if whole else file
    except DAMAGED as error:
        raise DataError(f"{path} is damaged, or not compressed as its name says ({error}); write it again.") from None
    except OSError as error:
        if error.errno is not None:  # of the system, not of what the file holds
            raise
        raise DataError(f"{path} is damaged, or not compressed as its name says ({error}); write it again.") from None


def measure(path: Path) -> int:
    """The bytes that a file unpacks to, which `open_bytes` bounds; for libraries that open it themselves."""
    with open_bytes(path, text=False) as file:
        return sum(len(block) for block in iter(lambda: file.read(2**20), b""))


def lines_of(path: Path, file: Any) -> Iterator[bytes]:
    """Lines with their ends, none of which takes more than `linmap.data.door.most_bytes` where the file is packed.

    Raises
    ------
    DataError
        At one that takes more.
    """
    if not is_compressed(path):
        yield from file
        return
    most = most_bytes()
    while line := file.readline(most + 1):
        if weight(line) > most:
            raise too_large(path, "one line unpacks to more than")
        yield line


def weight(text: bytes) -> int:
    """Bytes that a text takes when its values are read, at least: a few letters may be a list."""
    return len(text) + EACH * sum(map(text.count, BETWEEN))


class _Bounded(io.RawIOBase):
    """What is unpacked, up to the bound."""

    def __init__(self, path: Path, file: Any, text: bool) -> None:
        self._path, self._file, self._left = path, file, most_bytes()
        self._weight = weight if text else len

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._file.read(len(buffer))
        self._left -= self._weight(data)
        if self._left < 0:
            raise too_large(self._path, "it unpacks to more than")
        buffer[: len(data)] = data
        return len(data)


def _zstandard(path: Path) -> Any:
    """By pyarrow, for Python has it from 3.14 on alone."""
    try:
        import pyarrow
    except ModuleNotFoundError:
        raise DataError(f"reading {path} needs pyarrow: pip install 'linmap[retrieve]'.") from None
    return io.BufferedReader(pyarrow.CompressedInputStream(pyarrow.OSFile(str(path)), "zstd"), 2**16)


OPENERS: dict[str, Callable[[Path], Any]] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open, ".zst": _zstandard}
