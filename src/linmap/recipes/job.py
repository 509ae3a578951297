"""The flags that every verb of the command line has, whatever the system, and those of work file by file."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal


@dataclass(frozen=True)
class FitJob:
    """Data, result and seed of `linmap fit`."""

    data: Path | None = None
    """Your file; embedded data when left out."""
    out: Path = Path("runs/fit")
    """Folder for the fitted model."""
    seed: int = 0
    """Seed of all random draws."""
    resume: bool = False
    """Continue from the last checkpoint in --out."""


@dataclass(frozen=True)
class ApplyJob:
    """Data, result and seed of `linmap apply`, of a system with nothing to train."""

    data: Path | None = None
    """Your file; embedded data when left out."""
    out: Path | None = None
    """File or folder for the result."""
    seed: int = 0
    """Seed of all random draws."""


@dataclass(frozen=True)
class FittedJob(ApplyJob):
    """Data, result and seed of `linmap apply`, of what was fitted."""

    artifact: Path = field(kw_only=True)
    """Folder written by `linmap fit`."""


@dataclass(frozen=True)
class CompareJob:
    """Data, result and seed of `linmap compare`."""

    data: Path | None = None
    """Your file; embedded data when left out."""
    out: Path = Path("runs/compare")
    """Folder for result.json and the pictures."""
    seed: int = 0
    """First seed; a comparison that uses several counts up from it."""
    resume: bool = False
    """Keep the runs that an interrupted comparison has finished in --out."""


@dataclass(frozen=True, kw_only=True)
class Workers:
    """Who goes through files part by part (`linmap.data.engines.map_records`), and whether it begins anew."""

    n_jobs: int = 1
    """Worker processes; -1 for all cores."""
    engine: Literal["local", "ray"] = "local"
    """local: processes of this machine; ray: Ray, also on a cluster. The result is the same, byte for byte."""
    resume: bool = False
    """Keep what an interrupted run with the same flags has finished."""
