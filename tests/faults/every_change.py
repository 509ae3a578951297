"""A call killed before each change that it makes on the disk, one after the other: for what is done in milliseconds."""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

from faults.harness import CHANGES

KILLED = 9


def killed_at_every_change(call: Callable[[Path], object], folder: Path) -> Iterator[Path]:
    """Folders in which `call(place)` was killed before its first, second, ... change, up to the last."""
    at, code = 0, KILLED
    while code == KILLED:
        at += 1
        place = folder / f"killed at {at}"
        place.mkdir()
        if (child := os.fork()) == 0:
            os._exit(_run(call, place, at))
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert code in (0, KILLED), code
        yield place
    assert at > 2, "it changes nothing"


def _run(call: Callable[[Path], object], place: Path, at: int) -> int:
    count, fsync = 0, os.fsync

    def counted(change: Callable) -> Callable:
        def counting(*args: object, **named: object) -> object:
            nonlocal count
            count += 1
            if count == at:
                os._exit(KILLED)
            return None if change is fsync else change(*args, **named)  # the system lives, and so does what it holds

        return counting

    for name in (*CHANGES, "rmdir"):
        setattr(os, name, counted(getattr(os, name)))
    try:
        call(place)
    except BaseException:
        traceback.print_exc()
        return 1
    return 0
