"""Labelled images as tensors, and what a saved pool says of them."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from linmap.data.image_preparation import ImagePreparation, read_preparation
from linmap.data.image_sets import embedded_digits, read_image_set
from linmap.data.image_tensors import Labelled, divided, labelled
from linmap.data.models import model_folder
from linmap.data.schema import made
from linmap.errors import DataError
from linmap.recipes.beside import read_beside, write_beside
from linmap.recipes.learngene_pool.flags import Images

SIZE = 28  # of images, without a model
PLAIN = ImagePreparation(scale=1 / 255, mean=(0.5,), std=(0.5,))


def load(settings: Images, data: Path | None, seed: int, most: int | None = None) -> Labelled:
    """The images of a path, divided by the seed, or the embedded digits, as the ancestry model takes them.

    Raises
    ------
    DataError
        If there are too few images or classes.
    """
    preparation = preparation_of(settings)
    if data is None:
        train, test = embedded_digits("train"), embedded_digits("test")
    else:
        train, test = divided(read_image_set(data, labelled=True), settings.held_out, seed, str(data))
    if most is not None and most < len(train):
        train = train.subset(np.sort(np.random.default_rng(seed).permutation(len(train))[:most]))
        if lost := sorted(set(range(len(train.classes))) - set(np.asarray(train.labels).tolist())):
            raise DataError(f"class {train.classes[lost[0]]!r} has none of the images={most} to train on; raise it.")
    return labelled(train, test, preparation, grey=settings.model is None)


def preparation_of(settings: Images) -> ImagePreparation:
    """What the folder of --model says, or grey values from -1 to 1."""
    if settings.model is None:
        return PLAIN.at(settings.size or SIZE)
    stated = read_preparation(model_folder(settings.model, "images"))
    return stated if settings.size is None else stated.at(settings.size)


# -- beside a saved pool -----------------------------------------------------------------------------------------------


def save(folder: Path, data: Labelled, more: dict[str, Any]) -> None:
    """Write how images are prepared, and the classes."""
    about = {"classes": list(data.classes), "grey": data.grey, "preparation": asdict(data.preparation)}
    write_beside(folder, about | more)


def saved(folder: Path) -> tuple[dict[str, Any], ImagePreparation]:
    """What `save` wrote, and the preparation.

    Raises
    ------
    ArtifactError
        If it cannot be read.
    """

    def prepared(about: dict[str, Any]) -> tuple[dict[str, Any], ImagePreparation]:
        stated: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in about["preparation"].items()}
        return about, made(ImagePreparation, stated, "preparation")

    return read_beside(folder, prepared)
