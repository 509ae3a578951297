"""The one door through which files come in that linmap did not make: regular files, in bounded memory, or one line.

A named pipe would block for ever and a device never ends, so only regular files are read. What is packed small and
becomes large, and what declares more than its file can hold, is refused before it takes memory.
"""

from __future__ import annotations

import errno
import json
import math
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from linmap.errors import DataError, LinmapError, UsageError

GIB = 2**30
LONGEST_NAME = 255
"""Bytes that file systems take."""
LIMIT = "LINMAP_MAX_GIB"
MOST_SETTINGS = 2**28
"""Bytes of a file of settings or of results."""
KINDS = {
    stat.S_ISFIFO: "a named pipe",
    stat.S_ISSOCK: "a socket",
    stat.S_ISCHR: "a device",
    stat.S_ISBLK: "a device",
}
NO_PLACES = {
    errno.ELOOP: "this link leads to itself; point it to a file, or give the file",
    errno.ENAMETOOLONG: "this name is longer than names of files are; give a shorter one",
}
SEPARATORS = {";": "semicolons", "\t": "tabs", "|": "vertical bars"}
"""What spreadsheets write beside commas."""
OF_TYPES = re.compile(
    r"'\w+' object (?:has no attribute '\w+'|is not [a-z ]+|does not support [a-z ]+|cannot be [a-z ]+)"
    r"|'\S+' not supported between instances of '\w+' and '\w+'"
    r"|(?:unsupported operand|bad operand|can only concatenate|must be real number|unhashable type)\b.*"
)
"""What Python says where a value of a file is of another type than its reader takes."""
UNSAFE = ("pickle", "trust", "max_header_size", "unsafe", "weights_only")  # advice that does not belong to strangers


def most_bytes() -> int:
    """What one packed file may become in memory: 1 GiB, or `$LINMAP_MAX_GIB`.

    Raises
    ------
    UsageError
        If the variable is no positive number.
    """
    said = os.environ.get(LIMIT, "1")
    try:
        most = float(said) * GIB
    except ValueError:
        most = math.nan
    if not 0 < most < math.inf:
        raise UsageError(f"{LIMIT} must be a positive number of GiB, such as 4, got {said!r}.")
    return int(most)


def too_large(path: Path | str, what: str) -> DataError:
    """The error for a file that becomes larger than `most_bytes`."""
    return DataError(f"{path}: {what} {most_bytes() / GIB:g} GiB; if you trust the file, allow more with {LIMIT}.")


def hidden(path: Path, folder: Path) -> bool:
    """Whether a path is hidden below a folder: a part of its name there begins with a dot, or macOS made it."""
    return any(part.startswith(".") or part == "__MACOSX" for part in path.relative_to(folder).parts)


def files_inside(folder: Path, endings: tuple[str, ...], below: bool = False) -> list[Path]:
    """The files of a folder, or of those below too, whose names end so in whatever case, in order.

    Hidden ones are left out, and with them the "._NAME" that macOS writes beside each NAME on other systems' disks.
    """
    found = folder.rglob("*") if below else folder.iterdir()
    return sorted(p for p in found if p.name.lower().endswith(endings) and not (hidden(p, folder) or p.is_dir()))


def refuse_endless(path: Path | str) -> os.stat_result | None:
    """What the system tells of a path, None where it tells nothing; refused are a link that leads to itself, and a name
    that is longer than names are.

    Raises
    ------
    DataError
        With what it is.
    """
    try:
        return os.stat(path)
    except OSError as error:
        if error.errno in NO_PLACES:
            raise DataError(f"{path!s:.300}: {NO_PLACES[error.errno]}.") from None
        return None  # its reader knows what to say
    except ValueError:
        raise DataError(f"{str(path)!r} is no name of a file: it holds a null character.") from None


def refuse_special(path: Path | str) -> None:
    """Refuse what exists and is neither a regular file nor a folder: reading it would never end.

    Raises
    ------
    DataError
        With what it is.
    """
    if (found := refuse_endless(path)) is None:
        return
    mode = found.st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        kind = next((name for test, name in KINDS.items() if test(mode)), "no regular file")
        raise DataError(f"{path} is {kind}; write what comes out of it into a file, and give that.")


