"""Answers to the records of a file, from the command line."""

from __future__ import annotations

from pathlib import Path

from linmap.errors import UsageError

SUFFIXES = (".jsonl", ".csv")


def check_answers(out: Path) -> None:
    """Refuse a file that ends in nothing that answers are written as."""
    if out.suffix not in SUFFIXES:
        raise UsageError(f"--out {out}: answers are written as {' or '.join(SUFFIXES)}.")
