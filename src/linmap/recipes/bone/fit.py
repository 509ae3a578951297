"""Fine-tuning with Bone."""

from __future__ import annotations

from typing import Any

from linmap.adapt import BoneConfig
from linmap.recipes.bone.flags import Fit
from linmap.recipes.finetuning.fit import fit_texts
from linmap.recipes.job import FitJob


def fit(settings: Fit, job: FitJob) -> dict[str, Any]:
    """Fine-tune a pretrained model on your texts; on the problems of GSM8K without --data."""
    options = settings.options(target_modules=settings.targets())
    return fit_texts(settings, job, "language", lambda steps: BoneConfig(**options))
