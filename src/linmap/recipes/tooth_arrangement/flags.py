"""Flags of `linmap fit | apply | compare tooth_arrangement`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from linmap.errors import ArgumentError, UsageError
from linmap.recipes.derived import Derived, Other, flags

TADPM = "linmap.shapes.tooth_arrangement.estimator:TADPM"


@flags
class Fit(Derived):
    """Flags of `linmap fit tooth_arrangement`; without --data, pairs are simulated from statistics of real teeth."""

    OF = TADPM
    LEAVE = ("random_state",)

    cases: int = 1000
    """Simulated pairs to train on; of no use with --data."""
    severity: float = 1.0
    """How far the simulated teeth stand out of place: 1 is about 12.7 degrees and 1.2 mm."""
    held_out: float = 0.1
    """Share of the pairs that is only measured on."""

    def __post_init__(self) -> None:
        if self.cases < 2:
            raise ArgumentError(f"cases={self.cases} must be at least 2.")
        if not 0 < self.held_out < 1:
            raise ArgumentError(f"held_out={self.held_out} must lie between 0 and 1.")


@dataclass(frozen=True)
class Apply:
    """Flags of `linmap apply` with a fitted tooth_arrangement; --data is a folder of meshes, one a tooth, as 11.stl."""

    fixed: tuple[str, ...] = ()
    """FDI numbers of teeth that must not move, such as 16,26."""
    proposals: int = 8
    """Plans to draw; they are ranked by contacts and by the form of the arch."""
    choose: int = 1
    """The rank of the plan whose meshes and stages are written; all are on the page."""
    n_stages: int | None = None
    """Stages between before and after; as few as the limits allow when left out."""
    max_shift: float = 0.25
    """Most mm of a tooth in one stage."""
    max_turn: float = 2.0
    """Most degrees of a tooth in one stage."""
    tolerance: float = 0.2
    """Depth in mm up to which neighbours may stand in each other."""
    arch_width: float | None = None
    """Distance in mm of the first molars' centroids that both arches are brought to."""
    arch_depth: float | None = None
    """Distance in mm of the central incisors from the line of the first molars that both arches are brought to."""
    stage_meshes: bool = False
    """Write the meshes of every stage, too."""

    def __post_init__(self) -> None:
        for name in ("proposals", "choose"):
            if (value := getattr(self, name)) < 1:
                raise ArgumentError(f"{name}={value} must be at least 1.")
        if self.choose > self.proposals:
            raise ArgumentError(f"choose={self.choose} is more than proposals={self.proposals}.")
        if self.n_stages is not None and self.n_stages < 1:
            raise ArgumentError(f"n_stages={self.n_stages} must be at least 1.")
        for name in ("max_shift", "max_turn", "arch_width", "arch_depth"):
            if (value := getattr(self, name)) is not None and not 0 < value < math.inf:
                raise ArgumentError(f"{name}={value} must be a positive number.")
        if not 0 <= self.tolerance < math.inf:
            raise ArgumentError(f"tolerance={self.tolerance} must be a number of at least 0.")
        self.held()

    def held(self) -> tuple[int, ...]:
        """The numbers in --fixed, which stand behind commas or blanks."""
        words = [word for group in self.fixed for word in group.replace(",", " ").split()]
        for word in words:
            if not (word.isascii() and word.isdecimal()):
                raise UsageError(f"--fixed {word}: expected FDI numbers such as 16,26.")
        return tuple(dict.fromkeys(int(word) for word in words))


@flags
class Compare(Derived):
    """Flags of `linmap compare tooth_arrangement`; --data holds pairs as `fit` takes them, simulated when left out."""

    OF = TADPM
    LEAVE = ("random_state", "target")
    OTHER: ClassVar = {
        "batch_size": Other(10, "more steps in the time that a quick comparison has"),
        "lr": Other(2e-3, "few steps"),
        "points": Other(32, "all methods in three minutes on two cores"),
        "width": Other(64, "all methods in three minutes on two cores"),
        "sampling_steps": Other(25, "all methods in three minutes on two cores"),
    }

    cases: int = 400
    """Simulated pairs to train on; of no use with --data."""
    test_cases: int = 40
    """Simulated pairs to measure on; of no use with --data."""
    severity: float = 1.0
    """How far the simulated teeth stand out of place."""
    samples: int = 8
    """Plans that are drawn for each case."""
    seeds: int = 1
    """Trainings of every method that is trained."""
    held_out: float = 0.2
    """Share of the pairs of --data that is only measured on."""

    def __post_init__(self) -> None:
        for name in ("cases", "test_cases", "samples", "seeds"):
            if (value := getattr(self, name)) < 1:
                raise ArgumentError(f"{name}={value} must be at least 1.")
        if not 0 < self.held_out < 1:
            raise ArgumentError(f"held_out={self.held_out} must lie between 0 and 1.")
