"""The app killed while a command runs: the command ends with it, and goes on in the next app."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from faults.harness import contents
from faults.own_files import waves
from linmap.app import jobs
from test_processes import wait_for_end

APP = """
import json, sys, time
from pathlib import Path
from linmap.app.jobs import Jobs
if __name__ == "__main__":
    jobs, words = Jobs(Path(sys.argv[1])), json.loads(sys.argv[2])
    if found := jobs.all():
        assert found[0].state == "lost", found[0].state
        jobs.resume(found[0].id)
    else:
        jobs.start(jobs.folder("fit", "hippo"), "fit", "hippo", words, True)
    while not (job := jobs.all()[0]).over:
        time.sleep(0.05)
        if job.id in jobs._processes:
            print(jobs._processes[job.id].pid, flush=True)
    print(job.state, flush=True)
    jobs.close()
"""


def app(runs: Path, words: list[str]) -> subprocess.Popen[str]:
    line = [sys.executable, "-c", APP, str(runs), json.dumps(words)]
    return subprocess.Popen(line, stdout=subprocess.PIPE, text=True)


def latest(run: Path) -> int:
    """The number of the newest checkpoint; the others are gone."""
    return max((int(path.name.partition("-")[2]) for path in run.rglob("checkpoint-" + "[0-9]" * 6)), default=0)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_a_command_ends_with_the_app_and_goes_on_in_the_next(seed: int, tmp_path: Path) -> None:
    flags = ["--epochs", "40", "--d-model", "8", "--d-state", "8", "--layers", "1"]
    data = str(waves(tmp_path, np.random.default_rng(0)))
    words = ["fit", "hippo", "--data", data, "--out", "out/run", *flags]
    whole = app(tmp_path / "whole", words)
    assert whole.communicate()[0].split()[-1] == "done"
    killed = app(tmp_path / "cut", words)
    assert killed.stdout is not None
    command = int(killed.stdout.readline())
    run = next((tmp_path / "cut").glob("*-fit")) / "out" / "run"
    end = time.monotonic() + 120
    while latest(run) <= 5 * seed and time.monotonic() < end:
        time.sleep(0.02)
    assert 5 * seed < latest(run) < 40
    killed.kill()
    killed.communicate()
    assert wait_for_end(command, jobs.PATIENCE + 10)
    again = app(tmp_path / "cut", words)
    assert again.communicate()[0].split()[-1] == "done"
    folders = [next((tmp_path / name).glob("*-fit")) / "out" for name in ("whole", "cut")]
    first, second = map(contents, folders)
    assert first == second
    assert not list((tmp_path / "cut").rglob("*.lock"))
