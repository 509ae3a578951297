"""Flags from dataclasses, by tyro: one flat set for each command, and one clear line for each mistake."""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import MISSING, dataclass, fields, make_dataclass
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

from linmap.cli.wording import FLAGS
from linmap.errors import UsageError


@dataclass(frozen=True)
class Output:
    """Of every verb: how the answer is given."""

    json: bool = False
    """Write the answer as one JSON document."""
    debug: bool = False
    """Show a traceback if something fails."""


OUTPUT_FLAGS = tuple(f"--{field.name}" for field in fields(Output))

SILENT_DEFAULTS = (None, (), "")
"""What a flag is where it is left out, and its help says in words or need not say."""
ON = "(on unless this flag is given)"
"""In place of `default: True` behind a flag that turns something off."""

WORD = re.compile(r"'([^']*)'")
PLAIN = (
    (re.compile(r"invalid literal for int\(\) with base 10: (.+)"), r"\1 is not a whole number"),
    (re.compile(r"could not convert string to float: (.+)"), r"\1 is not a number"),
    (re.compile(r"Could not find valid parse for arguments: \[(.*)\]"), r"cannot be read from \1"),
    (
        re.compile(r"^invalid choice (.+) for argument '(.+)'\. Expected one of \((.+)\)"),
        lambda found: (
            f"{found[2]}: {found[1]} is not one of {', '.join(sorted(set(WORD.findall(found[3])) - {'None'}))}"
        ),
    ),
)
"""What tyro says of a value in Python's words, and the words of the command line."""


def own(words: list[str]) -> list[str]:
    """`words` without the flags that only say how the answer is given."""
    return [word for word in words if word not in OUTPUT_FLAGS]


LISTED = "--list-flags"
"""A word that asks `parse` for the flags themselves."""


class FlagsListed(Exception):
    """The flags of a command, and the words that each takes where these are few: asked for by a shell."""

    def __init__(self, choices: Mapping[str, tuple[str, ...]]) -> None:
        super().__init__()
        self.choices = choices


class HelpShown(Exception):
    """`--help` was asked for and has been answered."""


def parse(
    words: list[str],
    command: str,
    purpose: str,
    hidden: Iterable[str] = (),
    flag_of: Mapping[str, str] | None = None,
    **parts: Any,
) -> Mapping[str, Any]:
    """The values of all flags in `words`.

    Parameters
    ----------
    words
        What follows `command` on the command line.
    command, purpose
        Head of the help text.
    hidden
        Fields that the caller has set, and that are no flags.
    flag_of
        Arguments of Python whose flags have other names, for messages.
    **parts
        Dataclass instances (whose values are the defaults) or, where a flag must be given, dataclasses; the flags of
        all stand side by side, and of two with one name the first counts. The answer has the same keys.

    Raises
    ------
    UsageError
        If there is no such flag, or a value does not fit it.
    HelpShown
        If `words` ask for help.
    """
    import tyro

    taken = set(hidden)
    parts = {name: _filled(part) for name, part in (parts | {"output": Output()}).items()}
    plain = {name: part if isinstance(part, type) else type(part) for name, part in parts.items()}
    for name, part in parts.items():
        names = {field.name for field in fields(part)}
        parts[name] = _shown(part, taken & names)
        taken |= names
    FLAGS.know(taken - set(hidden), flag_of)
    if LISTED in words:
        raise FlagsListed({flag: words for part in parts.values() for flag, words in _choices(part, hidden)})
    kinds = [(name, part if isinstance(part, type) else type(part)) for name, part in parts.items()]
    flags = make_dataclass("Flags", kinds, frozen=True)
    default = flags(**{name: tyro.MISSING_NONPROP if isinstance(part, type) else part for name, part in parts.items()})
    complaints = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaints):
            values = tyro.cli(
                flags,
                args=words,
                prog=command,
                description=purpose,
                default=default,
                config=(tyro.conf.OmitArgPrefixes, tyro.conf.FlagCreatePairsOff, tyro.conf.DisallowNone),
            )
    except SystemExit as stop:
        if stop.code in (0, None):
            raise HelpShown from None
        raise UsageError(f"{_complaint(complaints.getvalue(), words)} (`{command} --help` lists the flags.)") from None
    return {name: _as(kind, getattr(values, name)) for name, kind in plain.items()}


