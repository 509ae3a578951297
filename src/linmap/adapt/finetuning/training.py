"""From texts and an adapter's configuration to a fine-tuned model."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, NamedTuple, cast

import torch
from peft import PeftConfig, get_peft_model, get_peft_model_state_dict
from torch import Tensor, nn

from linmap.adapt.finetuning.tuned import METHODS, FineTuned
from linmap.adapt.layer import AdapterLayer
from linmap.adapt.texts import TextClassifier, check_packing, classification_loss, language_loss, row_length
from linmap.adapt.triadaptlora import RankAllocator, TriAdaptLoraConfig
from linmap.adapt.tuner import AdapterConfig
from linmap.data.models import load_pretrained, load_tokenizer, model_folder, quiet_libraries
from linmap.data.pretrained import BUNDLED
from linmap.data.text import Task, TextFile, TextRecord, labels_of, read_training_texts
from linmap.data.tokens import ClassificationData, LanguageData, Side, Tokenizer, document_of
from linmap.errors import ArgumentError, ArgumentTypeError, DataError
from linmap.ownership import real
from linmap.training import TrainingConfig, TrainingHistory, mean_loss, train

log = logging.getLogger(__name__)

Callback = Callable[[nn.Module, int], object]
Penalty = Callable[[nn.Module], Tensor]
Data = LanguageData | ClassificationData
DEFAULT_MODELS = {"language": "smollm2-135m", "classification": "minilm-l6"}
"""The model of a task where none is named."""
DEFAULT_TRAINING = TrainingConfig(epochs=3, batch_size=8, lr=5e-4, optimizer="adamw", schedule="linear")
TASK_TYPES: dict[Task, str] = {"language": "CAUSAL_LM", "classification": "FEATURE_EXTRACTION"}  # PEFT's names


class Split(NamedTuple):
    """The data sets of a run, and the names of the classes."""

    train: Data
    validation: Data | None
    labels: list[str]


def fine_tune(
    texts: TextFile | Path | str,
    adapter: PeftConfig | Callable[[int], PeftConfig],
    training: TrainingConfig = DEFAULT_TRAINING,
    *,
    model: str | None = None,
    max_length: int | None = None,
    truncation: Side = "right",
    packing: bool = False,
    validation: float = 0.1,
    head_lr: float = 5e-3,
    warmup: float = 0.03,
    base_dtype: Literal["float32", "bfloat16"] = "float32",
    gradient_checkpointing: bool = False,
    penalty: Penalty | None = None,
    callbacks: Sequence[Callback] = (),
    settings: Mapping[str, Any] = MappingProxyType({}),
    checkpoints: Path | None = None,
    resume: bool = False,
) -> FineTuned:
    """Train an adapter, and the head of a classifier, on the records of a file; the pretrained weights stay.

    Parameters
    ----------
    texts
        A file as of `linmap.data.text.read_training_texts`, or what that has read.
    adapter
        `BoneConfig`, `SaltConfig` or `TriAdaptLoraConfig`; or a function that gives one for a number of steps. Without
        `target_modules`, all linear layers are adapted. Ranks of TriAdaptLoRA grow while the model trains.
    training
        The training; its learning rate is the adapter's, its seed draws all there is to draw.
    model
        Pretrained model: a folder that Transformers loads, an id on the Hugging Face Hub, smollm2-135m, or minilm-l6;
        smollm2-135m for language and minilm-l6 for classification when left out.
    max_length
        Tokens of a row; longer records are cut, and counted. 512, or what the model takes, when left out.
    truncation
        The side on which they are cut.
    packing
        Language: several records in one row; they do not see each other.
    validation
        Share of the records that is held out; the weights of the epoch with the lowest loss on it are kept.
    head_lr
        Learning rate of the classification head.
    warmup
        Share of the steps over which the learning rates rise.
    base_dtype
        Number format of the frozen weights.
    gradient_checkpointing
        Compute activations twice to save memory.
    penalty
        Of the adapted model, added to the loss of each batch: `salt_regularization`, `triadapt_orthogonality`, ...
    callbacks
        Called with the model and the number of steps after each step.
    settings
        What else the run depends on, such as the weight of the penalty; a resume with others is refused.
    checkpoints, resume
        Folder for checkpoints, and whether to go on from them: to the same weights as without an interruption.

    Raises
    ------
    ValueError
        If a setting is out of its range or fits nothing of the model, or the data cannot be used.
    """
    _check(max_length, validation, warmup, head_lr)
    texts = texts if isinstance(texts, TextFile) else read_training_texts(texts)
    name = model or DEFAULT_MODELS[texts.task]
    folder = model_folder(name)
    tokenizer, length = load_tokenizer(folder), row_length(folder, max_length)
    split = _split_of(texts, tokenizer, length, validation, training.seed, packing=packing, truncation=truncation)
    steps = steps_of(training, len(split.train))
    training = replace(training, warmup_steps=training.warmup_steps or round(warmup * steps))
    config = adapter if isinstance(adapter, PeftConfig) else adapter(steps)
    torch.manual_seed(training.seed)
    base = _base_model(folder, texts.task, base_dtype, packing, gradient_checkpointing)
    adapted = _adapted(base, texts.task, config)
    whole = adapted if texts.task == "language" else TextClassifier(adapted, len(split.labels))
    allocator = RankAllocator(adapted, config) if isinstance(config, TriAdaptLoraConfig) else None
    with _without_pooler(adapted):
        history = _trained(whole, split, training, penalty, head_lr, out=checkpoints, resume=resume,
                           settings=_own_settings(config) | dict(settings),
                           callbacks=[*([allocator] if allocator else []), *callbacks])  # fmt: skip
    source = str(real(name)) if Path(name).is_dir() else name
    if source not in BUNDLED:
        config.base_model_name_or_path = source  # not the folder of the Hub's cache
    report = _report(adapted, split, history, texts, source)
    ranks = {} if allocator is None else _ranks(cast(TriAdaptLoraConfig, config), allocator)
    return FineTuned(texts.task, whole, tokenizer, split.labels, length, truncation, source, base_dtype, report, ranks)


def _own_settings(config: PeftConfig) -> dict[str, Any]:
    """The fields of an adapter's method, without those of all methods, and of how it is saved."""
    own = type(config).__dataclass_fields__.keys() - AdapterConfig.__dataclass_fields__.keys()
    return {name: getattr(config, name) for name in sorted(own) if not name.startswith("save")}


