"""One writer at a time: of a result at `--out`, a work folder, a store, a folder of checkpoints.

The lock is a file with `flock`: the operating system holds it for the process and lets it go when the process ends,
however it ends, so that nobody waits for one that was killed. The file says who holds it, and is there as long as the
lock; one that a killed process left behind is taken over.

This holds among the processes of a machine, and among machines where the file system passes `flock` on (NFS 4, Lustre
with `-o flock`, CephFS, GPFS). Where it has no locks at all, and on Windows, the file itself is the lock: one that
names a process of this machine that has ended is taken over, and one of another machine is not.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from linmap.errors import DataError
from linmap.ownership import command, make_folder
from linmap.processes import is_first, lives, machine, this_process

try:
    import fcntl
except ModuleNotFoundError:  # Windows
    fcntl = None

SETTLED = 0.05  # seconds after which the last of several that take over one file at once is known
LOOK_EVERY = 0.1  # seconds between two tries of one that waits
LONG = 200  # bytes of a name, beyond which a lock is named by a digest: file systems take 255


class BusyError(DataError):
    """Another program is writing in the same place."""


_HELD: ContextVar[frozenset[Path]] = ContextVar("linmap_held", default=frozenset())


@contextmanager
def sole(path: Path | str | None, wait: bool = False, again: bool = True) -> Iterator[None]:
    """Nobody else writes `path`, a file or a folder, while this runs; the lock lies beside it.

    Of several processes that a launcher started, the first asks for all.

    Parameters
    ----------
    path
        It need not be there; None, a device or a pipe: nothing is asked.
    wait
        Wait for another owner to end, instead of refusing.
    again
        Whether a caller further up may own it already, and this belongs to its work.

    Raises
    ------
    BusyError
        If another process, or another thread of this one, writes there.
    """
    path = None if path is None else Path(os.path.realpath(path))
    special = path is not None and os.path.exists(path) and not os.path.isfile(path) and not os.path.isdir(path)
    if path is None or special or (again and path in _HELD.get()) or not is_first():
        yield
        return
    lock = _beside(path, wait)
    token = _HELD.set(_HELD.get() | {path})
    try:
        yield
    finally:
        _HELD.reset(token)
        if lock is not None:
            lock.release()


def _beside(path: Path, wait: bool) -> FolderLock | None:
    """The lock of a path; in it where one cannot write beside it, and None where not there either."""
    name = path.name if len(os.fsencode(path.name)) < LONG else hashlib.sha256(os.fsencode(path.name)).hexdigest()
    while True:
        try:
            for folder, file in ((path.parent, f".{name}.lock"), (path, ".lock")):
                with suppress(OSError):
                    return FolderLock(folder, file, path)
            return None  # whoever writes here is told why that cannot be
        except BusyError:
            if not wait:
                raise
        time.sleep(LOOK_EVERY)


class FolderLock:
    """The right to write in a folder, until `release`, or until nothing refers to the lock.

    Parameters
    ----------
    folder
        Made if it is not there.
    name
        Of the file that stands for the lock in it.
    what
        What is written there, for the message.

    Raises
    ------
    BusyError
        If another process, or another lock of this one, has it.
    """

    def __init__(self, folder: Path, name: str = ".lock", what: Path | None = None) -> None:
        self._path, self._what = folder / name, what or folder
        self._file: int | None = None
        self._pid = os.getpid()  # a fork has this object too, and not the lock
        self._made: list[Path] = []
        try:
            self._made = make_folder(folder)
            self._take()
        except OSError:
            self.release()  # on a full disk there is a file, which cannot be signed
            raise

    def _take(self) -> None:
        while self._file is None:
            file = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o666)
            try:
                if fcntl is None:
                    raise OSError
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                holder = _read(file)
                os.close(file)
                raise BusyError(self._refusal(holder)) from None
            except OSError:  # a file system without locks
                try:
                    self._take_over(file)
                except (BusyError, OSError):
                    os.close(file)
                    raise
            if self._is_there(file):
                self._file = file
                self._sign(file)
            else:  # the last holder took the file away after it was opened here
                os.close(file)

    def _take_over(self, file: int) -> None:
        """Where the file itself is the lock: take one that is new, or of a process that has ended.

        Of several that try at once, the one that signs last has it.
        """
        holder = _read(file)
        if holder and lives(str(holder["process"])) is not False:
            raise BusyError(self._refusal(holder))
        self._sign(file)
        time.sleep(SETTLED)
        if (now := _read(file)).get("process") != this_process():
            raise BusyError(self._refusal(now))

    def _sign(self, file: int) -> None:
        """Say in the file who holds it."""
        holder = {
            "pid": os.getpid(),
            "host": platform.node(),
            "since": time.strftime("%Y-%m-%d %H:%M:%S"),
            "command": command(),
            "process": this_process(),
        }
        os.ftruncate(file, 0)
        os.pwrite(file, json.dumps(holder).encode(), 0)

    def _refusal(self, holder: dict[str, Any]) -> str:
        who = gone = ""
        if {"pid", "host", "since"} <= holder.keys():
            what = f"`linmap {holder['command']}`, " if holder.get("command") else ""
            who = f" ({what}process {holder['pid']} on {holder['host']}, since {holder['since']})"
            if not holder["process"].endswith(machine()):
                gone = f" or, if that machine is gone, delete {self._path}"
        return f"another program is writing in {self._what}{who}; wait until it has ended{gone}, or name another place."

    def release(self) -> None:
        """Let others write; folders that were made for the lock and are still empty go too."""
        if self._pid != os.getpid():
            return
        if self._file is not None:
            if self._is_there(self._file):  # a Ctrl-C may have ended an earlier release after this
                self._path.unlink()
            file, self._file = self._file, None
            os.close(file)
        self._leave_folders()

    def _leave_folders(self) -> None:
        for folder in self._made:
            with suppress(OSError):
                folder.rmdir()
        self._made = []

    def __del__(self) -> None:
        if getattr(self, "_file", None) is not None:
            self.release()

    def _is_there(self, file: int) -> bool:
        with suppress(FileNotFoundError):
            return os.path.samestat(os.fstat(file), os.stat(self._path))
        return False


def _read(file: int) -> dict[str, Any]:
    """Who holds a lock, as the file says; {} where it does not."""
    with suppress(OSError, ValueError):
        holder = json.loads(os.pread(file, 4096, 0))
        if isinstance(holder, dict) and isinstance(holder.get("process"), str):
            return holder
    return {}
