"""What the command line knows of a system: for each verb its flags, and where its work is.

`linmap.recipes.<slug>` holds `RECIPE`. Importing it must be cheap: flags come from modules that import nothing heavy,
and work is named as `module:function`, imported when it is called.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Verb:
    """What a system does for one verb."""

    flags: type | Callable[[Path | None], type]
    """A dataclass whose defaults are those of the flags; or what gives one for the user's file (`fit`, `compare`,
    `unfitted`) or the artifact (`apply`), None where only the flags are asked for."""
    work: str
    """`module:function` of `(settings, job)`. `fit` and `apply` return a summary, `compare` a `Result`."""
    resumes: bool = False
    """Whether `--resume` goes on with an interrupted run; without, there is no such flag."""
    standard_input: bool = False
    """Whether `--data -` reads standard input and answers as it comes."""
    no_data: str = ""
    """Where it reads no `--data`, why: there is no such flag then, and the reason is told to whom gives it."""
    needs: tuple[str, ...] = ()
    """Modules of extras without which it does nothing at all; they are asked for before any work."""

    def settings(self, path: Path | None = None) -> type:
        """The dataclass of flags for a file or an artifact."""
        return self.flags if isinstance(self.flags, type) else self.flags(path)

    def purpose(self) -> str:
        """What the docstring of the work says before its sections, from its source."""
        from linmap.recipes.derived import documentation

        return documentation(self.work).partition("\n\nParameters\n")[0]

    def __call__(self, settings: Any, job: Any) -> Any:
        """Do the work."""
        module, _, name = self.work.partition(":")
        return getattr(importlib.import_module(module), name)(settings, job)


@dataclass(frozen=True)
class View:
    """What the app shows of a run to be looked at and touched; `view.js` in the recipe's folder draws it."""

    title: str
    hint: str
    """What one can do with it, in a sentence."""
    work: str
    """`module:Class`, made with a `linmap.recipes.view.Seen`; its `start` and `answer` give plain values."""
    verbs: tuple[str, ...] = ("apply",)
    """Of whose runs."""
    example: bool = False
    """Whether it also shows an embedded example, for which nothing was run."""

    def open(self, seen: Any) -> Any:
        """The view of a run."""
        module, _, name = self.work.partition(":")
        return getattr(importlib.import_module(module), name)(seen)


@dataclass(frozen=True)
class Recipe:
    """One system, as the command line meets it."""

    compare: Verb
    apply: Verb
    fit: Verb | None = None
    """None for a system with nothing to train, which is applied with its flags alone."""
    unfitted: Verb | None = None
    """What a system that is fitted can do before: `linmap apply SYSTEM`; None where it must be fitted first."""
    examples_need: tuple[str, ...] = ()
    """Modules that its comparison needs besides for the example that it takes where it is given no data."""
    view: View | None = None
    """What there is to look at; None where pictures say it all."""
    flag_of: Mapping[str, str] = field(default_factory=dict)
    """Flags that have other names than the arguments that the library's messages name: `{"argument": "flag"}`."""

    @property
    def example_needs(self) -> tuple[str, ...]:
        """All modules of extras that its comparison needs where it is given no data."""
        return (*self.compare.needs, *self.examples_need)
