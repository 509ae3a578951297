"""`linmap compare token_transforming`: what each way and budget keeps of a model's answers, and what it saves."""

from __future__ import annotations

from dataclasses import asdict, replace
from functools import partial
from statistics import fmean
from typing import Any

import torch

from linmap.compress.token_transforming import TokenTransform
from linmap.compress.token_transforming.evaluation.images import Images
from linmap.compress.token_transforming.evaluation.measuring import ORIGINAL, SAVED, SPEED, Task
from linmap.compress.token_transforming.evaluation.pictures import draw_curves, draw_flows
from linmap.compress.token_transforming.evaluation.subject import Subject
from linmap.compress.token_transforming.evaluation.texts import Prompts
from linmap.compress.token_transforming.evaluation.ways import decoder_ways, encoder_ways
from linmap.experiment import (
    Check,
    Experiment,
    Metric,
    Result,
    Row,
    Runs,
    Table,
    capitalized,
    differ,
    fingerprint,
    mean_std,
    paired,
    verdict,
    with_pictures,
)
from linmap.recipes.job import CompareJob
from linmap.recipes.token_transforming.flags import Compare, Transforming
from linmap.recipes.token_transforming.loading import model_of, subject_of

PREFILL = TokenTransform(select="importance", min_sim=0.9)
"""Of language models, where the flags leave the defaults."""


def compare(settings: Compare, job: CompareJob) -> Result:
    """Every way at every budget: what is kept beside the model as it is, and seconds measured in turn with it."""
    model = model_of(settings, job.data)
    task = task_of(settings, subject_of(settings, model, job.data, settings.limit))
    key = {k: v for k, v in asdict(settings).items() if k not in ("keep", "lost", "model")}
    key |= {"data": fingerprint(job.data), "weights": model.weights()}
    runs = Experiment("token_transforming", job.out / "runs", key, job.resume).run(
        task.arms(), task.parts(), [job.seed]
    )
    subject, metrics = task.subject, metrics_of(task)
    found = Result(
        system="token_transforming",
        task=(
            f"{model.name} on {len(subject.names)} {subject.what}, "
            f"{', '.join(f'{keep:g}' for keep in task.keeps)} of the tokens kept at {task.places()}; beside the model "
            f"as it is, in batches of {task.batch}"
        ),
        metrics=metrics, rows=rows_of(task, runs), shows=shows(task, runs), limits=limits(task),
        checks=checks(task, runs), tables=[table(task, runs)], verdict=advice(task, runs), seeds=[job.seed],
        settings=asdict(settings),
    )  # fmt: skip
    pictures: list[Any] = [
        (
            job.out / "curves.svg",
            partial(draw_curves, curves(task, runs), task.first, task.bound(runs), styles=runs.styles),
        )
    ]
    if isinstance(subject, Images):
        pictures.append((job.out / "flows.svg", partial(draw_flows, subject, task.ways[0].transform, settings.at)))
    return with_pictures(found, pictures)


def task_of(settings: Compare, subject: Subject) -> Task:
    """The subject with all ways, of which the first is as the flags say."""
    ours = TokenTransform(**settings.options(Transforming))
    if isinstance(subject, Prompts):
        ways = decoder_ways(PREFILL if ours == TokenTransform() else ours)
    else:
        ways = encoder_ways(ours, class_token=not isinstance(subject, Images) or subject.prefix > 0)
    return Task(subject, list(ways), settings.keep, settings.at, settings.repeats, settings.lost)


def metrics_of(task: Task) -> list[Metric]:
    """The measure that decides and the speed-up, at each budget."""
    found = []
    for part in task.parts():
        found.append(Metric(f"{task.first.name}, {part.name}", task.first.better, task.first.unit, task.first.digits))
        found.append(Metric(f"{SPEED}, {part.name}", "higher", "times", 2))
    return found


# -- what was found ----------------------------------------------------------------------------------------------------


