"""Who lives, what the dead left, and workers that end with their parent."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from linmap import processes
from linmap.artifacts import atomic_path, staged, write_text
from linmap.cli import main
from linmap.errors import ArgumentError, UsageError
from linmap.processes import is_first, lives, partial_name, sweep, this_process
from linmap.training.preparation import make_accelerator

WORKER = """
import os, sys, time
from linmap.processes import check_parent, end_with_parent
end_with_parent(os.getppid())
print(os.getpid(), flush=True)
time.sleep(60)
"""
PARENT = f"""
import subprocess, sys, time
subprocess.Popen([sys.executable, "-c", {WORKER!r}])
time.sleep(60)
"""


def ended() -> str:
    """The name of a process of this machine that has ended."""
    with subprocess.Popen(["true"]) as process:
        process.wait()
        return this_process().replace(f"{os.getpid()}-", f"{process.pid}-", 1)


def wait_for_end(pid: int, seconds: float) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except FileNotFoundError:
            return True
        time.sleep(0.02)
    return False


def test_a_worker_ends_with_its_killed_parent() -> None:
    with subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        worker = int(parent.stdout.readline())
        parent.kill()
        assert wait_for_end(worker, 10 * processes.LOOK_EVERY)


def test_who_lives() -> None:
    assert lives(this_process())
    assert lives(ended()) is False
    pid, start, machine = this_process().split("-")
    assert lives(f"{pid}-{int(start, 16) + 1:x}-{machine}") is False, "a pid that was given again"
    assert lives(f"{pid}-{start}-{'0' * 6}") is None


def test_the_next_run_sweeps_what_the_dead_left_and_nothing_else(tmp_path: Path) -> None:
    stranger = this_process()[:-6] + "000000"
    left = [f".model.{ended()}.{n}.partial{suffix}" for n, suffix in enumerate((".safetensors", "", ".npy"))]
    old = f".old.{stranger}.0.partial.csv"
    stays = [f".model.{this_process()}.0.partial.npy", f".new.{stranger}.0.partial.csv", ".x.12.partial.csv", "a.csv"]
    for name in (*left, old, *stays):
        (tmp_path / name).touch()
    (tmp_path / left[1]).unlink()
    (tmp_path / left[1] / "deep").mkdir(parents=True)
    os.utime(tmp_path / old, (0, 0))
    sweep(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {*stays}


@pytest.mark.parametrize("name", ["x.npz", "x", "x" * 240 + ".csv", "ä" * 120, "a.b.c", ".hidden"])
def test_every_name_of_a_half_written_file_is_known_again(name: str, tmp_path: Path, monkeypatch) -> None:
    partial = partial_name(Path(name))
    assert partial != partial_name(Path(name))
    assert Path(partial).suffix == (Path(name).suffix or ".partial")
    (tmp_path / partial).touch()
    monkeypatch.setattr(processes, "lives", lambda name: False)
    sweep(tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_first_write_into_a_folder_sweeps_it(tmp_path: Path) -> None:
    for name, write in {
        "atomic": lambda folder: write_text(folder / "x.txt", "x"),
        "staged": lambda folder: stage(folder, whole=False),
        "whole": lambda folder: stage(folder / "deep", whole=True),
    }.items():
        folder = tmp_path / name
        folder.mkdir()
        (folder / f".x.{ended()}.0.partial.txt").touch()
        write(folder)
        assert not list(folder.glob(".*"))


def stage(folder: Path, whole: bool) -> None:
    with staged(folder, whole) as partial:
        (partial / "x").touch()


def test_a_late_write_makes_no_folder(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), atomic_path(tmp_path / "gone" / "x.npy", make=False) as partial:
        partial.touch()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("variables", "first"),
    [({}, True), ({"RANK": "0"}, True), ({"RANK": "1"}, False), ({"OMPI_COMM_WORLD_RANK": "2"}, False)],
)
def test_one_of_several_processes_speaks_for_all(variables, first, monkeypatch) -> None:
    for name in processes.RANKS:
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert is_first() == first


MASTER = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}


@pytest.mark.parametrize(
    ("variables", "wrong"),
    [
        ({}, None),
        (MASTER, None),
        ({"WORLD_SIZE": "1"}, None),
        ({"RANK": "0", "WORLD_SIZE": "1"}, None),
        ({"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", **MASTER}, None),
        ({"OMPI_COMM_WORLD_RANK": "1", "WORLD_SIZE": "2"}, None),
        ({"RANK": "0"}, "(RANK), but has no WORLD_SIZE"),
        ({"RANK": "1", **MASTER}, "(RANK), but has no WORLD_SIZE"),
        ({"WORLD_SIZE": "2"}, "(WORLD_SIZE), but has no RANK and no MASTER_ADDR and no MASTER_PORT"),
        ({"RANK": "0", "WORLD_SIZE": "2"}, "(RANK and WORLD_SIZE), but has no MASTER_ADDR and no MASTER_PORT"),
        ({"LOCAL_RANK": "0"}, "(LOCAL_RANK), but has no RANK and no WORLD_SIZE"),
        ({"RANK": "", "WORLD_SIZE": "2", **MASTER}, "but has no RANK"),
        ({"RANK": "x", "WORLD_SIZE": "2", **MASTER}, "but has RANK=x, which is no number"),
        ({"RANK": "-1", "WORLD_SIZE": "2", **MASTER}, "but has RANK=-1, which is no number"),
        ({"RANK": "0", "WORLD_SIZE": "2", **MASTER, "MASTER_PORT": "port"}, "MASTER_PORT=port, which is no number"),
        ({"RANK": "5", "WORLD_SIZE": "2", **MASTER}, "but has RANK=5, which is not below WORLD_SIZE=2"),
        ({"RANK": "0", "WORLD_SIZE": "0", **MASTER}, "which is not below WORLD_SIZE=0"),
    ],
)
def test_an_environment_that_is_half_set_is_told_before_any_work(variables, wrong, monkeypatch, capsys):
    for name in (*processes.RANKS, *processes.LAUNCHED, *processes.MASTER):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    if wrong is None:
        processes.check_launched()
        return
    assert main(["list"]) == 2
    err = capsys.readouterr().err
    assert wrong in err
    assert err.count("\n") == 1
    with pytest.raises(UsageError, match="or unset"):
        make_accelerator("no")


@given(n_jobs=st.integers(-10, 10**10), cores=st.integers(1, 200))
def test_so_many_workers_or_a_line(n_jobs, cores):
    if n_jobs == -1:
        assert processes.workers(n_jobs, cores) == cores
    elif 1 <= n_jobs <= 64 * cores:
        assert processes.workers(n_jobs, cores) == n_jobs
    else:
        with pytest.raises(ArgumentError, match=rf"^n_jobs={n_jobs} .* -1 for"):
            processes.workers(n_jobs, cores)


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="no /proc")
def test_a_process_that_nobody_has_waited_for_has_ended(tmp_path: Path) -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    name = f"{child.pid}-{processes._start(child.pid):x}-{processes.machine()}"
    assert lives(name)
    (tmp_path / f".a.{name}.0.partial.npy").touch()
    child.kill()
    while Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z":
        time.sleep(0.01)
    assert not lives(name)
    sweep(tmp_path)
    assert not [*tmp_path.iterdir()]
    child.wait()


def test_a_folder_is_swept_by_its_own_name_wherever_the_program_has_been(tmp_path: Path, monkeypatch) -> None:
    gone = f"2147483646-1-{processes.machine()}"
    for place in ("one", "two"):
        (tmp_path / place).mkdir()
        (tmp_path / place / f".a.{gone}.0.partial.txt").touch()
        monkeypatch.chdir(tmp_path / place)
        write_text(Path("b.txt"), "b")
        assert [path.name for path in (tmp_path / place).iterdir()] == ["b.txt"]
