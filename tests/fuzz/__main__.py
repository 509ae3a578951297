"""Feed the targets for longer, and add what came of it to `RESULTS.md`: `make fuzz SECONDS=60 NAME="ts JSON"`.

An input that ends in another error, in a hang or with the process is kept in `examples/`, where the default suite feeds
it again. Where atheris is installed, it chooses every second stretch of inputs.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

from fuzz.targets import targets
from fuzz.test_fuzz import SAVED

HERE = Path(__file__).parent
RESULTS = HERE / "RESULTS.md"
STRETCH = 300.0
"""Seconds of one process."""
START = 600.0
"""Seconds that it may take beside."""
HEAD = """# Fuzzing, so far

Inputs that each target has been fed by `make fuzz`, over all times that it ran, and the seconds of one processor that
this took; those of the test suites do not count. The seconds of November 2026 were counted by the clock, on a machine
that had more to do.
A failure is a kind of input that ended in another error than linmap's, in a hang, or with the process; each was mended,
and the first of its kind is in `examples/`.

| target | inputs | seconds | failures |
| --- | ---: | ---: | ---: |
"""


@dataclass
class Tally:
    """What came of a target."""

    inputs: int = 0
    seconds: float = 0.0
    failures: int = 0
    told: list[str] = field(default_factory=list)
    """Of the failures of this time."""

    def __add__(self, other: Tally) -> Tally:
        return Tally(self.inputs + other.inputs, self.seconds + other.seconds, self.failures + other.failures)


def read(path: Path) -> dict[str, Tally]:
    """The table, by target."""
    found = {}
    for line in path.read_text().splitlines() if path.exists() else ():
        cells = [cell.strip().replace(",", "") for cell in line.strip("|").split("|")]
        if len(cells) == 4 and cells[1].isdigit():
            found[cells[0].strip("`")] = Tally(int(cells[1]), float(cells[2]), int(cells[3]))
    return found


def add(path: Path, name: str, tally: Tally) -> None:
    """Add what came of a target to its line of the table."""
    table = read(path)
    table[name] = table.get(name, Tally()) + tally
    lines = [f"| `{name}` | {one.inputs:,} | {one.seconds:,.0f} | {one.failures} |\n" for name, one in table.items()]
    path.write_text(HEAD + "".join(sorted(lines)))


def stretch(name: str, seconds: float, way: str, saved: Path) -> Tally:
    """Feed a target in a process; keep the first input of each kind of failure."""
    with tempfile.TemporaryDirectory(prefix="linmap-fuzz-", dir=_room()) as made:
        folder = Path(made)
        words = [sys.executable, "-m", "fuzz.feeding", name, str(seconds), made, way]
        process = subprocess.Popen(
            words, env=os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}, text=True,
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True,
        )  # fmt: skip
        try:
            _, said = process.communicate(timeout=seconds + START)
        except subprocess.TimeoutExpired:
            said = "it hangs"
        finally:
            _end(process)
        found = json.loads(file.read_text()) if (file := folder / "fed.json").exists() else {}
        failures = dict(found.get("failures", {}))
        if process.returncode and (folder / "current").exists():
            failures[f"ended with {process.returncode}: {said.strip()[-2000:]}"] = "current"
        elif process.returncode:
            raise RuntimeError(f"{name} could not be fed: {said[-2000:]}")
        told = [f"{kind}\n    {_keep(folder / file, saved / name)}" for kind, file in failures.items()]
        return Tally(found.get("inputs", 0), found.get("seconds", 0.0), len(failures), told)


def _room() -> Path | None:
    """Memory where there is enough of it: on a disk, an input takes longer to write than to read."""
    memory = Path("/dev/shm")
    return memory if memory.is_dir() and shutil.disk_usage(memory).free > 2**30 else None


def _end(process: subprocess.Popen) -> None:
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _keep(input: Path, folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    data = input.read_bytes()
    path = folder / hashlib.sha256(data).hexdigest()[:10]
    path.write_bytes(data)
    return path


def stretches(seconds: float) -> Iterator[tuple[float, str]]:
    """How long each process feeds, and who chooses its inputs."""
    ways, number = ["drawn", "guided"] if find_spec("atheris") else ["drawn"], 0
    each = min(STRETCH, seconds / len(ways))
    while seconds > 0.5:
        yield min(each, seconds), ways[number % len(ways)]
        seconds, number = seconds - each, number + 1


def main(words: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="make fuzz", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--seconds", type=float, default=60, help="of each target (default: 60)")
    parser.add_argument("--list", action="store_true", help="print the names of all targets, as JSON, and end")
    parser.add_argument("names", nargs="*", help="targets (default: all)")
    given = parser.parse_args(words)
    if given.list:
        print(json.dumps([*targets()]))
        return 0
    if unknown := set(given.names) - targets().keys():
        parser.error(f"there is no target {', '.join(sorted(unknown))}; there are {', '.join(targets())}")
    failed = 0
    for name in given.names or targets():
        for seconds, way in stretches(given.seconds):
            tally = stretch(name, seconds, way, SAVED)
            add(RESULTS, name, tally)
            failed += tally.failures
            told = "".join(f"\n  {one}" for one in tally.told)
            print(f"{name}: {tally.inputs:,} inputs ({way}) in {tally.seconds:.0f} s{told}", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