def read_bytes(path: Path | str, most: int | None = None) -> bytes:
    """All of a regular file.

    Parameters
    ----------
    path
        Of the file.
    most
        Bytes that it may have; all that there are when None.

    Raises
    ------
    DataError
        If it is a folder, a pipe or a device, or larger.
    OSError
        If there is none, or it cannot be opened.
    """
    refuse_special(path)
    if Path(path).is_dir():
        raise DataError(f"{path} is a folder; give a file.")
    with open(path, "rb") as file:
        if most is not None and os.fstat(file.fileno()).st_size > most:
            raise DataError(f"{path} has more than {most >> 20} MiB, too much for what it should be.")
        return file.read()


def read_text(path: Path | str, most: int | None = None, errors: str = "strict") -> str:
    """All of a text file in UTF-8, without a byte order mark; errors as of `read_bytes`, or if it is no such text."""
    try:
        return read_bytes(path, most).decode("utf-8-sig", errors)
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: byte {error.start} is not UTF-8; save it in UTF-8.") from None


def read_lines(path: Path | str, errors: str = "strict") -> list[str]:
    """The lines of a text file, without their ends."""
    return read_text(path, errors=errors).splitlines()


def load_json(path: Path | str, most: int = MOST_SETTINGS) -> Any:
    """The value of a JSON file of settings or results.

    Raises
    ------
    DataError
        As of `read_text`, or if it is not JSON, or nested too deep; NaN and infinities are not JSON.
    OSError
        If there is none, or it cannot be opened.
    """
    return json_value(read_text(path, most), path)


def json_value(text: str | bytes, where: Path | str) -> Any:
    """The value of a JSON text of `where`; errors as of `load_json`."""
    try:
        return json.loads(text, parse_constant=_refuse_constant)
    except RecursionError:
        raise DataError(f"{where} is nested too deep to be what it should be.") from None
    except ValueError as error:
        raise DataError(f"{where} is not JSON ({error}).") from None


def _refuse_constant(name: str) -> None:
    raise DataError(f"{name} is not JSON")


def inside(folder: Path | str, name: Any) -> Path:
    """The file of a folder that a file in it names: nothing outside of the folder can be meant.

    Raises
    ------
    DataError
        If the name is no plain name of a file.
    """
    if not isinstance(name, str) or name in ("", ".", "..") or set(name) & set("/\\\0") or not _fits(name):
        raise DataError(f"{folder} names the file {name!r:.80}, which is no name of a file in that folder.")
    return Path(folder) / name


def _fits(name: str) -> bool:
    """Whether file systems take a name of this length, all of which can be written."""
    try:
        return len(os.fsencode(name)) <= LONGEST_NAME
    except UnicodeEncodeError:
        return False


@contextmanager
def understood(path: Path | str, what: str, way: str = "write it again") -> Iterator[None]:
    """Whatever a library raises at a file that it does not understand is a `DataError` that names the file.

    Parameters
    ----------
    path
        Of the file; what is no regular file is refused.
    what
        What it should be, such as "an image".
    way
        What the user can do.

    Raises
    ------
    DataError
        In place of every error but linmap's own, of the system (no permission, a full disk) and of a missing package.
    """
    refuse_special(path)
    try:
        yield
    except (LinmapError, ImportError):
        raise
    except FileNotFoundError:
        raise DataError(f"{path}: there is no such file.") from None
    except MemoryError:
        raise DataError(f"{path} cannot be read as {what}: it asks for more memory than there is.") from None
    except Exception as error:
        if isinstance(error, OSError) and error.errno is not None and error.filename is not None:
            raise  # of the system, not of what the file holds
        raise DataError(f"{path} cannot be read as {what}{reason(error)}; {way}.") from None


def reason(error: BaseException) -> str:
    """What a library says of a file, in brackets, but for its advice to load it in a way that would run code."""
    text = plainly(" ".join(str(error).split()).rstrip("."))
    if text.startswith("Object arrays"):
        return " (it holds Python objects)"
    if not text or any(word in text for word in UNSAFE):
        return ""
    return f" ({text[:160]})"


def plainly(text: str) -> str:
    """What is said of a file, without Python's words for values of other types."""
    return OF_TYPES.sub("a value in it is of another type", text)
