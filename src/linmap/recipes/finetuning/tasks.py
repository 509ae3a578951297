"""The texts on which adapters are compared: what is trained on, what chooses the learning rates, what is measured."""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from linmap.adapt.finetuning.training import DEFAULT_MODELS, Data, accuracy
from linmap.adapt.texts import TextClassifier, classification_loss, language_loss, without_dropout
from linmap.data.models import load_pretrained, load_tokenizer
from linmap.data.pretrained import bundled_model
from linmap.data.text import TextRecord, labels_of, read_training_texts
from linmap.data.tokens import BatchesByLength, ClassificationData, Document, LanguageData, document_of
from linmap.errors import DataError
from linmap.experiment import Metric
from linmap.recipes.finetuning.flags import Completions, Labelled
from linmap.training import mean_loss

ACCURACY, LOSS, TRAINING, CHOOSING = "test accuracy", "test loss", "training loss", "validation loss"
TARGETS = {"classification": ["query", "value"], "language": ["q_proj", "v_proj"]}


@dataclass
class Task:
    """Records in three parts, a pretrained model, and how a model is measured on them."""

    name: str
    base: nn.Module
    train: Data
    validation: Data
    test: Data
    batch_size: int
    steps: int
    pilot_steps: int
    """Steps of the runs by which a learning rate is chosen; `steps` where whole runs choose."""
    described: str
    """Model, data and budget, in one sentence."""
    classes: Sequence[str] = ()
    """None for a language model."""
    head_lr: float = 1.0
    checkpoints: Sequence[int] = ()
    """Steps after which the validation loss is noted, beside the last one."""
    together: int = 64
    """Records of one forward pass in evaluation."""

    @property
    def metrics(self) -> list[Metric]:
        """What a user takes an adapter for comes first."""
        losses = [Metric(LOSS), Metric(TRAINING)]
        return [Metric(ACCURACY, "higher", digits=3), *losses] if self.classes else losses

    @property
    def window(self) -> int:
        """Steps over which a training loss is averaged before it is shown: the last eighth of all."""
        return max(self.steps // 8, 1)

    @property
    def kind(self) -> str:
        """What the records are for: "classification" or "language"."""
        return "classification" if self.classes else "language"

    @property
    def targets(self) -> list[str]:
        """The layers that every adapter changes."""
        return TARGETS[self.kind]

    def model(self) -> nn.Module:
        """The pretrained model, before an arm makes something of it trainable; the head is drawn by PyTorch."""
        base = copy.deepcopy(self.base)
        return TextClassifier(base, len(self.classes)) if self.classes else base

    def batches(self, seed: int) -> BatchesByLength:
        """The training batches, the same for every arm."""
        return BatchesByLength(self.train, self.train.lengths, self.batch_size, seed)

    @property
    def loss(self) -> Callable[[nn.Module, Any], Tensor]:
        """Of a batch."""
        return classification_loss if self.classes else language_loss

    @torch.no_grad()
    def loss_on(self, model: nn.Module, data: Data) -> float:
        """In evaluation mode, after which the model is as it was."""
        training = model.training
        model.eval()
        try:
            return mean_loss(model, self.loss, data, self.together)
        finally:
            model.train(training)

    def scores(self, model: nn.Module) -> dict[str, float]:
        """What the trained model reaches on the test records; nothing is chosen by it."""
        found = {LOSS: self.loss_on(model, self.test)}
        return found | ({ACCURACY: accuracy(model.eval(), self.test, self.together)} if self.classes else {})


def task_of(settings: Labelled | Completions, path: Path) -> Task:
    """The task that the records of a file make.

    Raises
    ------
    DataError
        If the file cannot be read, or has too few records for the three parts.
    """
    if isinstance(settings, Labelled):
        records = read_training_texts(path, "classification").records
        return labelled_task(path.name.partition(".")[0], split(records, settings, path), settings)
    documents = documents_of(path)
    held_out = max(2, round(settings.held_out * len(documents)))
    parts = documents[:-held_out], documents[-held_out : -(held_out // 2)], documents[-(held_out // 2) :]
    return completion_task(path.name.partition(".")[0], parts, settings)


# -- texts with labels -------------------------------------------------------------------------------------------------


def split(records: Sequence[TextRecord], settings: Labelled, path: Path) -> tuple[list[TextRecord], ...]:
    """The first records of each class for training, those after them for validation, those after them for the test.

    Raises
    ------
    DataError
        If there are too few records for any of the parts.
    """
    parts, start = [], 0
    for size in (settings.shots, settings.validation_per_class, settings.test_per_class):
        parts.append(of_each_class(records, start, start + size))
        start += size
    if not all(parts):
        raise DataError(
            f"{path} has too few records of each class for {settings.shots} to train, {settings.validation_per_class} "
            f"to choose the learning rate and {settings.test_per_class} to test; lower shots={settings.shots}, or give "
            "more records."
        )
    return tuple(parts)


def of_each_class(records: Sequence[TextRecord], start: int, stop: int) -> list[TextRecord]:
    """The records of each class from one position to another, in the order of the classes."""
    classes: dict[str | None, list[TextRecord]] = defaultdict(list)
    for record in records:
        classes[record.answer].append(record)
    return [record for group in classes.values() for record in group[start:stop]]


def labelled_task(name: str, parts: Sequence[Sequence[TextRecord]], settings: Labelled) -> Task:
    """A frozen encoder with adapters on query and value, and a linear head."""
    folder = bundled_model(DEFAULT_MODELS["classification"])
    tokenizer, classes = load_tokenizer(folder), labels_of(parts[0])
    train, *others = parts
    parts = [train, *(sorted(part, key=lambda record: len(record.text)) for part in others)]
    data = [ClassificationData(list(part), tokenizer, classes, settings.max_length) for part in parts]
    encoder = without_dropout(load_pretrained(folder, "encoder", "float32"))
    described = (
        f"{name}: MiniLM-L6, adapters on query and value, a linear head, {settings.shots} texts for each of "
        f"{len(classes)} classes, {settings.steps} steps of {settings.batch_size}; {len(data[2]):,} test texts"
    )
    return Task(
        name, encoder, data[0], data[1], data[2], settings.batch_size, settings.steps, settings.steps, described,
        classes, settings.head_lr,
    )  # fmt: skip


# -- texts to learn and prompts with completions -----------------------------------------------------------------------


def documents_of(path: Path) -> list[Document]:
    """The records of a file as the language model reads them."""
    tokenizer = load_tokenizer(bundled_model(DEFAULT_MODELS["language"]))
    return [document_of(record, tokenizer) for record in read_training_texts(path, "language").records]


def completion_task(
    name: str, parts: Sequence[Sequence[Document]], settings: Completions, dtype: str = "float32"
) -> Task:
    """A language model with adapters on q_proj and v_proj, measured by its loss on what is learnt.

    Raises
    ------
    DataError
        If a part has no record that is short enough.
    """
    longest = settings.max_length
    kept = [[document for document in part if len(document.ids) <= longest] for part in parts]
    if not all(kept):
        raise DataError(
            f"{name}: of {sum(map(len, parts))} records, {len(kept[0])} to train, {len(kept[1])} to choose the "
            f"learning rate and {len(kept[-1])} to test have at most {longest} tokens; raise max_length={longest}, or "
            "give more records."
        )
    left_out = sum(map(len, parts)) - sum(map(len, kept))
    data = [
        LanguageData(part if i == 0 else sorted(part, key=lambda d: len(d.ids)), longest) for i, part in enumerate(kept)
    ]
    described = (
        f"{name}: SmolLM2-135M, adapters on q_proj and v_proj, {len(data[0])} records of at most {longest} tokens "
        f"({left_out} longer ones left out), {settings.steps} steps of {settings.batch_size}; loss on "
        f"{len(data[2])} test records"
    )
    base = load_pretrained(bundled_model(DEFAULT_MODELS["language"]), "language", dtype)
    thirds = [round(settings.steps * part / 3) for part in (1, 2)]
    return Task(
        name, base, data[0], data[1], data[2], settings.batch_size, settings.steps,
        min(settings.pilot_steps, settings.steps), described, checkpoints=thirds, together=8,
    )  # fmt: skip
