"""How a benchmark measures: linmap and its peer take turns in one process, and medians are compared."""

from __future__ import annotations

import importlib
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch

THREADS = 2  # the threads that the bars of the project speak of
PATIENCE = 20.0  # seconds after which a comparison of slow functions ends, with 5 runs of each at least


@dataclass(frozen=True)
class Measurement:
    """One row of RESULTS.md.

    Two kinds of bar: `bar` is the least ratio of the peer's time to linmap's; `least_rate` is the least number of
    `unit` a second. A row without either only informs.
    """

    what: str
    seconds: float  # median of linmap's runs
    peer: str = ""
    peer_seconds: float | None = None  # None: there is no peer, or it is not installed (`peer` says so)
    bar: float | None = None
    items: int = 1  # what one run processes, in `unit`
    unit: str = ""
    least_rate: float | None = None
    memory: int | None = None  # peak bytes that the forward allocates beyond what was there before
    note: str = ""

    @property
    def ratio(self) -> float | None:
        """Peer's time over linmap's: above 1, linmap is faster."""
        return None if self.peer_seconds is None else self.peer_seconds / self.seconds

    @property
    def rate(self) -> float:
        return self.items / self.seconds

    @property
    def met(self) -> bool | None:
        """Whether the bar is met; None where there is no bar or nothing to compare with."""
        if self.least_rate is not None:
            return self.rate >= self.least_rate
        if self.bar is None or self.ratio is None:
            return None
        return self.ratio >= self.bar


def medians(*functions: Callable[[], object], repeats: int = 15, warm_up: int = 3) -> list[float]:
    """Median seconds of each function; the functions take turns (A B A B ...), so that load hits all of them alike."""
    torch.set_num_threads(THREADS)
    for function in functions * warm_up:
        function()
    seconds: list[list[float]] = [[] for _ in functions]
    beginning = time.perf_counter()
    for run in range(repeats):
        if run >= 5 and time.perf_counter() - beginning > PATIENCE:
            break
        for samples, function in zip(seconds, functions, strict=True):
            start = time.perf_counter()
            function()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            samples.append(time.perf_counter() - start)
    return [statistics.median(samples) for samples in seconds]


def compare(
    what: str,
    ours: Callable[[], object],
    peer: str,
    theirs: Callable[[], object] | None,
    **options: Any,
) -> Measurement:
    """Time `ours` against `theirs` (None: not installed); `options` as of `compare_with_fastest`."""
    return compare_with_fastest(what, ours, {peer: theirs}, **options)


def compare_with_fastest(
    what: str,
    ours: Callable[[], object],
    peers: Mapping[str, Callable[[], object] | None],
    *,
    bar: float | None = None,
    memory: int | None = None,
    note: str = "",
    repeats: int = 15,
    warm_up: int = 3,
) -> Measurement:
    """Time `ours` against the fastest of the peers that are installed (None: not installed)."""
    installed = {name: theirs for name, theirs in peers.items() if theirs is not None}
    seconds, *others = medians(ours, *installed.values(), repeats=repeats, warm_up=warm_up)
    if not others:
        return Measurement(what, seconds, f"{', '.join(peers)} (not installed)", bar=bar, memory=memory, note=note)
    peer_seconds, peer = min(zip(others, installed, strict=True))
    return Measurement(what, seconds, peer, peer_seconds, bar=bar, memory=memory, note=note)


def peak_memory(function: Callable[[], object]) -> int:
    """Most bytes that PyTorch's CPU allocator holds at once during `function`, beyond what it held before."""
    function()  # caches and lazy buffers are not the forward's
    with torch.autograd.profiler.profile(profile_memory=True) as profile:
        function()
    results = cast("Any", profile).kineto_results
    events = [event for event in results.events() if event.name() == "[memory]"]
    held = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak


def optional(module: str) -> Any:
    """A peer's module; None where it is not installed."""
    try:
        return importlib.import_module(module)
    except ImportError:
        return None


def machine() -> str:
    """The facts that a time depends on, in one line."""
    cpuinfo = Path("/proc/cpuinfo")
    models = (
        [line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        if cpuinfo.exists()
        else [platform.processor()]
    )
    return (
        f"{models[0]} ({len(models)} cores), {THREADS} threads, float32 unless said otherwise, "
        f"torch {torch.__version__}, Python {platform.python_version()}"
    )
