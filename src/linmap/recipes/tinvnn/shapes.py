"""Shapes divided into parts to train on, to choose by and to test on, all with the same number of points."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, Shaped

from linmap.data.clouds import PointClouds, ldraw_shapes, load_clouds
from linmap.errors import DataError


@dataclass(frozen=True)
class Part:
    """Clouds and their classes."""

    X: Float[np.ndarray, "clouds points d"]
    y: Shaped[np.ndarray, " clouds"]

    def __len__(self) -> int:
        return len(self.X)

    def take(self, rows: np.ndarray) -> Part:
        """Those clouds alone."""
        return Part(self.X[rows], self.y[rows])


@dataclass(frozen=True)
class Split:
    """What the methods of a comparison get."""

    train: Part
    test: Part
    held: Shaped[np.ndarray, " train"]
    """Mask of the training clouds that rates are chosen by."""

    @property
    def tuning(self) -> tuple[Part, Part]:
        """Training clouds to train on and to choose by; no cloud of the test is among them."""
        return self.train.take(~self.held), self.train.take(self.held)


def load(path: Path | None, points: int, seed: int) -> PointClouds:
    """The user's clouds, or the LDraw shapes of the package."""
    return ldraw_shapes() if path is None else load_clouds(path, points, seed)


def classed(clouds: PointClouds, points: int | None, seed: int) -> Part:
    """Clouds with the same number of points (that of the largest without `points`), and the names of their classes.

    Raises
    ------
    DataError
        If there are no classes, or one alone.
    """
    y = clouds.named_labels()
    if len(set(y.tolist())) < 2:
        raise DataError(f"{clouds.name}: all clouds are of one class, {y[0]!r}; there is nothing to tell apart.")
    return Part(clouds.batch(points if points is not None else int(clouds.sizes().max()), seed), y)


def divided(clouds: PointClouds, points: int | None, seed: int, share: float, validation: float) -> Split:
    """By the split of the file, else a share of every class for the test; and a part of the training to choose by.

    Raises
    ------
    DataError
        If a class of the test has no cloud to train on, or a class has too few to choose by.
    """
    found = classed(clouds, points, seed)
    test = clouds.test if clouds.test is not None else drawn(found.y, share, seed, clouds.name)
    train, rest = separated(found, test, clouds.name)
    return Split(train, rest, drawn(train.y, validation, seed, clouds.name))


def separated(found: Part, test: np.ndarray, name: str) -> tuple[Part, Part]:
    """What is trained on and what is tested on, by a mask.

    Raises
    ------
    DataError
        If one of them is empty, or a class of the test has no cloud to train on.
    """
    train, rest = found.take(~test), found.take(test)
    if not len(rest) or not len(train):
        raise DataError(f"{name}: its split leaves no cloud to {'test' if not len(rest) else 'train'} on.")
    if lost := sorted(set(rest.y.tolist()) - set(train.y.tolist())):
        raise DataError(f"{name}: class {lost[0]!r} has clouds to test on and none to train on.")
    return train, rest


def drawn(y: np.ndarray, share: float, seed: int, name: str) -> np.ndarray:
    """A mask of a share of every class, at least one of each, drawn by the seed."""
    random, mask = np.random.default_rng(seed), np.zeros(len(y), bool)
    for label in sorted(set(y.tolist())):
        rows = np.flatnonzero(y == label)
        if len(rows) < 2:
            raise DataError(f"{name}: class {label!r} has one cloud; two are needed, to train on and to measure on.")
        mask[random.permutation(rows)[: min(max(1, round(share * len(rows))), len(rows) - 1)]] = True
    return mask


def without(clouds: PointClouds, names: Sequence[str]) -> PointClouds:
    """The clouds of the other classes."""
    return clouds.take(~np.isin(clouds.named_labels(), list(names)))
