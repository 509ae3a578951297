"""Labelled images on a canvas with room to be moved, and what a network is shown of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from linmap.data.image_preparation import ImagePreparation
from linmap.data.image_sets import ImageSet, embedded_digits, read_image_set
from linmap.data.image_tensors import colourless, divided, to_grey
from linmap.data.schema import made
from linmap.errors import DataError
from linmap.recipes.beside import read_beside, write_beside

FINER = 2  # pixels of the canvas for one that the network sees, along each axis
LEAST = 4  # images of a class


@dataclass(frozen=True)
class Canvas:
    """How images become the input of a network: a square with a border all round, and a smaller one made of that."""

    size: int
    """Pixels of a side that the network sees."""
    margin: float
    """The border on each side, as a share of the image."""
    grey: bool
    """One channel instead of three."""

    @property
    def side(self) -> int:
        """Pixels of the canvas."""
        return FINER * self.size

    @property
    def inner(self) -> int:
        """Pixels of the image on the canvas."""
        return max(1, int(self.side / (1 + 2 * self.margin)))

    def laid(self, images: ImageSet) -> Tensor:
        """Images from 0 to 1 on their canvas (n, channels, side, side); the border repeats their edge."""
        x = ImagePreparation(scale=1 / 255).at(self.inner).batch(images)
        x = to_grey(x) if self.grey else x
        before = (self.side - self.inner) // 2
        after = self.side - self.inner - before
        return F.pad(x, (before, after, before, after), mode="replicate")

    def seen(self, laid: Tensor) -> Tensor:
        """What the network sees, from -1 to 1 (n, channels, size, size)."""
        return 2 * F.avg_pool2d(laid, FINER) - 1


@dataclass(frozen=True)
class Labelled:
    """Images on their canvas, to train on and to test on."""

    x: Tensor
    y: np.ndarray
    """Number of the class of each."""
    x_test: Tensor
    y_test: np.ndarray
    classes: tuple[str, ...]
    canvas: Canvas

    @property
    def channels(self) -> int:
        return self.x.shape[1]


def load(
    data: Path | None, size: int, margin: float, held_out: float, seed: int, most: int | None, tested: int | None = None
) -> Labelled:
    """The images of a path, divided by the seed, or the embedded digits; `most` to train on, `tested` to test on.

    Raises
    ------
    DataError
        If there are too few images or classes.
    """
    if data is None:
        train, test = embedded_digits("train"), embedded_digits("test")
    else:
        train, test = divided(read_image_set(data, labelled=True), held_out, seed, str(data), LEAST)
    train, test = (few(part, count, seed) for part, count in ((train, most), (test, tested)))
    assert train.labels is not None
    assert test.labels is not None
    if lost := sorted(set(range(len(train.classes))) - set(train.labels.tolist())):
        raise DataError(f"class {train.classes[lost[0]]!r} has none of the images={most} to train on; raise it.")
    colours = Canvas(size, margin, grey=False)
    x, x_test = colours.laid(train), colours.laid(test)
    grey = all(map(colourless, (x, x_test)))
    if grey:
        x, x_test = map(to_grey, (x, x_test))
    return Labelled(x, train.labels, x_test, test.labels, train.classes, Canvas(size, margin, grey))


def few(images: ImageSet, count: int | None, seed: int) -> ImageSet:
    """So many of the images, drawn by the seed, in their order."""
    if count is None or count >= len(images):
        return images
    return images.subset(np.sort(np.random.default_rng(seed).permutation(len(images))[:count]))


# -- beside a saved run ------------------------------------------------------------------------------------------------


def save(folder: Path, canvas: Canvas, classes: Sequence[str]) -> None:
    """Write how images are prepared, and the classes."""
    write_beside(folder, {"classes": list(classes), "canvas": asdict(canvas)})


def saved(folder: Path) -> tuple[Canvas, list[str]]:
    """What `save` wrote.

    Raises
    ------
    ArtifactError
        If it cannot be read.
    """
    return read_beside(folder, lambda about: (made(Canvas, about["canvas"], "canvas"), list(about["classes"])))