def _filled(part: Any) -> Any:
    """A dataclass all of whose fields have defaults stands for the instance of these."""
    required = isinstance(part, type) and any(
        field.default is MISSING and field.default_factory is MISSING for field in fields(part)
    )
    return part() if isinstance(part, type) and not required else part


def _shown(part: Any, hidden: set[str]) -> Any:
    """`part` of a subclass without flags for `hidden`, whose help leaves out defaults that say nothing."""
    import tyro

    kind = part if isinstance(part, type) else type(part)
    hints = get_type_hints(kind, include_extras=True)
    told = []
    for field in fields(kind):
        value = field.default if isinstance(part, type) else getattr(part, field.name)
        if field.name in hidden:
            told.append((field.name, Annotated[type(value), tyro.conf.Suppress], value))
        elif isinstance(value, bool) or value in SILENT_DEFAULTS:
            hint = tyro.conf.arg(help_behavior_hint=ON if value is True else "")
            told.append((field.name, Annotated[hints[field.name], hint], value))
    said = "" if (kind.__doc__ or "").startswith(f"{kind.__name__}(") else kind.__doc__  # `python -OO` leaves it out
    shown = make_dataclass(kind.__name__, told, bases=(kind,), namespace={"__doc__": said or " "}, frozen=True)
    return shown if isinstance(part, type) else _as(shown, part)


def _choices(part: Any, hidden: Iterable[str]) -> Iterator[tuple[str, tuple[str, ...]]]:
    """The flags of a part as they are typed, each with the words that its annotation allows."""
    kind = part if isinstance(part, type) else type(part)
    for field in fields(kind):
        if field.name not in hidden:
            on = getattr(part, field.name, field.default) is True
            yield f"--{'no-' if on else ''}{field.name.replace('_', '-')}", _words_of(get_type_hints(kind)[field.name])


def _words_of(hint: Any) -> tuple[str, ...]:
    """The words of all `Literal` in an annotation."""
    if get_origin(hint) is Literal:
        return tuple(word for word in get_args(hint) if isinstance(word, str))
    return tuple(word for part in get_args(hint) for word in _words_of(part))


def _as(kind: type, part: Any) -> Any:
    """The values of `part` as an instance of `kind`."""
    return kind(**{field.name: getattr(part, field.name) for field in fields(kind)})


def _complaint(box: str, words: list[str]) -> str:
    """What tyro found wrong with the words, and the flag that it thinks was meant."""
    first, *others = _paragraphs(box)
    if unknown := re.match(r"Unrecognized options:\s*(.*)", first):
        word = _first_of(unknown[1], words)
        if not word.startswith("-"):
            return f"{word!r} is not expected here."
        word = word.partition("=")[0]
        meant = re.match(r"Perhaps you meant:\s*(--?[\w-]+)", others[0])
        return f"there is no flag {word}{f'; did you mean {meant[1]}?' if meant else '.'}"
    if missing := re.match(r"Missing from .*?: (--[\w-]+)", first):
        return f"{missing[1]} is missing."
    value = re.match(r"Error parsing (\S+): (.+)", first)  # the error of a whole dataclass names its own argument
    if value:
        first = f"{value[1]}: {value[2]}" if value[1].startswith("-") else value[2]
    for pattern, plain in PLAIN:
        first = pattern.sub(plain, first)
    return f"{first.rstrip('.')}."


def _first_of(listed: str, words: list[str]) -> str:
    """The first of the words that a message lists, with ", " between them and its white space squeezed."""
    found = [word for word in words if f"{listed},".startswith(" ".join(f"{word},".split()))]
    return max(found, key=len, default=listed.split(",")[0])


def _paragraphs(box: str) -> list[str]:
    """The text of tyro's message, without the box and the colours that it has in some terminals."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", box)
    lines = [line.strip(" │") for line in text.splitlines() if not line.startswith(("╭", "╰"))]
    paragraphs = [" ".join(part.split()) for part in re.split(r"(?m)^[─-]{3,}$", "\n".join(lines))]
    return paragraphs if "╭" in text else paragraphs[1:]  # without a box, the title stands alone on top
