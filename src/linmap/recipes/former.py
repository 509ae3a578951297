"""A recipe made of a module's attributes, for systems that have no `RECIPE` yet; goes when all have one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, make_dataclass
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, get_type_hints

from linmap.recipes.recipe import Recipe, Verb


def adapted(module: ModuleType) -> Recipe:
    """Read `Settings`, `ApplySettings`, `PRESETS`, `settings_for`, `RESUMES`, `STANDARD_INPUT` and `FLAG_OF`."""
    has, resumes = vars(module), vars(module).get("RESUMES", ("fit", "compare"))
    given = has.get("settings_for")

    def flags(verb: str, kind: type | None) -> Callable[[Path | None], type]:
        return partial(_for_verb, verb, given if given is not None and verb != "compare" else lambda verb, path: kind)

    work = {verb: f"{module.__name__}:{verb}" for verb in ("fit", "apply", "compare")}
    fit = Verb(flags("fit", has.get("Settings")), work["fit"], "fit" in resumes) if "fit" in has else None
    return Recipe(
        compare=Verb(lambda _: _with_defaults(has["PRESETS"]["quick"]), work["compare"], "compare" in resumes),
        apply=Verb(
            flags("apply", has.get("ApplySettings", has.get("Settings"))),
            work["apply"],
            standard_input=has.get("STANDARD_INPUT", False),
        ),
        fit=fit,
        flag_of=has.get("FLAG_OF", {}),
    )


def _for_verb(verb: str, given: Callable[[str, Path | None], type], path: Path | None) -> type:
    return _without(given(verb, path), verb)


def _with_defaults(part: Any) -> type:
    """The class of an instance, with its values for defaults."""
    kind = type(part)
    hints = get_type_hints(kind, include_extras=True)
    told = [(field.name, hints[field.name], getattr(part, field.name)) for field in fields(kind)]
    made = make_dataclass(kind.__name__, told, bases=(kind,), namespace={"__doc__": kind.__doc__}, frozen=True)
    return _without(made, "compare")


def _without(kind: type, verb: str) -> type:
    """`kind` without flags that mean something to other verbs alone, as its `ONLY_FOR` says."""
    import tyro

    elsewhere = getattr(kind, "ONLY_FOR", {})
    hidden = {name for other, names in elsewhere.items() if other != verb for name in names}
    told = [
        (field.name, Annotated[type(field.default), tyro.conf.Suppress], field.default)
        for field in fields(kind)
        if field.name in hidden
    ]
    if not told:
        return kind
    return make_dataclass(kind.__name__, told, bases=(kind,), namespace={"__doc__": kind.__doc__}, frozen=True)
