"""Fine-tuning with TriAdaptLoRA."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from torch import Tensor, nn

from linmap.adapt import RankAllocator, TriAdaptLoraConfig, triadapt_orthogonality
from linmap.recipes.finetuning.fit import Method, fine_tune
from linmap.recipes.job import FitJob
from linmap.recipes.triadaptlora.flags import Fit

ROOM = 2  # times the reference rank: the highest rank of a layer


def fit(settings: Fit, job: FitJob) -> dict[str, Any]:
    """Fine-tune a pretrained model on your texts; on the intents of Banking77 without --data."""
    return fine_tune(settings, job, method(settings))


def method(settings: Fit) -> Method:
    """What TriAdaptLoRA brings to fine-tuning."""

    def config(steps: int) -> TriAdaptLoraConfig:
        interval = max(1, steps // 20) if settings.growth_interval is None else settings.growth_interval
        return TriAdaptLoraConfig(**settings.options(
            total_step=steps, init_warmup=int(settings.growth_warmup * steps), incre_interval=interval,
            r_max=ROOM * settings.reference_rank,
        ))  # fmt: skip

    def penalty(model: nn.Module) -> Tensor:
        return settings.orthogonality * triadapt_orthogonality(model)

    return Method(
        "triadaptlora", "classification", config, _allocators, penalty if settings.orthogonality else None, _ranks
    )


def _allocators(adapted: Any) -> list[RankAllocator]:
    """What lets the ranks of an adapted model grow."""
    return [RankAllocator(adapted, adapted.peft_config["default"])]


def _ranks(adapted: Any, callbacks: Sequence[Any]) -> Mapping[str, Any]:
    """The ranks of the weights that are kept, which the saved configuration takes, and how they came about."""
    (allocator,) = callbacks
    adapted.peft_config["default"].rank_pattern = allocator.ranks()
    return {"ranks": allocator.ranks(), "growth": [asdict(event) for event in allocator.history]}
