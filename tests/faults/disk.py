"""A disk that loses what was not synced: what a folder would hold after a power cut, at any moment of a write.

`recorded` notes every `fsync` and every change of a name. Of each file, only what it held at its last sync is on the
disk. For names there are two worlds, and a careful writer survives both: names reach the disk when their folder is
synced, or at once, before what they stand for.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

CHANGES = ("rename", "replace", "unlink", "rmdir", "mkdir", "fsync")


class Disk:
    """What of `root` is on the disk."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.contents: dict[int, bytes] = {}
        self.names: dict[int, dict[str, int]] = {}
        self.folders: set[int] = set()
        for path in (root, *root.rglob("*")):
            self.sync(path)

    def sync(self, path: Path) -> None:
        found = path.stat()
        if path.is_dir():
            self.folders.add(found.st_ino)
            self.names[found.st_ino] = {entry.name: entry.inode() for entry in os.scandir(path)}
        else:
            self.contents[found.st_ino] = path.read_bytes()

    def after_a_cut(self, target: Path, names_at_once: bool) -> Path:
        """Write into `target` what would be there."""
        shutil.rmtree(target, ignore_errors=True)
        if names_at_once:
            for path in (self.root, *self.root.rglob("*")):
                copy = target / path.relative_to(self.root)
                if path.is_dir():
                    copy.mkdir()
                else:
                    copy.write_bytes(self.contents.get(path.stat().st_ino, b""))
        else:
            self._restore(self.root.stat().st_ino, target)
        return target

    def _restore(self, folder: int, target: Path) -> None:
        target.mkdir()
        for name, number in self.names.get(folder, {}).items():
            if number in self.folders:
                self._restore(number, target / name)
            else:
                (target / name).write_bytes(self.contents.get(number, b""))


@contextmanager
def recorded(root: Path, patch: Any, check: Callable[[Disk], None]) -> Iterator[Disk]:
    """Call `check` after every change of a name and every sync below `root`."""
    disk = Disk(root)
    for name in CHANGES:
        patch.setattr(os, name, _noting(getattr(os, name), name, disk, check))
    yield disk
    patch.undo()


def _noting(call: Callable, name: str, disk: Disk, check: Callable[[Disk], None]) -> Callable:
    def noting(*words: Any, **named: Any) -> Any:
        done = call(*words, **named)
        if name == "fsync":
            path = Path(os.readlink(f"/proc/self/fd/{words[0]}"))
            if path.is_relative_to(disk.root):
                disk.sync(path)
        elif name == "mkdir" and named.get("dir_fd") is None and Path(words[0]).is_relative_to(disk.root):
            disk.folders.add(os.stat(words[0]).st_ino)
        check(disk)
        return done

    return noting
