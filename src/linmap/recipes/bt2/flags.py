"""The flags of BT²."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from linmap.recipes.derived import Derived, flags
from linmap.recipes.job import Workers


@flags
class Fit(Derived):
    """Flags of `linmap fit bt2`; with none, embedded vectors of two real models."""

    OF = "linmap.retrieve.bt2.upgrade:EmbeddingUpgrade"
    LEAVE = ("random_state",)

    new: Path | None = None
    """.npy file of the new model's vectors, one item a row."""
    old: Path | None = None
    """.npy file of the old model's vectors of the same items, in the same order."""


@dataclass(frozen=True, kw_only=True)
class Apply(Workers):
    """Flags of `linmap apply` with a fitted bt2."""

    output: Literal["gallery", "query"] = "gallery"
    """gallery: vectors to store from now on; query: vectors to search the old index with."""


@dataclass(frozen=True, kw_only=True)
class Compare:
    """Flags of `linmap compare bt2`; --data PAIRS is an .npz file with `new` and `old`, and perhaps `label`, or
    `queries_new`, `queries_old` and `qrels`."""

    new: Path | None = None
    """.npy file of the new model's vectors, one item a row, in place of --data."""
    old: Path | None = None
    """.npy file of the old model's vectors of the same items, in the same order."""
    folds: int = 5
    """Parts of the queries, each searched with maps that were fitted to other items."""
    calibration: int = 500
    """Pairs that the maps are fitted to, at most."""
