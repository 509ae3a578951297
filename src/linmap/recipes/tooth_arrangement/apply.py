"""`linmap apply` with a fitted tooth_arrangement: plans for one patient, with stages, movements and a page."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from linmap import artifacts, ownership
from linmap.artifacts import plain, write_json, write_table
from linmap.errors import ArgumentError, DataError, UsageError
from linmap.recipes.job import FittedJob
from linmap.recipes.tooth_arrangement.flags import Apply
from linmap.recipes.tooth_arrangement.page import Proposal, Told, write_page
from linmap.shapes.tooth_arrangement import FDI, TADPM, ToothSet
from linmap.shapes.tooth_arrangement.cases import load_case
from linmap.shapes.tooth_arrangement.movements import movement_table, movements, tooth_axes
from linmap.shapes.tooth_arrangement.neighbours import Neighbours
from linmap.shapes.tooth_arrangement.stages import Stages, stages_between

PAGE, MOTIONS, MOVEMENTS, STAGES = "plan.html", "motions.json", "movements.csv", "stages.json"
AFTER, STAGE_MESHES = "after", "stages"
PLAN = "plan"
"""Folder in the run where --out is left out."""
SIMULATED = (
    "The model learnt from simulated pairs: the shapes are statistics of real teeth, but no tooth was treated; the "
    "malocclusions are drawn at random."
)
CLINICAL = "The model learnt from the pairs before and after treatment that it was given."


def apply(settings: Apply, job: FittedJob) -> dict[str, Any]:
    """Propose where the teeth of one patient go: meshes, motions, stages, movements and a page with a 3-D view.

    For research and planning support; no medical device. A clinician decides.
    """
    if job.data is None:
        raise UsageError("--data is missing: give a folder with a mesh for each tooth, such as 11.stl.")
    out = job.out or job.artifact / PLAN
    if out.suffix or out.is_file():
        raise UsageError(f"--out {out}: a plan is several files; give a folder.")
    if ownership.real(out) in map(ownership.real, (job.data, job.artifact)):
        raise UsageError(f"--out {out} is read from; give another folder.")
    for name in (PAGE, MOTIONS, MOVEMENTS, STAGES, AFTER, STAGE_MESHES):
        ownership.claim(out / name)
    model = TADPM.load(job.artifact)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        teeth = load_case(job.data)
    notes = list(dict.fromkeys(str(one.message) for one in caught if issubclass(one.category, UserWarning)))
    try:
        proposals = propose(model, teeth, settings, job.seed)
    except ArgumentError as error:
        of_teeth = str(error).startswith(("fixed:", "teeth:"))
        raise DataError(f"{job.data}: {error}") if of_teeth else error from None
    chosen = proposals[settings.choose - 1]
    told = Told(
        ownership.real(job.data).name,
        _summary_line(teeth, proposals, settings),
        _training(job.artifact),
        tuple(notes),
        settings.tolerance,
    )
    ownership.make_folder(out)
    write_plan(out, teeth, proposals, chosen, settings)
    write_page(out / PAGE, teeth, proposals, told, settings.held())
    summary: dict[str, Any] = {
        "out": str(out),
        "page": str(out / PAGE),
        "teeth": len(teeth.meshes),
        "fixed": list(settings.held()),
        "proposals": len(proposals),
        "chosen": settings.choose,
        "deepest_contact_mm": round(chosen.collision, 3),
        "stages": chosen.stages.count,
        "collisions_on_the_way": len(chosen.stages.collisions),
    }
    if notes:
        summary["notes"] = [note if note.endswith((".", "?", ")")) else f"{note}." for note in notes]
    return summary


def propose(model: TADPM, teeth: ToothSet, settings: Apply, seed: int) -> list[Proposal]:
    """Draw plans, rank them, and put them in stages; the best is first.

    Plans without a contact over the tolerance come first, then the model's own order, in which arch form counts.
    """
    tooth_axes(teeth)  # refuses too few teeth before any work
    found = model.arrange(
        teeth,
        n_samples=settings.proposals,
        fixed=settings.held(),
        seed=seed,
        arch_width=settings.arch_width,
        arch_depth=settings.arch_depth,
    )
    neighbours, plans = Neighbours(teeth), []
    for number, motions in enumerate(found.motions.numpy()):
        deep = int((neighbours.depths(motions) > settings.tolerance).sum())
        scores = {name: float(values[number]) for name, values in found.scores.items()}
        plans.append(
            Proposal(
                motions,
                movements(teeth, motions),
                staged(teeth, motions, settings, neighbours),
                scores["collision"],
                deep,
                scores["smoothness"],
            )
        )
    return sorted(plans, key=lambda plan: plan.deep)  # stable: the model's order within


def staged(teeth: ToothSet, motions: np.ndarray, settings: Apply, neighbours: Neighbours) -> Stages:
    """The stages of one plan."""
    return stages_between(
        teeth,
        motions,
        settings.n_stages,
        max_shift=settings.max_shift,
        max_turn=settings.max_turn,
        tolerance=settings.tolerance,
        neighbours=neighbours,
    )


def write_plan(out: Path, teeth: ToothSet, proposals: Sequence[Proposal], chosen: Proposal, settings: Apply) -> None:
    """Meshes of the chosen plan and of its stages where asked for, motions of all, stages and movements."""
    with artifacts.staged(out) as partial:
        teeth.apply(chosen.motions).export(partial / AFTER)
        if settings.stage_meshes:
            for number, motions in enumerate(chosen.stages.motions):
                teeth.apply(motions).export(partial / STAGE_MESHES / f"{number:03d}")
    if not settings.stage_meshes and (out / STAGE_MESHES).is_dir():
        shutil.rmtree(out / STAGE_MESHES)  # of another plan
    for name in (AFTER, STAGE_MESHES):
        if (out / name).exists():
            ownership.record(out / name)
    write_json(
        out / MOTIONS,
        {
            "about": "4 x 4 matrices by FDI number, in mm, acting on columns (x, y, z, 1) in the coordinates of the "
            "meshes; proposals are in their order of rank",
            "fixed": list(settings.held()),
            "chosen": settings.choose,
            "proposals": [
                {
                    "deepest_contact_mm": plan.collision,
                    "contacts_over_tolerance": plan.deep,
                    "smoothness": plan.smoothness,
                    "stages": plan.stages.count,
                    "motions": _by_tooth(teeth, plan.motions),
                }
                for plan in proposals
            ],
        },
    )
    write_json(
        out / STAGES,
        {
            "about": "of the chosen proposal; the first stage is before, the last is after",
            "max_shift_mm": settings.max_shift,
            "max_turn_degrees": settings.max_turn,
            "collisions": [plain(one) for one in chosen.stages.collisions],
            "stages": [_by_tooth(teeth, motions) for motions in chosen.stages.motions],
        },
    )
    write_table(out / MOVEMENTS, movement_table(chosen.movements))


def _by_tooth(teeth: ToothSet, motions: np.ndarray) -> dict[str, Any]:
    return {str(fdi): plain(motions[slot]) for slot, fdi in enumerate(FDI) if fdi in teeth.meshes}


def _training(artifact: Path) -> str:
    trained = artifact / "training.json"
    return CLINICAL if trained.exists() and '"simulated": false' in trained.read_text(encoding="utf-8") else SIMULATED


def _summary_line(teeth: ToothSet, proposals: Sequence[Proposal], settings: Apply) -> str:
    free = sum(not plan.deep for plan in proposals)
    fixed = settings.held()
    held = f"; {', '.join(map(str, fixed))} must not move" if fixed else ""
    count = len(proposals)
    return (
        f"{len(teeth.meshes)} teeth{held}. {count} {'proposal' if count == 1 else 'proposals'}, {free} without a "
        f"contact over {settings.tolerance:g} mm, in stages of at most {settings.max_shift:g} mm and "
        f"{settings.max_turn:g}° for each tooth."
    )
