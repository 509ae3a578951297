"""One writer at a time in a folder.

The operating system holds the lock for the process and lets it go when the process ends, however it ends, so that
nobody waits for one that was killed. The file of the lock is there as long as the lock.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from linmap.errors import DataError

try:
    import fcntl
except ModuleNotFoundError:  # Windows: what the folder says of its generation must do
    fcntl = None


class BusyError(DataError):
    """Another program is writing in the same folder."""


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
        self._path, self._made = folder / name, not folder.exists()
        self._file: int | None = None
        if fcntl is None:
            return
        while self._file is None:
            folder.mkdir(parents=True, exist_ok=True)
            file = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o666)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(file)
                raise BusyError(f"another program is writing in {what or folder}; wait until it has ended.") from None
            except OSError:  # a file system without locks
                os.close(file)
                return
            if self._is_there(file):
                self._file = file
            else:  # the last holder took the file away after it was opened here
                os.close(file)

    def release(self) -> None:
        """Let others write; a folder that was made for the lock and is still empty goes too."""
        if self._file is not None:
            with suppress(FileNotFoundError):
                self._path.unlink()
            os.close(self._file)
            self._file = None
        if self._made:
            with suppress(OSError):
                self._path.parent.rmdir()

    def __del__(self) -> None:
        if getattr(self, "_file", None) is not None:
            self.release()

    def _is_there(self, file: int) -> bool:
        with suppress(FileNotFoundError):
            return os.path.samestat(os.fstat(file), os.stat(self._path))
        return False
