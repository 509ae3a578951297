"""Run an experiment: every arm on every part of the data with every seed, each finished run kept."""

from __future__ import annotations

import gc
import math
import random
import shutil
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console

from linmap.artifacts import versions
from linmap.errors import ArgumentError, Stopped
from linmap.experiment.figures import Difference, differ, paired, ranking
from linmap.experiment.kept import Run, RunFiles
from linmap.experiment.result import Kind, Metric, Row
from linmap.pictures import styles


@dataclass(frozen=True)
class Part:
    """Data that all arms share: a task, a subject, a number of training images."""

    name: str
    data: Any
    """What the arms get."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """What its runs depend on beside the settings of the experiment, such as the `fingerprint` of a file."""


@dataclass(frozen=True)
class Trial:
    """What an arm is asked for."""

    data: Any
    seed: int
    rate: float | None
    choosing: bool
    """Whether this run only serves to choose a rate: it must look at validation data alone, and may be shorter."""
    folder: Path
    """A folder of its own, for checkpoints; it stays where the run is interrupted, and goes when it is done."""


@dataclass(frozen=True)
class Outcome:
    """What an arm found."""

    values: Mapping[str, float]
    """By measure."""
    parameters: int | None = None
    details: Mapping[str, Any] = field(default_factory=dict)
    """Curves, answers and whatever else tables and pictures need; kept as JSON."""
    seconds: float | None = None
    """Measured by the arm, where loading and measuring should not count; the whole run's otherwise."""


@dataclass(frozen=True)
class Arm:
    """A method on the shared task."""

    name: str
    kind: Kind
    run: Callable[[Trial], Outcome]
    settings: Mapping[str, Any] = field(default_factory=dict)
    """What this arm alone depends on; a changed one is measured again."""
    rates: Sequence[float] = ()
    """Candidates, of which `Choice` picks one for each part; none for an arm without a rate."""
    rate_of: str | None = None
    """The arm, earlier in the list, whose chosen rate this one takes."""
    seeded: bool = True
    """Whether seeds differ; the first alone is run where they do not."""
    note: str = ""
    rate_name: str = "rate"
    """What the note of its row calls what was chosen, where it is no learning rate."""


@dataclass(frozen=True)
class Choice:
    """How the rate of an arm is chosen."""

    measure: str
    """One of the values of a run."""
    better: str = "lower"
    pilots: bool = True
    """Whether runs of their own choose (`Trial.choosing`), with the first seed. False: the measure is one of validation
    data, and the whole runs of the first seed choose."""


