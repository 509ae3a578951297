"""Real commands, killed at random points, resumed, and compared with one that ran through.

A command runs in a process of its own. It is killed at the n-th change that it makes on the disk (which finds every
gap between two writes), or after a part of the time that it takes (which finds what lies between, and what libraries
write that are not Python). Points are spread evenly, and no change is met twice before all are met.
"""

from __future__ import annotations

import importlib
import json
import multiprocessing
import os
import re
import shutil
import signal
import sys
import time
import uuid
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from fresh import Fresh

CHANGES = ("rename", "replace", "fsync", "mkdir", "unlink")
TIMED = {"seconds", "command", "versions", "speed", "created", "made", "mtime", "metrics_bytes"}
"""What differs between two runs of one command."""
NUMBERED = re.compile(r"checkpoint-\d+(?=/)")
"""An interrupted run writes one checkpoint more, and their numbers count them; only the last one stays."""
HELD = {signal.SIGINT, signal.SIGTERM}
"""Of a fork, until the command begins."""
SHOWN = {".svg", ".html", ".md", ".png"}
"""Files that are made of the others, and may show how long something took."""
SIGNALS = {"kill": [signal.SIGKILL], "term": [signal.SIGTERM], "int": [signal.SIGINT], "int twice": [signal.SIGINT] * 2}
MARK = "LINMAP_TEST_RUN"
"""Environment variable by which the workers of a command are found."""
WORKERS_END = 10.0
"""Seconds in which they must, on a machine that is busy."""
RAYS_OWN = re.compile(r"ray::(RuntimeEnv|Dashboard)Agent|/(runtime_env/agent/main|dashboard/agent|default_worker)\.py")
RAYS_OWN_END = 150.0
"""Ray's agents see at once that it was killed, try for 60 seconds to tell its head, which was killed too, and end; a
worker that had not begun anything ends when it finds nobody (26 s were seen). They write nothing."""
PROGRAM = "import json, sys\nfrom {0} import {1}\n{1}(*json.loads(sys.argv[1]))"
GOLDEN = (5**0.5 - 1) / 2
"""Its multiples, without their whole parts, spread evenly however many are taken."""


@dataclass(frozen=True)
class Command:
    """What is run and killed."""

    words: list[str]
    """What follows `linmap`; paths are relative to a folder of the run."""
    resume: tuple[str, ...] = ("--resume",)
    """What is added to go on."""
    entry: str = "linmap.cli:main"
    forked: bool = False
    """As a fork of the tests' process, which imports what a run imported: not for what starts workers."""
    outcome: Callable[[Path], dict[str, Any]] | None = None
    """What is compared, where the bytes of the files may tell how often it was begun."""


def command(place: str, at: int, signals: list[int], entry: str, words: list[str]) -> None:
    """In the process of a command: run it, and send it signals at its n-th change on the disk."""
    os.chdir(place)
    count = 0

    def counted(call: Callable) -> Callable:
        def counting(*args: Any, **named: Any) -> Any:
            nonlocal count
            count += 1
            if count == at:
                for number in signals:
                    os.kill(os.getpid(), number)
            return call(*args, **named)

        return counting

    for name in CHANGES:
        setattr(os, name, counted(getattr(os, name)))
    module, _, function = entry.partition(":")
    code = 130
    try:
        try:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, HELD)
            code = getattr(importlib.import_module(module), function)(words)
        finally:
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # what comes now is not the command's
    except KeyboardInterrupt:  # while modules are imported, or a second one at its very end
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    with open(Path(place).with_suffix(".told"), "w") as file:
        json.dump({"changes": count, "modules": list(sys.modules)}, file)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


