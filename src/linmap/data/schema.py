"""Whether a value of a file is of the type that a class or an annotation says: artifacts may be strangers'.

JSON has no tuples, so a list stands for them; a truth value is no number, and a number with a fraction no whole one.
"""

from __future__ import annotations

import collections.abc
import inspect
import math
import re
import reprlib
import typing
from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import (
    Annotated,
    Any,
    Literal,
    NamedTuple,
    NotRequired,
    TypeVar,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

from linmap.errors import ArgumentTypeError

Kind = TypeVar("Kind")
SEQUENCES = (list, tuple, collections.abc.Sequence, collections.abc.Collection, collections.abc.Iterable)
MAPPINGS = (dict, collections.abc.Mapping)


class Range(NamedTuple):
    """What a number may be, in `Annotated[int, Range(0, 20)]`; both ends count."""

    least: float = -math.inf
    most: float = math.inf

    def holds(self, value: Any) -> bool:
        return not isinstance(value, int | float) or self.least <= value <= self.most


class Length(NamedTuple):
    """How many items a list has, in `Annotated[list[float], Length(3)]`."""

    items: int

    def holds(self, value: Any) -> bool:
        return not isinstance(value, list | tuple) or len(value) == self.items


class Pattern(NamedTuple):
    """What a text may be, in `Annotated[str, Pattern("[a-z]+")]`."""

    expression: str

    def holds(self, value: Any) -> bool:
        return not isinstance(value, str) or re.fullmatch(self.expression, value) is not None


Count = Annotated[int, Range(1, 2**40)]


def require(value: Any, kind: Any, where: str) -> None:
    """Refuse a value that is not of an annotated type.

    Raises
    ------
    ArgumentTypeError
        With `where` and the value.
    """
    if not fits(value, kind):
        raise ArgumentTypeError(f"{where} is {reprlib.repr(value)}, expected {_spoken(kind)}")


def typed(kind: type[Kind], value: Any, where: str) -> Kind:
    """A `TypedDict` of a JSON object: all keys that it requires, of their types; others are left as they are.

    Raises
    ------
    ArgumentTypeError
        At the first key that is missing or of another type.
    """
    if not isinstance(value, dict):
        raise ArgumentTypeError(f"{where} is {reprlib.repr(value)}, expected an object")
    hints = get_type_hints(kind, include_extras=True)
    for name, hint in hints.items():
        if name in value:
            require(value[name], hint, f"{where}: {name}")
        elif get_origin(hint) is not NotRequired:
            raise ArgumentTypeError(f"{where} lacks {name!r}")
    return typing.cast(Any, value)


def made(kind: type[Kind], value: Any, where: str) -> Kind:
    """A dataclass of a JSON object, whose keys are its fields, of their types; those without defaults are there.

    Raises
    ------
    ArgumentTypeError
        At the first key that is missing, not known or of another type.
    """
    if not isinstance(value, dict):
        raise ArgumentTypeError(f"{where} is {reprlib.repr(value)}, expected an object")
    hints, known = get_type_hints(kind, include_extras=True), {one.name: one for one in fields(typing.cast(Any, kind))}
    for name, item in value.items():
        if name not in known:
            raise ArgumentTypeError(f"{where} has {reprlib.repr(name)}, which is not known")
        require(item, hints[name], f"{where}: {name}")
    for name, one in known.items():
        if name not in value and one.default is one.default_factory is MISSING:
            raise ArgumentTypeError(f"{where} lacks {name!r}")
    return kind(**value)


def unstated(kind: Callable[..., Any], given: Mapping[str, Any], file: str, but: Callable[..., Any] = object) -> str:
    """What a message adds where the settings of a file do not fit what lies beside: those that the file leaves out, so
    that their defaults stand.

    Parameters
    ----------
    kind
        Takes the settings; those that `but` takes too are not told.
    given
        What the file states.
    file
        Its name.

    Returns
    -------
    str
        "" where it states all.
    """
    told = [*given, *inspect.signature(but).parameters]
    names = [name for name in inspect.signature(kind).parameters if name not in told]
    more = f" and {len(names) - 6} more" if len(names) > 6 else ""
    return f"; {file} does not state {', '.join(names[:6])}{more}" if names else ""


def check_fields(part: Any) -> None:
    """Refuse a dataclass of which a field has not the type that the class says.

    Raises
    ------
    ArgumentTypeError
        At the first such field.
    """
    hints = get_type_hints(type(part), include_extras=True)
    for one in fields(part):
        value = getattr(part, one.name)
        if not fits(value, hints[one.name]):
            raise ArgumentTypeError(f"{type(part).__name__.lower()}: {one.name} is {reprlib.repr(value)}")


def check_parameters(kind: type, parameters: Any) -> None:
    """Refuse parameters that the constructor of a class does not take, or of types that it does not name.

    Raises
    ------
    ArgumentTypeError
        At the first one.
    """
    if not isinstance(parameters, dict):
        raise ArgumentTypeError(f"parameters are {reprlib.repr(parameters)}, expected an object")
    known = inspect.signature(kind).parameters
    hints = get_type_hints(kind.__init__, include_extras=True)
    for name, value in parameters.items():
        if name not in known:
            raise ArgumentTypeError(f"{kind.__name__} has no parameter {name!r}")
        if name in hints:
            require(value, hints[name], name)


def fits(value: Any, kind: Any) -> bool:
    """Whether a value of JSON is of an annotated type; what an annotation of another kind says is not known, and so
    any value fits it."""
    origin, inside = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return fits(value, inside[0]) and all(
            one.holds(value) for one in inside[1:] if isinstance(one, Range | Length | Pattern)
        )
    if origin is NotRequired:
        return fits(value, inside[0])
    if origin is Literal:
        return any(type(value) is type(one) and value == one for one in inside)
    if origin in (Union, UnionType):
        return any(fits(value, part) for part in inside)
    if origin is tuple and inside and inside[-1] is not Ellipsis:
        return isinstance(value, list | tuple) and len(value) == len(inside) and all(map(fits, value, inside))
    if origin in SEQUENCES:
        return isinstance(value, list | tuple) and all(fits(item, inside[0]) for item in value)
    if origin in MAPPINGS:
        return isinstance(value, Mapping) and all(fits(item, inside[1]) for item in value.values())
    return _fits_class(value, kind)


def _fits_class(value: Any, kind: Any) -> bool:
    if kind in (None, NoneType):
        return value is None
    if kind is bool:
        return isinstance(value, bool)
    if kind is int:
        return not isinstance(value, bool) and (isinstance(value, int) or _is_whole(value))
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if kind in (str, Path):
        return isinstance(value, str | Path)
    if kind in SEQUENCES:
        return isinstance(value, list | tuple)
    if kind in MAPPINGS:
        return isinstance(value, Mapping)
    if not (isinstance(kind, type) and is_dataclass(kind)):
        return True
    if isinstance(value, kind):
        check_fields(value)
    return isinstance(value, kind)


def _is_whole(value: Any) -> bool:
    return isinstance(value, float) and value.is_integer()


def _spoken(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return " or ".join(map(repr, get_args(kind)))
    if get_origin(kind) is Annotated and isinstance(get_args(kind)[1], Range):
        limits = get_args(kind)[1]
        return f"{_spoken(get_args(kind)[0])} from {limits.least:g} to {limits.most:g}"
    return getattr(kind, "__name__", None) or str(kind).replace("typing.", "")
