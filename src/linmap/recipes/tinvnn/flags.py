"""Flags of `linmap fit | apply | compare tinvnn`: for shapes, for tours of cities, and for the representation alone."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from linmap.data.door import files_inside
from linmap.errors import ArgumentError, ArtifactError
from linmap.recipes.derived import Derived, Other, flags

EMBEDDING = "linmap.shapes.tinvnn.embedding:TinvEmbedding"
SOLVER = "linmap.shapes.tinvnn.tour_solver:TourSolver"
CLASSIFIER = "linmap.shapes.tinvnn.classifier:PointCloudClassifier"
SHAPES, CITIES = "shapes", "cities"
"""What a run was fitted to, in its config.json."""
POINTS = 1024
"""Of a shape."""


@flags
class Canonical(Derived):
    """Write the canonical pose of every cloud; nothing is trained."""

    OF, LEAVE = EMBEDDING, ("signs", "detach_frame")

    points: int = POINTS
    """Points that are drawn from each surface (.off, .ply, .stl, .obj)."""

    def __post_init__(self) -> None:
        if self.points < 2:
            raise ArgumentError(f"points={self.points} must be at least 2.")


@flags
class Fit(Derived):
    """Train a network that tells shapes apart in any pose; the LDraw shapes of the package without --data.

    --data is an .npz with points, label and perhaps split, or a folder of folders named by class with .off, .ply, .stl,
    .obj, .xyz or .csv files. For a solver of tours: linmap fit tinvnn --data FILE.tsp --help
    """

    OF, LEAVE = CLASSIFIER, ("random_state",)

    points: int = POINTS
    """Points that are drawn from each surface, and kept of larger clouds."""
    held_out: float = 0.2
    """Share of every class that is only tested on, where the file has no split; 0: none."""

    def __post_init__(self) -> None:
        if self.points < 2:
            raise ArgumentError(f"points={self.points} must be at least 2.")
        if not 0 <= self.held_out < 1:
            raise ArgumentError(f"held_out={self.held_out} must be at least 0 and less than 1.")


@dataclass(frozen=True)
class Apply:
    """Tell the classes of shapes with a fitted network."""


@flags
class Compare(Derived):
    """Compare TinvNN's coordinates with raw, augmented and PCA's, and with a forest, on shapes that have classes.

    --data as `fit` takes it; the LDraw shapes of the package without it.
    """

    OF, LEAVE = CLASSIFIER, ("representation", "augment", "lr", "validation_fraction", "random_state")
    OTHER: ClassVar = {
        "n_points": Other(128, "all methods in three minutes on two cores"),
        "epochs": Other(15, "all methods in three minutes on two cores"),
    }

    points: int = 512
    """Points of every shape."""
    seeds: int = 2
    """Seeds of every method."""
    rates: tuple[float, ...] = (1e-3, 3e-3)
    """Learning rates that every network chooses from, by a part of the training shapes."""
    augmented_rates: tuple[float, ...] = (3e-4, 1e-3, 3e-3)
    """Learning rates that the networks on turned shapes choose from."""
    augmented_epochs: tuple[int, ...] = (1,)
    """Times as many epochs that networks train on turned shapes, each a baseline of its own; 1: as long as all."""
    validation: float = 0.25
    """Share of the training shapes that the rates are chosen by."""
    test: float = 0.3
    """Share of the shapes that is tested on, where the file has no split."""

    def __post_init__(self) -> None:
        for name, least in (("points", 2), ("seeds", 1)):
            if getattr(self, name) < least:
                raise ArgumentError(f"{name}={getattr(self, name)} must be at least {least}.")
        for name in ("rates", "augmented_rates", "augmented_epochs"):
            if not (values := getattr(self, name)) or min(values) <= 0:
                raise ArgumentError(f"{name}={values}: expected positive numbers.")
        for name in ("validation", "test"):
            if not 0 < getattr(self, name) < 1:
                raise ArgumentError(f"{name}={getattr(self, name)} must lie between 0 and 1.")


# -- tours -------------------------------------------------------------------------------------------------------------


@flags
class FitTours(Derived):
    """Train a solver of tours on random instances, and measure it on those of --data: .tsp files (TSPLIB)."""

    OF, LEAVE = SOLVER, ("random_state",)


@dataclass(frozen=True)
class ApplyTours:
    """Find short tours of --data: a .tsp file (TSPLIB), a folder of such, or a table of points of the plane."""

    n_starts: int | None = None
    """Cities that tours begin from, the ones farthest from the mean; all when left out."""
    frames: bool = True
    """Decode in all four sign frames of the canonical pose."""
    polish: int = 8
    """Shortest tours that go through 2-opt; 0 leaves 2-opt out."""

    def __post_init__(self) -> None:
        _check_search(self)


@flags
class Tours(FitTours):
    """Train a solver on random instances, and find short tours of --data: a .tsp file (TSPLIB), or a folder of such."""

    n_starts: int | None = None
    """Cities that tours begin from, the ones farthest from the mean; all when left out."""
    frames: bool = True
    """Decode in all four sign frames of the canonical pose."""
    polish: int = 8
    """Shortest tours that go through 2-opt; 0 leaves 2-opt out."""

    OF, LEAVE = SOLVER, ("random_state",)

    def __post_init__(self) -> None:
        _check_search(self)


@flags
class CompareTours(Derived):
    """Compare solvers of tours on TinvNN's and on raw coordinates, and heuristics, all with 2-opt.

    --data is a .tsp file (TSPLIB) or a folder of such; without it, or with shapes: linmap compare tinvnn --help
    """

    OF, LEAVE = SOLVER, ("representation", "random_state")
    OTHER: ClassVar = {"steps": Other(150, "two solvers with two seeds in three minutes on two cores")}

    seeds: int = 2
    """Seeds of every solver."""
    n_starts: int = 20
    """Cities that tours begin from, the ones farthest from the mean."""
    polish: int = 8
    """Shortest tours that go through 2-opt."""

    def __post_init__(self) -> None:
        for name in ("seeds", "n_starts", "polish"):
            if getattr(self, name) < 1:
                raise ArgumentError(f"{name}={getattr(self, name)} must be at least 1.")


def _check_search(settings: Any) -> None:
    if settings.n_starts is not None and settings.n_starts < 1:
        raise ArgumentError(f"n_starts={settings.n_starts} must be at least 1.")
    if settings.polish < 0:
        raise ArgumentError(f"polish={settings.polish} must not be negative.")


# -- which of them a file asks for -------------------------------------------------------------------------------------


def of_cities(path: Path | None) -> bool:
    """Whether a path is a TSPLIB instance, or a folder of such."""
    return path is not None and (path.suffix.lower() == ".tsp" or (path.is_dir() and bool(tsp_files(path))))


def tsp_files(folder: Path) -> list[Path]:
    """The TSPLIB instances of a folder."""
    return files_inside(folder, (".tsp",))


def fitting(path: Path | None) -> type:
    """The flags for shapes, or for cities."""
    return FitTours if of_cities(path) else Fit


def comparing(path: Path | None) -> type:
    """The flags for shapes, or for cities."""
    return CompareTours if of_cities(path) else Compare


def preparing(path: Path | None) -> type:
    """The flags for a representation, or for a tour."""
    return Tours if of_cities(path) else Canonical


def applying(path: Path | None) -> type:
    """The flags for what was fitted to shapes, or to cities."""
    if path is None:
        return Apply
    from linmap.artifacts import read_config

    try:
        task = read_config(path)["config"].get("task")
    except ArtifactError:  # loading it says what is wrong with it
        task = None
    return ApplyTours if task == CITIES else Apply
