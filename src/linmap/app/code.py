"""What was run, to be copied: the command, the same from Python, and the object of the library that it made."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from dataclasses import MISSING
from pathlib import Path

import linmap
from linmap import recipes
from linmap.app.jobs import Job
from linmap.errors import LinmapError, shell_line, word
from linmap.recipes.derived import Derived, parameters
from linmap.recipes.view import Seen


def code_of(job: Job, settings: type | None) -> dict[str, str]:
    """Texts to be copied, by what they are; "made" is empty where the command makes no one object.

    Parameters
    ----------
    job
        The run.
    settings
        The flags of its verb, or None where they cannot be known any more.
    """
    words = command_of(job)
    found = {
        "command": f"cd {word(job.place)}\n{line_of(words)}",
        "python": f"from linmap.cli import main\n\nmain({words!r})",
        "made": "",
    }
    if settings is not None and job.verb != "compare" and issubclass(settings, Derived) and _is_method(settings.OF):
        with contextlib.suppress(LinmapError, SystemExit):
            found["made"] = _made(Seen(job.verb, tuple(words)).settings(settings))
    return found


def command_of(job: Job) -> list[str]:
    """The words that began a run."""
    return [given for given in job.words if given != "--resume"]


def line_of(words: Iterable[str]) -> str:
    """A command for a shell."""
    return shell_line(["linmap", *words])


def _is_method(of: str) -> bool:
    """Whether flags are those of a method, and not of training alone."""
    return bool(of) and not of.startswith("linmap.training") and not of.endswith(":FineTuning")


def _made(settings: Derived) -> str:
    """The import and the call that make the estimator, with what is not its default."""
    module, _, name = settings.OF.partition(":")
    usual = {one.name: one.default for one in parameters(settings.OF)}
    given = {
        key: value
        for key, value in settings.options().items()
        if usual.get(key, MISSING) != value and value not in (None, ())  # flags that were not given
    }
    yours = [key for key, value in usual.items() if value is MISSING and key not in settings.options()]
    call = f"{name}({', '.join([*yours, *(f'{key}={value!r}' for key, value in given.items())])})"
    return f"from {_public(module, name)} import {name}\n\n{call}"


def _public(module: str, name: str) -> str:
    """The shortest package that has the name for everybody."""
    parts = module.split(".")
    for end in range(2, len(parts)):
        package = Path(linmap.__file__).parent.joinpath(*parts[1:end], "__init__.py")
        if f'"{name}"' in package.read_text(encoding="utf-8"):  # in its __all__; nothing heavy is imported for it
            return ".".join(parts[:end])
    return module


def settings_of(job: Job) -> type | None:
    """The flags that the verb of a run takes; None where its extra is missing or its data are gone."""
    try:
        recipe = recipes.load(job.system)
        verb = {"fit": recipe.fit, "compare": recipe.compare, "apply": recipe.unfitted if recipe.fit else recipe.apply}
        found = verb[job.verb]
        return None if found is None else found.settings(None)
    except (LinmapError, OSError):
        return None
