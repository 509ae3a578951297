"""The flags of TriAdaptLoRA."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from linmap.errors import ArgumentError
from linmap.recipes.derived import Other, flags
from linmap.recipes.finetuning.flags import PEFT_FIELDS, Completions, FineTuning, Labelled, form_of


@flags
class Fit(FineTuning):
    __doc__ = FineTuning.__doc__

    OF = "linmap.adapt.triadaptlora.config:TriAdaptLoraConfig"
    LEAVE = (
        *PEFT_FIELDS,
        "init_warmup", "incre_interval", "incre_rank_num", "total_step", "target_total_rank", "r_max", "grow_init",
        "init_c", "storage", "rank_pattern",
    )  # fmt: skip
    OTHER: ClassVar = {"lr": Other(2e-3, "ranks that start at 1 need larger steps to change a model")}
    NAMES: ClassVar = {"orth_reg_weight": "orthogonality"}

    lr: float = 2e-3
    """Learning rate of the adapters."""
    orthogonality: float = 0.0
    """Weight of the penalty on rows of A and columns of B that are not orthonormal."""
    growth_warmup: float = 0.1
    """Share of the steps before the first growth."""
    growth_interval: int | None = None
    """Steps between two checks; a twentieth of all steps when left out."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.growth_warmup < 1:
            raise ArgumentError(f"growth_warmup={self.growth_warmup} must be a share of the steps in [0, 1).")


@dataclass(frozen=True)
class LabelledTexts(Labelled):
    """Texts with labels, with settings that suit growing ranks."""

    batch_size: int = 8
    """Records of a step."""
    rates: tuple[float, ...] = (5e-3, 1e-2)
    """Learning rates that every method chooses from, by its loss on validation records; full tuning: 1/50 of each."""


def comparing(path: Path | None) -> type:
    """The flags of a comparison on this file."""
    return Completions if form_of(path) == "language" else LabelledTexts
