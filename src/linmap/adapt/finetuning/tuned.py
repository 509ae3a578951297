"""A fine-tuned model: used, merged, and kept in a folder that is both a linmap run and a PEFT adapter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal, NotRequired, TypedDict, cast, get_type_hints

import torch
from accelerate import PartialState
from peft import PeftModel, get_peft_model_state_dict
from safetensors.torch import save_file
from torch import nn

from linmap.adapt.bone import BoneConfig
from linmap.adapt.salt import SaltConfig
from linmap.adapt.texts import TextClassifier, adapted_part
from linmap.adapt.triadaptlora import TriAdaptLoraConfig
from linmap.artifacts import (
    SHARED,
    check_free,
    check_names,
    read_config,
    read_tensors,
    reading,
    staged,
    write_config,
    write_json,
)
from linmap.data.completions import by_length, complete
from linmap.data.door import load_json
from linmap.data.models import (
    base_folder,
    load_pretrained,
    load_tokenizer,
    on_accelerator,
    quiet_libraries,
)
from linmap.data.schema import Range, require, typed, unstated
from linmap.data.text import Task, TextRecord
from linmap.data.tokens import ClassificationData, Side, Tokenizer
from linmap.errors import ArgumentError, ArtifactError
from linmap.ownership import make_folder
from linmap.training.checkpoint import gathered
from linmap.training.preparation import weights_of

METHODS = (BoneConfig, SaltConfig, TriAdaptLoraConfig)
PREFIX = "LINMAP_"  # of the names that PEFT knows our methods by
ADAPTER = ("adapter_config.json", "adapter_model.safetensors")
HEAD, LABELS = "head.safetensors", "labels.json"


@dataclass(frozen=True)
class FineTuned:
    """A pretrained model with an adapter that `fine_tune` trained, or that was loaded."""

    task: Task
    """"language" or "classification"."""
    model: nn.Module
    """The model with its adapter as PEFT has it; a `TextClassifier` of it where texts are classified."""
    tokenizer: Tokenizer
    labels: list[str]
    """Names of the classes; none for a language model."""
    max_length: int
    """Tokens of a text that is classified; longer ones are cut."""
    truncation: Side
    """The side on which they are cut."""
    base: str
    """Folder, id on the Hub or name of the pretrained model."""
    base_dtype: str
    """Number format of its weights."""
    report: Mapping[str, Any] = field(default_factory=dict)
    """What the training did, in a few numbers."""
    growth: Mapping[str, Any] = field(default_factory=dict)
    """TriAdaptLoRA: the ranks, and how they came about."""

    @property
    def adapted(self) -> Any:
        """PEFT's model."""
        return adapted_part(self.model)

    @property
    def method(self) -> str:
        """ "bone", "salt" or "triadaptlora"."""
        return self.adapted.peft_config["default"].peft_type.removeprefix(PREFIX).lower()

    # -- use ---------------------------------------------------------------------------------------------------------

    def complete(
        self,
        records: Sequence[TextRecord],
        max_new_tokens: int = 256,
        temperature: float = 0.0,
        batch_size: int = 16,
    ) -> list[str]:
        """What a language model writes after each prompt; see `linmap.data.completions.complete`."""
        if self.task != "language":
            raise ArgumentError("this model classifies texts and completes none; call classify(records).")
        return complete(self.model, self.tokenizer, records, max_new_tokens, temperature, batch_size)

    @torch.no_grad()
    def classify(self, records: Sequence[TextRecord], batch_size: int = 16) -> list[tuple[str, float]]:
        """The likeliest class of each text, and its probability."""
        if self.task != "classification":
            raise ArgumentError("this model completes prompts and knows no classes; call complete(records).")
        unlabelled = [replace(record, answer=None) for record in records]
        data = ClassificationData(unlabelled, self.tokenizer, self.labels, self.max_length, self.truncation)
        device = next(self.model.parameters()).device
        answers = [("", 0.0)] * len(data)
        for part in by_length(data.lengths, batch_size, "classifying"):
            batch = data.__getitems__(part)
            logits = self.model(batch["input_ids"].to(device), batch["attention_mask"].to(device)).float()
            probability, number = logits.softmax(-1).max(-1)
            for i, p, k in zip(part, probability.tolist(), number.tolist(), strict=True):
                answers[i] = self.labels[k], p
        return answers

    def write_merged(self, folder: Path) -> Path:
        """Write the model with the adapter in its weights as a folder that Transformers loads without linmap.

        A classifier's folder holds its encoder, the weights of its head in `head.safetensors`, and the names of its
        classes in `labels.json`. The model is used up.
        """
        if not PartialState().is_main_process:
            return folder
        plain = self.adapted.base_model.merge_and_unload(untie=True)
        make_folder(folder.parent)
        with staged(folder, whole=True) as partial, quiet_libraries():
            plain.save_pretrained(partial)
            self.tokenizer.save_pretrained(partial)
            if isinstance(self.model, TextClassifier):
                head = {name: weight.contiguous() for name, weight in self.model.head.state_dict().items()}
                save_file(head, partial / HEAD)
                write_json(partial / LABELS, self.labels)
        return folder

    # -- keep --------------------------------------------------------------------------------------------------------

    def save(self, folder: Path | str, settings: Mapping[str, Any] | None = None, seed: int = 0) -> None:
        """Write the adapter as PEFT does, the tokenizer, and the head of a classifier; `linmap.json` comes last.

        The folder loads with `PeftModel.from_pretrained(base, folder)` too, after `import linmap.adapt`.

        Parameters
        ----------
        folder
            For the files; what a run before has left of them is replaced.
        settings, seed
            Of the training, to be remembered.
        """
        folder, main = Path(folder), PartialState().is_main_process
        weights = gathered(weights_of(self.model), keep=main)  # all processes take part where the model is sharded
        if not main:
            return
        prefix = "encoder." if isinstance(self.model, TextClassifier) else ""
        state = {name.removeprefix(prefix): weight for name, weight in weights.items()}
        make_folder(folder)
        check_free(folder)
        for name in (SHARED, "config.json"):
            (folder / name).unlink(missing_ok=True)
        with staged(folder) as partial:
            self.adapted.save_pretrained(partial, state_dict=state, save_embedding_layers=False)
            self.tokenizer.save_pretrained(partial)
            (partial / "README.md").unlink(missing_ok=True)  # PEFT's, a form with nothing filled in
            if prefix:
                head = {name.removeprefix("head."): w for name, w in state.items() if name.startswith("head.")}
                save_file(head, partial / HEAD)
        header = {"task": self.task, "model": self.base, "labels": self.labels, "max_length": self.max_length}
        header["settings"] = dict(settings or {}) | {"base_dtype": self.base_dtype, "truncation": self.truncation}
        write_config(folder, self.method, header | {"result": dict(self.report), **self.growth}, seed, SHARED)

    @classmethod
    def load(cls, folder: Path | str, allow_download: bool = False) -> FineTuned:
        """The model of a folder, in evaluation mode, on the accelerator where there is one.

        Parameters
        ----------
        folder
            Written by `save`.
        allow_download
            Whether the pretrained model may be fetched from the Hugging Face Hub by the name that the folder gives.

        Raises
        ------
        ArtifactError
            If the folder holds no whole run, a file of it is damaged, its adapter is of another method than it says,
            or its pretrained model is not on this machine and may not be downloaded.
        """
        folder = Path(folder)
        header = read_config(folder)
        config = header["config"]
        needed = [*ADAPTER, *([HEAD] if config.get("task") == "classification" else [])]
        if lacking := [name for name in needed if not (folder / name).exists()]:
            raise ArtifactError(f"{folder} is incomplete: it lacks {', '.join(lacking)}.")
        with reading(folder):
            saved = typed(Saved, config, "config")
            settings = typed(Settings, saved["settings"], "settings")
            dtype, cut = settings["base_dtype"], settings["truncation"]
            left_out = _check_adapter(folder, header["system"])
        kind = "language" if saved["task"] == "language" else "encoder"
        base = load_pretrained(base_folder(folder, saved["model"], allow_download), kind, dtype)
        with reading(folder, sum(weight.nbytes for weight in base.parameters()), left_out):
            model = _adapted(base, folder, None if saved["task"] == "language" else saved["labels"])
            tokenizer = load_tokenizer(folder)
        growth = {name: config[name] for name in ("ranks", "growth") if name in config}
        return cls(saved["task"], on_accelerator(model).eval(), tokenizer, saved["labels"], saved["max_length"], cut,
                   saved["model"], dtype, config.get("result", {}), growth)  # fmt: skip


