"""What a generator and its directions are measured by, alike for every method of a comparison."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from linmap.interpret.householder_projector.attributes import Attribute, Profile, profiles
from linmap.interpret.householder_projector.changes import change_sizes, entanglements, image_changes, in_batches
from linmap.interpret.householder_projector.directions import DirectionSet
from linmap.interpret.householder_projector.features import Features
from linmap.interpret.householder_projector.frechet import diversity, frechet_distance
from linmap.interpret.householder_projector.generators import Generator, draw_codes
from linmap.interpret.householder_projector.path_length import interpretable_path_length, perceptual_path_length

ENTANGLEMENT, FRECHET, DIVERSITY = "entanglement", "Frechet distance", "diversity"
ALIKE = "entanglement, equal steps"
PATH, INTERPRETABLE, PER_CHANGE = "path length", "interpretable path length", "per squared change"
ORTHOGONALITY, PURITY = "orthogonality error", "purity"
REFERENCE_SEED, FRESH_SEED, CODES_SEED = 10_001, 20_002, 30_003
"""Of codes: the plain generator's images that stand for the real ones, the images that are measured, and the codes that
directions are measured at. No training draws them."""
EPS = 1e-2
"""Part of the way between two styles, for the path length."""


@dataclass(frozen=True, eq=False)
class Yardstick:
    """What all methods are measured against."""

    features: Features
    real: Float[Tensor, "images features"]
    """Of the user's images, or of the plain generator's."""
    attributes: tuple[Attribute, ...]
    samples: int
    """Images whose distribution is compared."""
    codes: int
    """Codes that directions are measured at."""


@dataclass(frozen=True, eq=False)
class Measured:
    """Of one method."""

    values: dict[str, float]
    entanglements: list[float]
    """At every code."""
    profiles: list[Profile]


def measure(
    generator: Generator, directions: DirectionSet, orthogonality: float, yard: Yardstick, change: float | None = None
) -> Measured:
    """All measures of a generator and its directions.

    Parameters
    ----------
    generator, directions
        In evaluation mode.
    orthogonality
        Its largest error.
    yard
        What it is measured against.
    change
        Of the image by one step; that of one deviation, averaged over the directions, when left out.
    """
    images = in_batches(generator, draw_codes(generator, yard.samples, FRESH_SEED))
    found = yard.features(images)
    w = generator.mapping(draw_codes(generator, yard.codes, CODES_SEED)).detach()
    steps = directions.deviations[:, None] * directions.vectors
    change = float(directions.changes.mean()) if change is None else change
    equal = steps * (change / directions.changes.clamp_min(1e-12))[:, None]
    moves = image_changes(generator.synthesis, w, directions.slots, steps)
    alike = entanglements(image_changes(generator.synthesis, w, directions.slots, equal))
    told = profiles(generator, directions, yard.attributes)
    values = {
        ENTANGLEMENT: float(entanglements(moves).mean()),
        ALIKE: float(alike.mean()),
        FRECHET: frechet_distance(found, yard.real),
        DIVERSITY: diversity(found),
        ORTHOGONALITY: orthogonality,
        PURITY: sum(profile.purity for profile in told) / len(told),
        "change": float(change_sizes(moves).mean()),
    }
    return Measured(values | path_lengths(generator, directions, w, yard), alike.tolist(), told)


def path_lengths(
    generator: Generator, directions: DirectionSet, w: Float[Tensor, "codes slots i"], yard: Yardstick
) -> dict[str, float]:
    """Of the way between codes, and along directions by one deviation, raw and by the squared change of the image."""
    n, random = len(w), torch.Generator().manual_seed(CODES_SEED)
    rows = torch.randint(len(directions), (n,), generator=random)
    ends, t = generator.mapping(draw_codes(generator, n, CODES_SEED + 1)).detach(), torch.rand(n, generator=random)
    options: dict[str, Any] = {"features": yard.features}
    along = (directions.deviations[:, None] * directions.vectors)[rows]
    slots = torch.tensor(directions.slots)[rows]
    with torch.no_grad():
        interpretable = interpretable_path_length(generator.synthesis, w, slots, along, **options)
        plain = interpretable_path_length(generator.synthesis, w, slots, along)
        path = perceptual_path_length(generator.synthesis, w, ends, t.to(w), eps=EPS, **options)
    return {PATH: path, INTERPRETABLE: interpretable, PER_CHANGE: interpretable / max(plain, 1e-12)}


def direction_error(directions: DirectionSet) -> float:
    """The largest entry of |D D^T - I|, layer by layer."""
    errors = []
    for layer in dict.fromkeys(directions.layers):
        D = directions.vectors[[name == layer for name in directions.layers]].double()
        errors.append(float((D @ D.T - torch.eye(len(D), dtype=D.dtype)).abs().max()))
    return max(errors)
