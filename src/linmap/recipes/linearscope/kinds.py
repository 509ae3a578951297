"""What a model reads, by its name or by the data: the text path or the one of images."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from linmap.data.door import files_inside
from linmap.data.images import SUFFIXES
from linmap.data.models import model_folder, reads_of, reads_of_bundled
from linmap.data.pretrained import BUNDLED
from linmap.errors import UsageError, word
from linmap.recipes.linearscope.flags import Network
from linmap.recipes.networks import PICKLED, is_import_path

TEXT = (".txt", ".md", ".jsonl", ".json", ".csv")
"""Suffixes of data that is text, each also with .gz behind."""
LANGUAGE, CLASSIFIER = "smollm2-135m", "efficientnet-lite0"
CHOICES = (
    "efficientnet-lite0, fsrcnn-x2, fsrcnn-x3, fsrcnn-x4, fsrcnn-small-x2, dinov2-small, smollm2-135m, folders of "
    "Transformers, ids on the Hub, and package.module:function"
)
OWN = re.compile(r"efficientnet-lite0|fsrcnn-(small-)?x\d")
"""Networks that are no folders of Transformers."""

Flags = TypeVar("Flags", bound=Network)


def is_text(data: Path | None) -> bool:
    """Whether a file holds text."""
    return data is not None and ((data.suffixes[-1:] == [".gz"] and data.with_suffix("").suffix in TEXT)
                                 or data.suffix.lower() in TEXT)  # fmt: skip


def refuse_folder(data: Path | None) -> None:
    """A page is of one photograph or text.

    Raises
    ------
    UsageError
        If the data are a folder; names a file of it that can be read.
    """
    if data is None or not data.is_dir():
        return
    found = next(iter(files_inside(data, (*SUFFIXES, *TEXT, *(f"{text}.gz" for text in TEXT)))), None)
    raise UsageError(
        f"--data {word(data)} is a folder, and one photograph or text is read at a time; give a file"
        f"{f' of it, such as --data {word(found)}' if found else ': the folder holds none that can be read'}."
    )


def named(settings: Flags, data: Path | None) -> Flags:
    """The settings with a model: the one that is named, or the one for this kind of data."""
    return settings if settings.model else replace(settings, model=LANGUAGE if is_text(data) else CLASSIFIER)


def is_network(name: str) -> bool:
    """Whether a name stands for a network that is no folder of Transformers."""
    return bool(OWN.fullmatch(name)) or is_import_path(name) or name.endswith(PICKLED)


def reads_text(settings: Network, data: Path | None) -> bool:
    """Whether the model of settings that name one reads text; flags and data of the other kind are refused.

    Raises
    ------
    UsageError
        If a flag or the data does not belong to this kind of model.
    """
    name = settings.model or ""
    if is_network(name):
        text = False
    elif name in BUNDLED:
        text = reads_of_bundled(name) == "text"
    elif "/" not in name and not Path(name).expanduser().is_dir():
        raise UsageError(f"--model {name!r}: there are {CHOICES}.")
    else:
        text = reads_of(model_folder(name, None)) == "text"
    if wrong := settings.given(settings.IMAGES if text else settings.TEXTS):
        flag, kind = wrong[0].replace("_", "-"), ("images", "texts")[not text]
        raise UsageError(f"--{flag} is for {kind}, and {name} reads {('images', 'texts')[text]}; leave it out.")
    if data is not None and data.is_file() and is_text(data) != text:
        raise UsageError(f"--data {data}: {name} reads {('images', 'texts')[text]}; give one of these.")
    return text
