"""Using a quantised model: completions of the prompts of a file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, TypedDict

import torch
from torch import nn

from linmap.artifacts import read_config, reading, write_records
from linmap.compress.flatquant.kernels import active_kernels
from linmap.compress.flatquant.pretrained import is_quantised
from linmap.data import find
from linmap.data.built import weight_files
from linmap.data.completions import complete
from linmap.data.models import config_of, load_pretrained, load_tokenizer, on_accelerator
from linmap.data.schema import typed
from linmap.data.text import read_prompts
from linmap.errors import ArtifactError
from linmap.recipes.flatquant.fit import SYSTEM
from linmap.recipes.job import FittedJob
from linmap.recipes.language.answering import check_answers
from linmap.recipes.language.flags import Generation

PROBLEMS = "flatquant/gsm8k_test.jsonl.gz"
SHOWN = 4  # embedded problems that are answered without --data


def apply(settings: Generation, job: FittedJob) -> dict[str, Any]:
    """Complete the prompts of a file (some embedded problems without --data) with a quantised model."""
    out = job.out or job.artifact / "answers.jsonl"
    check_answers(out)
    if job.data is None:
        settings = replace(settings, limit=settings.limit or SHOWN)
    records = read_prompts(job.data or find(PROBLEMS, "Reinstall linmap."), "language")[: settings.limit]
    model = load_quantised(job.artifact)
    torch.manual_seed(job.seed)
    how = settings.max_new_tokens, settings.temperature, settings.batch_size
    texts = complete(model, load_tokenizer(job.artifact), records, *how)
    answers = [record.fields | {"generated": text} for record, text in zip(records, texts, strict=True)]
    write_records(out, answers)
    running = active_kernels() if model.device.type == "cpu" else str(model.device.type)
    return {"answers": str(out), "records": len(records), "added": ["generated"], "kernels": running}


class Quantised(TypedDict):
    """What config.json says of a quantised model, beside what it says of any."""

    quantization_config: dict[str, Any]


def load_quantised(folder: Path) -> nn.Module:
    """The model of a run, in evaluation mode, on the accelerator if there is one.

    Raises
    ------
    ArtifactError
        If the folder holds no whole run of flatquant.
    """
    if (system := read_config(folder)["system"]) != SYSTEM:
        raise ArtifactError(f"{folder} holds a run of {system!r}, not of {SYSTEM!r}.")
    lacking = [] if (folder / "config.json").exists() else ["config.json"]
    if lacking := lacking + ([] if weight_files(folder) else ["model.safetensors"]):
        raise ArtifactError(f"{folder} is incomplete: it lacks {' and '.join(lacking)}; fit the run again.")
    with reading(folder):
        typed(Quantised, config_of(folder), "config.json")
        model = load_pretrained(folder, "language", "auto")
        if not is_quantised(model):
            raise ArtifactError(f"{folder} holds a model that is not quantised; fit the run again.")
    return on_accelerator(model).eval()
