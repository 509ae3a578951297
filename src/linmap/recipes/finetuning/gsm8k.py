"""Language modelling of worked answers: the loss on the answer tokens of held-out problems."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from torch import Tensor, nn

from linmap.data import find
from linmap.data.pretrained import bundled_model
from linmap.data.text import read_training_texts
from linmap.data.tokens import LanguageData, document_of
from linmap.errors import DataError
from linmap.experiment.result import Metric
from linmap.recipes.finetuning.experiments import BatchesByLength, Run, Task, check_flags
from linmap.recipes.finetuning.models import language_loss
from linmap.recipes.language.models import load_pretrained, load_tokenizer
from linmap.training import mean_loss

VALIDATION = "GSM8K validation loss"
WINDOWS = 10  # a drawn training loss is the mean over the last tenth of the steps
TOGETHER = 8  # problems of one forward pass in evaluation


@dataclass(frozen=True)
class GSM8KSettings:
    """Flags of a comparison on worked answers."""

    gsm8k_steps: int = 300
    """GSM8K: optimiser steps."""
    gsm8k_pilot_steps: int = 100
    """GSM8K: steps of the runs that a learning rate is chosen by."""
    gsm8k_batch_size: int = 4
    """GSM8K: problems of a step."""
    gsm8k_lrs: tuple[float, ...] = (3e-4, 1e-3, 3e-3)
    """GSM8K: learning rates that every arm chooses from, by the validation loss with the first seed."""
    gsm8k_held_out: int = 200
    """GSM8K: problems at the end of the training file that are for validation."""
    gsm8k_max_length: int = 192
    """GSM8K: tokens of a problem and its answer; longer ones are left out."""
    gsm8k_dtype: Literal["float32", "bfloat16"] = "float32"
    """GSM8K: number format of the frozen weights; adapters are in float32."""
    gsm8k_seeds: int = 3
    """GSM8K: seeds of every arm."""

    def __post_init__(self) -> None:
        check_flags(self)


class GSM8K(Task):
    """Grade-school problems and SmolLM2-135M; or any file of prompts with completions."""

    slug, metrics = "gsm8k", [Metric(VALIDATION)]

    def __init__(self, settings: GSM8KSettings, data: Path | None = None) -> None:
        self.options = settings
        self.name = data.stem if data else "GSM8K"
        self.steps, self.pilot_steps = settings.gsm8k_steps, settings.gsm8k_pilot_steps
        self.checkpoints = self.shown_steps = tuple(round(self.steps * part / 3) for part in (1, 2, 3))
        self.window = max(self.steps // WINDOWS, 1)
        self.source = str(data) if data else "embedded"
        folder = bundled_model("smollm2-135m")
        tokenizer = load_tokenizer(folder)
        records = read_training_texts(data or find("bone/gsm8k_train2000.jsonl.gz", "Reinstall linmap."), "language")
        documents = [document_of(record, tokenizer) for record in records.records]
        longest, held_out = settings.gsm8k_max_length, settings.gsm8k_held_out
        parts = [
            [document for document in part if len(document.ids) <= longest]
            for part in (documents[:-held_out], documents[-held_out:])
        ]
        self.left_out = len(documents) - sum(map(len, parts))
        if not all(parts):
            raise DataError(
                f"{records.path}: of {len(documents)} records, {len(parts[0])} to train and {len(parts[1])} to "
                f"validate have at most {longest} tokens; raise --gsm8k-max-length, or change --gsm8k-held-out."
            )
        parts[1].sort(key=lambda document: len(document.ids))
        self.train, self.validation = (LanguageData(part, longest) for part in parts)
        self.pretrained = load_pretrained(folder, "language", settings.gsm8k_dtype)

    def settings(self) -> dict[str, Any]:
        names = ("gsm8k_batch_size", "gsm8k_held_out", "gsm8k_max_length", "gsm8k_dtype")
        return {"task": self.name, "data": self.source} | {name: getattr(self.options, name) for name in names}

    def model(self, seed: int) -> nn.Module:
        return copy.deepcopy(self.pretrained)

    def batches(self, seed: int) -> BatchesByLength:
        lengths = [len(row[0].ids) for row in self.train.rows]
        return BatchesByLength(self.train, lengths, self.options.gsm8k_batch_size, seed)

    def loss(self, model: nn.Module, batch: dict[str, Any]) -> Tensor:
        return language_loss(model, batch)

    def validation_loss(self, model: nn.Module) -> float:
        return mean_loss(model, language_loss, self.validation, TOGETHER)

    def loss_at(self, run: Run, step: int) -> float:
        """The validation loss, which without training is the same at every step."""
        return dict(run.validation).get(step, math.nan) if run.steps else run.final

    def values(self, run: Run) -> dict[str, float]:
        return {VALIDATION: run.final}

    def described(self) -> str:
        options = self.options
        return (
            f"{self.name}: SmolLM2-135M, adapters on q_proj and v_proj, {len(self.train)} problems of at most "
            f"{options.gsm8k_max_length} tokens ({self.left_out} longer ones left out), {self.steps} steps of "
            f"{options.gsm8k_batch_size}; loss on the answer tokens of {len(self.validation)} held-out problems"
        )

    def caveats(self, runs: Sequence[Run]) -> list[str]:
        return ["a model of this size solves hardly any problem, so that losses are compared and not answers"]
