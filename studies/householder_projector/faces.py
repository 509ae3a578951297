"""The faces of gan-face-generate: the comparison with several seeds, and ways to fine-tune without images."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any, cast

from torch import nn

from linmap.experiment import Arm, Check, Outcome, Table, Trial, differ, draw_all
from linmap.interpret.householder_projector.directions import find_directions
from linmap.interpret.householder_projector.layers import named_directions, project_layers
from linmap.interpret.householder_projector.projector import HouseholderProjector
from linmap.recipes.householder_projector.compare import (
    METRICS,
    PLAIN,
    Task,
    checks,
    concluded,
    described,
    differences,
    directions_of,
    drawings,
    entanglement_of,
    limits,
    outcome,
    prepared,
    read_plain,
    run_arms,
)
from linmap.recipes.householder_projector.flags import Compare
from linmap.recipes.householder_projector.measuring import DIVERSITY, FRECHET
from linmap.recipes.householder_projector.tuning import fine_tuned, projected
from linmap.recipes.job import CompareJob
from studies.study import Findings, Job, table_of

SETTINGS = Compare()
TINY = Compare(steps=1, batch_size=2, warmup=0, rank=2, ranks=(3,), samples=4, codes=2, feature_side=14)


def faces(job: Job) -> Findings:
    """SeFa, plain fine-tuning and the projector, alike but for the method."""
    settings = replace(TINY if job.tiny else SETTINGS, seeds=len(job.seeds))
    task, part = prepared(settings, None)
    runs = run_arms(settings, job.out, part, job.seeds, job.resume)
    rows = runs.rows(METRICS)
    pairs = {arm.name: entanglement_of(runs, arm.name).tolist() for arm in runs.arms if arm.kind != "ablation"}
    seeded = CompareJob(out=job.out, seed=job.seeds[0])
    pictures, notes = draw_all(drawings(settings, task, runs, seeded))
    tables = [table_of("Faces", rows, METRICS), differences(runs), directions_of(runs)]
    sentences = [concluded(runs, rows, pairs), limits(settings, task), *notes]
    return Findings(described(settings, None, task), tables, checks(runs), sentences, pictures)


def before_training(runs: Any) -> Table:
    """The Frechet distance of the projected generator before and after its fine-tuning."""
    rows: list[list[str | float | int]] = [
        [arm.name, f"{runs.mean(arm.name, 'before'):.1f}", f"{runs.mean(arm.name, FRECHET):.1f}"]
        for arm in runs.arms
        if runs.values(arm.name, "before")
    ]
    note = "Before: projected, with the statistics of batch normalisation taken anew."
    return Table("Frechet distance before and after fine-tuning", ["method", "before", "after"], rows, note)


# -- without images ----------------------------------------------------------------------------------------------------


def distillation(job: Job) -> Findings:
    """What the generator itself can teach its projected copy."""
    settings = TINY if job.tiny else replace(SETTINGS, steps=80, warmup=10, average=0.95, codes=24)
    task, part = prepared(settings, None)
    runs = run_arms(settings, job.out, part, job.seeds[:1], job.resume, list(ways(settings)))
    rows = runs.rows(METRICS)
    floor, best = runs.mean(PLAIN, FRECHET), min(
        (arm.name for arm in runs.arms if arm.name != PLAIN), key=lambda name: runs.mean(name, FRECHET)
    )  # fmt: skip
    distance, spread = runs.mean(best, FRECHET), runs.mean(best, DIVERSITY) / runs.mean(PLAIN, DIVERSITY)
    check = Check(
        "the best way is within 10 % of the plain generator's own Frechet distance",
        distance <= 1.1 * floor,
        f"{best}: {distance:.1f} against {floor:.1f}",
        "so few directions do not carry the variety of the whole code, or need longer training",
        differ(runs.values(best, FRECHET), 1.1 * floor),
    )
    said = f"{best} comes nearest; its images are {spread:.0%} as diverse as the plain generator's. One seed."
    return Findings(
        described(settings, None, task), [table_of("Ways to fine-tune without images", rows, METRICS)], [check], [said]
    )


def ways(settings: Compare) -> Iterator[Arm]:
    """From nothing to everything."""
    steps = settings.steps
    forms: dict[str, tuple[Compare, bool]] = {
        "projected, nothing else": (replace(settings, steps=0), False),
        "statistics anew": (replace(settings, steps=0), True),
        "matching": (replace(settings, objective="matching"), True),
        "adversarial": (replace(settings, objective="adversarial"), True),
        "both": (replace(settings, objective="both"), True),
        "both, projectors alone": (replace(settings, objective="both", trained="projectors"), True),
    }
    yield Arm(PLAIN, "reference", partial(read_plain, settings), {"rank": settings.rank}, note="fresh images")
    for name, (form, anew) in forms.items():
        note = "" if form.steps == 0 else f"{steps} steps"
        yield Arm(name, "ablation", partial(distilled, form, anew), {"rank": settings.rank}, note=note)
    rank = 50 if settings.rank < 50 else 100
    whole = replace(settings, objective="both", rank=rank)
    yield Arm(f"both, rank {rank}", "ablation", partial(distilled, whole, True), {"rank": rank}, note=f"{steps} steps")


def distilled(settings: Compare, anew: bool, trial: Trial) -> Outcome:
    """One way."""
    task: Task = trial.data
    generator = copy.deepcopy(task.generator)
    module = cast(nn.Module, generator)
    if anew:
        projected(generator, task.slots, settings, rank=settings.rank)
    else:
        project_layers(module, list(task.slots), settings.rank)
    seconds = fine_tuned(generator, task.generator, None, settings, trial.seed, trial.folder)
    directions = find_directions(generator, named_directions(module), task.slots)
    error = max(part.orthogonality_error() for part in module.modules() if isinstance(part, HouseholderProjector))
    return outcome(generator, directions, error, task, seconds)
