"""`linmap apply`: sheets of the directions of a fitted generator, or of SeFa's in a plain one; edits replayed."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

from torch import nn

from linmap.errors import shell_line, word
from linmap.interpret.householder_projector.attributes import Profile, profiles
from linmap.interpret.householder_projector.directions import DirectionSet, find_directions, sefa_of
from linmap.interpret.householder_projector.features import Features, image_features
from linmap.interpret.householder_projector.generators import Generator, slots_of
from linmap.interpret.householder_projector.runs import load_run
from linmap.recipes.householder_projector.flags import Apply, Unfitted
from linmap.recipes.householder_projector.loading import attributes_of, load_model
from linmap.recipes.householder_projector.showing import replayed, shown
from linmap.recipes.job import ApplyJob, FittedJob
from linmap.recipes.networks import imported_network


def apply(settings: Apply, job: FittedJob) -> dict[str, Any]:
    """Draw a sheet of every direction and all on one page, and write vectors and `edits.json`; or replay an edit.

    --edit 3=+2.0 --seed 7 --out edited.png writes the image of seed 7, two deviations along direction 3.
    """
    run = load_run(job.artifact, imported_network)
    if settings.edit:
        out = job.out or Path("edited.png")
        return replayed(out, run.generator, run.directions, run.profiles, settings, job.seed)
    about = {"run": str(job.artifact), "model": run.config.get("model"), "method": "projector"}
    out, source = job.out or job.artifact / "sheets", word(job.artifact)
    return shown(out, run.generator, run.directions, run.profiles, settings, job.seed, source, about)


def unfitted(settings: Unfitted, job: ApplyJob) -> dict[str, Any]:
    """Draw sheets of SeFa's directions of a generator as it is, or replay an edit; nothing is trained.

    For directions that are orthogonal in images of their own fine-tuned generator: linmap fit householder_projector
    """
    features = None if settings.edit else image_features()
    generator, directions, told = sefa_directions(settings, features)
    if settings.edit:
        return replayed(job.out or Path("edited.png"), generator, directions, told, settings, job.seed)
    words = ["householder_projector", "--model", settings.model, "--rank", settings.rank, "--order", settings.order]
    source = shell_line([*words, *(["--layers", *settings.layers] if settings.layers else [])])
    about = {"run": None, "model": settings.model, "method": "SeFa"}
    out = job.out or Path("sheets")
    summary = shown(out, generator, directions, told, settings, job.seed, source, about)
    if features is not None and features.note:
        summary.setdefault("notes", []).append(features.note)
    return summary


def sefa_directions(settings: Unfitted, features: Features | None) -> tuple[Generator, DirectionSet, list[Profile]]:
    """A generator as it is, SeFa's directions of it, and what they change."""
    generator = load_model(settings.model)
    cast(nn.Module, generator).requires_grad_(False)
    slots = slots_of(generator, settings.layers)
    found = sefa_of(generator, slots, settings.rank)
    directions = find_directions(generator, found, slots, order=settings.order)
    return generator, directions, profiles(generator, directions, attributes_of(generator, settings.model), features)
