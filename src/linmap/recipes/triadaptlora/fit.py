"""Fine-tuning with TriAdaptLoRA."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from linmap.adapt import TriAdaptLoraConfig, triadapt_orthogonality
from linmap.recipes.finetuning.fit import fit_texts
from linmap.recipes.job import FitJob
from linmap.recipes.triadaptlora.flags import Fit

ROOM = 2  # times the reference rank: the highest rank of a layer


def fit(settings: Fit, job: FitJob) -> dict[str, Any]:
    """Fine-tune a pretrained model on your texts; on the intents of Banking77 without --data."""

    def config(steps: int) -> TriAdaptLoraConfig:
        interval = max(1, steps // 20) if settings.growth_interval is None else settings.growth_interval
        return TriAdaptLoraConfig(**settings.options(
            total_step=steps, init_warmup=int(settings.growth_warmup * steps), incre_interval=interval,
            r_max=ROOM * settings.reference_rank, target_modules=settings.targets(),
        ))  # fmt: skip

    def penalty(model: nn.Module) -> Tensor:
        return settings.orthogonality * triadapt_orthogonality(model)

    weight = {"orthogonality": settings.orthogonality}
    return fit_texts(settings, job, "classification", config, penalty if settings.orthogonality else None, weight)
