"""The flags of fine-tuning, the same for every method, and of what is done with the result."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from linmap.data.text import Task
from linmap.data.tokens import Side
from linmap.errors import ArgumentError
from linmap.recipes.language.answering import Generation
from linmap.recipes.language.flags import in_flags
from linmap.training import TrainingConfig

DEFAULT_MODELS: dict[Task, str] = {"language": "smollm2-135m", "classification": "minilm-l6"}
"""The model of a task where none is named."""


@dataclass(frozen=True)
class FineTuning:
    """Fine-tune a pretrained language model, or a text encoder, on your texts.

    --data is a .jsonl, .json, .csv or .txt file (a text a line), perhaps with .gz behind, of records with
    - "text", all of which is learnt;
    - "prompt" and "completion", "question" and "answer", or "instruction" (and "input") and "output";
    - "messages", the turns of a chat, of which the assistant's are learnt;
    - "text" and "label" or "category", for which a classifier is learnt.
    """

    model: str | None = None
    """Pretrained model: a folder that Transformers loads, an id on the Hugging Face Hub, smollm2-135m, or minilm-l6;
    smollm2-135m for language and minilm-l6 for classification when left out."""
    task: Literal["auto", "language", "classification"] = "auto"
    """auto: classification if the records have labels."""
    max_length: int | None = None
    """Tokens of a row; longer records are cut, and counted. 512, or what the model takes, when left out."""
    truncation: Side = "right"
    """The side on which they are cut."""
    packing: bool = False
    """Language: several records in one row; they do not see each other."""
    validation: float = 0.1
    """Share of the records that is held out; the weights of the epoch with the lowest loss on it are kept."""
    epochs: int = 3
    """Passes over the records."""
    max_steps: int | None = None
    """Steps after which training ends, should it be reached before --epochs."""
    batch_size: int = 8
    """Rows of a step."""
    accumulation: int = 1
    """Parts in which a step is computed, to save memory; must divide --batch-size."""
    lr: float = 5e-4
    """Learning rate of the adapters."""
    head_lr: float = 5e-3
    """Learning rate of the classification head."""
    weight_decay: float = 0.0
    """Of AdamW, on the adapters."""
    schedule: Literal["linear", "constant"] = "linear"
    """Of the learning rates after the warm-up; linear falls to zero."""
    warmup: float = 0.03
    """Share of the steps over which the learning rates rise."""
    precision: Literal["no", "bf16", "fp16"] = "no"
    """Mixed precision of the forward pass."""
    base_dtype: Literal["float32", "bfloat16"] = "float32"
    """Number format of the frozen weights."""
    gradient_checkpointing: bool = False
    """Compute activations twice to save memory."""
    target_modules: tuple[str, ...] = ("all-linear",)
    """Layers to adapt: ends of their names (q_proj v_proj), one regular expression, or all-linear."""
    checkpoint_every: int | None = 100
    """Steps between checkpoints, from which --resume goes on; each epoch ends with one as well."""
    merge: bool = False
    """Also write the model with the adapter in its weights to the folder `merged` in --out."""

    def __post_init__(self) -> None:
        if self.max_length is not None and self.max_length < 2:
            raise ArgumentError(f"--max-length {self.max_length} leaves no token to predict; give 2 or more.")
        if not 0 <= self.validation < 1:
            raise ArgumentError(f"--validation {self.validation} must be a share in [0, 1).")
        if not 0 <= self.warmup < 1:
            raise ArgumentError(f"--warmup {self.warmup} must be a share of the steps in [0, 1).")
        if not (self.head_lr > 0 and math.isfinite(self.head_lr)):
            raise ArgumentError(f"--head-lr {self.head_lr} must be positive.")
        if not self.target_modules:
            raise ArgumentError("--target-modules is empty; name layers, or give all-linear.")
        try:
            self.training(0, 0)
        except ValueError as error:
            raise ArgumentError(in_flags(str(error), self)) from None

    def training(self, steps: int, seed: int) -> TrainingConfig:
        """The training of a run of this many steps."""
        return TrainingConfig(
            epochs=self.epochs, max_steps=self.max_steps, batch_size=self.batch_size, accumulation=self.accumulation,
            lr=self.lr, optimizer="adamw", weight_decay=self.weight_decay, schedule=self.schedule,
            warmup_steps=round(self.warmup * steps), precision=self.precision, checkpoint_every=self.checkpoint_every,
            seed=seed,
        )  # fmt: skip

    def steps(self, rows: int) -> int:
        """Steps of a run over this many rows."""
        steps = self.epochs * math.ceil(rows / self.batch_size)
        return steps if self.max_steps is None else min(steps, self.max_steps)

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