def rows_of(task: Task, runs: Runs) -> list[Row]:
    """A value for each input, and for each turn of the clock."""
    rows = []
    for row in runs.rows({}):
        values: dict[str, list[float]] = {}
        for part in runs.parts:
            for run in runs.of(row.name, part):
                values[f"{task.first.name}, {part}"] = run.details[task.first.name]
                if SPEED in run.values:
                    values[f"{SPEED}, {part}"] = [run.values[SPEED]]
        rows.append(replace(row, values=values))
    return rows


def table(task: Task, runs: Runs) -> Table:
    """Everything, by budget and way."""
    rows: list[list[str | float | int]] = []
    for part in runs.parts:
        for arm in runs.arms:
            for run in runs.of(arm.name, part):
                if arm.name == ORIGINAL and part != runs.parts[0]:
                    continue
                scores = [mean_std(run.details[measure.name], measure.digits) for measure in task.subject.measures]
                if arm.name == ORIGINAL:
                    rows.append(["-", arm.name, "-", "-", "-", "-", *scores])
                    continue
                seconds = run.details["seconds"]
                times = f"{fmean(seconds['plain']):.3f}", f"{fmean(seconds['compressed']):.3f}"
                rows.append([part, arm.name, f"{run.values[SAVED]:.1%}", " / ".join(times), f"{run.values[SPEED]:.2f}",
                             run.details["left"] or "-", *scores])  # fmt: skip
    saved = "share of the tokens times blocks" if isinstance(task.subject, Prompts) else "multiply-adds"
    measures = [f"{one.name} ({one.unit})" if one.unit else one.name for one in task.subject.measures]
    columns = ["budget", "way", f"{saved} saved", "seconds as it is / merged", SPEED, "tokens at the end", *measures]
    note = (
        f"Mean ± standard deviation over {task.subject.what}. Seconds: the forward pass of one batch of {task.batch} "
        f"with {torch.get_num_threads()} threads, the model as it is and with merged tokens in turn, {task.repeats} "
        "turns after one that warms up; the speed-up is the median over the turns. Reading files and restoring are not "
        "in it."
    ) + by_budget(task, runs)
    return Table("Kept and saved", columns, rows, note)


def curves(task: Task, runs: Runs) -> dict[str, list[tuple[float, float]]]:
    """By way, speed-up and measure at each budget."""
    ways = [arm.name for arm in runs.arms if arm.name != ORIGINAL]
    return {name: [(run.values[SPEED], run.values[task.first.name]) for run in runs.of(name)] for name in ways}


def advice(task: Task, runs: Runs) -> str:
    """The fastest way and budget that keep enough, and at which budgets the system beats the others."""
    first, bound = task.first, task.bound(runs)
    reached = [run for arm in runs.arms if arm.name != ORIGINAL for run in runs.of(arm.name)
               if task.enough(run.values[first.name], bound)]  # fmt: skip
    side = "at least" if first.better == "higher" else "at most"
    unit = f" {first.unit}" if first.unit else ""
    enough = f"{first.name} {side} {bound:.{first.digits}f}{unit}"
    if reached and max(run.values[SPEED] for run in reached) <= 1:
        told = [f"No way is faster than the model as it is with {enough}: leave it, or measure larger batches."]
    elif reached:
        best = max(reached, key=lambda run: run.values[SPEED])
        note = "" if best.arm == runs.arms[0].name else f" ({next(a.note for a in runs.arms if a.name == best.arm)})"
        told = [f"With {enough}, the fastest is {best.arm}{note}, {best.part}: {best.values[SPEED]:.2f} times as fast."]
        own = [run for run in reached if run.arm == runs.arms[0].name]
        if own and best not in own:
            fastest = max(own, key=lambda run: run.values[SPEED])
            told.append(f"{fastest.arm} gets there with {fastest.part}: {fastest.values[SPEED]:.2f} times as fast.")
    else:
        told = [f"No way and budget has {enough}: keep more of the tokens, or allow more to be lost (--lost)."]
    return " ".join([*told, *standing(task, runs)])


