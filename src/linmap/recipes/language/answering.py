"""Completions of prompts, and records with answers as files."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from rich.console import Console
from rich.progress import track
from torch import nn

from linmap.artifacts import write_table, write_text
from linmap.data.text import TextRecord
from linmap.data.tokens import Tokenizer, padded, prompt_tokens
from linmap.errors import DataError, UsageError
from linmap.recipes.language.flags import Generation

SUFFIXES = (".jsonl", ".csv")


def check_answers(out: Path) -> None:
    """Refuse a file of answers of another kind.

    Raises
    ------
    UsageError
        If it ends in nothing that answers are written as.
    """
    if out.suffix not in SUFFIXES:
        raise UsageError(f"--out {out}: answers are written as {' or '.join(SUFFIXES)}.")


@torch.no_grad()
def generated(model: nn.Module, tokenizer: Tokenizer, records: list[TextRecord], settings: Generation) -> list[str]:
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


def batches(order: list[int], size: int, description: str) -> Iterable[list[int]]:
    """Parts of `order`, with a progress bar where a person watches."""
    parts = [order[i : i + size] for i in range(0, len(order), size)]
    console = Console(stderr=True)
    return track(parts, description, console=console, disable=not console.is_terminal)


def write_answers(path: Path, answers: list[dict[str, Any]]) -> None:
    """Records as JSON Lines or CSV, written atomically; in CSV, what is no text or number is written as JSON."""
    if path.suffix == ".jsonl":
        write_text(path, "".join(_line(answer) + "\n" for answer in answers))
        return
    rows = [{_writable(k): _writable(v) for k, v in row.items()} for row in answers]
    write_table(path, pd.DataFrame(rows, dtype=object))  # object: a whole number stays one where others are missing


def _line(answer: dict[str, Any]) -> str:
    """A record as JSON; halves of surrogate pairs, which no UTF-8 has, as they may have come: escaped."""
    line = json.dumps(answer, ensure_ascii=False)
    return json.dumps(answer) if line != _writable(line) else line


def _writable(value: Any) -> Any:
    """A cell: lists and objects as JSON, halves of surrogate pairs escaped."""
    if isinstance(value, dict | list):
        return json.dumps(value)
    return value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else value
