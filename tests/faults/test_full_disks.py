"""Every kind of long job on a disk that is full before it ends, and on one that may only be read.

A disk is a file system in memory, mounted where nobody else sees it (`unshare`), which not every machine allows.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from faults.test_killed import JOBS
from linmap.errors import LinmapError

ROOM = 256
"""MiB of a disk that is large enough."""
SHARES = (0.0, 0.3, 0.6, 0.9)
"""Of what a job writes in all, that the disk has room for."""
PROGRAM = "import json, sys\nfrom faults.test_full_disks import on_a_disk\non_a_disk(*json.loads(sys.argv[1]))"


def on_a_disk(place: str, kib: int, read_only: bool, words: list[str], resume: list[str], entry: str) -> None:
    """In a name space of its own: run a command on a disk of this size, and again with room; tell what came of it."""
    from importlib import import_module

    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={kib}k", "none", place], check=True)
    if read_only:
        subprocess.run(["mount", "-o", "remount,ro", place], check=True)
    os.chdir(place)
    module, _, function = entry.partition(":")
    run = getattr(import_module(module), function)
    first = _code(run, words)
    partial = [str(path) for path in Path(place).rglob("*.partial*")]
    used = (shutil.disk_usage(place).used >> 10) + 1
    subprocess.run(["mount", "-o", f"remount,rw,size={ROOM}m", place], check=True)
    again = _code(run, [*words, *resume] if first else words)
    print(json.dumps({"code": first, "partial": partial, "used": used, "again": again}))


def _code(run: Any, words: list[str]) -> int:
    from linmap.cli.errors import explain

    try:
        return run(words)
    except (LinmapError, OSError) as error:  # of an entry that is not the command line
        return explain(error)[0]


def ran(made: Any, folder: Path, kib: int, read_only: bool = False) -> dict[str, Any]:
    place = folder / "disk"
    place.mkdir(exist_ok=True)
    given = json.dumps([str(place), kib, read_only, made.words, list(made.resume), made.entry])
    paths = os.pathsep.join(path for path in sys.path if path)
    done = subprocess.run(
        ["unshare", "-rm", sys.executable, "-c", PROGRAM, given],
        env=os.environ | {"PYTHONPATH": paths, "LINMAP_STATE": str(folder / "state")},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert "Traceback" not in done.stderr, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1]) | {"said": done.stderr[-600:]}


def may_mount() -> bool:
    if shutil.which("unshare") is None:
        return False
    words = ["unshare", "-rm", "mount", "-t", "tmpfs", "none", "/mnt"]
    return subprocess.run(words, capture_output=True, check=False).returncode == 0


@pytest.mark.slow
@pytest.mark.skipif(not may_mount(), reason="file systems may not be mounted here")
@pytest.mark.parametrize("job", JOBS)
def test_a_job_on_a_full_disk_says_so_and_goes_on_when_there_is_room(job: str, tmp_path: Path) -> None:
    made = JOBS[job](tmp_path)
    whole = ran(made, tmp_path, ROOM << 10)
    assert whole["code"] == 0, whole
    for share in SHARES:
        shutil.rmtree(tmp_path / "disk")
        found = ran(made, tmp_path, max(int(share * whole["used"]), 8))
        assert found["code"] in (0, 2), found
        assert found["partial"] == [], found
        assert found["again"] == 0, found
    shutil.rmtree(tmp_path / "disk")
    found = ran(made, tmp_path, ROOM << 10, read_only=True)
    assert found["code"] == 2, found
    assert found["again"] == 0, found
