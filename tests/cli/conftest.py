"""Two small recipes that stand in for the systems: one is fitted first, one needs no training."""

import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Literal

import pytest
import torch

from linmap import artifacts, recipes
from linmap.errors import DataError
from linmap.experiment.result import Check, Metric, Result, Row
from linmap.recipes.job import ApplyJob, CompareJob, FitJob, FittedJob
from linmap.recipes.recipe import Recipe, Verb


@dataclass(frozen=True)
class Settings:
    """Settings of the ruler."""

    horizon: int = 2
    """Steps ahead."""
    loss: Literal["l1", "l2"] = "l1"
    """What is minimised."""
    ignore: tuple[str, ...] = ()
    """Columns to leave out."""
    shift: bool = False
    """Learn a shift."""

    def __post_init__(self) -> None:
        if self.horizon < 1:
            raise ValueError(f"horizon = {self.horizon} is no number of steps; give 1 or more.")


@dataclass(frozen=True)
class ApplySettings:
    """The ruler has no flags of its own when it is applied."""


@dataclass(frozen=True)
class CompassSettings:
    """Settings of the compass."""

    dim: int = 8
    """Size of a vector."""


def fit(settings: Settings, job: FitJob) -> dict:
    if job.data is not None and "broken" in job.data.read_text():
        raise DataError(f"{job.data}, line 1: 'broken' is not a number; correct it.")
    print("noise that is not the answer")
    artifacts.save(job.out, "ruler", {"horizon": settings.horizon}, {"w": torch.zeros(settings.horizon)}, job.seed)
    return {"horizon": settings.horizon, "loss": settings.loss, "resumed": job.resume, "nan": float("nan")}


def apply(settings: ApplySettings | CompassSettings, job: ApplyJob) -> dict:
    artifact = job.artifact if isinstance(job, FittedJob) else None
    return {"artifact": artifact, "dim": getattr(settings, "dim", None), "data": job.data}


def compare(settings: Settings, job: CompareJob) -> Result:
    if (job.out / "interrupt").exists():
        raise KeyboardInterrupt
    if (job.out / "break").exists():
        raise RuntimeError("the ruler\nbroke")
    rows = [
        Row("ruler", "system", {"error": [0.25 * settings.horizon, 0.5]}, parameters=12_345, seconds=0.5),
        Row("guess", "baseline", {"error": [2.0, 3.0]}, parameters=0),
    ]
    check = Check("the ruler is below the guess", True, "0.5 against 2.5", "guess")
    return Result("ruler", "A task.", [Metric("error")], rows, shows="It shows.", limits="It hides.", checks=[check])


def lost(settings: CompassSettings, job: CompareJob) -> Result:
    raise RuntimeError("there is no north: pip install 'linmap[north]'")


def _register(monkeypatch: pytest.MonkeyPatch, slug: str, **contents: object) -> None:
    module = ModuleType(f"linmap.recipes.{slug}")
    vars(module).update(contents)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(recipes, slug, module, raising=False)
    fitted = "fit" in contents
    system = recipes.System(slug, "sequence", slug.title(), "measures", "0000.00000", 1.0, fitted)
    monkeypatch.setitem(recipes.SYSTEMS, slug, system)


@pytest.fixture
def ruler(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """A system that is fitted first, beside one that is planned; the test runs in an empty folder."""
    monkeypatch.chdir(tmp_path)
    planned = recipes.System("sundial", "sequence", "Sundial", "tells the time", "no paper")
    monkeypatch.setitem(recipes.SYSTEMS, planned.slug, planned)
    recipe = Recipe(
        compare=Verb(Settings, "linmap.recipes.ruler:compare", resumes=True),
        apply=Verb(ApplySettings, "linmap.recipes.ruler:apply"),
        fit=Verb(Settings, "linmap.recipes.ruler:fit", resumes=True),
        flag_of={"h": "horizon"},
    )
    _register(monkeypatch, "ruler", RECIPE=recipe, fit=fit, apply=apply, compare=compare)
    return "ruler"


@pytest.fixture
def compass(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """A system with nothing to train."""
    monkeypatch.chdir(tmp_path)
    recipe = Recipe(
        compare=Verb(CompassSettings, "linmap.recipes.compass:compare"),
        apply=Verb(CompassSettings, "linmap.recipes.compass:apply"),
    )
    _register(monkeypatch, "compass", RECIPE=recipe, apply=apply, compare=lost)
    return "compass"
