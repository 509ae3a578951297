"""The arms of the comparisons: the methods of this package, those of PEFT that one would pick otherwise, and controls."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from peft import LoraConfig, MissConfig, PeftConfig, get_peft_model
from torch import nn

from linmap.adapt.bone import BoneConfig
from linmap.recipes.finetuning.experiments import Arm
from linmap.recipes.finetuning.models import TextClassifier

FULL_TUNING_SCALE = 1 / 50  # of the adapters' learning rates
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


def miss(targets: list[str], r: int) -> Arm:
    """PEFT's default is what Bone calls "add"; its own "bat" is the same as ours, slower."""
    return adapters("MiSS", "baseline", lambda: MissConfig(r=r, target_modules=targets), f"PEFT, r = {r}; Bone add")


def bone_arms(targets: list[str], r_lora: int, r: int, r_row: int, mini: tuple[int, int]) -> list[Arm]:
    """Bone in all its modes, and what PEFT has, at (about) equal parameters."""
    return [
        bone(targets, "bat", r),
        lora(targets, "LoRA", r_lora, 2 * r_lora, ""),
        lora(targets, "rsLoRA", r_lora, 2 * r_lora, ", scaled by 1/sqrt(r)", use_rslora=True),
        lora(targets, "PiSSA", r_lora, r_lora, ", principal components trained", init_lora_weights="pissa"),
        miss(targets, r),
        bone(targets, "bat-row", r_row),
        bone(targets, "add", r),
        bone(targets, "mini", *mini),
    ]
