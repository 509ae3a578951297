"""The series that the methods are trained on: pixels of digits one by one, ListOps, and real long series."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import numpy as np

from linmap.data.listops import generate_listops, one_hot, split_listops
from linmap.data.sequences import Archive, LabelledSeries, load_series, named_series
from linmap.errors import UsageError
from linmap.recipes.hippo.files import fractional, held_out

LISTOPS = 20_000  # trees, of 10 < length < 128
VALIDATION = {"mnist-small": 250, "mnist": 1000, "mnist-784": 1000}
TRAINING = {"mnist": 6000}  # images of the published small setting


@dataclass(frozen=True)
class Size:
    """Of every model on a task, and its training."""

    layers: int
    d_model: int
    d_state: int
    epochs: int
    batch_size: int
    bidirectional: bool = False
    dt: tuple[float, float] | None = None
    """None: from the length of the series."""


SMALL_SERIES = Size(2, 64, 32, epochs=40, batch_size=16)
SIZES = {
    "mnist-small": Size(2, 32, 16, epochs=8, batch_size=50, dt=(1e-3, 0.1)),
    "mnist": Size(2, 32, 16, epochs=6, batch_size=50, dt=(1e-3, 0.1)),
    "mnist-784": Size(2, 64, 16, epochs=6, batch_size=50, dt=(1e-3, 0.1)),
    "listops": Size(2, 64, 16, epochs=4, batch_size=50, bidirectional=True),
    "JapaneseVowels": Size(2, 64, 32, epochs=20, batch_size=16),
} | dict.fromkeys(("ACSF1", "OSULeaf", "BasicMotions", "GunPoint"), SMALL_SERIES)


@dataclass(frozen=True)
class Task:
    """Series to train on, to follow the training with (None: too few to spare any), and to test on."""

    name: str
    train: LabelledSeries
    validation: LabelledSeries | None
    test: LabelledSeries
    size: Size
    archive: bool = False
    """Few real series, where MiniRocket is what one would use."""

    @property
    def majority(self) -> float:
        """Accuracy of always answering what is most frequent in the training."""
        labels, counts = np.unique(self.train.require_labels(), return_counts=True)
        return float((self.test.require_labels() == labels[counts.argmax()]).mean())

    def __str__(self) -> str:
        lengths = np.concatenate([self.train.lengths, self.test.lengths])
        span = str(lengths.min()) if lengths.min() == lengths.max() else f"{lengths.min()} to {lengths.max()}"
        return f"{self.name} ({len(self.train):,} and {len(self.test):,} series, {span} samples)"


def load_task(name: str, seed: int = 0) -> Task:
    """A task by name.

    Raises
    ------
    UsageError
        If there is no such task.
    """
    if name not in SIZES:
        raise UsageError(f"--tasks: there is no {name!r}; there are {', '.join(SIZES)}.")
    if name == "listops":
        return _listops()
    train, test = named_series(name), named_series(name, "test")
    validation = None
    if name in VALIDATION:
        end = len(train) - VALIDATION[name]
        validation = train.take(range(end, len(train)))
        train = train.take(range(min(end, TRAINING.get(name, end))))
    return Task(name, train, validation, test, SIZES[name], archive=name in get_args(Archive))


def user_task(path: Path, seed: int) -> Task:
    """The user's labelled series, of which a quarter is tested on."""
    data = load_series(path)
    if fractional(data.require_labels()):
        raise UsageError(f"{path}: compare hippo is about classes; `linmap fit hippo` also learns numbers.")
    train, test = held_out(data, 0.25, seed)
    assert test is not None
    return Task(path.stem, train, None, test, SMALL_SERIES, archive=True)


def _listops() -> Task:
    parts = split_listops(generate_listops(LISTOPS, min_length=10, max_length=128), validation=1000, test=2000)
    train, validation, test = (
        LabelledSeries(one_hot(part.tokens), part.labels, [str(i) for i in range(len(part))]) for part in parts
    )
    return Task("listops", train, validation, test, SIZES["listops"])
