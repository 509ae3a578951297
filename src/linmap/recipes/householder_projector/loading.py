"""The generator that `--model` names, and images of the user's as it makes them."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from linmap.data.image_sets import read_image_set
from linmap.data.images import square
from linmap.data.pretrained import GENERATORS, bundled_generator
from linmap.errors import DataError, UsageError
from linmap.interpret.householder_projector.attributes import Attribute, colour_attributes, stroke_attributes
from linmap.interpret.householder_projector.changes import in_batches
from linmap.interpret.householder_projector.generators import Generator, as_generator, draw_codes, load_generator
from linmap.recipes.networks import PICKLED, imported_network, is_import_path

FEWEST = 16
"""Images of the user's that a distribution can be told from at all."""


def load_model(name: str) -> Generator:
    """A generator by name, of a folder, or by import path, in evaluation mode.

    Raises
    ------
    UsageError
        If it is none of these.
    DataError
        If the folder cannot be used.
    """
    if name in GENERATORS:
        return load_generator(bundled_generator(name))
    if name.endswith(PICKLED) or is_import_path(name):
        return as_generator(imported_network(name))
    if Path(name).is_dir():
        return load_generator(name)
    raise UsageError(
        f"--model {name!r} is no folder; give {', '.join(GENERATORS)}, a folder with config.json and "
        "model.safetensors, or package.module:function."
    )


def imported(name: str) -> str | None:
    """The import path, where `--model` is one."""
    return name if name not in GENERATORS and is_import_path(name) else None


def attributes_of(generator: Generator, name: str) -> tuple[Attribute, ...]:
    """What images are measured by: portraits, other colour images, or strokes in grey."""
    channels = generator(draw_codes(generator, 2, 0)).shape[1]
    return stroke_attributes() if channels == 1 else colour_attributes(portraits=name in GENERATORS)


def own_images(path: Path, generator: Generator) -> Float[Tensor, "images channels height width"]:
    """Images of a folder or an archive as the generator makes them: a centred square of its size, in [-1, 1].

    Raises
    ------
    DataError
        If there are fewer than `FEWEST`.
    """
    like = in_batches(generator, draw_codes(generator, 2, 0))
    found = read_image_set(path, labelled=False)
    if len(found) < FEWEST:
        raise DataError(f"{path}: {len(found)} images; {FEWEST} at least are needed to tell a distribution from.")
    channels, height, width = like.shape[1:]
    side = max(height, width)
    rows = torch.stack([torch.from_numpy(square(image, side)).permute(2, 0, 1) for image in found]).float() / 127.5 - 1
    rows = rows if height == width else F.interpolate(rows, size=(height, width), mode="bilinear", antialias=True)
    return rows if channels == 3 else rows.mean(1, keepdim=True)
