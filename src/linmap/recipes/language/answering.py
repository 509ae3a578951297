"""Answers to the records of a file, from the command line."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from linmap.artifacts import write_records as write_answers
from linmap.data.completions import complete
from linmap.data.text import TextRecord
from linmap.data.tokens import Tokenizer
from linmap.errors import UsageError
from linmap.recipes.language.flags import Generation

__all__ = ["check_answers", "generated", "write_answers"]
SUFFIXES = (".jsonl", ".csv")


def check_answers(out: Path) -> None:
    """Refuse a file that ends in nothing that answers are written as."""
    if out.suffix not in SUFFIXES:
        raise UsageError(f"--out {out}: answers are written as {' or '.join(SUFFIXES)}.")


def generated(model: nn.Module, tokenizer: Tokenizer, records: list[TextRecord], settings: Generation) -> list[str]:
    """What the model writes after each prompt."""
    return complete(model, tokenizer, records, settings.max_new_tokens, settings.temperature, settings.batch_size)