def standing(task: Task, runs: Runs) -> list[str]:
    """One sentence: the budgets at which the system is ahead of the best other way, behind it, or neither."""
    system, name = runs.arms[0].name, task.first.name
    sign = 1 if task.first.better == "higher" else -1
    places: dict[str, list[str]] = {"ahead": [], "behind": [], "no different beyond chance": []}
    for part in runs.parts:
        others = {arm.name: runs.mean(arm.name, name, part) for arm in runs.arms if arm.kind == "baseline"}
        best = max(others, key=lambda other: sign * others[other])
        ours, theirs = (runs.of(way, part)[0].details[name] for way in (system, best))
        if len(ours) < 2:
            return []
        gap = paired(ours, theirs)
        place = "no different beyond chance" if not gap.certain else "ahead" if sign * gap.mean > 0 else "behind"
        places[place].append(part)
    said = [f"{place} with {', '.join(parts)}" for place, parts in places.items() if parts]
    return [f"Beside the best other way, {system} is {'; '.join(said)}."]


def by_budget(task: Task, runs: Runs) -> str:
    """At each budget, the system beside the best other way, with figures."""
    rows, told = rows_of(task, runs), []
    for part in runs.parts:
        metric = Metric(task.first.name, task.first.better, task.first.unit, task.first.digits)
        at_part = [replace(row, values={metric.name: row.values.get(f"{metric.name}, {part}", [])}) for row in rows]
        if said := verdict(at_part, metric, over=task.subject.what):
            told.append(f" {capitalized(part)}: {said}")
    return "".join(told)


def described(task: Task, run: Any) -> str:
    """A budget in words."""
    value = f"{run.values[task.first.name]:.{task.first.digits}f}"
    return (
        f"{run.part}: {run.values[SPEED]:.2f} times as fast ({run.values[SAVED]:.0%} saved), {task.first.name} {value}"
    )


def checks(task: Task, runs: Runs) -> list[Check]:
    """Whether time is saved at all, and whether the method is ahead where most tokens go."""
    system, last = runs.arms[0].name, runs.parts[-1]
    speeds = {part: runs.mean(system, SPEED, part) for part in runs.parts}
    said = ", ".join(f"{part} {speed:.2f}" for part, speed in speeds.items())
    sure = all(differ(runs.values(system, SPEED, part), 1) for part in runs.parts)
    found = [Check("fewer tokens are faster at every budget", min(speeds.values()) > 1, said,
                   "batches are too small, or the model too short, for merging to pay", sure)]  # fmt: skip
    baselines = {arm.name: runs.mean(arm.name, task.first.name, last) for arm in runs.arms if arm.kind == "baseline"}
    ours = runs.mean(system, task.first.name, last)
    best = max(baselines, key=lambda name: baselines[name] * (1 if task.first.better == "higher" else -1))
    ahead = (ours - baselines[best]) * (1 if task.first.better == "higher" else -1) >= 0
    digits = task.first.digits
    found.append(Check(f"at {last}, {system} keeps at least as much as every other way", ahead,
                       f"{ours:.{digits}f} against {baselines[best]:.{digits}f} ({best})",
                       f"take {best} at such budgets",
                       runs.differ(system, best, task.first.name, last)))  # fmt: skip
    return found


def shows(task: Task, runs: Runs) -> str:
    """The system at each budget."""
    told = [described(task, run) for run in runs.of(runs.arms[0].name)]
    return f"{runs.arms[0].name}, {'; '.join(told)}."


def limits(task: Task) -> str:
    """What not to conclude."""
    what = task.subject.what
    return (
        f"{len(task.subject.names)} {what}, one model, seconds of this machine. Agreement with the model as it is says "
        "what merging changes, not whether a task suffers from it. The other ways are this library's own, through the "
        "same code. Pairs (ToMe, PiToMe) remove at most half of the tokens of a block; where a budget asks for more, "
        "they do it in two blocks, the first one earlier, at the same cost."
    )
