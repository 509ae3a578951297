"""What the protocols share: further ways, and the tables and checks that are made of their runs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from linmap.compress.token_transforming import TokenTransform
from linmap.compress.token_transforming.evaluation.measuring import ORIGINAL, SAVED, Task
from linmap.compress.token_transforming.evaluation.pictures import draw_curves
from linmap.compress.token_transforming.evaluation.subject import Measure
from linmap.compress.token_transforming.evaluation.ways import Way, encoder_ways
from linmap.experiment import Check, Experiment, Part, Picture, Runs, Table, paired
from studies.study import Job

OURS, HARD = "Token Transforming", "hard"
COST = "MACs: multiply-adds of the model and of what merges its tokens, less than those of the model as it is."


def all_ways(ours: TokenTransform | None = None) -> Iterator[Way]:
    """Those of the recipe, the method's parts alone, and PiToMe as published."""
    ours = TokenTransform() if ours is None else ours
    named = {way.name: way for way in encoder_ways(ours)}
    yield from named.values()
    yield Way("PiToMe on keys", "baseline", replace(named["PiToMe on x"].transform, feature="k"), "as published")
    yield Way("important centres", "ablation", replace(ours, select="importance", assign="hard"), "without novelty")


def ran(job: Job, task: Task, settings: dict[str, Any], parts: Sequence[Part] | None = None) -> Runs:
    """All ways at all budgets, once: nothing of it is random but one draw of centres."""
    key = settings | {"at": task.at, "inputs": len(task.subject.names)}
    experiment = Experiment(f"token transforming {job.out.name}", job.out / "runs", key, job.resume)
    return experiment.run(task.arms(), task.parts() if parts is None else list(parts), [0])


def kept(task: Task, runs: Runs) -> Table:
    """Every way at every budget: cost, and the mean of every measure."""
    rows: list[list[str | float | int]] = []
    for part in runs.parts:
        for arm in runs.arms:
            if arm.name == ORIGINAL and part != runs.parts[0]:
                continue
            (run,) = runs.of(arm.name, part)
            scores = [f"{run.values[one.name]:.{one.digits}f}" for one in task.subject.measures]
            plain = arm.name == ORIGINAL
            saved = "-" if plain else f"-{run.values[SAVED]:.1%}"
            rows.append(["-" if plain else part, arm.name, saved, *scores])
    measures = [f"{one.name} ({one.unit})" if one.unit else one.name for one in task.subject.measures]
    title = f"Kept and saved, means over {len(task.subject.names)} {task.subject.what}"
    return Table(title, ["budget", "way", "MACs", *measures], rows, COST)


def differences(task: Task, runs: Runs, measures: Sequence[str]) -> Table:
    """What the method gains over every other way, paired over the inputs."""
    rows: list[list[str | float | int]] = []
    digits = {one.name: one.digits for one in task.subject.measures}
    for part in runs.parts:
        (ours,) = runs.of(OURS, part)
        for arm in runs.arms[1:]:
            if arm.name != ORIGINAL:
                (theirs,) = runs.of(arm.name, part)
                gaps = [paired(ours.details[name], theirs.details[name]).text(digits[name]) for name in measures]
                rows.append([part, arm.name, *gaps])
    note = f"With the 95 % interval over the {task.subject.what}."
    return Table(f"{OURS} less the others", ["budget", "way", *measures], rows, note)


def ahead(runs: Runs, measure: str, better: str, within: float, above: float, way: str = OURS) -> list[Check]:
    """At strong compression ahead of every peer, at mild compression within a little of the best."""
    found, sign = [], 1 if better == "higher" else -1
    for part in runs.parts:
        strong = runs.values(way, SAVED, part)[0] >= above
        peers = {arm.name: runs.mean(arm.name, measure, part) for arm in runs.arms if arm.kind == "baseline"}
        best = max(peers, key=lambda name: sign * peers[name])
        ours = runs.mean(way, measure, part)
        gap = sign * (ours - peers[best])
        statement = "is ahead of every peer" if strong else f"is within {within:g} of the best peer"
        found.append(
            Check(
                f"{part}: the {measure} of {way} {statement}",
                gap > 0 if strong else gap >= -within,
                f"{ours:.4f} against {peers[best]:.4f} ({best})",
                f"{best} is the better choice there",
            )
        )
    return found


def curves(runs: Runs, measure: str) -> dict[str, list[tuple[float, float]]]:
    """By way, the share of the multiply-adds that is saved, and the measure, at each budget."""
    names = [arm.name for arm in runs.arms if arm.kind in ("system", "baseline")]
    return {name: [(run.values[SAVED], run.values[measure]) for run in runs.of(name)] for name in names}


def drawn(runs: Runs, measure: Measure, bound: float, path: Path) -> Picture:
    """The curves of quality against cost."""
    across = "share of the multiply-adds saved"
    return draw_curves(curves(runs, measure.name), measure, bound, path, across, runs.styles)