class Apart:
    """A function of a module, called in a process of its own: a fork of this one, or one that knows nothing yet."""

    def __init__(self, function: Callable[..., None], given: Sequence[Any], printed: Path, forked: bool) -> None:
        self.mark = uuid.uuid4().hex
        if forked:
            self.fresh, self.printed = None, printed
            process = multiprocessing.get_context("fork").Process(
                target=_quiet, args=(printed, self.mark, function, given)
            )
            self.process: BaseProcess = process
            signal.pthread_sigmask(signal.SIG_BLOCK, HELD)
            self.process.start()
            signal.pthread_sigmask(signal.SIG_UNBLOCK, HELD)
        else:
            program = PROGRAM.format(function.__module__, function.__name__)
            self.fresh = Fresh(program, json.dumps(given), environment={MARK: self.mark})
            self.process = self.fresh.process

    def send(self, kill: str) -> None:
        assert self.process.pid is not None
        for number in SIGNALS[kill]:
            if self.process.is_alive():
                os.kill(self.process.pid, number)
                time.sleep(0.01)

    def code(self, timeout: float = 600) -> int:
        self.process.join(timeout)
        if self.process.exitcode is None:
            self.process.kill()
            raise AssertionError(f"it hangs: {self.said()}")
        return self.process.exitcode

    def said(self) -> str:
        return (self.printed.read_text() if self.fresh is None else self.fresh.stderr)[-2000:]

    def workers_ended(self) -> float:
        """Seconds until no process of the command is left that does its work."""
        return self._ended(WORKERS_END, lambda words: not RAYS_OWN.search(words))

    def all_ended(self) -> float:
        """Seconds until none is left at all."""
        return self._ended(RAYS_OWN_END, lambda words: True)

    def _ended(self, within: float, counts: Callable[[str], object]) -> float:
        start = time.monotonic()
        while (left := [*filter(counts, _marked(self.mark))]) and time.monotonic() < start + within:
            time.sleep(0.05)
        assert not left, f"processes outlive their parent: {[one[:200] for one in left]}"
        return time.monotonic() - start


def started(what: Command, place: Path, words: Sequence[str], at: int = 0, kill: str = "kill") -> Apart:
    """The command, in a folder of its own."""
    given = [str(place), at, [int(one) for one in SIGNALS[kill]], what.entry, list(words)]
    return Apart(command, given, place.with_suffix(".stderr"), what.forked)


