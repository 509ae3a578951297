"""The flags of fine-tuning on texts and of comparing adapters on them; what imports this imports nothing heavy."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from linmap.errors import ArgumentError, DataError
from linmap.recipes.derived import Derived, Other, flags
from linmap.recipes.language.flags import Generation

if TYPE_CHECKING:
    from linmap.training import TrainingConfig

PEFT_FIELDS = ("target_modules", "exclude_modules", "modules_to_save", "layers_to_transform", "layers_pattern", "bias")
"""Parameters of every adapter's configuration, of which fine-tuning has the first as a flag of its own."""
EMBEDDED = {"language": "bone/gsm8k_train2000.jsonl.gz", "classification": "triadaptlora/banking77_train.csv.gz"}
"""The data of a task where the user gives none."""


@flags
class Tuning(Derived):
    """What fine-tuning takes beside its training."""

    OF = "linmap.adapt.finetuning.training:fine_tune"
    LEAVE = ("texts", "adapter", "training", "penalty", "callbacks", "checkpoints", "resume")


@flags
class FineTuning(Tuning):
    """--data is a .jsonl, .json, .csv or .txt file (a text a line), perhaps with .gz behind, of records with

    - "text", all of which is learnt;
    - "prompt" and "completion", "question" and "answer", or "instruction" (and "input") and "output";
    - "messages", the turns of a chat, of which the assistant's are learnt;
    - "text" and "label" or "category", for which a classifier is learnt.
    """

    OF = "linmap.training.config:TrainingConfig"
    LEAVE = ("optimizer", "betas", "momentum", "warmup_steps", "warmup_epochs", "clip_norm", "patience", "seed")
    OTHER: ClassVar = {
        "epochs": Other(3, "a pretrained model needs few passes"),
        "batch_size": Other(8, "texts are long, and the memory of activations grows with the batch"),
        "lr": Other(5e-4, "of adapters in a pretrained model, which larger rates forget"),
        "schedule": Other("linear", "what fine-tuning usually takes"),
        "checkpoint_every": Other(100, "steps take seconds, and --resume should not lose many"),
    }

    task: Literal["auto", "language", "classification"] = "auto"
    """auto: classification if the records have labels."""
    lr: float = 5e-4
    """Learning rate of the adapters."""
    target_modules: tuple[str, ...] = ("all-linear",)
    """Layers to adapt: ends of their names (q_proj v_proj), one regular expression, or all-linear."""
    merge: bool = False
    """Also write the model with the adapter in its weights to the folder `merged` in --out."""

    def __post_init__(self) -> None:
        if not self.target_modules:
            raise ArgumentError("target_modules=() is empty; name layers, or give all-linear.")

    def training(self, seed: int) -> TrainingConfig:
        """The training that the flags ask for."""
        from linmap.training import TrainingConfig

        return TrainingConfig(**self.options(FineTuning, optimizer="adamw", seed=seed))

    def targets(self) -> list[str] | str:
        """`target_modules` as PEFT has it: a list of names, or a text that is "all-linear" or a regular expression."""
        first, *others = self.target_modules
        whole = not others and (first == "all-linear" or bool(set(first) & set("*+?()[]|\\^$")))
        return first if whole else list(self.target_modules)


@dataclass(frozen=True)
class Answering(Generation):
    """Complete the prompts of a file, or classify its texts."""

    merge: bool = False
    """Write the model with the adapter in its weights to the folder --out instead."""
    allow_download: bool = False
    """Fetch the pretrained model that the run names from the Hugging Face Hub where it is not on this machine."""


# -- comparisons -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Comparison:
    """What every comparison of adapters on texts says."""

    steps: int = 64
    """Optimiser steps of every method."""
    batch_size: int = 12
    """Records of a step."""
    rates: tuple[float, ...] = (2e-3, 5e-3)
    """Learning rates that every method chooses from, by its loss on validation records; full tuning: 1/50 of each."""
    max_length: int = 64
    """Tokens of a text; longer ones are cut."""
    seeds: int = 3
    """Seeds of every method."""

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value == ():
                raise ArgumentError(f"{name}=() is empty; give one value or more.")
            for number in value if isinstance(value, tuple) else (value,):
                if not (number > 0 and math.isfinite(number)):
                    raise ArgumentError(f"{name}={number} must be positive.")

    def key(self) -> dict[str, Any]:
        """What every run depends on; more seeds and other rates are further runs."""
        return {name: value for name, value in asdict(self).items() if name not in ("seeds", "rates")}


@dataclass(frozen=True)
class Labelled(Comparison):
    """Compare adapters on texts with labels; on the intents of bank customers (Banking77) without --data."""

    shots: int = 5
    """Records of each class to train on, the first ones of the file."""
    validation_per_class: int = 2
    """Records of each class after those, on which the learning rate is chosen."""
    test_per_class: int = 4
    """Records of each class after those, on which methods are compared."""
    head_lr: float = 5e-3
    """Learning rate of the linear head, in every method."""


@dataclass(frozen=True)
class Completions(Comparison):
    """Compare adapters on texts to learn or prompts with completions, as in `linmap fit`."""

    steps: int = 100
    """Optimiser steps of every method."""
    batch_size: int = 4
    """Records of a step."""
    rates: tuple[float, ...] = (1e-3, 3e-3)
    """Learning rates that every method chooses from, by its loss on validation records."""
    max_length: int = 192
    """Tokens of a record; longer ones are left out."""
    pilot_steps: int = 40
    """Steps of the runs by which a learning rate is chosen."""
    held_out: float = 0.2
    """Share of the records, the last ones, that is not trained on: the first half of it chooses the learning rates, on
    the other methods are compared."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.held_out >= 1:
            raise ArgumentError(f"held_out={self.held_out} must be a share below 1.")


def comparing(path: Path | None) -> type:
    """The flags of a comparison on this file."""
    return Completions if form_of(path) == "language" else Labelled


def form_of(path: Path | None) -> str:
    """What the records of a file are for: "language", or "classification" where they have labels, and without any."""
    if path is None:
        return "classification"
    from linmap.data.text import read_training_texts

    try:
        return read_training_texts(path).task
    except (OSError, DataError):  # the comparison says what is wrong with it
        return "classification"
