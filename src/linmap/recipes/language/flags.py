"""What Python calls an option, in the words of the command line."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import fields
from typing import Any


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
