"""Using a fine-tuned model: completions of prompts, classes of texts, or the merged model."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import track
from torch import nn

from linmap.artifacts import atomic_path
from linmap.data import find
from linmap.data.text import TextRecord, read_prompts
from linmap.data.tokens import ClassificationData, Tokenizer, padded, prompt_tokens
from linmap.errors import DataError, UsageError
from linmap.recipes.finetuning.saving import Saved, load_adapter, write_merged
from linmap.recipes.finetuning.settings import Answering
from linmap.recipes.job import ApplyJob

SUFFIXES = (".jsonl", ".csv")
ADDED = {"language": ["generated"], "classification": ["predicted", "probability"]}
EMBEDDED = {"language": "bone/gsm8k_test.jsonl.gz", "classification": "triadaptlora/banking77_test.csv.gz"}
SHOWN = 8  # embedded records that are answered without --data


def apply(settings: Answering, job: ApplyJob, system: str) -> dict[str, Any]:
    """Answer the records of a file (some embedded ones without --data), or write the merged model."""
    if job.artifact is None:
        raise UsageError(f"{system} needs a fitted run: `linmap fit {system} --data FILE --out DIR`, then apply DIR.")
    if settings.merge:
        out = job.out or job.artifact / "merged"
        if out.is_file():
            raise UsageError(f"--out {out} is a file; name a folder for the merged model.")
        saved = load_adapter(job.artifact, system)
        return {"merged": str(write_merged(saved.model, saved.tokenizer, saved.labels, out))}
    out = job.out or job.artifact / "answers.jsonl"
    if out.suffix not in SUFFIXES:
        raise UsageError(f"--out {out}: answers are written as {' or '.join(SUFFIXES)}.")
    saved = load_adapter(job.artifact, system)
    if job.data is None:
        settings = replace(settings, limit=settings.limit or SHOWN)
    records = read_prompts(job.data or find(EMBEDDED[saved.task], "Reinstall linmap."), saved.task)[: settings.limit]
    torch.manual_seed(job.seed)
    if saved.task == "language":
        texts = generated(saved.model, saved.tokenizer, records, settings)
        answers = [{"generated": text} for text in texts]
        found = {"task": saved.task, "records": len(records)}
    else:
        answers = classified(saved, records, settings.batch_size)
        found = {"task": saved.task, "records": len(records), **agreement(records, answers)}
    write_answers(out, [record.fields | answer for record, answer in zip(records, answers, strict=True)])
    return {"answers": str(out), **found, "added": ADDED[saved.task]}


# -- answers -----------------------------------------------------------------------------------------------------------


@torch.no_grad()
def generated(model: nn.Module, tokenizer: Tokenizer, records: list[TextRecord], settings: Answering) -> list[str]:
    """What the model writes after each prompt, up to the end-of-text token; long prompts are answered together."""
    prompts = [prompt_tokens(record, tokenizer) for record in records]
    for record, ids in zip(records, prompts, strict=True):
        check_prompt(record, ids, model, settings.max_new_tokens)
    sampling = {"do_sample": True, "temperature": settings.temperature, "top_k": 0} if settings.temperature else {
        "do_sample": False, "temperature": None, "top_p": None, "top_k": None
    }  # fmt: skip
    device = next(model.parameters()).device
    answers = [""] * len(prompts)
    order = sorted(range(len(prompts)), key=lambda i: -len(prompts[i]))
    for part in batches(order, settings.batch_size, "answering"):
        rows = [prompts[i] for i in part]
        length = max(map(len, rows))
        ids = padded(rows, length, 0, side="left").to(device)
        mask = padded([[1] * len(row) for row in rows], length, 0, side="left").to(device)
        end = tokenizer.eos_token_id
        written = model.generate(  # pyright: ignore[reportCallIssue]
            input_ids=ids, attention_mask=mask, max_new_tokens=settings.max_new_tokens, pad_token_id=end or 0,
            eos_token_id=end, **sampling,
        )  # fmt: skip
        for i, row in zip(part, written[:, length:].tolist(), strict=True):
            row = row[: row.index(end)] if end in row else row
            answers[i] = tokenizer.decode(row, skip_special_tokens=True)
    return answers


def check_prompt(record: TextRecord, ids: list[int], model: nn.Module, max_new_tokens: int) -> None:
    if not ids:
        raise DataError(f"{record.place}: the prompt is empty; there is nothing to continue.")
    positions = getattr(model.config, "max_position_embeddings", None)  # pyright: ignore[reportAttributeAccessIssue]
    if isinstance(positions, int) and len(ids) + max_new_tokens > positions:
        raise DataError(
            f"{record.place}: {len(ids)} tokens and {max_new_tokens} new ones exceed the {positions} positions of the "
            "model; shorten the prompt, or lower --max-new-tokens."
        )


@torch.no_grad()
def classified(saved: Saved, records: list[TextRecord], batch_size: int) -> list[dict[str, Any]]:
    """The likeliest class of each text, and its probability."""
    unlabelled = [replace(record, answer=None) for record in records]
    data = ClassificationData(unlabelled, saved.tokenizer, saved.labels, saved.max_length, saved.truncation)
    device = next(saved.model.parameters()).device
    answers: list[dict[str, Any]] = [{}] * len(data)
    order = sorted(range(len(data)), key=lambda i: -len(data.ids[i]))
    for part in batches(order, batch_size, "classifying"):
        batch = data.__getitems__(part)
        logits = saved.model(batch["input_ids"].to(device), batch["attention_mask"].to(device)).float()
        probability, number = logits.softmax(-1).max(-1)
        for i, p, k in zip(part, probability.tolist(), number.tolist(), strict=True):
            answers[i] = {"predicted": saved.labels[k], "probability": round(p, 6)}
    return answers


def agreement(records: list[TextRecord], answers: list[dict[str, Any]]) -> dict[str, float]:
    """The share of right answers, where all records say which is right."""
    if not all(record.answer is not None for record in records):
        return {}
    right = [record.answer == answer["predicted"] for record, answer in zip(records, answers, strict=True)]
    return {"accuracy": sum(right) / len(right)}


def batches(order: list[int], size: int, description: str) -> Iterable[list[int]]:
    """Parts of `order`, with a progress bar where a person watches."""
    parts = [order[i : i + size] for i in range(0, len(order), size)]
    console = Console(stderr=True)
    return track(parts, description, console=console, disable=not console.is_terminal)


def write_answers(path: Path, answers: list[dict[str, Any]]) -> None:
    """Records as JSON Lines or CSV, written atomically; in CSV, what is no text or number is written as JSON."""
    with atomic_path(path) as partial, open(partial, "w", encoding="utf-8", newline="") as file:
        if path.suffix == ".jsonl":
            file.writelines(json.dumps(answer, ensure_ascii=False) + "\n" for answer in answers)
            return
        columns = list(dict.fromkeys(name for answer in answers for name in answer))
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        for answer in answers:
            writer.writerow({k: json.dumps(v) if isinstance(v, dict | list) else v for k, v in answer.items()})
