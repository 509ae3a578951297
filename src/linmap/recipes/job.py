"""The flags that every verb of the command line has, whatever the system."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Preset = Literal["quick", "full"]


@dataclass(frozen=True)
class FitJob:
    """`linmap fit SYSTEM`."""

    data: Path | None = None
    """Your file; the embedded data when left out."""
    out: Path = Path("runs/fit")
    """Folder that receives the artifact."""
    seed: int = 0
    """Seed of every random draw."""
    resume: bool = False
    """Go on from the last checkpoint in --out."""


@dataclass(frozen=True)
class ApplyJob:
    """`linmap apply DIR|SYSTEM`."""

    artifact: Path | None = None
    """Folder written by `linmap fit`; None when a system is applied that needs no training."""
    data: Path | None = None
    """Your file; the embedded data when left out."""
    out: Path | None = None
    """Where the result goes."""
    seed: int = 0
    """Seed of every random draw."""


@dataclass(frozen=True)
class CompareJob:
    """`linmap compare SYSTEM`."""

    preset: Preset = "quick"
    """quick: minutes on two cores; full: the setting of the paper, as far as the data allow."""
    data: Path | None = None
    """Your file; the embedded data when left out."""
    out: Path = Path("runs/compare")
    """Folder that receives result.json and the pictures."""
    seed: int = 0
    """First seed; a comparison over several seeds counts up from it."""
    resume: bool = False
    """Reuse what a comparison that was interrupted has finished in --out."""
