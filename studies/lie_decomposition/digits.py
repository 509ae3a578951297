"""Digits of MNIST on a canvas of 40 x 40, of which networks see 20 x 20."""

from __future__ import annotations

import numpy as np

from linmap.data import find
from linmap.data.arrays import read_npz
from linmap.data.image_sets import ImageSet, image_set_of
from linmap.recipes.lie_decomposition.images import Canvas, Labelled

CANVAS = Canvas(size=20, margin=0.2, grey=True)
TRAINED, TESTED, VALIDATED = 2000, 2000, 300


def mnist(part: str, count: int) -> ImageSet:
    """The first digits of part "train" or "test"."""
    path = find("mnist/mnist_12k.npz", "Set LINMAP_DATA to a folder that has it.")
    arrays = read_npz(path, (f"x_{part}", f"y_{part}"))
    return image_set_of(arrays[f"x_{part}"][:count], arrays[f"y_{part}"][:count], f"mnist {part}")


def labelled(train: ImageSet, test: ImageSet) -> Labelled:
    """On their canvas."""
    assert train.labels is not None
    assert test.labels is not None
    return Labelled(CANVAS.laid(train), train.labels, CANVAS.laid(test), test.labels, train.classes, CANVAS)


def for_testing(tiny: bool) -> Labelled:
    """2,000 digits to train on, and 2,000 of the test file."""
    return labelled(mnist("train", 200 if tiny else TRAINED), mnist("test", 60 if tiny else TESTED))


def for_choosing(tiny: bool) -> Labelled:
    """Of the 2,000 digits to train on, the last 300 to choose by; the test file is not opened."""
    everything = mnist("train", 200 if tiny else TRAINED)
    cut = len(everything) - (60 if tiny else VALIDATED)
    return labelled(everything.subset(np.arange(cut)), everything.subset(np.arange(cut, len(everything))))