def _check(max_length: int | None, validation: float, warmup: float, head_lr: float) -> None:
    """Refuse what is out of its range, before any work."""
    if max_length is not None and max_length < 2:
        raise ArgumentError(f"max_length={max_length} leaves no token to predict; give 2 or more.")
    for name, share in (("validation", validation), ("warmup", warmup)):
        if not 0 <= share < 1:
            raise ArgumentError(f"{name}={share} must be a share in [0, 1).")
    if not (head_lr > 0 and math.isfinite(head_lr)):
        raise ArgumentError(f"head_lr={head_lr} must be positive.")


def steps_of(training: TrainingConfig, rows: int) -> int:
    """Optimiser steps of a run over this many rows."""
    steps = training.epochs * math.ceil(rows / training.batch_size)
    return steps if training.max_steps is None else min(steps, training.max_steps)


# -- data --------------------------------------------------------------------------------------------------------------


def _split_of(
    texts: TextFile, tokenizer: Tokenizer, length: int, share: float, seed: int, packing: bool, truncation: Side
) -> Split:
    """Training and validation data; which records are held out depends on the seed alone."""
    n = len(texts.records)
    held_out = max(1, round(share * n)) if share else 0
    if held_out >= n:
        raise DataError(f"{texts.path} holds {n} record(s), too few to hold any out; give more, or validation=0.")
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed)).tolist()
    labels = labels_of(texts.records) if texts.task == "classification" else []

    def data(indices: list[int]) -> Data:
        records = [texts.records[i] for i in sorted(indices)]
        if texts.task == "classification":
            return ClassificationData(records, tokenizer, labels, length, truncation)
        return _language_data(records, tokenizer, length, packing, truncation)

    validation = data(order[:held_out]) if held_out else None
    return Split(data(order[held_out:]), validation, labels)


def _language_data(
    records: list[TextRecord], tokenizer: Tokenizer, length: int, packing: bool, truncation: Side
) -> LanguageData:
    """Records as rows for a language model, with a warning where the cut leaves nothing of some."""
    data = LanguageData((document_of(record, tokenizer) for record in records), length, packing, truncation)
    if data.counts.dropped:
        log.warning(
            "%d of %d records have no token to learn among their first %d, and are left out.",
            data.counts.dropped,
            data.counts.records,
            length,
        )
    return data


# -- the model ---------------------------------------------------------------------------------------------------------


def _base_model(folder: Path, task: Task, dtype: str, packing: bool, gradient_checkpointing: bool) -> nn.Module:
    """The pretrained model of a folder."""
    base: Any = load_pretrained(folder, "language" if task == "language" else "encoder", dtype)
    if packing and task == "language":
        check_packing(base)
    if gradient_checkpointing:
        with quiet_libraries():
            base.gradient_checkpointing_enable({"use_reentrant": False})
    return base


