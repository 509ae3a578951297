"""Targets: command lines, by a grammar of the flags of every verb and system, and questions and forms of the app."""

from __future__ import annotations

import random
import shlex
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import Any

from fuzz.targets import Target

ODD = (
    "nan", "inf", "-inf", "1e400", "-1", "0", "-0.0", "1e-320", "99999999999999999999999", "1.5", "0x10", "1_0", "",
    " ", "é", "\u202e", "a\nb", "\udcff", "../x", "[1, 2]", "1,2", "{}", "--", "-", "=", "None", "true",
    "'", "%s", "x" * 5000,
)  # fmt: skip
VERBS = ("fit", "apply", "compare")


def targets() -> list[Target]:
    """Of this file."""
    seeds = (b"fit olinear --horizon 4 --epochs 2", b"compare mbat --out a", b"apply mbat --dim 8 --weights a=2 b=3")
    return [Target("command", _read, seeds, None, _drawn, few=20), Target("form", _form, (b"1 2 3", b"a 'b c'"))]


def _read(text: str) -> None:
    """The flags of a command, as far as they are looked at before the work."""
    from linmap import recipes
    from linmap.cli import verbs
    from linmap.cli.errors import WRONG_USE, explain
    from linmap.cli.flags import HelpShown
    from linmap.errors import UsageError
    from linmap.recipes.job import ApplyJob, CompareJob, FitJob

    try:
        verb, slug, *words = shlex.split(text)
    except ValueError:
        return
    if slug not in recipes.SYSTEMS or verb not in VERBS:
        return
    recipe = recipes.load(slug)
    job: Any = {"fit": FitJob(out=Path("a")), "apply": ApplyJob(), "compare": CompareJob(out=Path("a"))}[verb]
    if (does := getattr(recipe, verb)) is None:
        raise UsageError(f"{slug} has no {verb}.")
    try:
        verbs.checked(verbs._flags(recipe, does, f"{verb} {slug}", words, None, job)["job"])
    except HelpShown:
        return
    except OSError as error:  # of a path that no system takes: what is told at the terminal
        code, line = explain(error)
        assert code == WRONG_USE, line
        raise UsageError(line) from None


@cache
def _flags_of(verb: str, slug: str) -> tuple[str, ...]:
    from linmap import recipes

    does = getattr(recipes.load(slug), verb)
    names = [] if does is None else [field.name for field in fields(does.settings(None))]
    return tuple(f"--{name.replace('_', '-')}" for name in [*names, "out", "data", "seed", "overwrite"])


def _drawn(rng: random.Random) -> bytes:
    """A verb, a system, and some of its flags with odd values."""
    from linmap.recipes import SYSTEMS

    verb, slug = rng.choice(VERBS), rng.choice(list(SYSTEMS))
    words = [verb, slug]
    for _ in range(rng.choice((1, 1, 2, 4))):
        flag, values = rng.choice(_flags_of(verb, slug)), rng.choices(ODD, k=rng.choice((0, 1, 1, 1, 3)))
        words += [f"{flag}={values[0]}"] if values and rng.random() < 0.3 else [flag, *values]
    return shlex.join(words).encode("utf-8", "surrogateescape")


def _form(text: str) -> None:
    """Fields of the app's forms as somebody may fill them in."""
    from linmap import recipes
    from linmap.app.forms import form

    verb = recipes.load("olinear").fit
    assert verb is not None
    for field in form(verb.settings(None)):
        field.words(text)
