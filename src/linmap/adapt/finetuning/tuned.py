"""A fine-tuned model: used, merged, and kept in a folder that is both a linmap run and a PEFT adapter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from json import JSONDecodeError
from pathlib import Path
from typing import Any, cast

import torch
from accelerate import PartialState
from peft import PeftModel
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from linmap.adapt.bone import BoneConfig
from linmap.adapt.salt import SaltConfig
from linmap.adapt.texts import TextClassifier, adapted_part
from linmap.adapt.triadaptlora import TriAdaptLoraConfig
from linmap.artifacts import SHARED, check_free, read_config, staged, write_config, write_json
from linmap.data.completions import by_length, complete
from linmap.data.door import load_json
from linmap.data.models import (
    base_folder,
    load_pretrained,
    load_tokenizer,
    on_accelerator,
    quiet_libraries,
)
from linmap.data.text import Task, TextRecord
from linmap.data.tokens import ClassificationData, Side, Tokenizer
from linmap.errors import ArgumentError, ArtifactError
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
        folder.parent.mkdir(parents=True, exist_ok=True)
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
        folder.mkdir(parents=True, exist_ok=True)
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
        _check_method(folder, header["system"])
        dtype, cut = (config["settings"][name] for name in ("base_dtype", "truncation"))
        kind = "language" if config["task"] == "language" else "encoder"
        base = load_pretrained(base_folder(folder, config["model"], allow_download), kind, dtype)
        try:
            with quiet_libraries():
                model: nn.Module = PeftModel.from_pretrained(cast(Any, base), str(folder))
            if config["task"] == "classification":
                model = TextClassifier(model, len(config["labels"]))
                model.head.load_state_dict(load_file(folder / HEAD))
        except (SafetensorError, JSONDecodeError, KeyError, TypeError, RuntimeError) as error:
            raise ArtifactError(f"{folder} is damaged ({error}); fit it again.") from None
        growth = {name: config[name] for name in ("ranks", "growth") if name in config}
        return cls(config["task"], on_accelerator(model).eval(), load_tokenizer(folder), config["labels"],
                   config["max_length"], cut, config["model"], dtype, config.get("result", {}), growth)  # fmt: skip


def _check_method(folder: Path, method: str) -> None:
    """Refuse an adapter of another method of PEFT: some load further models by what their configuration names.

    Raises
    ------
    ArtifactError
        If it is, or its configuration cannot be read.
    """
    try:
        kind = load_json(folder / ADAPTER[0])["peft_type"]
    except (ValueError, KeyError, TypeError) as error:
        raise ArtifactError(f"{folder / ADAPTER[0]} is damaged ({error}); fit it again.") from None
    if kind != f"{PREFIX}{method.upper()}" or kind not in {config().peft_type for config in METHODS}:
        raise ArtifactError(
            f"{folder / ADAPTER[0]} says peft_type {kind!r}, and an adapter of {method} says "
            f"'{PREFIX}{method.upper()}'; load the adapters of other methods with PEFT itself."
        )
