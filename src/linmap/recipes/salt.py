"""SALT on files: segment images, or fine-tune on texts, through the singular values of the weights."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from torch import Tensor, nn

from linmap.artifacts import read_config
from linmap.errors import ArgumentError
from linmap.recipes import finetuning, segmentation
from linmap.recipes.finetuning import Answering, FineTuning, Method
from linmap.recipes.job import ApplyJob, FitJob
from linmap.recipes.segmentation import PRESETS, SegmentationSettings, compare

__all__ = ["PRESETS", "Settings", "apply", "compare", "fit", "settings_for"]

TEXTS = (".jsonl", ".json", ".csv", ".txt")


@dataclass(frozen=True)
class Settings(FineTuning):
    __doc__ = FineTuning.__doc__

    ratio: float = 0.1
    """Share of the singular values of a weight that are scaled and shifted."""
    r: int = 8
    """Rank of the update of the others."""
    relu: Literal["all", "diag", "none"] = "diag"
    """What keeps singular values from turning negative: all, as published, acts on the whole core; diag on its
    diagonal alone, which is several times faster."""
    regularization: float = 0.0
    """Weight of the penalty on changes of the singular values and on the update."""
    also_train: tuple[str, ...] = ("norm",)
    """Further modules to train whole: norm (all normalisation layers), or ends of names."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.regularization < 0:
            raise ArgumentError(f"--regularization {self.regularization} must not be negative.")

    def method(self) -> Method:
        from linmap.adapt import SaltConfig

        options: dict[str, Any] = {name: getattr(self, name) for name in ("ratio", "r", "relu", "also_train")}
        penalty = partial(_penalty, weight=self.regularization) if self.regularization else None
        return Method("salt", "language", lambda steps: SaltConfig(**options), penalty=penalty)


@dataclass(frozen=True)
class Segmenting:
    """Write a mask for each image of a folder or an .npz."""


def settings_for(verb: Literal["fit", "apply"], path: Path | None) -> type:
    """The flags for a file of texts or for images, and for what was fitted to either."""
    if verb == "fit":
        return Settings if path is not None and path.name.removesuffix(".gz").endswith(TEXTS) else SegmentationSettings
    return Segmenting if path is not None and _segments(path) else Answering


def fit(settings: Settings | SegmentationSettings, job: FitJob) -> dict[str, Any]:
    """Adapt a segmenter to a folder of images and masks, or an .npz of them; to ultrasound images without either.

    For texts, and their flags: linmap fit salt --data train.jsonl --help
    """
    if isinstance(settings, SegmentationSettings):
        return segmentation.fit(settings, job)
    return finetuning.fit(settings, job, settings.method())


def apply(settings: Answering | Segmenting, job: ApplyJob) -> dict[str, Any]:
    """Segment images, or complete or classify the records of a file."""
    if isinstance(settings, Answering):
        return finetuning.apply(settings, job, "salt")
    return segmentation.apply(settings, job)


def _segments(artifact: Path) -> bool:
    """Whether a run is a segmenter."""
    return read_config(artifact)["config"].get("task") == "segmentation"


def _penalty(model: nn.Module, weight: float) -> Tensor:
    from linmap.adapt import salt_regularization

    return weight * salt_regularization(model)
