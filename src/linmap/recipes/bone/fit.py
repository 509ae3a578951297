"""Fine-tuning with Bone."""

from __future__ import annotations

from typing import Any

from linmap.adapt import BoneConfig
from linmap.recipes.bone.flags import Fit
from linmap.recipes.finetuning.fit import Method, fine_tune
from linmap.recipes.job import FitJob


def fit(settings: Fit, job: FitJob) -> dict[str, Any]:
    """Fine-tune a pretrained model on your texts; on the problems of GSM8K without --data."""
    return fine_tune(settings, job, method(settings))


def method(settings: Fit) -> Method:
    """What Bone brings to fine-tuning."""
    return Method("bone", "language", lambda steps: BoneConfig(**settings.options()))
