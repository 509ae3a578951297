"""`python -m mutation [SYSTEM ...]`: draw mutants of the method files, and tell which of them no test sees."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

from mutation.systems import ROOT, SYSTEMS

BAR = 85
"""Percent of the mutants of each system that must be found."""
FATES = ("killed", "timeout", "survived", "not reached")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m mutation", description=__doc__)
    parser.add_argument("systems", nargs="*", metavar="SYSTEM", help="all of them if none is named")
    parser.add_argument("--count", type=int, default=12, help="mutants of each system")
    parser.add_argument("--seed", default="0", help="of the draw")
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "mutants", help="a JSON file for each system")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    weak = []
    print("| system | mutants | " + " | ".join(FATES) + " | found |\n| --- " + "| ---: " * (len(FATES) + 2) + "|")
    for name in given.systems or SYSTEMS:
        found = _found(name, given.out / f"{name}.json", given.count, given.seed)
        counts = [sum(one["fate"] == fate for one in found) for fate in FATES]
        percent = 100 * sum(counts[:2]) / len(found)
        print(f"| {name} | {len(found)} | " + " | ".join(map(str, counts)) + f" | {percent:.0f} % |", flush=True)
        weak += [name] * (percent < BAR)
    if weak:
        print(f"fewer than {BAR} % are found in: {', '.join(weak)}", file=sys.stderr)
    return bool(weak)


def _found(name: str, out: Path, count: int, seed: str) -> list[dict]:
    system = SYSTEMS[name]
    options = ["--mutants", str(count), "--mutants-seed", f"{seed} {name}", "--mutants-out", str(out)]
    command = [sys.executable, "-m", "pytest", "-s", "-p", "no:cacheprovider", "-p", "mutation.plugin", *options]
    paths = os.pathsep.join([str(ROOT / "tests"), str(ROOT), os.environ.get("PYTHONPATH", "")])
    begun = time.monotonic()
    done = subprocess.run(
        [*command, "--mutated", *map(str, system.paths()), "--", *map(str, system.tests())],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": paths},
        stdout=subprocess.PIPE,
        text=True,
    )
    if done.returncode:
        sys.exit(done.stdout[-3000:])
    print(f"{name}: {time.monotonic() - begun:.0f} s", file=sys.stderr)
    return json.loads(out.read_text())["mutants"]


if __name__ == "__main__":
    sys.exit(main())
