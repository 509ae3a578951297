"""The checker of annotations in the test run: beartype for types, jaxtyping for shapes.

jaxtyping's import hook writes `@jaxtyping.jaxtyped(typechecker=...)` above every function and class of the package.
The suite calls such functions millions of times, most of them without a shape in their annotations, so `jaxtyped` here
stands in for jaxtyping's own: it keeps track of shapes only where there are some, checks every call once, and prepares
the checks of a function when it is first called, not when its module is imported.
"""

import dataclasses
import functools
import inspect
import random
import sys
import threading
import types
from collections.abc import Callable, Iterator
from typing import Any, Self, get_args, get_type_hints

import jaxtyping
from beartype import BeartypeConf, FrozenDict, beartype

# An int is a float, as in PEP 484. Methods are decorated one by one, and beartype knows what `Self` is only when it
# decorates the class.
check = beartype(
    conf=BeartypeConf(
        is_pep484_tower=True, hint_overrides=FrozenDict({Self: Any}), violation_type=jaxtyping.TypeCheckError
    )
)
_with_shapes = jaxtyping.jaxtyped
_making: set[int] = set()
"""Threads that are making a check, and may hold beartype's locks: a handler of signals would wait for ever."""


class _Seldom:
    """Of a type that nobody else has, whose checks beartype keeps."""


@check
def _drawing(values: list[_Seldom]) -> None:
    """Its check draws, so that what draws is imported."""


# beartype looks at one item of a list, drawn by Python's global generator, from which what is tested draws, too.
for _name, _module in list(sys.modules.items()):
    if _name.startswith("beartype.") and vars(_module).get("getrandbits") is random.getrandbits:
        vars(_module)["getrandbits"] = random.Random(0).getrandbits


def jaxtyped(*, typechecker: object) -> Callable[[Any], Any]:
    """The decorator that jaxtyping's import hook puts on functions, and on classes, whose constructors it checks."""
    return lambda decorated: _class(decorated) if inspect.isclass(decorated) else _function(decorated)


def _class(cls: type) -> type:
    # a constructor that is written out has been decorated where it stands
    if dataclasses.is_dataclass(cls) and not hasattr(cls.__init__, "__wrapped__"):
        cls.__init__ = _function(cls.__init__)
    return cls


def _function(function: Callable) -> Callable:
    checked: Callable | None = None

    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        __tracebackhide__ = True
        nonlocal checked
        if jaxtyping.config.jaxtyping_disable:
            return function(*args, **kwargs)
        if checked is None:
            thread = threading.get_ident()
            if thread in _making:
                return function(*args, **kwargs)
            _making.add(thread)
            try:
                checked = _checked(function)
            finally:
                _making.discard(thread)
        return checked(*args, **kwargs)

    return wrapper


def _checked(function: Any) -> Callable:
    """The function with its checks; annotations that mean something to pyright only are left to it."""
    code, namespace = function.__code__, function.__globals__
    written = function.__annotations__
    if code not in _kept or _kept[code].written != written:
        resolved = {name: _resolved(annotation, namespace) for name, annotation in written.items()}
        twin = _twin(function, resolved)
        _kept[code] = _Kept(written, resolved, twin, check(twin))
    kept = _kept[code]
    twin = _twin(function, kept.resolved)
    checks = _of_another(kept, twin)
    hints = kept.resolved.values()
    if not any(issubclass(part, jaxtyping.AbstractArray) for hint in hints for part in _classes(hint)):
        return checks
    return (
        _with_shapes(twin, typechecker=check)
        if inspect.isgeneratorfunction(function)
        else _with_shapes(checks, typechecker=None)
    )


@dataclasses.dataclass
class _Kept:
    """What is made once of a function that is defined again at each call of the function around it."""

    written: dict[str, Any]
    resolved: dict[str, Any]
    twin: types.FunctionType
    checks: Any


_kept: dict[types.CodeType, _Kept] = {}


def _twin(function: Any, annotations: dict[str, Any]) -> types.FunctionType:
    """A copy of the function that has its annotations resolved."""
    code, namespace = function.__code__, function.__globals__
    twin = types.FunctionType(code, namespace, function.__name__, function.__defaults__, function.__closure__)
    functools.update_wrapper(twin, function)
    del twin.__wrapped__
    twin.__kwdefaults__, twin.__annotations__ = function.__kwdefaults__, annotations
    return twin


def _of_another(kept: _Kept, twin: types.FunctionType) -> Callable:
    """The checks that were made of one function, around another of the same code: its closure may hold other values."""
    made = kept.checks
    if made is kept.twin:  # nothing is annotated
        return twin
    defaults = made.__kwdefaults__ or {}
    places = [name for name, value in defaults.items() if value is kept.twin]
    if not places:
        return check(twin)
    checks = types.FunctionType(made.__code__, made.__globals__, twin.__name__, made.__defaults__, made.__closure__)
    functools.update_wrapper(checks, twin)
    checks.__kwdefaults__ = defaults | dict.fromkeys(places, twin)
    return checks


def _resolved(annotation: Any, namespace: dict[str, Any]) -> Any:
    def holder(value: Any) -> None: ...

    holder.__annotations__ = {"value": annotation}
    try:
        return get_type_hints(holder, namespace, include_extras=True)["value"]
    except Exception:  # a name that is imported for checkers of types only
        return Any


def _classes(hint: Any) -> Iterator[type]:
    if inspect.isclass(hint):
        yield hint
    for part in get_args(hint):
        yield from _classes(part)
