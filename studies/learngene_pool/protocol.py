"""Pools of two origins of their auxiliaries and several starts of their stitches, before and after tuning."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from linmap.compress.learngene_pool.pictures import draw_families
from linmap.data.image_tensors import Labelled
from linmap.experiment import Arm, Check, Metric, Outcome, Row, Runs, Trial, differ, draw_all
from linmap.experiment.result import Table
from linmap.recipes.job import CompareJob
from linmap.recipes.learngene_pool.compare import (
    ALONE,
    LARGEST,
    ONE,
    SIZES,
    UNTUNED,
    Task,
    alone,
    costs,
    families_of,
    in_pool,
    one_size,
    run_arms,
    sizes,
)
from linmap.recipes.learngene_pool.flags import Compare
from linmap.recipes.learngene_pool.making import accuracy
from studies.study import Findings, Job, table_of

STARTS = ("lstsq", "pinv", "transform", "random")
BEFORE, AFTER = Metric("stitched, before tuning", "higher"), Metric("stitched, after", "higher")


@dataclass(frozen=True)
class Named:
    """An arm of a pool."""

    origin: str
    start: str

    @property
    def name(self) -> str:
        return f"{self.origin}, {self.start}"


def arms(starts: Sequence[str], each_alone: bool, widths: Sequence[int] = (), others: bool = True) -> list[Arm]:
    """Distilled auxiliaries with every start; from scratch with two; each size alone where asked for; one size.

    Of `widths`, all but the last are distilled alone, too. Without `others`, distilled auxiliaries are all.
    """
    found = []
    from_scratch = [start for start in starts if start in ("lstsq", "random")] if others else []
    for origin, its in (("distilled", starts), ("scratch", from_scratch)):
        for start in its:
            named = Named(origin, start)
            kind = "system" if named.name == "distilled, lstsq" else "baseline" if origin == "scratch" else "ablation"
            found.append(Arm(named.name, kind, partial(pooled, origin == "distilled", start)))
    if not others:
        return found
    sizes_alone = [Arm(ALONE, "baseline", alone)] if each_alone else []
    narrower = [Arm(by_itself(d), "baseline", partial(one_size, number=n)) for n, d in enumerate(widths[:-1])]
    return [*found, *sizes_alone, *narrower, Arm(ONE, "baseline", one_size)]


def by_itself(width: int) -> str:
    """The name of the arm of a width that is distilled alone with all passes."""
    return f"width {width}, distilled alone"


def pooled(from_teacher: bool, start: str, trial: Trial) -> Outcome:
    """As in the comparison, with the means of the stitched models before and after, and those of the auxiliaries."""
    task: Task = trial.data
    done, m = in_pool(from_teacher, start, trial), len(task.shapes.widths)
    before, after = done.details[UNTUNED], done.details["accuracy"]
    more = {BEFORE.name: np.mean(before[m:]), AFTER.name: np.mean(after[m:])}
    return replace(done, values={**done.values, **{name: float(value) for name, value in more.items()}})


def findings(
    settings: Compare,
    data: Labelled,
    job: Job,
    starts: Sequence[str],
    setting: str,
    each_alone: bool = True,
    widths_alone: bool = False,
    others: bool = True,
) -> Findings:
    """Run the arms, and say what they show."""
    compare_job = CompareJob(out=job.out, seed=job.seeds[0], resume=job.resume)
    task = Task(settings, data, job.seeds[0], job.out / "ancestry", job.resume)
    widths = task.shapes.widths if widths_alone else ()
    runs = run_arms(task, compare_job, {"setting": setting}, arms(starts, each_alone, widths, others))
    metrics = [BEFORE, AFTER, SIZES, LARGEST]
    rows: list[Row] = runs.rows(metrics)
    pictures = [
        (job.out / "sizes.svg", partial(draw_families, families_of(runs), ancestry=accuracy(task.teacher, data)))
    ]
    drawn, notes = draw_all(pictures)
    said = f"{setting}; the ancestry model finds {accuracy(task.teacher, data):.3f} of {len(data.test)} test images"
    tables = [table_of("Accuracy", rows, metrics), auxiliaries(runs, task), sizes(runs), costs(runs, task)]
    if widths:
        tables.insert(2, alone_beside_pool(runs, widths))
    return Findings(said, tables, checks(runs, starts), notes, drawn)


def alone_beside_pool(runs: Runs, widths: Sequence[int]) -> Table:
    """Each width distilled alone with all passes, and what the pool gives at the same cost."""
    rows: list[list[str | float | int]] = []
    for number, width in enumerate(widths):
        name = ONE if number == len(widths) - 1 else by_itself(width)
        alone = np.mean([run.details["accuracy"][0] for run in runs.of(name)])
        pool = np.mean([run.details["accuracy"][number] for run in runs.of("distilled, lstsq")])
        rows.append([width, f"{pool:.3f}", f"{alone:.3f}"])
    columns = ["width", "in the pool (distilled, lstsq)", "distilled alone with all passes"]
    return Table("Auxiliaries in the tuned pool and alone", columns, rows, "Seeds averaged.")


def auxiliaries(runs: Runs, task: Task) -> Table:
    """The auxiliaries by themselves before tuning, of both origins."""
    rows: list[list[str | float | int]] = []
    for origin in ("distilled", "scratch"):
        kept = [run.details[UNTUNED][: len(task.shapes.widths)] for run in runs.of(f"{origin}, lstsq")]
        if not kept:
            continue
        cells = [
            f"{np.mean(part):.3f} ± {np.std(part, ddof=min(1, len(part) - 1)):.3f}" for part in zip(*kept, strict=True)
        ]
        rows.append([origin, *cells])
    return Table("Auxiliaries alone, before tuning", ["origin", *(f"width {d}" for d in task.shapes.widths)], rows)


def checks(runs: Runs, starts: Sequence[str]) -> list[Check]:
    """The order that the method promises, before and after tuning."""
    pairs = []
    if runs.of("scratch, lstsq"):
        pairs.append(("distilled, lstsq", "scratch, lstsq", AFTER, 0.10, "distilling buys less than 10 points here"))
    for metric in (BEFORE, AFTER):
        for better, worse in (("lstsq", "pinv"), ("pinv", "transform")):
            if better in starts and worse in starts:
                pair = f"distilled, {better}", f"distilled, {worse}"
                pairs.append((*pair, metric, 0.0, f"start stitches with {worse}"))
    if runs.of(ALONE):
        pairs.append(("distilled, lstsq", ALONE, SIZES, 0.0, "train the sizes that you need alone"))
    if runs.of(ONE):
        pairs.append(("distilled, lstsq", ONE, LARGEST, 0.0, "for one size, distil that one"))
    found = []
    for better, worse, metric, margin, otherwise in pairs:
        ours, theirs = runs.mean(better, metric.name), runs.mean(worse, metric.name)
        ahead = f" by at least {100 * margin:.0f} points" if margin else ""
        sure = differ(runs.values(better, metric.name), [value + margin for value in runs.values(worse, metric.name)])
        found.append(Check(f"{metric.name}: {better} is ahead of {worse}{ahead}", ours - theirs >= margin,
                           f"{ours:.3f} against {theirs:.3f}", otherwise, sure))  # fmt: skip
    return found
