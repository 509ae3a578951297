"""Processes as others meet them: how one is told from another, whether it still lives, what one that was
killed leaves half written, and workers that end with their parent.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import platform
import re
import shutil
import signal
import threading
import time
from contextlib import suppress
from functools import cache
from pathlib import Path

from linmap.errors import ArgumentError, UsageError

RANKS = ("RANK", "OMPI_COMM_WORLD_RANK", "PMI_RANK", "MV2_COMM_WORLD_RANK")
"""Where launchers say which of several processes this is."""
LAUNCHED, MASTER = ("RANK", "WORLD_SIZE", "LOCAL_RANK"), ("MASTER_ADDR", "MASTER_PORT")
"""What `torchrun` sets."""
ENDS_WITH = "LINMAP_ENDS_WITH"
"""Environment variable: the pid of the program that started a command, and with which the command ends."""
ENDED = ("Z", "X")  # states of a process that has ended and whose parent has not asked yet
LOOK_EVERY = 0.25  # seconds between two looks at whether the parent lives
PARTIAL = re.compile(r"\..*\.(\d+-[0-9a-f]+-[0-9a-f]{6})\.\d+\.partial(?:\.[^.]*)?", re.DOTALL)
NAMED = 40  # letters of a name that its half-written file shows: file systems take 255 bytes in all
A_DAY = 86_400.0
PER_CORE = 64  # workers: more are a slip of the hand, and would take all memory
_numbers = itertools.count()
_workers_of: int | None = None


def is_first() -> bool:
    """Whether this process speaks and writes for all that `accelerate launch`, `torchrun` or `mpirun` started."""
    return next((os.environ[name] for name in RANKS if name in os.environ), "0") == "0"


def check_launched() -> None:
    """Refuse an environment in which a launcher has said one thing and not another: such a process would be silent, or
    wait for others that nobody starts.

    Raises
    ------
    UsageError
        With the variables that are missing or wrong.
    """
    told = {name: value for name in (*LAUNCHED, *MASTER) if (value := os.environ.get(name))}
    if told.keys().isdisjoint(LAUNCHED) or any(name in os.environ for name in RANKS[1:]):
        return
    size = told.get("WORLD_SIZE", "")
    if size == "1" and told.keys().isdisjoint(("RANK", "LOCAL_RANK")):
        return
    needed = LAUNCHED[:2] if size == "1" else (*LAUNCHED[:2], *MASTER)
    wrong = [f"no {name}" for name in needed if name not in told]
    counts = {name: value for name, value in told.items() if name != "MASTER_ADDR"}
    wrong += [f"{name}={value}, which is no number" for name, value in counts.items() if not value.isdecimal()]
    if not wrong and int(told["RANK"]) >= int(size):
        wrong = [f"RANK={told['RANK']}, which is not below WORLD_SIZE={size}"]
    if wrong:
        names = " and ".join(name for name in LAUNCHED if name in told)
        raise UsageError(
            f"the environment says that several processes were started ({names}), but has {' and '.join(wrong)}; "
            f"start them by `torchrun` or `accelerate launch`, or unset {names}."
        )


def workers(n_jobs: int, cores: int | None = None, where: str = "this machine") -> int:
    """How many workers `n_jobs` asks for, of a machine or a cluster of so many cores; -1 is one for each.

    Raises
    ------
    ValueError
        If it is below 1 and not -1, or more than `PER_CORE` for each core.
    """
    cores = cores or os.cpu_count() or 1
    if n_jobs == -1:
        return cores
    if n_jobs < 1:
        raise ArgumentError(f"n_jobs={n_jobs} must be at least 1, or -1 for all cores.")
    if n_jobs > PER_CORE * cores:
        raise ArgumentError(
            f"n_jobs={n_jobs} is too much for {where}, which has {cores} core{'s' * (cores > 1)}: at most "
            f"{PER_CORE * cores}, or -1 for one each."
        )
    return n_jobs


def this_process() -> str:
    """A name for this process, as a part of a file's name: its pid, when it began, and its machine.

    Pids are given again after a while, and every container counts its own: the second and the third part say which.
    """
    return f"{os.getpid()}-{_start(os.getpid()):x}-{machine()}"


def lives(name: str) -> bool | None:
    """Whether the process of a name from `this_process` still runs; None if it is one of another machine."""
    pid, start, where = name.split("-")
    if where != machine():
        return None
    if int(start, 16):
        return _start(int(pid)) == int(start, 16)
    with suppress(PermissionError):  # of another user
        try:
            os.kill(int(pid), 0)
        except ProcessLookupError:
            return False
    return True


@cache
def machine() -> str:
    """Six letters for this machine; two containers of one machine, which do not see each other's pids, have others."""
    space = ""
    with suppress(OSError):
        space = os.readlink("/proc/self/ns/pid")
    return hashlib.sha256(f"{platform.node()} {space}".encode()).hexdigest()[:6]


def _start(pid: int) -> int:
    """When a process began, in ticks of the kernel's clock; 0 where there is no such process, or no /proc."""
    with suppress(OSError, ValueError, IndexError):
        # the second word is the program's name in brackets, which may hold spaces and brackets
        state, *fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
        return 0 if state in ENDED else int(fields[18])
    return 0


def partial_name(path: Path) -> str:
    """What a file or folder is called until it is whole: no two writers choose the same, and all know whose it is."""
    suffix = path.suffix if len(os.fsencode(path.suffix)) <= NAMED else ""
    return f".{path.stem[:NAMED]}.{this_process()}.{next(_numbers)}.partial{suffix}"


def sweep(folder: Path) -> None:
    """Delete what processes that have ended left half written in a folder.

    Of those of other machines nobody knows here whether they have ended: what they left goes after a day.
    """
    for path in folder.glob(".*.partial*"):
        if (found := PARTIAL.fullmatch(path.name)) is None:
            continue
        with suppress(FileNotFoundError):
            there = lives(found[1])
            if there or (there is None and path.stat().st_mtime > time.time() - A_DAY):
                continue
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink()


def vacant(folder: Path) -> bool:
    """Whether nothing is in a folder, or no folder is there; what killed processes left half written does not count."""
    sweep(folder.parent)
    sweep(folder)
    return not folder.exists() or all(PARTIAL.fullmatch(path.name) for path in folder.iterdir())


def end_with_parent(pid: int, first: signal.Signals | None = None, patience: float = 0.0) -> None:
    """This process, a child of `pid`, ends when that does, however that ends: at most half a second later.

    A thread looks at whose child this is. (Linux can send a signal instead, but at the end of the *thread* that
    started the child, and pools start theirs from threads that come and go.)

    Parameters
    ----------
    pid
        Of the parent.
    first
        A signal that this process gets first, to keep what it has done.
    patience
        Seconds that it then has.
    """
    global _workers_of
    _workers_of = pid

    def watch() -> None:
        while os.getppid() == pid:
            time.sleep(LOOK_EVERY)
        if first is not None:
            os.kill(os.getpid(), first)
            time.sleep(patience)
        os._exit(1)

    if hasattr(os, "fork"):  # elsewhere a child keeps the number of a parent that has ended
        threading.Thread(target=watch, name="linmap-parent", daemon=True).start()


def check_parent() -> None:
    """End at once if this is a worker whose parent has ended: what it would write now belongs to nobody."""
    if _workers_of is not None and hasattr(os, "fork") and os.getppid() != _workers_of:
        os._exit(1)