def _quiet(printed: Path, mark: str, function: Callable[..., None], given: Sequence[Any]) -> None:
    file = os.open(printed, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for descriptor, stream in ((1, "stdout"), (2, "stderr")):
        os.dup2(file, descriptor)
        setattr(sys, stream, open(descriptor, "w", closefd=False, buffering=1))  # noqa: SIM115 (pytest's is kept apart)
    os.environ[MARK] = mark
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # not what a library left that was tested before
    function(*given)


def _marked(mark: str) -> list[str]:
    """Living processes that carry the mark; those that have ended and wait to be reaped do not count."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if f"{MARK}={mark}".encode() in (folder / "environ").read_bytes():
                words = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                found.append(f"{folder.name} {words}")
        except OSError:
            continue
    return found


@dataclass
class Tally:
    """What came of it."""

    changes: int
    """On the disk, of a command that nobody kills."""
    met: set[int] = field(default_factory=set)
    """Changes at which it was killed."""
    kills: int = 0
    in_time: int = 0
    """Kills that met the command at work."""
    identical: int = 0
    leftovers: list[str] = field(default_factory=list)
    different: list[str] = field(default_factory=list)
    slowest_end: float = 0.0
    seconds: float = 0.0
    worked: float = 0.0
    """Seconds of processors, of this process and the forks that it waited for."""

    def __str__(self) -> str:
        return (
            f"{self.kills} runs, {self.in_time} killed at work ({len(self.met)} of {self.changes} changes), "
            f"{self.identical} identical, {len(self.leftovers)} with leftovers, workers ended in "
            f"{self.slowest_end:.2f} s; {self.seconds:.0f} s, of processors {self.worked:.0f} s"
        )


def killed_anywhere(what: Command, folder: Path, points: int) -> Tally:
    """Kill the command at so many points, each time from the beginning, resume it, and compare."""
    begun, worked = time.monotonic(), sum(os.times()[:4])
    expected, took, changes = _whole(what, folder / "whole")
    outcome, tally, runs = what.outcome or contents, Tally(changes), []
    order = sorted(range(1, changes + 1), key=lambda change: change * GOLDEN % 1)
    for number in range(points):
        place = folder / f"{number}"
        place.mkdir()
        kill = list(SIGNALS)[number % len(SIGNALS)]
        nth = number - number // 3 - 1  # of those at a change, each of which meets every signal once
        at = order[nth % changes] if number % 3 and nth < changes * len(SIGNALS) else 0
        run = started(what, place, what.words, at, kill)
        runs.append(run)
        if not at:
            time.sleep((number + 1) * GOLDEN % 1 * took)
            run.send(kill)
        code, point = run.code(), f"{kill} at {f'change {at}' if at else 'a moment'}"
        assert code in (0, 130, -signal.SIGKILL, -signal.SIGTERM, -signal.SIGINT), f"{point}: {code}, {run.said()}"
        tally.kills, tally.in_time = tally.kills + 1, tally.in_time + (code != 0)
        tally.met |= {at} - {0} if code else set()
        tally.slowest_end = max(tally.slowest_end, run.workers_ended())
        again = started(what, place, [*what.words, *what.resume])
        assert again.code() == 0, f"{point}, resumed: {again.said()}"
        found = outcome(place)
        if extra := sorted(found.keys() - expected.keys()):
            tally.leftovers.append(f"{point}: {extra}")
        if other := sorted(name for name in expected if found.get(name) != expected[name]):
            tally.different.append(f"{point}: {other}")
        tally.identical += not other
        shutil.rmtree(place)
    for run in runs:
        run.all_ended()
    tally.seconds, tally.worked = time.monotonic() - begun, sum(os.times()[:4]) - worked
    return tally


def _whole(what: Command, place: Path) -> tuple[dict[str, Any], float, int]:
    """What a command that nobody kills leaves, the seconds it takes, and how often it changes the disk."""
    found = []
    for again in range(2):  # the second time with everything compiled, and imported in forks, as when it is killed
        run_at = place.with_name(f"{place.name} {again}")
        run_at.mkdir()
        begun = time.monotonic()
        run = started(what, run_at, what.words)
        assert run.code() == 0, run.said()
        took, told = time.monotonic() - begun, json.loads(run_at.with_suffix(".told").read_text())
        found.append((what.outcome or contents)(run_at))
        if what.forked:
            know(told["modules"])
    other = [name for one in found for name in one.keys() | found[0].keys() if one.get(name) != found[0].get(name)]
    assert not other, f"two runs that nobody kills differ: {other}"
    return found[0], took, told["changes"]


def know(modules: Sequence[str]) -> None:
    """Import what a fork has imported, so that the next one has it."""
    for name in modules:
        with suppress(Exception):
            importlib.import_module(name)


def contents(place: Path) -> dict[str, Any]:
    """All files, by name: bytes, JSON without what differs between two runs, None where a picture is enough."""
    found: dict[str, Any] = {}
    for path in sorted(place.rglob("*")):
        name = str(path.relative_to(place))
        if path.is_dir():
            continue
        if (plain := NUMBERED.sub("checkpoint", name)) not in found:
            name = plain
        if path.suffix in SHOWN:
            found[name] = None
        elif path.suffix == ".json":
            value = json.loads(path.read_text())
            if isinstance(value, dict) and {"key", "run"} <= value.keys():
                value.pop("sum", None)  # of a kept run, over its seconds too
            found[name] = untimed(value)
        elif path.suffix == ".jsonl":
            found[name] = [untimed(json.loads(line)) for line in path.read_text().splitlines()]
        elif path.suffix == ".safetensors":
            found[name] = tensors(path.read_bytes())
        elif path.name == "SHA256SUMS":  # of files with times in them
            found[name] = None
        else:
            found[name] = path.read_bytes()
    return found


def tensors(data: bytes) -> tuple[Any, bytes]:
    """Of a file of tensors: the header, without what a calibration tells of its seconds, and all bytes behind it."""
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:end])
    told = header.get("__metadata__", {})
    if "report" in told:
        header["__metadata__"] = told | {"report": untimed(json.loads(told["report"])), "sum": None}
    return header, data[end:]


def untimed(value: Any) -> Any:
    if isinstance(value, dict):
        same = {key: item for key, item in value.items() if not TIMED & {key, *key.split("_")}}
        return {key: untimed(item) for key, item in same.items()}
    return [untimed(item) for item in value] if isinstance(value, list) else value
