"""Fine-tuning a pretrained model with an adapter: from a file of texts to a folder that answers."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from peft import PeftConfig, get_peft_model, get_peft_model_state_dict
from torch import Tensor, nn

from linmap.adapt.layer import AdapterLayer
from linmap.adapt.texts import (
    TextClassifier,
    check_packing,
    classification_loss,
    language_loss,
    row_length,
)
from linmap.data import find
from linmap.data.pretrained import BUNDLED
from linmap.data.text import Task, TextFile, TextRecord, labels_of, read_training_texts
from linmap.data.tokens import ClassificationData, LanguageData, Tokenizer, document_of
from linmap.errors import ArgumentError, DataError, UsageError
from linmap.recipes.finetuning.flags import DEFAULT_MODELS, EMBEDDED, FineTuning
from linmap.recipes.finetuning.saving import save_adapter, write_merged
from linmap.recipes.job import FitJob
from linmap.recipes.language.folders import check_free
from linmap.recipes.language.models import (
    check_adaptable,
    load_pretrained,
    load_tokenizer,
    model_folder,
    quiet_libraries,
)
from linmap.training import TrainingHistory, mean_loss, train

log = logging.getLogger(__name__)

Callback = Callable[[nn.Module, int], object]
Data = LanguageData | ClassificationData
TASK_TYPES: dict[Task, str] = {"language": "CAUSAL_LM", "classification": "FEATURE_EXTRACTION"}  # PEFT's names


@dataclass(frozen=True)
class Method:
    """What one method of the room brings to fine-tuning."""

    slug: str
    embedded: Task
    """Which of the embedded data is used where the user gives none."""
    config: Callable[[int], PeftConfig]
    """The adapter's configuration for a run of this many steps; `FineTuning` adds the layers to adapt."""
    callbacks: Callable[[nn.Module], Sequence[Callback]] = field(default=lambda adapted: ())
    """What acts on the adapted model after each step."""
    penalty: Callable[[nn.Module], Tensor] | None = None
    """Added to the training loss of a batch."""
    outcome: Callable[[nn.Module, Sequence[Any]], Mapping[str, Any]] = field(default=lambda adapted, callbacks: {})
    """What else the artifact tells, by name: from the adapted model and the callbacks after training."""


class Split(NamedTuple):
    """The data sets of a run, and the names of the classes."""

    train: Data
    validation: Data | None
    labels: list[str]


def fine_tune(settings: FineTuning, job: FitJob, method: Method) -> dict[str, Any]:
    """Train an adapter on a file and save it; with --resume, go on."""
    settings.training(0, job.seed)  # refuses what does not go together before any work
    check_free(job.out)
    data = job.data or find(EMBEDDED[method.embedded], "Reinstall linmap.")
    texts = read_training_texts(data, None if settings.task == "auto" else settings.task)
    name = settings.model or DEFAULT_MODELS[texts.task]
    folder = model_folder(name)
    check_adaptable(folder, name)
    tokenizer = load_tokenizer(folder)
    length = row_length(folder, settings.max_length)
    split = _split_of(texts, tokenizer, length, settings, job.seed)
    config = method.config(settings.steps(len(split.train)))
    torch.manual_seed(job.seed)
    adapted = _adapted_model(folder, texts.task, config, settings)
    model = adapted if texts.task == "language" else TextClassifier(adapted, len(split.labels))
    callbacks = list(method.callbacks(adapted))
    history = _train_adapter(model, split, settings, job, method, callbacks)
    base = str(Path(name).resolve()) if Path(name).is_dir() else name
    if base not in BUNDLED:
        config.base_model_name_or_path = base  # not the folder of the Hub's cache
    summary = _summary_of(adapted, split, history, texts, base)
    header = {"task": texts.task, "model": base, "labels": split.labels, "max_length": length}
    header |= {"settings": asdict(settings), "result": summary, **method.outcome(adapted, callbacks)}
    save_adapter(job.out, method.slug, header, model, tokenizer, job.seed)
    if settings.merge:
        summary["merged"] = str(write_merged(model, tokenizer, split.labels, job.out / "merged"))
    return {"artifact": str(job.out), **summary}


def _split_of(texts: TextFile, tokenizer: Tokenizer, length: int, settings: FineTuning, seed: int) -> Split:
    """Training and validation data; which records are held out depends on the seed alone."""
    n = len(texts.records)
    held_out = max(1, round(settings.validation * n)) if settings.validation else 0
    if held_out >= n:
        raise DataError(f"{texts.path} holds {n} record(s), too few to hold any out; give more, or validation=0.")
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed)).tolist()
    labels = labels_of(texts.records) if texts.task == "classification" else []

    def data(indices: list[int]) -> Data:
        records = [texts.records[i] for i in sorted(indices)]
        if texts.task == "classification":
            return ClassificationData(records, tokenizer, labels, length, settings.truncation)
        return _language_data(records, tokenizer, length, settings)

    validation = data(order[:held_out]) if held_out else None
    return Split(data(order[held_out:]), validation, labels)


def _language_data(records: list[TextRecord], tokenizer: Tokenizer, length: int, settings: FineTuning) -> LanguageData:
    """Records as rows for a language model, with a warning where the cut leaves nothing of some."""
    documents = (document_of(record, tokenizer) for record in records)
    data = LanguageData(documents, length, settings.packing, settings.truncation)
    if data.counts.dropped:
        log.warning(
            "%d of %d records have no token to learn among their first %d, and are left out.",
            data.counts.dropped,
            data.counts.records,
            length,
        )
    return data