@dataclass
class Runs:
    """All runs of an experiment."""

    arms: list[Arm]
    parts: list[str]
    runs: dict[tuple[str, str], list[Run]]
    """By arm and part: a run for each seed, at the chosen rate."""
    tried: dict[tuple[str, str], list[Run]]
    """By arm and part: the runs that a rate was chosen from."""

    @property
    def styles(self) -> dict[str, dict[str, Any]]:
        """How each arm is drawn in every picture of the experiment."""
        return styles({arm.name: arm.kind for arm in self.arms})

    def of(self, arm: str, part: str | None = None) -> list[Run]:
        """The runs of an arm, on one part or (without) on all, part by part."""
        parts = self.parts if part is None else [part]
        return [run for name in parts for run in self.runs.get((arm, name), [])]

    def values(self, arm: str, measure: str, part: str | None = None) -> list[float]:
        """A value for each run that has the measure."""
        return [run.values[measure] for run in self.of(arm, part) if measure in run.values]

    def mean(self, arm: str, measure: str, part: str | None = None) -> float:
        """NaN without a run."""
        values = self.values(arm, measure, part)
        return statistics.fmean(values) if values else math.nan

    def difference(
        self, ours: str, theirs: str, measure: str, part: str | None = None, overlap: float = 0
    ) -> Difference:
        """`paired` over the runs of two arms that share part and seed."""
        return paired(*self._pairs(ours, theirs, measure, part), overlap)

    def differ(
        self, ours: str, theirs: str, measure: str, part: str | None = None, overlap: float = 0, times: float = 1
    ) -> bool:
        """Whether an arm differs from another's values, taken so many times, by more than chance over runs of the same
        part and seed; no with fewer than two."""
        first, second = self._pairs(ours, theirs, measure, part)
        return differ(first, [times * value for value in second], overlap)

    def _pairs(self, ours: str, theirs: str, measure: str, part: str | None) -> tuple[list[float], list[float]]:
        first, second = ([run for run in self.of(arm, part) if measure in run.values] for arm in (ours, theirs))
        together = [(a, b) for a in first for b in second if (a.part, a.seed) == (b.part, b.seed)]
        return [a.values[measure] for a, _ in together], [b.values[measure] for _, b in together]

    def best(self, names: Iterable[str], measure: str, better: str, part: str | None = None) -> str:
        """The arm with the best mean; for a choice among arms, give a measure of validation data."""
        return ranking({name: self.mean(name, measure, part) for name in names}, better)[0]

    def rates(self, arm: str) -> list[float]:
        """The rates of an arm, of all parts."""
        return sorted({run.rate for run in self.of(arm) if run.rate is not None})

    def at_edge(self) -> list[str]:
        """Arms whose rate is the smallest or the largest of three or more, so that a better one may lie beyond."""
        found = set()
        for (arm, part), tried in self.tried.items():
            rates = sorted({run.rate for run in tried if run.rate is not None})
            if len(rates) > 2 and self.runs[arm, part][0].rate in (rates[0], rates[-1]):
                found.add(arm)
        return sorted(found)

    def row(self, arm: Arm | str, metrics: Mapping[str, tuple[str, str | None]] | Sequence[Metric]) -> Row:
        """The line of an arm in the table of a result.

        Parameters
        ----------
        arm
            The arm or its name.
        metrics
            By the column's name, the measure and the part that it shows (None: all parts); or metrics whose names are
            measures, over all parts.
        """
        arm = arm if isinstance(arm, Arm) else next(a for a in self.arms if a.name == arm)
        columns = metrics if isinstance(metrics, Mapping) else {metric.name: (metric.name, None) for metric in metrics}
        runs = self.of(arm.name)
        found = {column: self.values(arm.name, measure, part) for column, (measure, part) in columns.items()}
        values = {column: numbers for column, numbers in found.items() if numbers}
        rates = ", ".join(f"{rate:g}" for rate in self.rates(arm.name))
        note = "; ".join(filter(None, [arm.note, f"{arm.rate_name} {rates}" if rates else ""]))
        seconds = statistics.fmean(run.seconds for run in runs) if runs else None
        return Row(arm.name, arm.kind, values, runs[0].parameters if runs else None, seconds=seconds, note=note)

    def rows(self, metrics: Mapping[str, tuple[str, str | None]] | Sequence[Metric]) -> list[Row]:
        """A line for each arm that ran, in their order."""
        return [self.row(arm, metrics) for arm in self.arms if self.of(arm.name)]


