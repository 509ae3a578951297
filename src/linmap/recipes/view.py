"""What a view made for looking gets: the run that is looked at, and the questions of its page, which are checked.

A recipe names its views in `Recipe.view` (see `recipe.py`). The work of a view is a class: made with a `Seen`, once for
a run; `start()` gives what the page shows first, `answer(asked)` what it asks for when somebody touches it, both as
plain values. `view.js` beside it draws them. Questions come from a browser: read them with the functions below.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from linmap.errors import UsageError

Asked = Mapping[str, Any]
"""A question of the page."""
Settings = TypeVar("Settings")
MODEL = Path("../model")
"""Where a run has what was fitted, seen from where it ran."""


@dataclass(frozen=True)
class Seen:
    """A run that is looked at; without words the embedded example, for which nothing was run."""

    verb: str = "apply"
    words: tuple[str, ...] = ()
    """What followed `linmap` when it ran."""
    place: Path = Path()
    """Folder in which it ran: paths in the words count from there."""

    def settings(self, kind: type[Settings]) -> Settings:
        """The flags that were given, as an instance of the dataclass of flags of the verb."""
        import tyro

        flags = (tyro.conf.OmitArgPrefixes, tyro.conf.FlagCreatePairsOff, tyro.conf.DisallowNone)
        return tyro.cli(kind, args=[*self.words[2:]], default=kind(), config=flags, return_unknown_args=True)[0]

    def _word(self, flag: str) -> str | None:
        found = [word.partition("=")[2] for word in self.words if word.startswith(f"{flag}=")]
        return found[-1] if found else None

    @property
    def data(self) -> Path | None:
        """The user's file."""
        word = self._word("--data")
        return None if word is None else self.place / word

    @property
    def seed(self) -> int:
        """Of the run."""
        return int(self._word("--seed") or 0)

    @property
    def out(self) -> Path:
        """Where the result is."""
        return self.place / (self._word("--out") or "")

    @property
    def artifact(self) -> Path:
        """What was fitted: by this run, or before it was applied."""
        return self.out if self.verb == "fit" else self.place / MODEL


# -- what a page asks --------------------------------------------------------------------------------------------------


def whole(asked: Asked, name: str, stop: int, start: int = 0) -> int:
    """A whole number from `start` up to, but not including, `stop`; `start` where it is not asked for.

    Raises
    ------
    UsageError
        If it is something else.
    """
    value = asked.get(name, start)
    if type(value) is not int or not start <= value < stop:
        raise UsageError(f"{name} is a whole number from {start} to {stop - 1}, got {_shown(value)}.")
    return value


def number(asked: Asked, name: str, low: float, high: float, default: float) -> float:
    """A number between two.

    Raises
    ------
    UsageError
        If it is something else.
    """
    value = asked.get(name, default)
    if type(value) not in (int, float) or not low <= value <= high:
        raise UsageError(f"{name} is a number from {low:g} to {high:g}, got {_shown(value)}.")
    return float(value)


def numbers(asked: Asked, name: str, default: Sequence[float], most: float = 1e6) -> list[float]:
    """As many finite numbers as the default has.

    Raises
    ------
    UsageError
        If it is something else.
    """
    value = asked.get(name, default)
    sized = isinstance(value, list | tuple) and len(value) == len(default)
    if not sized or not all(type(one) in (int, float) and math.isfinite(one) and abs(one) <= most for one in value):
        raise UsageError(f"{name} is a list of {len(default)} numbers, got {_shown(value)}.")
    return [float(one) for one in value]


def text(asked: Asked, name: str, most: int = 2000) -> str:
    """Text of at most so many characters; "" where it is not asked for.

    Raises
    ------
    UsageError
        If it is something else.
    """
    value = asked.get(name, "")
    if not isinstance(value, str) or len(value) > most:
        raise UsageError(f"{name} is text of at most {most} characters, got {_shown(value)}.")
    return value


def _shown(value: Any) -> str:
    return repr(value)[:60]
