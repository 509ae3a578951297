"""The folder in which a long job keeps what it has finished until all of it is there.

The job makes it, or the user has: a link, a mount, the current folder. What is removed in the end is what the job
wrote; the folder goes where the job made it and nobody has put anything else into it.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

from linmap.artifacts import staged, write_json
from linmap.ownership import make_folder, real
from linmap.processes import PARTIAL, partial_name, vacant

PLAN = "plan.json"
OURS = re.compile(r"plan\.json|budget\.json|\d{6,}\.(npy|json)")
MADE = "made"
"""In every plan: whether the job made the folder."""


def begin_work(work: Path, plan: dict[str, Any]) -> None:
    """Write the plan of a job into its folder, which appears with it if it was not there."""
    work = real(work)
    if work.exists():
        write_json(work / PLAN, plan | {MADE: False})
        return
    make_folder(work.parent)
    with staged(work, whole=True) as folder:
        (folder / PLAN).write_text(json.dumps(plan | {MADE: True}), encoding="utf-8")


def discard(work: Path) -> None:
    """Remove what a job wrote; one that is killed here leaves a folder with a plan, or what `processes.sweep` removes.

    Where the folder was not made by the job, is no longer there alone, or cannot be moved, its files go one by one, the
    plan as the last.
    """
    work = real(work)
    made = _plan(work).get(MADE, False)
    if made and all(OURS.fullmatch(path.name) or PARTIAL.fullmatch(path.name) for path in work.iterdir()):
        gone = work.with_name(partial_name(work))
        with suppress(OSError):
            os.rename(work, gone)
            shutil.rmtree(gone, ignore_errors=True)
            return
    if not vacant(work):
        for path in sorted(work.iterdir(), key=lambda path: path.name == PLAN):
            if OURS.fullmatch(path.name) and path.is_file():
                path.unlink(missing_ok=True)
    if made:
        with suppress(OSError):  # there is something of the user's in it
            work.rmdir()


def in_the_way(work: Path, resume: bool) -> bool:
    """Whether a folder is not empty and holds no plan of a job; one that is resumed reads what is called so itself."""
    return not is_work(work) and not (resume and (work / PLAN).exists()) and not vacant(work)


def is_work(work: Path) -> bool:
    """Whether the plan of a job is in a folder, and not a file of the user's with this name."""
    return MADE in _plan(work)


def _plan(work: Path) -> dict[str, Any]:
    with suppress(OSError, ValueError):
        plan = json.loads((work / PLAN).read_text(encoding="utf-8"))
        return plan if isinstance(plan, dict) else {}
    return {}
