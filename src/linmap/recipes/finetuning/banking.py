"""Few-shot classification of sentences: a frozen encoder with adapters and a linear head."""

from __future__ import annotations

import copy
import math
import statistics
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from linmap.data import find
from linmap.data.pretrained import bundled_model
from linmap.data.text import TextRecord, labels_of, read_training_texts
from linmap.data.tokens import ClassificationData
from linmap.errors import DataError
from linmap.experiment.result import Metric
from linmap.recipes.finetuning.experiments import BatchesByLength, Run, Task, check_flags
from linmap.recipes.finetuning.fitting import accuracy
from linmap.recipes.finetuning.models import TextClassifier, classification_loss
from linmap.recipes.language.models import load_pretrained, load_tokenizer
from linmap.training import mean_loss

TRAINING, ACCURACY = "training loss", "test accuracy"
WINDOWS = 8  # a reported training loss is the mean over the last eighth of the steps
TOGETHER = 64  # sentences of one forward pass in evaluation


@dataclass(frozen=True)
class FewShot:
    """Flags of a comparison on few sentences a class."""

    shots: int = 5
    """Training sentences of each class, the first ones of the file."""
    steps: int = 64
    """Optimiser steps."""
    batch_size: int = 12
    """Sentences of a step."""
    lrs: tuple[float, ...] = (2e-3, 5e-3)
    """Learning rates that every arm chooses from, by the validation loss with the first seed; full tuning: 1/50 of
    each."""
    head_lr: float = 5e-3
    """Learning rate of the head, in every arm."""
    validation_per_class: int = 2
    """Training sentences of each class after the shots that the learning rate is chosen on."""
    test_per_class: int = 4
    """Test sentences of each class, the first ones of the file."""
    max_length: int = 64
    """Tokens of a sentence; longer ones are cut."""
    seeds: int = 3
    """Seeds of every arm."""

    def __post_init__(self) -> None:
        check_flags(self)


class Banking(Task):
    """Banking77: 77 intents of bank customers, MiniLM-L6 as the encoder; or any file of texts with labels."""

    slug, metrics = "banking77", [Metric(TRAINING), Metric(ACCURACY, "higher", digits=3)]

    def __init__(self, settings: FewShot, data: Path | None = None) -> None:
        self.options = settings
        self.name = data.stem if data else "Banking77"
        self.steps = self.pilot_steps = settings.steps
        self.checkpoints = (settings.steps,)
        self.shown_steps = tuple(settings.steps * part // 4 for part in (1, 2, 3, 4))
        self.window = max(settings.steps // WINDOWS, 1)
        self.head_lr = settings.head_lr
        self.source = str(data) if data else "embedded"
        train, validation, test = split(settings, data)
        self.classes = labels_of(train)
        folder = bundled_model("minilm-l6")
        self.encoder = without_dropout(load_pretrained(folder, "encoder", "float32"))
        tokenizer = load_tokenizer(folder)
        self.train, self.validation, self.test = (
            ClassificationData(sorted(part, key=lambda r: len(r.text)) if part is not train else part,
                               tokenizer, self.classes, settings.max_length)
            for part in (train, validation, test)
        )  # fmt: skip

    def settings(self) -> dict[str, Any]:
        names = ("shots", "batch_size", "head_lr", "validation_per_class", "test_per_class", "max_length")
        return {"task": self.name, "data": self.source} | {n: asdict(self.options)[n] for n in names}

    def model(self, seed: int) -> nn.Module:
        return TextClassifier(copy.deepcopy(self.encoder), len(self.classes))

    def batches(self, seed: int) -> BatchesByLength:
        return BatchesByLength(self.train, [len(ids) for ids in self.train.ids], self.options.batch_size, seed)

    def loss(self, model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        return classification_loss(model, batch)

    def validation_loss(self, model: nn.Module) -> float:
        return mean_loss(model, classification_loss, self.validation, TOGETHER)

    def scores(self, model: nn.Module) -> dict[str, float]:
        return {ACCURACY: accuracy(model, self.test, TOGETHER)}

    def loss_at(self, run: Run, step: int) -> float:
        """Mean training loss over the last steps up to this one."""
        found = run.losses[max(step - self.window, 0) : step]
        return statistics.fmean(found) if len(run.losses) >= step else math.nan

    def values(self, run: Run) -> dict[str, float]:
        return {TRAINING: self.loss_at(run, run.steps), ACCURACY: run.scores.get(ACCURACY, math.nan)}

    def described(self) -> str:
        options = self.options
        return (
            f"{self.name}: MiniLM-L6, adapters on query and value, a linear head, {options.shots} sentences for each "
            f"of {len(self.classes)} classes, {options.steps} steps of {options.batch_size}; {len(self.test):,} test "
            "sentences"
        )

    def caveats(self, runs: Sequence[Run]) -> list[str]:
        mean = statistics.fmean(run.scores.get(ACCURACY, 0.0) for run in runs)
        noise = (mean * (1 - mean) / len(self.test)) ** 0.5
        found = [f"an accuracy has a standard deviation of {noise:.3f} from the draw of the test sentences alone"]
        if self.options.shots < 40 or self.options.steps < 300:
            found.append("too few sentences and steps for claims about accuracy (`--preset full` has 40 and 300)")
        return found


def split(settings: FewShot, data: Path | None) -> tuple[list[TextRecord], list[TextRecord], list[TextRecord]]:
    """Training, validation and test sentences: the first ones of each class, those after them, and the first ones of
    the test file (of an own file, those after the validation sentences).

    Raises
    ------
    DataError
        If a class has too few sentences for any of the parts.
    """
    how = "Reinstall linmap."
    path = data or find("triadaptlora/banking77_train.csv.gz", how)
    classes = by_class(read_training_texts(path, "classification").records)
    ends = [settings.shots, settings.shots + settings.validation_per_class]
    train = [record for group in classes for record in group[: ends[0]]]
    validation = [record for group in classes for record in group[ends[0] : ends[1]]]
    if data is None:
        ends[1] = 0
        classes = by_class(read_training_texts(find("triadaptlora/banking77_test.csv.gz", how)).records)
    test = [record for group in classes for record in group[ends[1] : ends[1] + settings.test_per_class]]
    if not validation or not test:
        raise DataError(
            f"{path} has too few records of each class for {settings.shots} to train, "
            f"{settings.validation_per_class} to choose the learning rate and {settings.test_per_class} to test; lower "
            "--shots, or give more records."
        )
    return train, validation, test


def by_class(records: Sequence[TextRecord]) -> list[list[TextRecord]]:
    groups: dict[str | None, list[TextRecord]] = defaultdict(list)
    for record in records:
        groups[record.answer].append(record)
    return list(groups.values())


def without_dropout(model: nn.Module) -> nn.Module:
    """So that arms differ in what they train and in nothing else."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return model
