"""The errors that linmap raises on purpose; each is also the built-in error that callers expect."""

import operator
import os
import shlex
from collections.abc import Iterable
from typing import Any

LONGEST = 1500
"""Letters of a message, which quotes what a user gave, whatever that is."""


class LinmapError(Exception):
    """Base class: one line that says which argument, what came, what was expected, and what to do."""

    def __init__(self, message: str = "") -> None:
        super().__init__(one_line(message))


class UsageError(LinmapError):
    """A command was called the wrong way (exit code 2)."""


class DataError(LinmapError, ValueError):
    """The user's data cannot be used as it is; the message names the first offending place."""


class ArgumentError(LinmapError, ValueError):
    """An argument has a value that cannot be used."""


class ArgumentTypeError(LinmapError, TypeError):
    """An argument is of a type that cannot be used."""


class OutOfRangeError(LinmapError, IndexError):
    """An index lies outside of what there is."""


class ArtifactError(LinmapError):
    """A saved run cannot be read: missing, of another system, or of a format that is too new."""


class SingularMapError(LinmapError, ValueError):
    """The map has no inverse (not square, or of deficient rank)."""


class DivergenceError(LinmapError, ArithmeticError):
    """Training cannot go on: a loss or a weight is no longer finite."""


class Stopped(KeyboardInterrupt):
    """Interrupted by the user, with what is done.

    Parameters
    ----------
    done
        What is finished, as a clause: "4 of 11 systems are done and kept".
    advice
        How to go on, in the words of the door that raises it.
    kept
        Whether the same call can go on from there.
    """

    def __init__(self, done: str, advice: str = "", kept: bool = True) -> None:
        super().__init__(f"{done}; {advice}." if advice else done)
        self.done, self.kept = done, kept


def one_line(text: str) -> str:
    """A text without line ends, and without the middle of what is longer than a person reads."""
    line = " ".join(part.strip() for part in str(text).splitlines())
    return line if len(line) <= LONGEST else f"{line[: LONGEST * 2 // 3]} ... {line[5 - LONGEST // 3 :]}"


def check_count(name: str, value: Any, least: int = 1) -> int:
    """A whole number of at least `least`, as an int.

    Raises
    ------
    TypeError
        If it is no whole number; a truth value is none.
    ValueError
        If it is too small.
    """
    said = f"{name} must be a whole number of at least {least}, got {value!r}."
    try:
        count = operator.index(value)
    except TypeError:
        raise ArgumentTypeError(said) from None
    if isinstance(value, bool):
        raise ArgumentTypeError(said)
    if count < least:
        raise ArgumentError(said)
    return count


def word(value: object) -> str:
    """A value as one word of a shell, for a line that may be copied.

    A path that begins with a dash is written `./-x`, as commands take `-x` for a flag; what a terminal would act on,
    such as a new line, is written by its escapes, which bash and zsh read back: `$'a\\x0ab'`.
    """
    text = str(value)
    if isinstance(value, os.PathLike) and text.startswith("-"):
        text = f"./{text}"
    if text.isprintable():
        return shlex.quote(text)
    return "$'" + "".join(map(_escaped, text)) + "'"


def shell_line(values: Iterable[object]) -> str:
    """A line that may be copied, in which a shell finds each of the values as one word."""
    return " ".join(map(word, values))


def _escaped(character: str) -> str:
    if character.isprintable():
        return f"\\{character}" if character in "\\'" else character
    return "".join(f"\\x{byte:02x}" for byte in character.encode("utf-8", "surrogateescape"))