class Settings(TypedDict):
    """Of a training, what using the model depends on."""

    base_dtype: Literal["float32", "bfloat16"]
    truncation: Side


class Saved(TypedDict):
    """What a folder says of a fine-tuned model."""

    task: Task
    model: str
    labels: list[str]
    max_length: Annotated[int, Range(2, 2**24)]
    settings: dict[str, Any]
    result: NotRequired[dict[str, Any]]
    ranks: NotRequired[dict[str, int]]
    growth: NotRequired[list[dict[str, Any]]]


def _adapted(base: nn.Module, folder: Path, labels: Sequence[str] | None) -> nn.Module:
    """The pretrained model with the adapter of a folder, all of whose tensors are there, and none besides."""
    found = read_tensors(folder / ADAPTER[1])
    with quiet_libraries():
        adapted = PeftModel.from_pretrained(cast(Any, base), str(folder))
    expected = get_peft_model_state_dict(cast(Any, adapted), save_embedding_layers=False)
    check_names(found, expected, ADAPTER[1])
    if labels is None:
        return adapted
    model = TextClassifier(adapted, len(labels))
    model.head.load_state_dict(read_tensors(folder / HEAD))
    return model


def _check_adapter(folder: Path, method: str) -> str:
    """Refuse an adapter of another method of PEFT, for some load further models by what their configuration names; and
    one whose configuration has a value of a type that the method does not take.

    Returns
    -------
    str
        What to add where it does not fit its weights, as of `unstated`.

    Raises
    ------
    ArtifactError, TypeError
        If it is, or its configuration cannot be read.
    """
    stated = load_json(folder / ADAPTER[0])
    kind = stated.get("peft_type") if isinstance(stated, dict) else None
    known: dict[Any, type] = {config().peft_type: config for config in METHODS}
    if kind != f"{PREFIX}{method.upper()}" or kind not in known:
        raise ArtifactError(
            f"{folder / ADAPTER[0]} says peft_type {kind!r}, and an adapter of {method} says "
            f"'{PREFIX}{method.upper()}'; load the adapters of other methods with PEFT itself."
        )
    for name, hint in get_type_hints(known[kind], include_extras=True).items():
        if name in stated:
            require(stated[name], hint, f"{ADAPTER[0]}: {name}")
    return unstated(known[kind], stated, ADAPTER[0])
