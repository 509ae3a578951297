"""What a command answered, in words for a page: few digits, lists as lists, rows as a table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

LEFT_OUT = ("out", "files", "pictures", "picture", "page")
"""Paths, which a page lists by themselves."""
SHORT = 60
"""Characters that stand beside their name; more stand below it."""


@dataclass(frozen=True)
class Told:
    """One thing that was answered; where it is long, `items` or `rows` (the first one is the header) stand for it."""

    name: str
    text: str = ""
    items: tuple[str, ...] = ()
    rows: tuple[tuple[str, ...], ...] = ()

    @property
    def short(self) -> bool:
        return bool(self.text) and len(self.text) <= SHORT


def told(summary: Mapping[str, Any]) -> list[Told]:
    """All that was answered, except paths."""
    return [_told(name.replace("_", " "), value) for name, value in summary.items() if name not in LEFT_OUT]


def _told(name: str, value: Any) -> Told:
    if isinstance(value, list) and value:
        if all(isinstance(one, dict) and one.keys() == value[0].keys() for one in value):
            header = tuple(str(key) for key in value[0])
            return Told(name, rows=(header, *(tuple(map(in_words, one.values())) for one in value)))
        words = tuple(map(in_words, value))
        return Told(name, ", ".join(words)) if sum(map(len, words)) <= SHORT else Told(name, items=words)
    if isinstance(value, dict) and value:
        return Told(name, rows=(tuple(map(str, value)), tuple(map(in_words, value.values()))))
    return Told(name, in_words(value))


def in_words(value: Any) -> str:
    """A value as people write it: numbers with four significant digits, whole ones in full, with commas as on
    the command line."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list):
        return ", ".join(map(in_words, value)) or "none"
    if isinstance(value, dict):
        return "; ".join(f"{name}: {in_words(one)}" for name, one in value.items()) or "none"
    return "none" if value is None else str(value)


def rounded(cell: str) -> str:
    """A cell of a table; a number with many digits has six."""
    try:
        number = float(cell)
    except ValueError:
        return cell
    return f"{number:.6g}" if len(cell.strip("-0.")) > 9 and "." in cell else cell
