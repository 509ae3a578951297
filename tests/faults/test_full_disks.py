"""Every kind of long job on a disk that is full before it ends, and on one that may only be read.

A disk is a file system in memory, mounted where nobody else sees it, which not every machine allows.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from faults.harness import Apart, Command, know
from faults.jobs import JOBS
from linmap.cli.errors import explain
from linmap.errors import LinmapError

ROOM = 256
"""MiB of a disk that is large enough."""
SHARES = (0.0, 0.3, 0.6, 0.9)
"""Of what a job writes in all, that the disk has room for."""
OWN_MOUNTS, OWN_USERS = 0x20000, 0x10000000  # CLONE_NEWNS, CLONE_NEWUSER


def on_a_disk(
    told: str, place: str, kib: int, read_only: bool, words: list[str], resume: list[str], entry: str
) -> None:
    """Run a command on a disk of this size, and again with room; write what came of it."""
    see_own_mounts()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={kib}k", "none", place], check=True)
    if read_only:
        subprocess.run(["mount", "-o", "remount,ro", place], check=True)
    os.chdir(place)
    module, _, function = entry.partition(":")
    run = getattr(importlib.import_module(module), function)
    first = _code(run, words)
    partial = [str(path) for path in Path(place).rglob("*.partial*")]
    used = (shutil.disk_usage(place).used >> 10) + 1
    subprocess.run(["mount", "-o", f"remount,rw,size={ROOM}m", place], check=True)
    again = _code(run, [*words, *resume] if first else words)
    found = {"code": first, "partial": partial, "used": used, "again": again, "modules": list(sys.modules)}
    Path(told).write_text(json.dumps(found))
    os._exit(0)  # what ends pools of workers when Python ends is not called in forks: their threads would wait


def see_own_mounts() -> None:
    """What this thread and those that it starts mount, nobody else sees; whoever is not root mounts as if he were."""
    user, group = os.getuid(), os.getgid()
    if ctypes.CDLL(None, use_errno=True).unshare(OWN_MOUNTS | (OWN_USERS if user else 0)):
        raise OSError(ctypes.get_errno(), "unshare")
    if user:
        for name, text in (("setgroups", "deny"), ("uid_map", f"0 {user} 1"), ("gid_map", f"0 {group} 1")):
            Path("/proc/self", name).write_text(text)
    subprocess.run(["mount", "--make-rprivate", "/"], check=True)


def _code(run: Any, words: list[str]) -> int:
    try:
        return run(words)
    except (LinmapError, OSError) as error:  # of an entry that is not the command line
        return explain(error)[0]


def ran(made: Command, folder: Path, kib: int, read_only: bool = False) -> dict[str, Any]:
    place, told = folder / "disk", folder / "told"
    place.mkdir(exist_ok=True)
    given = [str(told), str(place), kib, read_only, made.words, list(made.resume), made.entry]
    forked = made.forked and os.getuid() == 0  # libraries start threads in forks, beside which only root may do this
    run = Apart(on_a_disk, given, folder / "printed", forked)
    assert run.code() == 0, run.said()
    assert "Traceback" not in run.said(), run.said()
    found = json.loads(told.read_text())
    modules = found.pop("modules")
    if forked:
        know(modules)
    return found | {"said": run.said()}


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
    assert whole["code"] == 0, f"{whole}"
    for share in SHARES:
        shutil.rmtree(tmp_path / "disk")
        found = ran(made, tmp_path, max(int(share * whole["used"]), 8))
        assert found["code"] in (0, 2), f"{found}"
        assert found["partial"] == [], f"{found}"
        assert found["again"] == 0, f"{found}"
    shutil.rmtree(tmp_path / "disk")
    found = ran(made, tmp_path, ROOM << 10, read_only=True)
    assert found["code"] == 2, f"{found}"
    assert found["again"] == 0, f"{found}"