def _adapted_model(folder: Path, task: Task, config: PeftConfig, settings: FineTuning) -> nn.Module:
    """The pretrained model of a folder with fresh adapters in it."""
    base: Any = load_pretrained(folder, "language" if task == "language" else "encoder", settings.base_dtype)
    if settings.packing and task == "language":
        check_packing(base)
    config.target_modules = settings.targets()  # pyright: ignore[reportAttributeAccessIssue]
    config.task_type = TASK_TYPES[task]
    try:
        with quiet_libraries():
            if settings.gradient_checkpointing:
                base.gradient_checkpointing_enable({"use_reentrant": False})
            adapted = get_peft_model(base, config)
    except ArgumentError:
        raise
    except ValueError as error:  # PEFT's own
        if "not found in the base model" in str(error):
            raise UsageError(_no_such_layers(base, settings.target_modules)) from error
        raise UsageError(str(error)) from error
    _warn_of_unmatched(adapted, config.target_modules)  # pyright: ignore[reportAttributeAccessIssue]
    return adapted


def _no_such_layers(base: nn.Module, targets: Collection[str]) -> str:
    """That --target-modules fits nothing, and what would."""
    names = {path.rpartition(".")[2] for path, layer in base.named_modules() if isinstance(layer, nn.Linear)}
    there = f"its linear layers are called {', '.join(sorted(names))}" if names else "it has no linear layers"
    return f"--target-modules {' '.join(targets)} fits no layer of the model; {there}."


def _warn_of_unmatched(adapted: nn.Module, targets: Collection[str] | str) -> None:
    """Say which names of --target-modules fit no layer; PEFT is content if one of them fits."""
    if isinstance(targets, str):
        return
    paths = [layer.path for layer in adapted.modules() if isinstance(layer, AdapterLayer)]
    for name in sorted(targets):
        if not any(path == name or path.endswith(f".{name}") for path in paths):
            log.warning("--target-modules %s fits no layer of the model.", name)


def _train_adapter(
    model: nn.Module,
    split: Split,
    settings: FineTuning,
    job: FitJob,
    method: Method,
    callbacks: Sequence[Callback],
) -> TrainingHistory:
    """Train what requires a gradient; the head of a classifier with a learning rate of its own."""
    loss = classification_loss if split.labels else language_loss
    penalty = method.penalty

    def penalised(model: nn.Module, batch: Any) -> Tensor:
        return loss(model, batch) if penalty is None else loss(model, batch) + penalty(model)

    def validate(model: nn.Module) -> dict[str, float]:
        assert split.validation is not None
        found = {"loss": mean_loss(model, loss, split.validation, settings.batch_size)}
        return found | ({"accuracy": accuracy(model, split.validation, settings.batch_size)} if split.labels else {})

    return train(
        model,
        penalised,
        split.train,
        config=settings.training(settings.steps(len(split.train)), job.seed),
        validate=None if split.validation is None else validate,
        out=job.out / "training",
        resume=job.resume,
        description=f"fine-tuning with {method.slug}",
        callbacks=callbacks,
        parameter_groups=partial(parameter_groups, head_lr=settings.head_lr),
    )


def parameter_groups(model: nn.Module, head_lr: float) -> list[dict[str, Any]]:
    """The adapters, and the head of a classifier, which does not decay."""
    head = list(model.head.parameters()) if isinstance(model, TextClassifier) else []
    inside = {id(parameter) for parameter in head}
    rest = [weight for weight in model.parameters() if weight.requires_grad and id(weight) not in inside]
    return [{"params": rest}] + ([{"params": head, "lr": head_lr, "weight_decay": 0.0}] if head else [])


@torch.no_grad()
def accuracy(model: nn.Module, data: Data, batch_size: int) -> float:
    """Share of the texts whose class is the likeliest one."""
    device = next(model.parameters()).device
    right = 0
    for indices in torch.arange(len(data)).split(batch_size):
        batch = {name: tensor.to(device) for name, tensor in data.__getitems__(indices.tolist()).items()}
        predicted = model(batch["input_ids"], batch["attention_mask"]).argmax(-1)
        right += int((predicted == batch["labels"]).sum())
    return right / len(data)


def _summary_of(adapted: Any, split: Split, history: TrainingHistory, texts: TextFile, base: str) -> dict[str, Any]:
    """What a run did, in a few numbers."""
    counts, state = split.train.counts, get_peft_model_state_dict(adapted, save_embedding_layers=False)
    last = history.epochs[-1]
    best = history.epochs[history.best_epoch - 1] if history.best_epoch else last
    language = {"learnt_tokens": counts.learnt_tokens, "left_out": counts.dropped}
    return {
        "data": str(texts.path), "task": texts.task, "model": base,
        "records": counts.records, "rows": counts.rows, "tokens": counts.tokens, "truncated": counts.truncated,
        **(language if texts.task == "language" else {"classes": len(split.labels)}),
        "held_out": 0 if split.validation is None else split.validation.counts.records,
        "adapter_parameters": sum(tensor.numel() for tensor in state.values()),
        "steps": history.steps, "training_loss": last.loss, "validation_loss": history.best_value, **best.metrics,
        "seconds": round(history.seconds, 1),
    }  # fmt: skip