class Experiment:
    """Arms on parts of data, with finished runs on disk.

    Parameters
    ----------
    name
        For the lines that say how far it is.
    folder
        Keeps finished runs; runs of several experiments may share it.
    settings
        What every run depends on: settings and the fingerprint of the data file. Versions are added. What only says how
        much is run (seeds, which arms) does not belong in it, so that more of it keeps what is done.
    resume
        Take finished runs of an earlier experiment whose settings, arm, part, seed and rate are the same. A run that
        differs is measured again, and a line says what has changed.
    say
        Receives each line; standard error when left out.
    """

    def __init__(
        self,
        name: str,
        folder: Path,
        settings: Mapping[str, Any],
        resume: bool = False,
        say: Callable[[str], None] | None = None,
    ) -> None:
        self.name, self.settings, self.files = name, settings, RunFiles(folder, resume)
        console = Console(stderr=True)
        self._say = say or (
            lambda line: console.print(line, style="dim", highlight=False, soft_wrap=True, markup=False)
        )
        self._told: set[str] = set()
        self._done, self._total = 0, 0
        self._taken: list[float] = []

    def run(
        self, arms: Sequence[Arm], parts: Sequence[Part], seeds: Sequence[int], choice: Choice | None = None
    ) -> Runs:
        """Choose the rates, then run every arm on every part with every seed.

        Parameters
        ----------
        arms
            Names are unique.
        parts
            Names are unique; `[Part("", data)]` where there is one.
        seeds
            Of each arm.
        choice
            How rates are chosen; needed where an arm has several.

        Raises
        ------
        linmap.errors.Stopped
            At Ctrl-C, with the number of runs that are kept.
        """
        found = Runs(list(arms), [part.name for part in parts], {}, {})
        plan = [(arm, part) for part in parts for arm in arms]
        self._total = self._done + sum(_count(arm, seeds, choice) for arm, _ in plan)
        try:
            with untouched():
                for arm, part in plan:
                    rate = self._rate(arm, part, seeds[0], choice, found)
                    runs = [self._one(arm, part, seed, rate) for seed in (seeds if arm.seeded else seeds[:1])]
                    found.runs[arm.name, part.name] = runs
        except KeyboardInterrupt:
            noun = "run is" if self._done == 1 else "runs are"
            raise Stopped(f"{self._done} {noun} done and kept, of {self._total}", kept=self._done > 0) from None
        return found

    def _rate(self, arm: Arm, part: Part, seed: int, choice: Choice | None, found: Runs) -> float | None:
        if arm.rate_of is not None:
            return found.runs[arm.rate_of, part.name][0].rate
        if len(arm.rates) < 2:
            return arm.rates[0] if arm.rates else None
        if choice is None:
            raise ArgumentError(f"{arm.name} has several rates and choice=None; say how one is chosen.")
        tried = [self._one(arm, part, seed, rate, choosing=choice.pilots) for rate in arm.rates]
        found.tried[arm.name, part.name] = tried
        sign = 1 if choice.better == "lower" else -1
        best = min(tried, key=lambda run: (not math.isfinite(m := run.values[choice.measure]), sign * m))
        return best.rate

    def _one(self, arm: Arm, part: Part, seed: int, rate: float | None, choosing: bool = False) -> Run:
        """A run from disk, or a new one."""
        rated, chosen = f"rate{rate:g}" if rate is not None else "", "choosing" if choosing else ""
        name = "-".join(filter(None, [part.name, arm.name, rated, f"seed{seed}", chosen]))
        this = {"arm": {"name": arm.name, **arm.settings}, "part": {"name": part.name, **part.settings}}
        key = {"settings": self.settings, **this, "seed": seed, "rate": rate, "choosing": choosing}
        key["versions"] = versions()
        kept, folder = self.files.load(name, key), self.files.path(name, key).with_suffix("")
        if kept is not None:
            shutil.rmtree(folder, ignore_errors=True)  # of a process that was killed once the run was kept
            self._done += 1
            return kept
        if self.files.resume:
            self._tell_change(self.files.changed(name, key))
        start = time.perf_counter()
        outcome = arm.run(Trial(part.data, seed, rate, choosing, folder))
        seconds = time.perf_counter() - start
        values = {name: float(value) for name, value in outcome.values.items()}
        own = seconds if outcome.seconds is None else outcome.seconds
        run = Run(arm.name, part.name, seed, rate, values, own, outcome.parameters, dict(outcome.details))
        kept = self.files.save(name, key, run)
        shutil.rmtree(folder, ignore_errors=True)  # what a finished run no longer needs
        if seconds > 1:  # collecting takes a part of a second itself
            gc.collect()
        self._taken.append(seconds)
        self._done += 1
        self._tell(kept, seconds, choosing)
        return kept

    def _tell_change(self, changes: list[str]) -> None:
        line = f"{self.name}: measured again, for {', '.join(changes)}"
        if changes and line not in self._told:
            self._told.add(line)
            self._say(line)

    def _tell(self, run: Run, seconds: float, choosing: bool) -> None:
        measures = ", ".join(f"{name} {value:.4g}" for name, value in list(run.values.items())[:2])
        rate, why = f"rate {run.rate:g}" if run.rate is not None else "", "to choose the rate" if choosing else ""
        what = ", ".join(filter(None, [self.name, run.part, run.arm, rate, f"seed {run.seed}", why]))
        self._say(f"{what}: {measures} ({_duration(seconds)}; {self._done} of {self._total}{self._left()})")

    def _left(self) -> str:
        """The time that the rest takes if it goes on as so far."""
        left = (self._total - self._done) * statistics.fmean(self._taken)
        return f", about {_duration(left)} left" if left >= 1 else ""


@contextmanager
def untouched() -> Iterator[None]:
    """Around work that may set PyTorch's threads, default dtype or global generators: afterwards they are as before."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002 (what others set)
    threads, dtype, grad = torch.get_num_threads(), torch.get_default_dtype(), torch.is_grad_enabled()
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002
        torch.set_rng_state(states[2])
        torch.set_default_dtype(dtype)
        torch.set_grad_enabled(grad)
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)


def _count(arm: Arm, seeds: Sequence[int], choice: Choice | None) -> int:
    """The runs of an arm on one part; whole runs that chose are not run again."""
    runs = len(seeds) if arm.seeded else 1
    return runs + (len(arm.rates) if len(arm.rates) > 1 and choice is not None and arm.rate_of is None else 0)


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s" if seconds >= 1 else f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
