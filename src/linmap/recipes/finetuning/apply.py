"""Using a fine-tuned model: completions of prompts, classes of texts, or the merged model."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from linmap.adapt.finetuning import FineTuned
from linmap.artifacts import write_records
from linmap.data import find
from linmap.data.labels import judged
from linmap.data.text import read_prompts
from linmap.errors import UsageError
from linmap.recipes.answers import say_accuracy
from linmap.recipes.finetuning.flags import Answering
from linmap.recipes.job import FittedJob
from linmap.recipes.language.answering import check_answers

EMBEDDED = {"language": "bone/gsm8k_test.jsonl.gz", "classification": "triadaptlora/banking77_test.csv.gz"}
SHOWN = 8  # embedded records that are answered without --data


def apply(settings: Answering, job: FittedJob) -> dict[str, Any]:
    """Answer the records of a file (some embedded ones without --data), or write the merged model."""
    if settings.merge:
        out = job.out or job.artifact / "merged"
        if out.is_file():
            raise UsageError(f"--out {out} is a file; name a folder for the merged model.")
        return {"merged": str(FineTuned.load(job.artifact, settings.allow_download).write_merged(out))}
    out = job.out or job.artifact / "answers.jsonl"
    check_answers(out)
    tuned = FineTuned.load(job.artifact, settings.allow_download)
    records = read_prompts(job.data or find(EMBEDDED[tuned.task], "Reinstall linmap."), tuned.task)
    records = records[: settings.limit or (SHOWN if job.data is None else None)]
    summary: dict[str, Any] = {"answers": str(out), "task": tuned.task, "records": len(records)}
    torch.manual_seed(job.seed)
    if tuned.task == "language":
        texts = tuned.complete(records, settings.max_new_tokens, settings.temperature, settings.batch_size)
        answers = [{"generated": text} for text in texts]
    else:
        found = tuned.classify(records, settings.batch_size)
        answers = [{"predicted": name, "probability": round(p, 6)} for name, p in found]
        if all(record.answer is not None for record in records):
            given = np.array([record.answer for record in records])
            say_accuracy(summary, judged(given, np.array(tuned.labels)), np.array([name for name, _ in found]))
    write_records(out, [record.fields | answer for record, answer in zip(records, answers, strict=True)])
    return summary | {"added": list(answers[0])}
