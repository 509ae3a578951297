"""Using a fine-tuned model: completions of prompts, classes of texts, or the merged model."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from linmap.artifacts import read_config
from linmap.data import find
from linmap.data.text import TextRecord, read_prompts
from linmap.data.tokens import ClassificationData
from linmap.errors import UsageError
from linmap.recipes.finetuning.flags import Answering
from linmap.recipes.finetuning.saving import Saved, load_adapter, write_merged
from linmap.recipes.job import FittedJob
from linmap.recipes.language.answering import batches, check_answers, generated, write_answers

ADDED = {"language": ["generated"], "classification": ["predicted", "probability"]}
EMBEDDED = {"language": "bone/gsm8k_test.jsonl.gz", "classification": "triadaptlora/banking77_test.csv.gz"}
SHOWN = 8  # embedded records that are answered without --data


def apply(settings: Answering, job: FittedJob) -> dict[str, Any]:
    """Answer the records of a file (some embedded ones without --data), or write the merged model."""
    system = read_config(job.artifact)["system"]
    if settings.merge:
        out = job.out or job.artifact / "merged"
        if out.is_file():
            raise UsageError(f"--out {out} is a file; name a folder for the merged model.")
        saved = load_adapter(job.artifact, system, settings.allow_download)
        return {"merged": str(write_merged(saved.model, saved.tokenizer, saved.labels, out))}
    out = job.out or job.artifact / "answers.jsonl"
    check_answers(out)
    saved = load_adapter(job.artifact, system, settings.allow_download)
    if job.data is None:
        settings = replace(settings, limit=settings.limit or SHOWN)
    records = read_prompts(job.data or find(EMBEDDED[saved.task], "Reinstall linmap."), saved.task)[: settings.limit]
    torch.manual_seed(job.seed)
    if saved.task == "language":
        texts = generated(saved.model, saved.tokenizer, records, settings)
        answers = [{"generated": text} for text in texts]
        found = {"task": saved.task, "records": len(records)}
    else:
        answers = _classified(saved, records, settings.batch_size)
        found = {"task": saved.task, "records": len(records), **_agreement(records, answers)}
    write_answers(out, [record.fields | answer for record, answer in zip(records, answers, strict=True)])
    return {"answers": str(out), **found, "added": ADDED[saved.task]}


# -- answers -----------------------------------------------------------------------------------------------------------


@torch.no_grad()
def _classified(saved: Saved, records: list[TextRecord], batch_size: int) -> list[dict[str, Any]]:
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


def _agreement(records: list[TextRecord], answers: list[dict[str, Any]]) -> dict[str, float]:
    """The share of right answers, where all records say which is right."""
    if not all(record.answer is not None for record in records):
        return {}
    right = [record.answer == answer["predicted"] for record, answer in zip(records, answers, strict=True)]
    return {"accuracy": sum(right) / len(right)}
