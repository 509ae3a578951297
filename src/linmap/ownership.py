"""Whose file is it: a command replaces only what the same command wrote before.

Whatever is written atomically passes `claim` before and `record` after. While a command of the command line runs
(`owner`), a file that is there already is replaced only if this command wrote it and nobody has changed it since, or
if it lies in the folder at `--out` that this command made or filled. What was written is remembered in the user's state
folder (`$LINMAP_STATE`, else `$XDG_STATE_HOME/linmap`, else `~/.local/state/linmap`), a small file for each path.
Without an owner, as in Python, nothing is asked and nothing is remembered.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, replace
from pathlib import Path

from linmap.errors import DataError, UsageError
from linmap.processes import partial_name, sweep


@dataclass(frozen=True)
class Owner:
    """The command that runs."""

    name: str
    """Verb and system, such as "apply mbat"."""
    overwrite: bool = False
    """Replace what others wrote, because the user says so."""
    out: Path | None = None
    """What it was told to write: of its own folders, this and those inside are its own with all that is in them."""


NO_FOLDERS = (errno.EEXIST, errno.ENOTDIR, errno.ENOENT, errno.ELOOP, errno.ENAMETOOLONG)
"""Why a place can have no folder."""
_swept: set[Path] = set()  # homes in which this process has remembered something
_OWNER: ContextVar[Owner | None] = ContextVar("linmap_owner", default=None)


@contextmanager
def owner(name: str, overwrite: bool = False, out: Path | None = None) -> Iterator[None]:
    """Everything written inside belongs to the command `name`, which was told to write `out`."""
    token = _OWNER.set(Owner(name, overwrite, out))
    try:
        yield
    finally:
        _OWNER.reset(token)


@contextmanager
def replacing() -> Iterator[None]:
    """What is written inside replaces files that are known to be linmap's, whoever ran the command that wrote them."""
    now = _OWNER.get()
    token = _OWNER.set(now and replace(now, overwrite=True))
    try:
        yield
    finally:
        _OWNER.reset(token)


def command() -> str:
    """Verb and system of the running command; nothing in Python."""
    now = _OWNER.get()
    return now.name if now else ""


def claim(path: Path | str) -> None:
    """Ask whether the running command may write `path`.

    Raises
    ------
    UsageError
        If a file or a folder with something in it is there that this command did not write.
    """
    path, now = Path(path), _OWNER.get()
    if now is None:
        return
    if os.path.lexists(path) and not now.overwrite and not _may_replace(path, now):
        raise UsageError(
            f"{path} is there already and was not written by this command, or has been changed since; "
            "choose another name, or allow to replace it with overwrite=True."
        )


def check_place(path: Path) -> None:
    """Refuse, before any work, an output that could not be written after it.

    Raises
    ------
    UsageError
        If it is a pipe or a device, a name in it is too long, or nothing can be written where it would be.
    """
    check_way(path)
    if path.exists() and not path.is_file() and not path.is_dir():
        raise UsageError(f"{path} is a pipe or a device; name a file or a folder.")
    folder = next(above for above in (path, *Path(os.path.abspath(path)).parents) if above.exists())
    folder = folder.parent if folder.is_file() and folder == path else folder
    if not folder.is_dir():
        raise UsageError(f"{path} cannot be written: {folder} is no folder.")
    if not os.access(folder, os.W_OK):
        raise UsageError(f"{path} cannot be written: nothing may be written in {folder}.")


def check_way(path: Path) -> None:
    """Refuse a path that goes up (`..`) from a folder that is not there: to make that one would leave it behind.

    Raises
    ------
    DataError
        With the folder.
    """
    ups = (step.parent for step in (path, *path.parents) if step.name == "..")
    if lost := next((folder for folder in ups if not folder.is_dir()), None):
        raise DataError(f"{path} cannot be written: there is no folder {lost}.")


def real(path: Path | str) -> Path:
    """Where a path leads through all links; up to one that leads to itself, at which `Path.resolve` would raise."""
    return Path(os.path.realpath(path))


def make_folder(path: Path) -> list[Path]:
    """Make a folder and those above it; what is new, the deepest first, belongs to the running command.

    Raises
    ------
    DataError
        If there can be none of this name.
    """
    check_way(path)
    try:
        missing = [folder for folder in (path, *path.parents) if not folder.exists()]
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        if error.errno not in NO_FOLDERS:
            raise  # no permission, no room
        taken = error.errno != errno.ENAMETOOLONG and os.path.lexists(error.filename or path)
        why = "something of that name is there" if taken else "no folders can be made there"
        raise DataError(f"{path} cannot be made a folder: {why}; name another place.") from None
    for folder in missing:
        sync(folder.parent)
        record(folder)
    return missing


def sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk; some systems cannot say it of folders."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except PermissionError:
        if path.is_dir():  # Windows opens none, and others only what may be read
            return
        raise
    try:
        os.fsync(descriptor)
    except OSError as error:
        if not (path.is_dir() and error.errno in (errno.EINVAL, errno.ENOTSUP)):  # file systems without it
            raise
    finally:
        os.close(descriptor)


@contextmanager
def filling(path: Path) -> Iterator[None]:
    """A folder that a command fills; where the command ends without a file in it, what was made goes again."""
    made = make_folder(path)
    try:
        yield
    finally:
        for folder in made:
            with suppress(OSError):
                folder.rmdir()  # only if it is empty


def record(path: Path | str, coming: Path | None = None) -> None:
    """Remember that the running command wrote `path`, or is about to put the file `coming` in its place.

    Whether it is killed before or after that, the file is its own.
    """
    path, now = Path(path), _OWNER.get()
    if now is None:
        return
    with suppress(OSError):  # a home that cannot be written to: the next run asks
        note = _note(path)
        states = [_state(path)] if coming is None else [_state(coming)]
        if coming is not None and _is_own(path, now.name):
            states.append(_state(path))
        note.parent.mkdir(parents=True, exist_ok=True)
        if note.parent not in _swept:
            _swept.add(note.parent)
            sweep(note.parent)
        partial = note.with_name(partial_name(note))
        partial.write_text(json.dumps({"path": os.path.abspath(path), "by": now.name, "states": states}))
        os.replace(partial, note)


def _may_replace(path: Path, now: Owner) -> bool:
    if path.is_dir() and not any(path.iterdir()):
        return True
    return _is_own(path, now.name) or any(_is_own(folder, now.name) for folder in _folders(path, now.out))


def _folders(path: Path, out: Path | None) -> list[Path]:
    """Those of a path in which nothing is the user's, once the command has made them: `out` and what is inside."""
    if out is None:
        return []
    return [folder for folder in Path(os.path.abspath(path)).parents if folder.is_relative_to(os.path.abspath(out))]


def _is_own(path: Path, name: str) -> bool:
    try:
        note = json.loads(_note(path).read_text())
        return note["by"] == name and _state(path) in note.get("states", [note.get("state")])
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _state(path: Path) -> list[int]:
    """What changes when somebody else writes the file, or makes the folder anew."""
    found = path.stat()
    return [found.st_ino] if path.is_dir() else [found.st_size, found.st_mtime_ns]


def _note(path: Path) -> Path:
    home = os.environ.get("LINMAP_STATE") or Path(
        os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state", "linmap"
    )
    return (
        Path(home)
        / "written"
        / f"{hashlib.sha256(os.path.abspath(path).encode(errors='surrogateescape')).hexdigest()[:32]}.json"
    )
