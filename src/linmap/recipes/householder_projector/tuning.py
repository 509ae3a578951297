"""A generator whose layers are projected, and its fine-tuning, as the flags ask for."""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from linmap.interpret.householder_projector.finetuning import finetune
from linmap.interpret.householder_projector.generators import Generator, draw_codes
from linmap.interpret.householder_projector.layers import project_layers
from linmap.interpret.householder_projector.projector import START, HouseholderProjector
from linmap.interpret.householder_projector.runs import recalibrate_
from linmap.recipes.householder_projector.flags import Tuning

CALIBRATION, CALIBRATION_SEED = 256, 40_004
"""Codes whose images give batch normalisation its statistics."""


def projected(
    generator: Generator, layers: Iterable[str], settings: Tuning, *, rank: int, random: bool = False, seed: int = 0
) -> None:
    """Project layers in place, and take the statistics of batch normalisation anew.

    Parameters
    ----------
    generator, layers
        And the names of its layers.
    settings
        Of the projection.
    rank
        Of every projector.
    random
        Whether the directions start at random, drawn by `seed`, with the same gain.
    """
    module = cast(nn.Module, generator)
    codes = draw_codes(generator, CALIBRATION, CALIBRATION_SEED)
    styles = generator.mapping(codes).detach()[:, 0]
    options: dict[str, Any] = {"gain": settings.gain, "n_reflectors": settings.n_reflectors}
    options["w_samples"] = styles if rank <= styles.shape[1] else None  # such a rank is refused by the layer's name
    found = project_layers(module, list(layers), rank, **options)
    if random:
        source = torch.Generator().manual_seed(seed)
        for part in found.values():
            restart_(part, source)
    recalibrate_(module, codes)


def restart_(projector: HouseholderProjector, source: torch.Generator) -> None:
    """The raw start of a projector: reflectors that are normal, signs of one; its gain and bias stay."""
    with torch.no_grad():
        projector.U.normal_(0, START, generator=source)
        projector.V.normal_(0, START, generator=source)
        projector.signs.fill_(1)


def fine_tuned(
    generator: Generator,
    teacher: Generator,
    images: Tensor | None,
    settings: Tuning,
    seed: int,
    out: Path | None = None,
    resume: bool = False,
) -> float:
    """Train a generator in place by the steps that the flags ask for; the seconds."""
    training = settings.training(seed, images is not None)
    if training is None:
        return 0.0
    start = time.perf_counter()
    finetune(cast(Any, generator), cast(Any, teacher), images, settings=training, out=out, resume=resume)
    return time.perf_counter() - start
