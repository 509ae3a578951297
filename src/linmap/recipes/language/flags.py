"""The flags of completions, and what Python calls an option in the words of the command line."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any

from linmap.errors import ArgumentError


@dataclass(frozen=True)
class Generation:
    """Complete the prompts of a file."""

    max_new_tokens: int = 256
    """Tokens of a completion at most."""
    temperature: float = 0.0
    """Of completions: 0 takes the likeliest token; more draws from the softened distribution."""
    batch_size: int = 16
    """Records that are answered together."""
    limit: int | None = None
    """Answer only this many records, the first ones."""

    def __post_init__(self) -> None:
        for name in ("max_new_tokens", "batch_size", "limit"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ArgumentError(f"{flag(name)} {value} must be 1 or more.")
        if not (self.temperature >= 0 and math.isfinite(self.temperature)):
            raise ArgumentError(f"--temperature {self.temperature} must be 0 or more.")


def flag(name: str) -> str:
    """A field as it is called on the command line."""
    return f"--{name.replace('_', '-')}"


def listed(values: Iterable[object]) -> str:
    """Several values of one flag."""
    return " ".join(map(str, values))


def in_flags(message: str, settings: Any, others: Mapping[str, str] | None = None) -> str:
    """A message about options with every `name = value` and `name must ...` as `--name value` and `--name must ...`.

    Parameters
    ----------
    message
        What an error says.
    settings
        The dataclass of the command's flags, whose fields are rewritten.
    others
        Fields by the names that options have elsewhere.
    """
    names = {field.name: field.name for field in fields(settings)} | dict(others or {})
    known = "|".join(sorted(map(re.escape, names), key=len, reverse=True))
    message = re.sub(
        rf"(?<![\w-])({known}) ?= ?'?([\w.+-]*\w)'?", lambda found: f"{flag(names[found[1]])} {found[2]}", message
    )
    return re.sub(rf"(?<![\w-])({known})(?= must\b)", lambda found: flag(names[found[1]]), message)
