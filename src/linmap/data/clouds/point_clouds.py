"""`PointClouds`: sets of points with classes and a split where they are known."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float, Int64, Shaped

from linmap.errors import ArgumentError, DataError

FAR = 3.0
"""Longitudes or latitudes of a region lie this many standard deviations from 0."""
WIDE = 120.0
"""Degrees of longitude that only a map of the world spans."""


@dataclass(frozen=True, eq=False)
class PointClouds:
    """Clouds of points in one dimension, each with as many points as it has."""

    clouds: tuple[np.ndarray, ...]
    """(points, d) each, float32 or float64."""
    names: tuple[str, ...]
    """Of each, unique: the path in its folder, or its number in the archive."""
    labels: Int64[np.ndarray, " clouds"] | None = None
    """Of each the number of its class; None where there are no classes."""
    classes: tuple[str, ...] = ()
    """By number."""
    test: Bool[np.ndarray, " clouds"] | None = None
    """Which the source sets apart for the test; None where it does not."""
    name: str = ""
    notes: tuple[str, ...] = ()
    """What was guessed or chosen when they were read."""

    def __len__(self) -> int:
        return len(self.clouds)

    @property
    def dim(self) -> int:
        """Coordinates of a point."""
        return self.clouds[0].shape[1]

    def take(self, rows: np.ndarray | Sequence[int]) -> PointClouds:
        """Those clouds alone, in that order; `rows` may also be a mask. Classes stay as they are numbered."""
        numbers = np.arange(len(self))[np.asarray(rows)]
        labels, test = (None if part is None else part[numbers] for part in (self.labels, self.test))
        clouds, names = (tuple(part[i] for i in numbers) for part in (self.clouds, self.names))
        return replace(self, clouds=clouds, names=names, labels=labels, test=test)

    def named_labels(self) -> Shaped[np.ndarray, " clouds"]:
        """The class of each cloud, in words.

        Raises
        ------
        DataError
            If there are none.
        """
        if self.labels is None:
            raise DataError(
                f"{self.name}: its clouds have no classes; expected folders named by class, or an archive with labels."
            )
        return np.array(self.classes)[self.labels]

    def sizes(self) -> Int64[np.ndarray, " clouds"]:
        """The number of points of each."""
        return np.array([len(cloud) for cloud in self.clouds], np.int64)

    def batch(self, n_points: int | None = None, seed: int = 0) -> Float[np.ndarray, "clouds points d"]:
        """All clouds with the same number of points, in one array.

        A cloud with more gives points drawn without repetition, one with fewer all of its points and some again. What
        is drawn depends on the seed and on the name of the cloud, not on its pose.

        Parameters
        ----------
        n_points
            Of each; when None, as many as all of them have.
        seed
            Of the draws.

        Raises
        ------
        ValueError
            If `n_points` is None where sizes differ, or less than 2.
        """
        sizes = self.sizes()
        if n_points is None:
            if len(set(sizes.tolist())) > 1:
                raise ArgumentError(
                    f"n_points=None: the clouds have {sizes.min()} to {sizes.max()} points; say how many."
                )
            return np.stack(self.clouds)
        if n_points < 2:
            raise ArgumentError(f"n_points={n_points} must be at least 2.")
        pairs = zip(self.clouds, self.names, strict=True)
        return np.stack([_drawn(cloud, n_points, draws(seed, name)) for cloud, name in pairs])


def draws(seed: int, name: str) -> np.random.Generator:
    """A generator that depends on a seed and a name."""
    return np.random.default_rng((seed, zlib.crc32(name.encode())))


def _drawn(cloud: np.ndarray, n_points: int, random: np.random.Generator) -> np.ndarray:
    if len(cloud) == n_points:
        return cloud
    if len(cloud) > n_points:
        return cloud[np.sort(random.permutation(len(cloud))[:n_points])]
    return cloud[np.concatenate([np.arange(len(cloud)), random.integers(len(cloud), size=n_points - len(cloud))])]


def checked(cloud: np.ndarray, where: str) -> np.ndarray:
    """A cloud as float32 or float64, with at least two points of finite coordinates.

    Raises
    ------
    DataError
        If it is none; the message begins with `where`.
    """
    if cloud.ndim != 2 or cloud.dtype.kind not in "iuf":
        raise DataError(f"{where}: a cloud is numbers (points, coordinates), got {cloud.dtype} of shape {cloud.shape}.")
    if len(cloud) < 2:
        held = "one point" if len(cloud) else "no point"
        raise DataError(f"{where} has {held}; a shape needs two at least.")
    if cloud.shape[1] < 1:
        raise DataError(f"{where}: its points have no coordinates.")
    if cloud.dtype.kind == "f" and (wrong := ~np.isfinite(cloud).all(1)).any():
        raise DataError(
            f"{where}: point {int(wrong.argmax())} has a coordinate that is not a finite number; remove it."
        )
    return cloud.astype(np.float32 if cloud.dtype in (np.float16, np.float32) else np.float64)


def same_dimension(clouds: Sequence[np.ndarray], names: Sequence[str], where: str) -> None:
    """Refuse clouds of several dimensions.

    Raises
    ------
    DataError
        With the first cloud whose points have more or fewer coordinates than those of the first.
    """
    for cloud, name in zip(clouds, names, strict=True):
        if cloud.shape[1] != clouds[0].shape[1]:
            raise DataError(
                f"{where}: the points of {name} have {cloud.shape[1]} coordinates, those of {names[0]} "
                f"{clouds[0].shape[1]}; give clouds of one dimension."
            )


def geographic(cloud: np.ndarray) -> bool:
    """Whether coordinates look like longitudes and latitudes in degrees, of which distances are not those of a plane.

    Two columns within 180 and 90, no whole numbers, and either far from 0 for their spread, as a region is, or wider
    than 120 degrees.
    """
    if cloud.shape[1] != 2 or (np.abs(cloud).max(0) > (180, 90)).any() or (cloud == np.round(cloud)).all():
        return False
    far = (np.abs(cloud.mean(0)) > FAR * cloud.std(0)).any() and np.abs(cloud).max() > 1
    return bool(far or np.ptp(cloud[:, 0]) > WIDE)


GEOGRAPHIC = (
    "{name} looks like longitudes and latitudes in degrees, whose distances are not those of a plane; project it first "
    "(to UTM, for example)"
)
