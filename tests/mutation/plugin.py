"""A plugin of pytest: tests are collected once, and each mutant meets those that reach it in a fork.

The code of the functions that are alive is replaced by the code of the changed file, so that nothing is imported
again. Programs that tests start in processes of their own do not see mutants.
"""

from __future__ import annotations

import builtins
import contextlib
import gc
import importlib
import itertools
import json
import os
import random
import signal
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from types import CodeType, FunctionType

import pytest

from mutation.mutants import Mutant, mutants, probed

SLOWER = 3
"""A mutant under which tests take so many times as long has been found."""
ENOUGH = 30.0
"""Seconds of work of tests, the shortest files first, that a mutant meets."""
WAITS = 20
"""So many times as long may it sleep."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--mutated", nargs="+", help="files of which mutants are made")
    parser.addoption("--mutants", type=int, default=12, help="how many are drawn")
    parser.addoption("--mutants-seed", default="0", help="of the draw")
    parser.addoption("--mutants-out", help="a JSON file that says what became of each")


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop(session: pytest.Session) -> bool:
    """Instead of running the tests once."""
    config = session.config
    alive = Alive([Path(name).resolve() for name in config.getoption("--mutated") or ()])
    every = [one for path in alive.files for one in mutants(path)]
    random.Random(config.getoption("--mutants-seed")).shuffle(every)
    drawn = list(alive.possible(every, int(config.getoption("--mutants") or 0)))
    reaching, failed = _reach(session, alive, drawn)
    found = []
    for number, mutant in enumerate(drawn):
        items = reaching[number]
        fate = _fate(session, alive, mutant, items) if items else "not reached"
        found.append({"mutant": str(mutant), "fate": fate, "tests": len(items)})
        print(f"{fate:12} {len(items):4} tests  {mutant}", file=sys.stderr, flush=True)
    told = {"of": len(every), "tests": len(session.items), "failed with probes": failed, "mutants": found}
    Path(str(config.getoption("--mutants-out"))).write_text(json.dumps(told, indent=1))
    return True


class Alive:
    """The functions of some files that live in this process."""

    def __init__(self, files: list[Path]) -> None:
        self.files = files
        self.modules = {path: importlib.import_module(_module(path)) for path in files}
        gc.unfreeze()
        self.functions: dict[tuple, list[FunctionType]] = defaultdict(list)
        names = {str(path) for path in files}
        for one in gc.get_objects():
            if type(one) is FunctionType and one.__code__.co_filename in names:
                self.functions[_key(one.__code__)].append(one)
        gc.freeze()

    def possible(self, every: list[Mutant], count: int) -> Iterator[Mutant]:
        """The first mutants that change the code of a living function and leave its closure as it is."""
        for mutant in every:
            pairs = list(self._pairs(mutant.path, mutant.source()))
            if pairs and all(code.co_freevars == old.__code__.co_freevars for old, code in pairs):
                yield mutant
                count -= 1
            if not count:
                return

    def change(self, path: Path, source: bytes) -> None:
        """Give the functions of a file the code of another source; only in a fork."""
        for function, code in self._pairs(path, source):
            function.__code__ = code

    def _pairs(self, path: Path, source: bytes) -> Iterator[tuple[FunctionType, CodeType]]:
        loader = self.modules[path].__loader__
        assert loader is not None
        for code in _codes(loader.source_to_code(source, str(path))):  # type: ignore[attr-defined]
            for function in self.functions.get(_key(code), ()):
                if function.__code__.co_code != code.co_code or function.__code__.co_consts != code.co_consts:
                    yield function, code


def _module(path: Path) -> str:
    parts = path.with_suffix("").parts
    return ".".join(parts[len(parts) - parts[::-1].index("linmap") - 1 :])


def _key(code: CodeType) -> tuple:
    return code.co_filename, code.co_qualname, code.co_firstlineno


def _codes(code: CodeType) -> Iterator[CodeType]:
    for one in code.co_consts:
        if isinstance(one, CodeType):
            yield one
            yield from _codes(one)


def _reach(session: pytest.Session, alive: Alive, drawn: list[Mutant]) -> tuple[list[list], int]:
    """The tests that reach each mutant, the files with the shortest ones first, and how many fail with probes."""

    def watched(write: Callable) -> None:
        reached: set[int] = set()
        builtins.__reached__ = reached.add  # type: ignore[attr-defined]
        for path in alive.files:
            places = {number: one for number, one in enumerate(drawn) if one.path == path}
            if places:
                alive.change(path, probed(path, places))
        for number in range(len(session.items)):
            reached.clear()
            before, start = session.testsfailed, _work()
            _run(session, session.items, number)
            write(number, session.testsfailed - before, _work() - start, sorted(reached))

    _, rows = _forked(watched, 0)
    assert len(rows) == len(session.items), "the tests end the process"
    seconds, failed, by_mutant = {}, 0, defaultdict(list)
    for number, failures, took, reached in rows:
        failed += bool(failures)
        seconds[session.items[number]] = took
        for mutant in [] if failures else reached:
            by_mutant[mutant].append(session.items[number])
    session.took = seconds  # type: ignore[attr-defined]
    return [_sorted(by_mutant[number], seconds) for number in range(len(drawn))], failed


def _work() -> float:
    """Seconds of work of this process and of those that it has waited for, which other processes do not lengthen."""
    return sum(os.times()[:4])


def _sorted(items: list, seconds: dict) -> list:
    of_file = defaultdict(list)
    for item in items:
        of_file[item.path].append(item)
    mean = {path: sum(seconds[item] for item in own) / len(own) for path, own in of_file.items()}
    ordered = [item for path in sorted(of_file, key=mean.__getitem__) for item in of_file[path]]
    until = itertools.accumulate(seconds[item] for item in ordered)
    return [item for item, took in zip(ordered, until, strict=True) if took <= ENOUGH or item is ordered[0]]


def _fate(session: pytest.Session, alive: Alive, mutant: Mutant, items: list) -> str:
    def changed(write: Callable) -> None:
        alive.change(mutant.path, mutant.source())
        for number in range(len(items)):
            _run(session, items, number)
            if session.testsfailed:
                write(items[number].nodeid)
                return
        write("")

    limit = SLOWER * (3 + int(sum(session.took[item] for item in items)))  # type: ignore[attr-defined]
    ended, rows = _forked(changed, limit)
    if not ended:
        return "timeout"
    return "survived" if rows and not rows[0][0] else "killed"


def _run(session: pytest.Session, items: list, number: int) -> None:
    following = items[number + 1] if number + 1 < len(items) else None
    items[number].config.hook.pytest_runtest_protocol(item=items[number], nextitem=following)


def _forked(task: Callable[[Callable], None], limit: int) -> tuple[bool, list]:
    """Run a task in a fork that says nothing: whether it ended in time (0: it may take for ever), and its rows."""
    with tempfile.TemporaryFile("w+") as file:
        child = os.fork()
        if not child:
            os.setsid()
            signal.setitimer(signal.ITIMER_PROF, limit)  # of work
            signal.alarm(WAITS * limit)
            nowhere = os.open(os.devnull, os.O_RDWR)
            for descriptor in range(3):
                os.dup2(nowhere, descriptor)
            try:
                task(lambda *row: print(json.dumps(row), file=file, flush=True))
            finally:
                os._exit(0)
        _, status = os.waitpid(child, 0)
        with contextlib.suppress(ProcessLookupError):  # programs that its tests started
            os.killpg(child, signal.SIGKILL)
        file.seek(0)
        rows = [json.loads(line) for line in file]
    return not (os.WIFSIGNALED(status) and os.WTERMSIG(status) in (signal.SIGALRM, signal.SIGPROF)), rows
