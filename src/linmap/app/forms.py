"""Fields of a form from the flags of a verb, and the words of a command from what was filled in."""

from __future__ import annotations

import re
import shlex
import types
import typing
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from markupsafe import Markup, escape

from linmap.errors import UsageError
from linmap.recipes.derived import helps

Kind = Literal["switch", "choice", "integer", "number", "text", "list"]
NAMES_OF_MODELS = ("model", "old_model", "new_model")
"""Flags that take the name of a model, or a folder."""
NEGATIVE = re.compile(r"-\.?\d[\d.eE+-]*")
FIRST = re.findall(
    r"\w+",
    """model old_model new_model task horizon target dataset keep group representation network method edit fixed rank r
    r_total ratio w_bits a_bits k_bits v_bits dim weights max_macs max_params proposals level backtest orders lags theta
    epochs steps rates lr""",
)
"""What matters most where a system has it, in this order."""
LAST = re.findall(
    r"\w+",
    "separator decimal time_column id_column drop dayfirst monthfirst nan_policy fill_gaps decompress n_jobs engine",
)
"""How a file is written and who works, not what is done."""


@dataclass(frozen=True)
class Field:
    """One flag as a field of a form."""

    name: str
    kind: Kind
    default: Any
    help: str
    choices: tuple[str, ...] = ()

    @property
    def flag(self) -> str:
        """As the command line writes it."""
        return f"--{self.name.replace('_', '-')}"

    @property
    def label(self) -> str:
        return self.name.replace("_", " ")

    @property
    def shown(self) -> str:
        """The default as text; "" where there is none."""
        if self.default is None or self.default == ():
            return ""
        return shlex.join(map(str, self.default)) if isinstance(self.default, tuple) else str(self.default)

    def words(self, given: str | None) -> list[str]:
        """The words of the command line; none where the value is the default.

        Raises
        ------
        UsageError
            If the value names a file of this machine, or holds another flag.
        """
        if self.kind == "switch":
            on = bool(self.default) if given is None else given == "on"
            return [] if on == bool(self.default) else [self.flag if on else f"--no-{self.flag[2:]}"]
        text = (given or "").strip()
        if text in ("", self.shown):
            return []
        parts = _split(self, text) if self.kind == "list" else [text]
        for part in parts:
            if outside(part):
                raise UsageError(f"{self.flag} {part}: files are given by upload, models by their names.")
            if self.kind == "list" and part.startswith("-") and not NEGATIVE.fullmatch(part):
                raise UsageError(f"{self.flag} {part}: a value cannot begin with a dash.")
        return [self.flag, *parts] if self.kind == "list" else [f"{self.flag}={text}"]


def outside(text: str) -> bool:
    """Whether a word could name a file outside the folder of its run."""
    path = Path(text)
    return path.is_absolute() or text.startswith("~") or ".." in path.parts or "\\" in text or "://" in text


def _split(field: Field, text: str) -> list[str]:
    try:
        return shlex.split(text)
    except ValueError as error:
        raise UsageError(f"{field.flag} {text}: {error}.") from None


def form(settings: type) -> list[Field]:
    """The fields of a dataclass of flags, those that matter most first, else in its order; left out are flags that take
    a file, and `resume`, which a run's page offers where it means something."""
    hints = get_type_hints(settings, include_extras=True)
    said = helps(settings)
    named = sorted((one for one in fields(settings) if one.name != "resume"), key=lambda one: _place(one.name))
    made = [_field(one, hints[one.name], said.get(one.name, "")) for one in named]
    return [field for field in made if field is not None]


def _place(name: str) -> int:
    return FIRST.index(name) if name in FIRST else len(FIRST) + (name in LAST)


def _field(one: Any, hint: Any, said: str) -> Field | None:
    if get_origin(hint) is Annotated:
        hint, *notes = get_args(hint)
        said = next((note.help for note in notes if getattr(note, "help", None)), said)
    default = one.default if one.default is not MISSING else None
    inner = [part for part in _members(hint) if part is not type(None)]
    if not inner or Path in inner:
        return None
    if inner == [bool]:
        return Field(one.name, "switch", bool(default), said)
    words = tuple(str(word) for part in inner if get_origin(part) is Literal for word in get_args(part))
    if words and all(get_origin(part) is Literal for part in inner):
        return Field(one.name, "choice", default, said, words)
    if any(get_origin(part) is tuple for part in inner):
        return Field(one.name, "list", default, said, words)
    kind: Kind = "integer" if inner == [int] else "number" if inner == [float] else "text"
    return Field(one.name, kind, default, said, words)


def _members(hint: Any) -> list[Any]:
    if get_origin(hint) in (Union, types.UnionType):
        return [part for member in get_args(hint) for part in _members(member)]
    if get_origin(hint) is typing.Annotated:
        return _members(get_args(hint)[0])
    return [hint]


def on_page(said: str) -> Markup:
    """What the command line says of a flag, in the words of a form: flags are its fields, `--data` is the file."""
    return Markup(SAID.sub(_on_page, str(escape(said))))


SAID = re.compile("`(?P<code>[^`]*)`|(?P<command>linmap (?:fit|apply|compare) .*)|--(?P<flag>[a-z][a-z0-9-]*)")


def _on_page(found: re.Match[str]) -> str:
    if found["flag"] is None:
        return f"<code>{found['code'] or found['command']}</code>"
    return "your file" if found["flag"] == "data" else f"“{found['flag'].replace('-', ' ')}”"


def command_words(form_fields: list[Field], given: Mapping[str, str], models: Mapping[str, Path]) -> list[str]:
    """The words of the flags that were changed.

    Parameters
    ----------
    form_fields
        Of the verb.
    given
        What the form sent, by name; what it did not send stays as it is. A switch is "on" or "off".
    models
        Folders of models that may be named, by name.

    Raises
    ------
    UsageError
        If the form sent a field that there is not.
    """
    unknown = sorted(given.keys() - {field.name for field in form_fields})
    if unknown:
        raise UsageError(f"there is no field {unknown[0]!r} in this form; reload the page.")
    words: list[str] = []
    for field in form_fields:
        value = given.get(field.name)
        if value is not None and field.name in NAMES_OF_MODELS and value in models:
            words.append(f"{field.flag}={models[value]}")
        else:
            words += field.words(value)
    return words
