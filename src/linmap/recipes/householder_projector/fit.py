"""`linmap fit householder_projector`: project a generator, fine-tune it, and find its directions."""

from __future__ import annotations

import copy
from typing import Any, cast

from torch import Tensor, nn

from linmap.artifacts import check_free
from linmap.experiment import weights_digest
from linmap.interpret.householder_projector.attributes import profiles, said
from linmap.interpret.householder_projector.changes import in_batches
from linmap.interpret.householder_projector.directions import find_directions
from linmap.interpret.householder_projector.features import image_features
from linmap.interpret.householder_projector.frechet import frechet_distance
from linmap.interpret.householder_projector.generators import Generator, draw_codes, slots_of
from linmap.interpret.householder_projector.layers import named_directions
from linmap.interpret.householder_projector.projector import HouseholderProjector
from linmap.interpret.householder_projector.runs import save_run
from linmap.pictures import illustrated
from linmap.recipes.householder_projector.flags import Fit
from linmap.recipes.householder_projector.loading import attributes_of, imported, load_model, own_images
from linmap.recipes.householder_projector.measuring import FRESH_SEED, REFERENCE_SEED
from linmap.recipes.householder_projector.showing import CONTACT, draw_contact
from linmap.recipes.householder_projector.tuning import fine_tuned, projected
from linmap.recipes.job import FitJob

NOT_TRAINED = (
    "nothing was trained, for there are no images: the projection keeps what the generator knew better than a short "
    "training against its own images does; --steps 300 trains"
)


def fit(settings: Fit, job: FitJob) -> dict[str, Any]:
    """Replace layers of a generator by projectors, fine-tune it on your images or on its own, and save it with its
    directions, each labelled by what it changes.

    `linmap apply RUN --out sheets` then draws a sheet of every direction.
    """
    check_free(job.out)
    teacher = load_model(settings.model)
    slots = slots_of(teacher, settings.layers)
    images = None if job.data is None else own_images(job.data, teacher)
    generator = copy.deepcopy(teacher)
    projected(generator, slots, settings, rank=settings.rank)
    seconds = fine_tuned(generator, teacher, images, settings, job.seed, job.out / "training", job.resume)
    module = cast(nn.Module, generator)
    directions = find_directions(generator, named_directions(module), slots, order=settings.order)
    features = image_features(settings.feature_side)
    told = profiles(generator, directions, attributes_of(generator, settings.model), features)
    save_run(
        job.out, generator, directions, told, seed=job.seed, imported=imported(settings.model), layers=slots,
        rank=settings.rank, n_reflectors=settings.n_reflectors, model=settings.model, order=settings.order,
        plain=weights_digest(cast(nn.Module, teacher)),
    )  # fmt: skip
    projectors = [part for part in module.modules() if isinstance(part, HouseholderProjector)]
    summary: dict[str, Any] = {
        "artifact": str(job.out),
        "model": settings.model,
        "layers": list(slots),
        "rank": settings.rank,
        "steps": 0 if (training := settings.training(job.seed, images is not None)) is None else training.steps,
        "seconds": round(seconds, 1),
        "orthogonality_error": max(part.orthogonality_error() for part in projectors),
    }
    if settings.measured:
        summary |= fidelity(generator, teacher, images, features, settings.measured)
    notes = [features.note] if features.note else []
    if settings.steps is None and images is None:
        notes.append(NOT_TRAINED)
    if notes:
        summary["notes"] = notes
    with illustrated(summary, job.out / CONTACT) as path:
        draw_contact(path, generator, directions, list(map(said, told)), 3.0, job.seed)
        summary["picture"] = str(path)
    return summary | {"labels": [f"{number} {said(one)}" for number, one in enumerate(told, start=1)]}


def fidelity(generator: Generator, teacher: Generator, images: Tensor | None, features: Any, n: int) -> dict[str, Any]:
    """The Frechet distance to the images or, without, to what the plain generator draws, and the plain one's own."""
    fresh = draw_codes(teacher, n, FRESH_SEED)
    if images is None:
        real, of = features(in_batches(teacher, draw_codes(teacher, n, REFERENCE_SEED))), "the plain generator's images"
    else:
        real, of = features(images[:n]), "your images"
    found, plain = (frechet_distance(features(in_batches(one, fresh)), real) for one in (generator, teacher))
    return {
        "frechet_distance": round(found, 3),
        "frechet_distance_plain": round(plain, 3),
        "measured_against": f"{len(real)} of {of}, {features.name}",
    }
