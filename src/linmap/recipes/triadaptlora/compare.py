"""TriAdaptLoRA beside fixed ranks, ranks that shrink, full tuning and no adapter at all."""

from __future__ import annotations

from typing import Any

import torch
from peft import AdaLoraConfig
from torch import Tensor, nn

from linmap.adapt import RankAllocator, TriAdaptLoraConfig
from linmap.adapt.texts import adapted_part, attach
from linmap.experiment import Kind, Result
from linmap.recipes.finetuning.arms import FULL, Steering, Way, lora, untouched_model
from linmap.recipes.finetuning.compare import compare_ways, data_of
from linmap.recipes.finetuning.flags import Completions, Labelled
from linmap.recipes.finetuning.tasks import Task, task_of
from linmap.recipes.job import CompareJob

AVERAGE_RANK = 8


def compare(settings: Labelled | Completions, job: CompareJob) -> Result:
    """Ranks that grow by importance beside LoRA and AdaLoRA with as many in the end: each at its best learning rate."""
    task = task_of(settings, data_of(job))
    ways = [triadapt(task), untouched_model(task), lora(task, AVERAGE_RANK, 2 * AVERAGE_RANK), adalora(task),
            *([FULL] if task.classes else [])]  # fmt: skip
    return compare_ways("triadaptlora", task, ways, settings, job)


def triadapt(
    task: Task, name: str = "TriAdaptLoRA", kind: Kind = "system", growth: Any = "linear",
    allocator: type[RankAllocator] = RankAllocator, note: str = "linear growth by importance",
) -> Way:  # fmt: skip
    """Ranks from 1 on, checked 20 times after a tenth of the steps, one rank at a time."""

    def adapt(model: nn.Module, steps: int) -> nn.Module:
        return attach(model, TriAdaptLoraConfig(
            reference_rank=AVERAGE_RANK, growth=growth, incre_rank_num=1, init_warmup=steps // 10,
            incre_interval=max(steps // 20, 1), total_step=steps, target_modules=task.targets,
        ))  # fmt: skip

    def steer(model: nn.Module) -> Steering:
        adapted = adapted_part(model)
        growing = allocator(adapted, adapted.peft_config["default"])
        return Steering(growing, growing.ranks)

    return Way(name, kind, adapt, note, steer=steer)


def adalora(task: Task) -> Way:
    """PEFT's AdaLoRA: all ranks for a tenth of the steps, the last ones kept for the last third."""

    def adapt(model: nn.Module, steps: int) -> nn.Module:
        return attach(model, AdaLoraConfig(
            init_r=12, target_r=AVERAGE_RANK, lora_alpha=16, tinit=steps // 10, tfinal=steps // 3,
            deltaT=max(steps // 20, 1), total_step=steps, target_modules=task.targets,
        ))  # fmt: skip

    def steer(model: nn.Module) -> Steering:
        tuner = adapted_part(model).base_model
        return Steering(lambda _, step: tuner.update_and_allocate(step))

    return Way("AdaLoRA", "baseline", adapt, "PEFT, from rank 12 down to 8", steer=steer, penalty=orthogonal)


def orthogonal(model: nn.Module) -> Tensor:
    """AdaLoRA's penalty, with which PEFT has the singular vectors kept orthogonal where the model computes the loss."""
    adapted = adapted_part(model)
    terms = []
    for name, weight in adapted.named_parameters():
        if "lora_A" in name or "lora_B" in name:
            products = weight @ weight.mT if "lora_A" in name else weight.mT @ weight
            terms.append(torch.linalg.matrix_norm(products - torch.eye(len(products))))
    return adapted.peft_config["default"].orth_reg_weight * torch.stack(terms).mean()
