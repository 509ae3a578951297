"""The arms of the comparisons: the methods of this package, those that one would pick otherwise, and controls."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any, Literal

import torch
from peft import AdaLoraConfig, LoraConfig, MissConfig, PeftConfig, get_peft_model
from torch import Tensor, nn

from linmap.adapt.bone import BoneConfig
from linmap.adapt.triadaptlora import RankAllocator, TriAdaptLoraConfig
from linmap.recipes.finetuning.experiments import Arm, Steering
from linmap.recipes.finetuning.models import TextClassifier

FULL_TUNING_SCALE = 1 / 50  # of the adapters' learning rates
AVERAGE_RANK = 8  # of the arms in which ranks differ
Kind = Literal["system", "baseline", "ablation"]


def attach(model: nn.Module, config: PeftConfig) -> nn.Module:
    """The model with adapters; a classifier's head stays trainable."""
    if isinstance(model, TextClassifier):
        model.encoder = get_peft_model(model.encoder, config)  # pyright: ignore[reportArgumentType]
        return model
    return get_peft_model(model, config)  # pyright: ignore[reportArgumentType]


def adapters(name: str, kind: Kind, make: Callable[[], PeftConfig], note: str) -> Arm:
    """An arm with the adapters that a PEFT configuration describes."""
    return Arm(name, kind, lambda model, steps: attach(model, make()), note)


def frozen(model: nn.Module, steps: int) -> nn.Module:
    (model.encoder if isinstance(model, TextClassifier) else model).requires_grad_(False)
    return model


HEAD_ONLY = Arm("head only", "baseline", frozen, "the encoder stays as it is", lr_scale=0)
FROZEN = Arm("frozen", "baseline", frozen, "no training", lr_scale=0)
FULL = Arm(
    "full tuning", "baseline", lambda model, steps: model, "every weight; 1/50 of the learning rates", FULL_TUNING_SCALE
)


def lora(targets: list[str], name: str, r: int, alpha: int, note: str, **options: Any) -> Arm:
    def make() -> PeftConfig:
        return LoraConfig(r=r, lora_alpha=alpha, target_modules=targets, **options)

    return adapters(name, "baseline", make, f"PEFT, r = {r}, alpha = {alpha}{note}")


def bone(targets: list[str], mode: Any, r: int, mini_r: int = 1) -> Arm:
    def make() -> PeftConfig:
        return BoneConfig(r=r, mode=mode, mini_r=mini_r, target_modules=targets)

    note = f"r = {r}" + (f", mini_r = {mini_r}" if mode == "mini" else "")
    return adapters(f"Bone {mode}", "system" if mode == "bat" else "ablation", make, note)


# -- Bone -------------------------------------------------------------------------------------------------------------


def banking_bone_arms() -> dict[str, Arm]:
    """Query and value of MiniLM-L6: 6,144 parameters a layer in every arm with adapters."""
    targets = ["query", "value"]
    return {"head": HEAD_ONLY, **bone_arms(targets, 8, 16, 16), "mini": bone(targets, "mini", 64, 96), "full": FULL}


def gsm8k_bone_arms() -> dict[str, Arm]:
    """q_proj (576 x 576) and v_proj (192 x 576): 36,864 parameters a block, 1 % fewer in the arms of LoRA."""
    return {"frozen": FROZEN, **bone_arms(["q_proj", "v_proj"], 19, 48, 32), "full": FULL}


def bone_arms(targets: list[str], r_lora: int, r: int, r_row: int) -> dict[str, Arm]:
    """Bone, and what PEFT has; LoRA's alpha is 2 r, PiSSA's is r."""
    return {
        "lora": lora(targets, "LoRA", r_lora, 2 * r_lora, ""),
        "rslora": lora(targets, "rsLoRA", r_lora, 2 * r_lora, ", scaled by 1/sqrt(r)", use_rslora=True),
        "pissa": lora(targets, "PiSSA", r_lora, r_lora, ", principal components trained", init_lora_weights="pissa"),
        "miss": adapters("MiSS", "baseline", lambda: MissConfig(r=r, target_modules=targets), f"PEFT, r = {r}"),
        "bat": bone(targets, "bat", r),
        "bat-row": bone(targets, "bat-row", r_row),
        "add": bone(targets, "add", r),
    }


