"""Simulated pairs: the same network as a diffusion and as a regression, a mean arch, and teeth that stay."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from linmap.experiment import Check, Picture, Table, differ, draw_all
from linmap.experiment.engine import Part, Runs
from linmap.experiment.figures import mean_std
from linmap.recipes.job import CompareJob
from linmap.recipes.tooth_arrangement.compare import (
    BEST,
    DIFFUSION,
    MEAN,
    METRICS,
    NEARER,
    ONE,
    REGRESSION,
    SINGLE,
    STAY,
    TWO,
    checks_of,
    methods,
    run_arms,
    simulated,
)  # fmt: skip
from linmap.recipes.tooth_arrangement.flags import Compare
from linmap.recipes.tooth_arrangement.pictures import draw_case
from studies.study import Findings, Job

FULL = Compare(cases=1000, test_cases=200, points=64, width=96, epochs=15, sampling_steps=50, samples=8)
TINY = Compare(cases=12, test_cases=4, points=8, width=8, blocks=1, epochs=1, sampling_steps=2, samples=2, batch_size=6)


def one_set_up(job: Job) -> Findings:
    """The small protocol: the set-up all but follows from the malocclusion."""
    settings, runs, part = _run(job, ambiguous=False)
    columns = [metric for metric in METRICS if runs.values(DIFFUSION, f"{SINGLE} {metric.name}")]
    table = Table(
        "Mean ± std over the seeds",
        ["method", *(f"{metric.name} ({metric.unit})" if metric.unit else metric.name for metric in columns)],
        [[name, *(_cell(runs.values(arm, f"{variant} {metric.name}"), metric.digits) for metric in columns)]
         for name, arm, variant, _ in methods(settings)],
        "ADD, PA-ADD and FD_cur over the present teeth; contact: the deepest neighbours of the plan as drawn.",
    )  # fmt: skip
    stay, ours = (runs.mean(arm, f"{SINGLE} ADD") for arm in (STAY, DIFFUSION))
    theirs, mean = runs.mean(REGRESSION, f"{SINGLE} ADD"), runs.mean(DIFFUSION, f"{MEAN} ADD")
    sentence = (
        f"ADD of teeth that stay {stay:.3f} mm, of one sample {ours:.3f}, of the mean of {settings.samples} "
        f"{mean:.3f}, of regression {theirs:.3f}"
    ) + (": where one set-up is right, regression is enough." if theirs <= mean else ".")
    return _found(settings, runs, part, [table], checks_of(runs, part.name), [sentence], job.out)


def two_set_ups(job: Job) -> Findings:
    """Each case has two valid set-ups, of which one is drawn: a wider arch with spaces closed, or neither."""
    settings, runs, part = _run(job, ambiguous=True)
    measures = ("ADD", NEARER)
    table = Table(
        "Mean ± std over the seeds, mm",
        ["method", "ADD to the one drawn", NEARER],
        [[name, *(_cell(runs.values(arm, f"{variant} {measure}"), 3) for measure in measures)]
         for name, arm, variant, _ in methods(settings)],
        "The best of several is chosen by what the column measures.",
    )  # fmt: skip

    def sure(ours: str, theirs: str) -> bool:
        return differ(runs.values(DIFFUSION, ours), runs.values(REGRESSION, theirs))

    one, regression = (runs.mean(arm, f"{SINGLE} {NEARER}") for arm in (DIFFUSION, REGRESSION))
    best = runs.mean(DIFFUSION, f"{BEST} ADD")
    theirs = runs.mean(REGRESSION, f"{SINGLE} ADD")
    checks = [
        Check("the best of several samples is nearer to the set-up that was drawn than regression", best < theirs,
              f"ADD {best:.3f} mm, {theirs:.3f} mm", "samples do not reach both set-ups",
              sure(f"{BEST} ADD", f"{SINGLE} ADD")),
        Check("one sample is nearer to a valid set-up than regression", one < regression,
              f"{one:.3f} mm, {regression:.3f} mm", "the scatter of a sample costs more than deciding gains",
              sure(f"{SINGLE} {NEARER}", f"{SINGLE} {NEARER}")),
    ]  # fmt: skip
    return _found(settings, runs, part, [table], checks, [], job.out)


def _run(job: Job, ambiguous: bool) -> tuple[Compare, Runs, Part]:
    settings = replace(TINY if job.tiny else FULL, seeds=len(job.seeds))
    numbers = {"cases": settings.cases, "test cases": settings.test_cases}
    part = Part(TWO if ambiguous else ONE, simulated(settings, 0, ambiguous), numbers)
    runs = run_arms(settings, CompareJob(out=job.out, seed=min(job.seeds), resume=job.resume), [part])
    return settings, runs, part


def _found(
    settings: Compare, runs: Runs, part: Part, tables: list[Table], checks: list[Check], sentences: list[str], out: Path
) -> Findings:
    def picture(path: Path) -> Picture:
        centers = {arm: np.array(runs.of(arm)[0].details[f"{SINGLE} centers"]) for arm in (DIFFUSION, REGRESSION)}
        return draw_case(part.data.test, part.data.valid, centers, runs.styles, part.name, path)

    pictures, notes = draw_all([(out / "case.svg", partial(picture))])
    setting = (
        f"{settings.cases} simulated pairs to train on, {settings.test_cases} of other patients to test on, "
        f"{settings.points} points a tooth, width {settings.width}, {settings.epochs} epochs, batches of "
        f"{settings.batch_size}, {settings.sampling_steps} steps of sampling"
    )
    return Findings(setting, tables, checks, [*sentences, *notes], pictures)


def _cell(values: list[float], digits: int) -> str:
    return mean_std(values, digits) if values else ""
