"""The errors that linmap raises on purpose; each is also the built-in error that callers expect."""

import operator
from typing import Any


class LinmapError(Exception):
    """Base class: a message that says which argument, what came, what was expected, and what to do."""


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
