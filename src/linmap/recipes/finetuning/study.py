"""All runs of a comparison: every arm at the best of the same learning rates, each finished run kept on disk."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from rich.console import Console

from linmap.artifacts import plain, write_json
from linmap.errors import UsageError
from linmap.recipes.finetuning.experiments import Arm, Run, Task, execute


@dataclass
class RunFiles:
    """Finished runs, one JSON file each; a comparison that goes on takes them from there."""

    folder: Path
    task: Task
    resume: bool
    """Take the runs of an earlier comparison too; without, each stays until a run of this one replaces it."""
    own: set[Path] = field(default_factory=set)

    def path(self, arm: Arm, lr: float, seed: int, steps: int) -> Path:
        words = "".join(letter if letter.isalnum() else "-" for letter in arm.name)
        return self.folder / f"{words}-lr{lr:g}-seed{seed}-steps{steps}.json"

    def load(self, path: Path) -> Run | None:
        """The run of this file; None if it is not there yet.

        Raises
        ------
        UsageError
            If it was made with other settings.
        """
        if not (path in self.own or (self.resume and path.exists())):
            return None
        raw = json.loads(path.read_text(encoding="utf-8"))
        now, before = plain(self.task.settings()), raw["settings"]
        for name in now.keys() | before.keys():
            if now.get(name) != before.get(name):
                raise UsageError(
                    f"{path} was made with {name} = {before.get(name)}, now it is {now.get(name)}; compare again with "
                    "the setting of before, in another --out, or without --resume."
                )
        run = raw["run"]
        run["losses"] = [math.nan if loss is None else loss for loss in run["losses"]]
        run["validation"] = [(step, math.nan if loss is None else loss) for step, loss in run["validation"]]
        run["ranks"] = [(step, ranks) for step, ranks in run["ranks"]]
        return Run(**run)

    def save(self, path: Path, run: Run) -> None:
        write_json(path, plain({"settings": self.task.settings(), "run": asdict(run)}))
        self.own.add(path)


@dataclass(frozen=True)
class Study:
    """All runs of a task."""

    task: Task
    arms: list[Arm]
    pilots: dict[str, list[Run]]
    """By arm: the runs that its learning rate was picked from."""
    runs: dict[str, list[Run]]
    """By arm: a run for each seed, at the picked rate."""

    def values(self, arm: str, metric: str) -> list[float]:
        """A value for each seed."""
        return [self.task.values(run)[metric] for run in self.runs[arm]]

    def at_edge(self) -> list[str]:
        """Arms that picked the smallest or the largest of three rates or more, so that a better one may lie beyond."""
        edges = []
        for name, pilots in self.pilots.items():
            rates = sorted(run.lr for run in pilots)
            if len(rates) > 2 and self.runs[name][0].lr in (rates[0], rates[-1]):
                edges.append(name)
        return edges


def study(task: Task, arms: list[Arm], lrs: Sequence[float], seeds: Sequence[int], folder: Path, resume: bool) -> Study:
    """Pick each arm's learning rate by pilots with the first seed, then train all arms with all seeds."""
    files, console = RunFiles(folder, task, resume), Console(stderr=True)

    def run(arm: Arm, lr: float, seed: int, steps: int) -> Run:
        path = files.path(arm, lr, seed, steps)
        found = files.load(path)
        if found is None:
            start = time.perf_counter()
            found = execute(task, arm, lr, seed, steps)
            files.save(path, found)
            seconds = time.perf_counter() - start
            line = f"[dim]{task.name}: {describe(found)} ({seconds:.0f} s)[/dim]"
            console.print(line, highlight=False, soft_wrap=True)
        return found

    def pick(pilots: list[Run]) -> float:
        finite = [pilot for pilot in pilots if math.isfinite(pilot.final)]
        return min(finite or pilots[:1], key=lambda pilot: pilot.final).lr

    pilots = {
        arm.name: [run(arm, lr, seeds[0], task.pilot_steps) for lr in arm.grid(lrs)] if len(arm.grid(lrs)) > 1 else []
        for arm in arms
    }
    picks = {arm: pick(pilots[arm.name]) if pilots[arm.name] else arm.grid(lrs)[0] for arm in arms}
    runs: dict[str, list[Run]] = {arm.name: [] for arm in arms}
    for seed in seeds:
        for arm, lr in picks.items():
            runs[arm.name].append(run(arm, lr, seed, task.steps))
    return Study(task, arms, pilots, runs)


def describe(run: Run) -> str:
    rate = f", lr {run.lr:g}" if run.lr else ""
    pace = f", {run.step_seconds:.2g} s a step" if run.steps else ""
    return f"{run.arm}{rate}, seed {run.seed}, {run.steps} steps: validation loss {run.final:.4f}{pace}"
