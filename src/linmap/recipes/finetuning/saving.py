"""What fine-tuning leaves behind: a folder that is both a linmap run and a PEFT adapter, and a merged plain model."""

from __future__ import annotations

import json
from json import JSONDecodeError
from pathlib import Path
from typing import Any, NamedTuple

from accelerate import PartialState
from peft import PeftModel
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

import linmap.adapt  # noqa: F401  # makes its methods known to PEFT
from linmap.adapt.texts import TextClassifier
from linmap.artifacts import SHARED, read_config, write_config, write_json
from linmap.data.text import Task
from linmap.data.tokens import Side, Tokenizer
from linmap.errors import ArtifactError
from linmap.recipes.language.folders import check_free, staged
from linmap.recipes.language.models import (
    base_folder,
    load_pretrained,
    load_tokenizer,
    on_accelerator,
    quiet_libraries,
)
from linmap.training.checkpoint import gathered
from linmap.training.preparation import weights_of

ADAPTER = ("adapter_config.json", "adapter_model.safetensors")
HEAD, LABELS = "head.safetensors", "labels.json"


class Saved(NamedTuple):
    """A run, ready to be used."""

    task: Task
    model: nn.Module
    tokenizer: Tokenizer
    labels: list[str]
    max_length: int
    truncation: Side


def save_adapter(
    folder: Path, system: str, header: dict[str, Any], model: nn.Module, tokenizer: Tokenizer, seed: int
) -> None:
    """Write the adapter as PEFT does, the tokenizer, and the head of a classifier; `linmap.json` comes last.

    The folder loads with `PeftModel.from_pretrained(base, folder)` after `import linmap.adapt`.
    """
    main = PartialState().is_main_process
    weights = gathered(weights_of(model), keep=main)  # all processes take part where the model is sharded
    if not main:
        return
    adapted: Any = model.encoder if isinstance(model, TextClassifier) else model
    prefix = "encoder." if isinstance(model, TextClassifier) else ""
    state = {name.removeprefix(prefix): weight for name, weight in weights.items()}
    folder.mkdir(parents=True, exist_ok=True)
    check_free(folder)
    for name in (SHARED, "config.json"):
        (folder / name).unlink(missing_ok=True)
    with staged(folder) as partial:
        adapted.save_pretrained(partial, state_dict=state, save_embedding_layers=False)
        tokenizer.save_pretrained(partial)
        (partial / "README.md").unlink(missing_ok=True)  # PEFT's, a form with nothing filled in
        if isinstance(model, TextClassifier):
            save_file(
                {name.removeprefix("head."): w for name, w in state.items() if name.startswith("head.")}, partial / HEAD
            )
    write_config(folder, system, header, seed, SHARED)


def load_adapter(folder: Path | str, system: str, allow_download: bool = False) -> Saved:
    """A model with the adapter of a folder, in evaluation mode.

    Parameters
    ----------
    folder, system
        The run, and the system that it must be of.
    allow_download
        Whether the pretrained model may be fetched from the Hugging Face Hub by the name that the run gives.

    Raises
    ------
    ArtifactError
        If the folder holds no whole run of this system, a file of it is damaged, its adapter is of another method, or
        its pretrained model is not on this machine and may not be downloaded.
    """
    folder = Path(folder)
    header = read_config(folder)
    if header["system"] != system:
        raise ArtifactError(f"{folder} holds a run of {header['system']!r}, not of {system!r}.")
    config = header["config"]
    needed = [*ADAPTER, *([HEAD] if config["task"] == "classification" else [])]
    if lacking := [name for name in needed if not (folder / name).exists()]:
        raise ArtifactError(f"{folder} is incomplete: it lacks {', '.join(lacking)}.")
    _check_method(folder, system)
    kind = "language" if config["task"] == "language" else "encoder"
    base = load_pretrained(base_folder(folder, config["model"], allow_download), kind, config["settings"]["base_dtype"])
    try:
        with quiet_libraries():
            model: nn.Module = PeftModel.from_pretrained(base, str(folder))  # pyright: ignore[reportArgumentType]
        if config["task"] == "classification":
            model = TextClassifier(model, len(config["labels"]))
            model.head.load_state_dict(load_file(folder / HEAD))
    except (SafetensorError, JSONDecodeError, KeyError, TypeError, RuntimeError) as error:
        raise ArtifactError(f"{folder} is damaged ({error}); fit it again.") from None
    on_accelerator(model)
    tokenizer, cut = load_tokenizer(folder), config["settings"]["truncation"]
    return Saved(config["task"], model.eval(), tokenizer, config["labels"], config["max_length"], cut)


def _check_method(folder: Path, system: str) -> None:
    """Refuse an adapter of another method of PEFT: some load further models by what their configuration names.

    Raises
    ------
    ArtifactError
        If it is, or its configuration cannot be read.
    """
    try:
        kind = json.loads((folder / ADAPTER[0]).read_text(encoding="utf-8"))["peft_type"]
    except (ValueError, KeyError, TypeError) as error:
        raise ArtifactError(f"{folder / ADAPTER[0]} is damaged ({error}); fit it again.") from None
    if kind != f"LINMAP_{system.upper()}":
        raise ArtifactError(
            f"{folder / ADAPTER[0]} says peft_type {kind!r}, and an adapter of {system} says "
            f"'LINMAP_{system.upper()}'; load the adapters of other methods with PEFT itself."
        )


def write_merged(model: nn.Module, tokenizer: Tokenizer, labels: list[str], folder: Path) -> Path:
    """Write the model with the adapter in its weights as a folder that Transformers loads without linmap.

    A classifier's folder holds its encoder, the weights of its head in `head.safetensors`, and the names of its classes
    in `labels.json`. The model given is used up.
    """
    if not PartialState().is_main_process:
        return folder
    classifier = isinstance(model, TextClassifier)
    adapted: Any = model.encoder if classifier else model
    plain = adapted.base_model.merge_and_unload(untie=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with staged(folder, whole=True) as partial, quiet_libraries():
        plain.save_pretrained(partial)
        tokenizer.save_pretrained(partial)
        if classifier:
            save_file({name: weight.contiguous() for name, weight in model.head.state_dict().items()}, partial / HEAD)
            write_json(partial / LABELS, labels)
    return folder