def _adapted(base: Any, task: Task, config: PeftConfig) -> nn.Module:
    """The model with fresh adapters in it."""
    if not isinstance(config, METHODS):
        known = ", ".join(method.__name__ for method in METHODS)
        raise ArgumentTypeError(
            f"adapter must be one of {known}, got a {type(config).__name__}; PEFT's own adapters "
            "are trained with the Trainer of Transformers."
        )
    config.target_modules = targets = config.target_modules or "all-linear"
    config.task_type = TASK_TYPES[task]
    try:
        with quiet_libraries():
            adapted = get_peft_model(base, config)
    except ArgumentError:
        raise
    except ValueError as error:  # PEFT's own
        if "not found in the base model" in str(error):
            raise ArgumentError(_no_such_layers(base, targets)) from error
        raise ArgumentError(str(error)) from error
    _warn_of_unmatched(adapted, config.target_modules)
    return adapted


@contextmanager
def _without_pooler(adapted: nn.Module) -> Iterator[None]:
    """Inside, nothing of a pooler is trained: its output is not read, and several processes wait for each gradient."""
    named = adapted.named_parameters()
    idle = [weight for name, weight in named if weight.requires_grad and "pooler" in name.split(".")]
    for weight in idle:
        weight.requires_grad_(False)
    try:
        yield
    finally:
        for weight in idle:
            weight.requires_grad_(True)  # it is saved with the others


def _no_such_layers(base: nn.Module, targets: Collection[str] | str) -> str:
    """That `target_modules` fits nothing, and what would."""
    given = (targets,) if isinstance(targets, str) else tuple(targets)
    names = {path.rpartition(".")[2] for path, layer in base.named_modules() if isinstance(layer, nn.Linear)}
    there = f"its linear layers are called {', '.join(sorted(names))}" if names else "it has no linear layers"
    return f"target_modules={given} fits no layer of the model; {there}."


def _warn_of_unmatched(adapted: nn.Module, targets: Collection[str] | str) -> None:
    """Say which names of `target_modules` fit no layer; PEFT is content if one of them fits."""
    if isinstance(targets, str):
        return
    paths = [layer.path for layer in adapted.modules() if isinstance(layer, AdapterLayer)]
    for name in sorted(targets):
        if not any(path == name or path.endswith(f".{name}") for path in paths):
            log.warning("target_modules=(%r,) fits no layer of the model.", name)


def _ranks(config: TriAdaptLoraConfig, allocator: RankAllocator) -> Mapping[str, Any]:
    """The ranks of the weights that are kept, which the saved configuration takes, and how they came about."""
    config.rank_pattern = allocator.ranks()
    return {"ranks": allocator.ranks(), "growth": [asdict(event) for event in allocator.history]}


# -- training ----------------------------------------------------------------------------------------------------------


def _trained(
    model: nn.Module, split: Split, config: TrainingConfig, penalty: Penalty | None, head_lr: float, **options: Any
) -> TrainingHistory:
    """Train what requires a gradient; the head of a classifier with a learning rate of its own."""
    loss = classification_loss if split.labels else language_loss

    def penalised(model: nn.Module, batch: Any) -> Tensor:
        return loss(model, batch) if penalty is None else loss(model, batch) + penalty(model)

    def validate(model: nn.Module) -> dict[str, float]:
        assert split.validation is not None
        found = {"loss": mean_loss(model, loss, split.validation, config.batch_size)}
        return found | ({"accuracy": accuracy(model, split.validation, config.batch_size)} if split.labels else {})

    return train(
        model,
        penalised,
        split.train,
        config=config,
        validate=None if split.validation is None else validate,
        description="fine-tuning",
        parameter_groups=partial(parameter_groups, head_lr=head_lr),
        sharded=True,
        **options,
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


def _report(adapted: Any, split: Split, history: TrainingHistory, texts: TextFile, source: str) -> dict[str, Any]:
    """What a run did, in a few numbers."""
    counts, state = split.train.counts, get_peft_model_state_dict(adapted, save_embedding_layers=False)
    last = history.epochs[-1]
    best = history.epochs[history.best_epoch - 1] if history.best_epoch else last
    language = {"learnt_tokens": counts.learnt_tokens, "left_out": counts.dropped}
    return {
        "data": str(texts.path), "task": texts.task, "model": source,
        "records": counts.records, "rows": counts.rows, "tokens": counts.tokens, "truncated": counts.truncated,
        **(language if texts.task == "language" else {"classes": len(split.labels)}),
        "held_out": 0 if split.validation is None else split.validation.counts.records,
        "adapter_parameters": sum(tensor.numel() for tensor in state.values()),
        "steps": history.steps, "training_loss": last.loss, "validation_loss": history.best_value, **best.metrics,
        "seconds": round(history.seconds, 1),
    }  # fmt: skip