# -- TriAdaptLoRA -----------------------------------------------------------------------------------------------------


def triadapt_arms() -> dict[str, Arm]:
    """Query and value of MiniLM-L6 with 8 ranks a layer on average in the end, however they come about."""
    targets = ["query", "value"]
    return {
        "head": HEAD_ONLY,
        "linear": triadapt(targets, "TriAdaptLoRA", "system", "linear", RankAllocator, "linear growth by importance"),
        "nonlinear": triadapt(targets, "TriAdaptLoRA, nonlinear", "ablation", "nonlinear", RankAllocator, "later"),
        "random": triadapt(targets, "random growth", "ablation", "linear", RandomGrowth, "control: the same schedule"),
        "uniform": triadapt(targets, "uniform growth", "ablation", "linear", UniformGrowth, "control: lowest first"),
        "lora": lora(targets, "LoRA", 8, 16, ""),
        "adalora": Arm(
            "AdaLoRA", "baseline", adalora(targets), "PEFT, from rank 12 down to 8", steer=shrinking, penalty=orthogonal
        ),
        "full": FULL,
    }  # fmt: skip


class RandomGrowth(RankAllocator):
    """As many layers grow as by importance, whichever the dice name."""

    def scores(self) -> dict[str, float]:
        draw = random.Random(f"{self.seed} {self._step}")
        return {name: draw.random() for name in self.adapters}


class UniformGrowth(RankAllocator):
    """As many layers grow as by importance, those of the lowest rank."""

    def scores(self) -> dict[str, float]:
        return {name: -float(rank) for name, rank in self.ranks().items()}


def triadapt(targets: list[str], name: str, kind: Kind, growth: Any, allocator: type[RankAllocator], note: str) -> Arm:
    """Ranks from 1 on, checked 20 times after a tenth of the steps, one rank at a time."""

    def adapt(model: nn.Module, steps: int) -> nn.Module:
        return attach(model, TriAdaptLoraConfig(
            reference_rank=AVERAGE_RANK, alpha=16, growth=growth, incre_rank_num=1, init_warmup=steps // 10,
            incre_interval=max(steps // 20, 1), total_step=steps, target_modules=targets,
        ))  # fmt: skip

    def steer(model: nn.Module, steps: int, seed: int) -> Steering:
        adapted: Any = model.encoder
        growing = allocator(adapted, adapted.peft_config["default"])
        return Steering(growing, growing.ranks)

    return Arm(name, kind, adapt, note, steer=steer)


def adalora(targets: list[str]) -> Callable[[nn.Module, int], nn.Module]:
    """PEFT's AdaLoRA: all ranks for a tenth of the steps, the last ones kept for the last third."""

    def adapt(model: nn.Module, steps: int) -> nn.Module:
        return attach(model, AdaLoraConfig(
            init_r=12, target_r=AVERAGE_RANK, lora_alpha=16, tinit=steps // 10, tfinal=steps // 3,
            deltaT=max(steps // 20, 1), total_step=steps, target_modules=targets,
        ))  # fmt: skip

    return adapt


def shrinking(model: nn.Module, steps: int, seed: int) -> Steering:
    """AdaLoRA's allocation, due after every step."""
    adapted: Any = model.encoder
    return Steering(lambda model, step: adapted.base_model.update_and_allocate(step))


def orthogonal(model: nn.Module) -> Tensor:
    """AdaLoRA's penalty, with which PEFT has the singular vectors kept orthogonal where the model computes the loss."""
    adapted: Any = model.encoder
    terms = []
    for name, weight in adapted.named_parameters():
        if "lora_A" in name or "lora_B" in name:
            products = weight @ weight.mT if "lora_A" in name else weight.mT @ weight
            terms.append(torch.linalg.matrix_norm(products - torch.eye(len(products))))
    return adapted.peft_config["default"].orth_reg_weight * torch.stack(terms).mean()
