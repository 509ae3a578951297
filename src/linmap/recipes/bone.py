"""Bone on files: fine-tune with one block shared by all blocks of a weight, and compare with other adapters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from linmap.recipes import finetuning
from linmap.recipes.finetuning import Answering, FineTuning, Method
from linmap.recipes.finetuning.comparison import BONE_PRESETS as PRESETS
from linmap.recipes.finetuning.comparison import compare_bone as compare
from linmap.recipes.job import ApplyJob, FitJob

__all__ = ["PRESETS", "ApplySettings", "Settings", "apply", "compare", "fit"]

ApplySettings = Answering


@dataclass(frozen=True)
class Settings(FineTuning):
    __doc__ = FineTuning.__doc__

    r: int = 64
    """Size of a block; bat and bat-row need it to divide both sizes of every weight."""
    mode: Literal["bat", "bat-row", "add", "mini"] = "bat"
    """bat: the paper's; bat-row: shared by columns, as fast as LoRA; add: the later version (MiSS); mini: add with
    --mini-r columns repeated."""
    mini_r: int = 1
    """mini: columns of the trained block."""
    dropout: float = 0.0
    """add and mini: share of the adapter's inputs that training drops."""

    def method(self) -> Method:
        from linmap.adapt import BoneConfig

        options: dict[str, Any] = {name: getattr(self, name) for name in ("r", "mode", "mini_r", "dropout")}
        return Method("bone", "language", lambda steps: BoneConfig(**options))


def fit(settings: Settings, job: FitJob) -> dict[str, Any]:
    """Fine-tune on a file of texts; on GSM8K without one."""
    return finetuning.fit(settings, job, settings.method())


def apply(settings: Answering, job: ApplyJob) -> dict[str, Any]:
    """Complete or classify the records of a file."""
    return finetuning.apply(settings, job, "bone")
