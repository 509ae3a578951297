"""Directions of a generator as sliders: faces of a seed, moved along any of them at once."""

from __future__ import annotations

from typing import Any

import torch

from linmap.interpret.householder_projector.attributes import PURE, STEADY, Profile
from linmap.interpret.householder_projector.changes import in_batches
from linmap.interpret.householder_projector.generators import draw_codes
from linmap.interpret.householder_projector.pictures import as_pixels
from linmap.interpret.householder_projector.runs import load_run
from linmap.recipes.householder_projector.apply import sefa_directions
from linmap.recipes.householder_projector.flags import Unfitted
from linmap.recipes.networks import imported_network
from linmap.recipes.pixels import embedded_png
from linmap.recipes.view import Asked, Seen, numbers, whole

FACES = 4
"""Images that are shown at once."""
MOST = 20
"""Directions that have a slider."""
FARTHEST = 4.0
"""Standard deviations of the codes to either side."""
SEEDS = 100_000


class DirectionView:
    """The directions of a fitted generator, or SeFa's of one as it is."""

    def __init__(self, seen: Seen) -> None:
        fitted = seen.verb == "fit" or any(word == "../model" for word in seen.words)
        if fitted:
            run = load_run(seen.artifact, imported_network)
            self.generator, self.directions, self.profiles = run.generator, run.directions, run.profiles
        else:
            self.generator, self.directions, self.profiles = sefa_directions(seen.settings(Unfitted), None)
        self.seed = seen.seed % SEEDS
        self.count = min(len(self.directions), MOST)

    def start(self) -> dict[str, Any]:
        """What each direction changes, and the images as they are."""
        told = [_told(profile) for profile in self.profiles[: self.count]]
        return {"directions": told, "farthest": FARTHEST, "seed": self.seed, **self.answer({"seed": self.seed})}

    def answer(self, asked: Asked) -> dict[str, Any]:
        """The images of a `seed`, plain and moved along every direction by `amounts` standard deviations."""
        seed = whole(asked, "seed", SEEDS)
        amounts = numbers(asked, "amounts", (0.0,) * self.count, FARTHEST)
        edits = {number: amount for number, amount in enumerate(amounts, start=1) if amount}
        with torch.no_grad():
            w = self.generator.mapping(draw_codes(self.generator, FACES, seed))
            both = [w, self.directions.edited(w, edits)] if edits else [w]
            plain, *moved = [as_pixels(in_batches(self.generator.synthesis, one)) for one in both]
        faces = [embedded_png(image) for image in plain]
        return {"plain": faces, "moved": [embedded_png(image) for image in moved[0]] if moved else faces}


def _told(profile: Profile) -> dict[str, Any]:
    """Of one direction: the words of both ends, and how pure and how steady it is."""
    return {
        "more": profile.label,
        "less": profile.opposite,
        "purity": profile.purity,
        "pure": profile.purity >= PURE,
        "steady": profile.steadiness >= STEADY,
    }
