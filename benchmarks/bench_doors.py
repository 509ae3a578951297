"""How long the doors take, each in a fresh process: help of the command line, and imports beside PyTorch."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

from benchmarks.measure import Measurement
from linmap.recipes import SYSTEMS

REPEATS = 5
HELP, IMPORT = 1.0, 0.3
"""Seconds that a door may take."""
AFTER_TORCH = "import time, torch; start = time.perf_counter(); import {}; print(time.perf_counter() - start)"


def run() -> list[Measurement]:
    ready = [slug for slug, system in SYSTEMS.items() if system.ready]
    lines = [["--help"], ["list"], *(["fit" if SYSTEMS[slug].fitted else "apply", slug, "--help"] for slug in ready)]
    return [*map(answer, lines), *map(imported, ("linmap.maps", "linmap.experiment"))]


def answer(words: list[str]) -> Measurement:
    """A command that only answers, from the start of Python to its end."""
    seconds = statistics.median(_seconds([sys.executable, "-m", "linmap", *words]) for _ in range(REPEATS))
    return Measurement(f"linmap {' '.join(words)}", seconds, "at most", HELP, bar=1)


def imported(module: str) -> Measurement:
    """An import in a process that has imported PyTorch."""
    program = [sys.executable, "-c", AFTER_TORCH.format(module)]
    runs = (subprocess.run(program, capture_output=True, text=True, check=True) for _ in range(REPEATS))
    seconds = statistics.median(float(done.stdout) for done in runs)
    return Measurement(f"import {module}", seconds, "at most", IMPORT, bar=1, note="beyond import torch")


def _seconds(command: list[str]) -> float:
    start = time.perf_counter()
    subprocess.run(command, capture_output=True, check=True)
    return time.perf_counter() - start
