"""What an error means to the person at the terminal: an exit code and one line."""

from __future__ import annotations

import difflib
import errno
import os
from collections.abc import Iterable

from linmap.errors import DivergenceError, LinmapError, SingularMapError, one_line
from linmap.recipes.packages import remedy

NOT_OPENED = (FileNotFoundError, FileExistsError, IsADirectoryError, NotADirectoryError, PermissionError)
OF_THE_PLACE = {errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.ENAMETOOLONG, errno.ELOOP, errno.ENXIO}
"""A read-only or full file system, a quota, a name that is too long, links in a circle: the user has others."""
DONE, FAILED, WRONG_USE, INTERRUPTED = 0, 1, 2, 130


def explain(error: BaseException, room: str = "") -> tuple[int, str]:
    """Exit code and line; of a package that several extras bring, the extra of `room` is named.

    Wrong use is what linmap itself refuses, and a file that is not there or cannot be opened. Everything else is a
    failure.
    """
    message = one_line(str(error))
    if isinstance(error, LinmapError) and not isinstance(error, SingularMapError | DivergenceError):
        return WRONG_USE, message
    if isinstance(error, NOT_OPENED) or (isinstance(error, OSError) and error.errno in OF_THE_PLACE and error.filename):
        named = one_line(str(error.filename))
        return WRONG_USE, f"{named}: {str(error.strerror).lower()}" if error.filename else message
    if told := next((text for text in map(os.strerror, OF_THE_PLACE) if text.lower() in message.lower()), None):
        return WRONG_USE, f"{told.lower()}: make room, or write elsewhere ({message})"  # as libraries tell it
    if isinstance(error, ModuleNotFoundError) and error.name and not error.name.startswith("linmap"):
        if "pip install" in message:
            return WRONG_USE, message
        package = error.name.partition(".")[0]
        return WRONG_USE, f"this needs the package {package}: {remedy([package], room)}."
    return FAILED, f"{type(error).__name__}: {message}"


def nearest(word: str, names: Iterable[str], otherwise: str) -> str:
    """The name that was probably meant, or where all names are listed."""
    near = difflib.get_close_matches(word, list(names), n=1)
    return f"did you mean {near[0]!r}?" if near else f"`{otherwise}` lists them."
