"""The subject that flags and a file ask for: which model, which inputs, which of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from linmap.compress.token_transforming.evaluation.images import Images, LabelledImages
from linmap.compress.token_transforming.evaluation.subject import Subject
from linmap.compress.token_transforming.evaluation.texts import Prompts, Sentences, pools_class_token, tokens_of
from linmap.data import find
from linmap.data.built import weight_files
from linmap.data.image_preparation import ImagePreparation, read_preparation
from linmap.data.image_sets import ImageSet, embedded_photographs, read_image_set
from linmap.data.images import SUFFIXES
from linmap.data.models import (
    Reads,
    classifies,
    config_of,
    load_pretrained,
    load_tokenizer,
    load_trained,
    model_folder,
    on_accelerator,
    reads_of,
)
from linmap.data.text import TextRecord, read_prompts, read_text
from linmap.data.tokens import Tokenizer, prompt_tokens
from linmap.errors import DataError, UsageError
from linmap.experiment import fingerprint
from linmap.recipes.token_transforming.flags import Inputs

DEFAULTS: dict[Reads, str] = {"images": "dinov2-small", "text": "minilm-l6"}
NOVEL = "austen_test.txt.gz"
LONG = 400
"""Characters of a paragraph that is worth merging tokens of."""
SHORTEST = 64
"""Tokens of a prompt: those that are kept for certain, and some between them."""
TRAIN = 4
"""Images for the classifier, to one that is measured."""


@dataclass(frozen=True)
class Model:
    """Whose tokens are merged."""

    name: str
    folder: Path

    @property
    def reads(self) -> Reads:
        return reads_of(self.folder)

    @property
    def generates(self) -> bool:
        """Whether it is a language model."""
        config = config_of(self.folder)
        return any(name.endswith("ForCausalLM") for name in config.get("architectures") or [])

    def weights(self) -> dict[str, str | None]:
        """The fingerprints of its files."""
        return {path.name: fingerprint(path) for path in weight_files(self.folder)}


def model_of(settings: Inputs, data: Path | None) -> Model:
    """The model that is named, or the one for this kind of data.

    Raises
    ------
    UsageError
        If there is none, or it reads something else.
    """
    wanted = None if data is None else kind_of(data)
    name = settings.model or DEFAULTS[wanted or "images"]
    return Model(name, model_folder(name, wanted))


def kind_of(data: Path) -> Reads:
    """Whether a path is one of images or one of texts."""
    images = data.is_dir() or data.suffix.lower() in (*SUFFIXES, ".npz")
    return "images" if images else "text"


def subject_of(settings: Inputs, model: Model, data: Path | None, limit: int | None, predicts: bool = False) -> Subject:
    """The model with at most `limit` of the inputs, spread over them; a classifier with its head, if it `predicts`.

    Raises
    ------
    UsageError, DataError
        If something is missing or does not fit together.
    """
    if model.reads == "images" and (data is None or kind_of(data) == "images"):
        return _images(settings, model, data, limit, predicts)
    if model.generates:
        loaded = on_accelerator(load_pretrained(model.folder, "language", "float32")).eval()
        tokens = prompts(load_tokenizer(model.folder), data, settings.length)
        return Prompts(loaded, [tokens[row] for row in spread(len(tokens), limit)])
    records = texts(data)
    records = [records[row] for row in spread(len(records), limit)]
    tokenizer, loaded = load_tokenizer(model.folder), load_trained(model.folder)
    found = tokens_of([r.text for r in records], tokenizer, settings.length, [r.place for r in records])
    loaded, by_class = on_accelerator(loaded).eval(), pools_class_token(model.folder)
    return Sentences(loaded, found, settings.batch_size, by_class, predicts and classifies(model.folder))


def _images(settings: Inputs, model: Model, data: Path | None, limit: int | None, predicts: bool) -> Images:
    preparation = preparation_of(settings, model)
    images = embedded_photographs() if data is None else read_image_set(data)
    loaded = on_accelerator(load_trained(model.folder)).eval()
    if limit is None or images.labels is None:
        chosen = images.subset(spread(len(images), limit))
        return Images(loaded, chosen, preparation, settings.batch_size, predicts and classifies(model.folder))
    test, train = parted(images, limit)
    return LabelledImages(loaded, test, preparation, settings.batch_size, train)


def preparation_of(settings: Inputs, model: Model) -> ImagePreparation:
    """As the model's folder says, at the size that is asked for."""
    stated = read_preparation(model.folder)
    return stated if settings.size is None else stated.at(settings.size)


def parted(images: ImageSet, limit: int) -> tuple[ImageSet, ImageSet]:
    """A quarter of every class to measure, at most `limit` in all, and the others, at most four times as many.

    Raises
    ------
    DataError
        If a class has fewer than two images.
    """
    assert images.labels is not None
    test, train = [], []
    for number, name in enumerate(images.classes):
        rows = np.flatnonzero(images.labels == number)
        if len(rows) < 2:
            raise DataError(f"the class {name} has {len(rows)} image; give two or more of each.")
        measured = set(rows[TRAIN - 1 :: TRAIN].tolist() or rows[-1:].tolist())
        test += sorted(measured)
        train += [row for row in rows.tolist() if row not in measured]
    test, train = by_turns(test, images.labels), by_turns(train, images.labels)
    return images.subset(sorted(test[:limit])), images.subset(sorted(train[: TRAIN * limit]))


def by_turns(rows: Sequence[int], labels: np.ndarray) -> list[int]:
    """Rows in an order in which every class comes in turn."""
    seen: dict[int, int] = {}
    places = []
    for row in rows:
        label = int(labels[row])
        places.append((seen.setdefault(label, 0), label, row))
        seen[label] += 1
    return [row for _, _, row in sorted(places)]


def spread(count: int, limit: int | None) -> list[int]:
    """At most `limit` of so many rows, evenly spaced."""
    if limit is None or limit >= count:
        return list(range(count))
    return [(2 * place + 1) * count // (2 * limit) for place in range(limit)]


def texts(data: Path | None) -> list[TextRecord]:
    """The texts of a file; long paragraphs of a novel without one.

    Raises
    ------
    UsageError
        If it holds chats.
    """
    if data is None:
        paragraphs = read_text(find(f"text/{NOVEL}", "Reinstall linmap.")).split("\n\n")
        long = [" ".join(paragraph.split()) for paragraph in paragraphs if len(paragraph) >= LONG]
        return [TextRecord(f"paragraph {number}", {}, text) for number, text in enumerate(long, 1)]
    records = read_prompts(data, "language")
    if chats := [record for record in records if record.messages is not None]:
        raise UsageError(f"--data {chats[0].place} is a chat; a sentence encoder takes texts.")
    return records


def prompts(tokenizer: Tokenizer, data: Path | None, length: int) -> list[list[int]]:
    """Of each record that is long enough its last tokens; windows of a novel without a file.

    Raises
    ------
    DataError
        If all are shorter.
    """
    if data is None:
        stream = tokenizer(read_text(find(f"text/{NOVEL}", "Reinstall linmap.")))["input_ids"]
        return [stream[first : first + length] for first in range(0, len(stream) - length, length)]
    found = [prompt_tokens(record, tokenizer)[-length:] for record in read_prompts(data, "language")]
    long = [tokens for tokens in found if len(tokens) >= SHORTEST]
    if not long:
        raise DataError(f"{data}: no prompt has {SHORTEST} tokens or more; there is nothing to merge in shorter ones.")
    return long
