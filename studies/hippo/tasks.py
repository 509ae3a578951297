"""The series that the methods are trained on: pixels of digits one by one, ListOps, and real long series."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from linmap.data.sequences import LabelledSeries, named_series
from linmap.errors import DataError
from linmap.experiment import Part
from studies.hippo.listops import generate_listops, one_hot, split_listops

LISTOPS = 20_000  # trees, of 10 < length < 128
VALIDATION = {"mnist-small": 250, "mnist": 1000, "mnist-784": 1000}
TRAINING = {"mnist": 6000}  # images of the published small setting
ARCHIVE = ("ACSF1", "OSULeaf", "BasicMotions", "JapaneseVowels", "GunPoint")
TINY_SERIES, TINY_SAMPLES = 24, 30


@dataclass(frozen=True)
class Size:
    """Of every model on a task, and its training."""

    n_layers: int
    d_model: int
    d_state: int
    epochs: int
    batch_size: int
    bidirectional: bool = False
    dt: tuple[float, float] | None = None
    """None: from the length of the series."""


PIXELS = Size(2, 32, 16, epochs=6, batch_size=50, dt=(1e-3, 0.1))
SIZES = {
    "mnist-small": replace(PIXELS, epochs=8),
    "mnist": PIXELS,
    "mnist-784": replace(PIXELS, d_model=64),
    "listops": Size(2, 64, 16, epochs=4, batch_size=50, bidirectional=True),
    **dict.fromkeys(ARCHIVE, Size(2, 64, 32, epochs=40, batch_size=16)),
    "JapaneseVowels": Size(2, 64, 32, epochs=20, batch_size=16),
}


@dataclass(frozen=True)
class Task:
    """Series to train on, to follow the training with (None: too few to spare any), and to test on."""

    name: str
    train: LabelledSeries
    validation: LabelledSeries | None
    test: LabelledSeries
    size: Size

    def options(self) -> dict[str, Any]:
        """Of `S4Classifier`."""
        return asdict(self.size) | {"dt": self.size.dt, "prenorm": False}

    def __str__(self) -> str:
        lengths = np.concatenate([self.train.lengths, self.test.lengths])
        span = str(lengths.min()) if lengths.min() == lengths.max() else f"{lengths.min()} to {lengths.max()}"
        return f"{self.name} ({len(self.train):,} and {len(self.test):,} series, {span} samples)"


def part(name: str, tiny: bool) -> Part:
    """A task by name.

    Raises
    ------
    DataError
        If its data are not installed.
    """
    try:
        task = _listops(200 if tiny else LISTOPS) if name == "listops" else _named(name)
    except (FileNotFoundError, ModuleNotFoundError) as error:
        raise DataError(f"{name}: {error}") from None
    task = _shortened(task) if tiny else task
    return Part(name, task, task.options())


def _named(name: str) -> Task:
    train, test = named_series(name), named_series(name, "test")
    validation = None
    if name in VALIDATION:
        end = len(train) - VALIDATION[name]
        validation = train.take(range(end, len(train)))
        train = train.take(range(min(end, TRAINING.get(name, end))))
    return Task(name, train, validation, test, SIZES[name])


def _listops(trees: int) -> Task:
    drawn = generate_listops(trees, min_length=10, max_length=128)
    parts = split_listops(drawn, validation=trees // 20, test=trees // 10)
    train, validation, test = (
        LabelledSeries(one_hot(each.tokens), each.labels, [str(i) for i in range(len(each))]) for each in parts
    )
    return Task("listops", train, validation, test, SIZES["listops"])


def _shortened(task: Task) -> Task:
    """A few series of few samples, two of the classes, one epoch."""

    def few(data: LabelledSeries) -> LabelledSeries:
        labels = data.require_labels()
        of_two = np.flatnonzero(np.isin(labels, np.unique(labels)[:2]))
        short = data.take(of_two[np.linspace(0, len(of_two) - 1, min(len(of_two), TINY_SERIES)).astype(int)])
        return replace(short, series=[series[:TINY_SAMPLES] for series in short.series])

    size = replace(task.size, d_model=8, d_state=8, epochs=1)
    validation = None if task.validation is None else few(task.validation)
    return replace(task, train=few(task.train), validation=validation, test=few(task.test), size=size)
