"""The arguments of an operation, taken apart: tensors stand among them, or in lists among them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor


def leaves(*values: Any) -> list[Any]:
    """The values with their tuples, lists and dictionaries taken apart.

    PyTorch's pytree does the same for any container, and takes longer than most operations of a pass.
    """
    found: list[Any] = []
    for value in values:
        if isinstance(value, tuple | list):
            found.extend(leaves(*value))
        elif isinstance(value, dict):
            found.extend(leaves(*value.values()))
        else:
            found.append(value)
    return found


def shapes(value: Any) -> Any:
    """An argument with shapes in place of tensors."""
    if isinstance(value, Tensor):
        return value.shape
    return type(value)(map(shapes, value)) if type(value) in (tuple, list) else value


@dataclass(frozen=True)
class Layout:
    """Which argument every element of a flat list belongs to."""

    names: tuple[int | str, ...]
    """Positions, then keywords."""
    sizes: tuple[int | None, ...]
    """How many elements an argument has that is a list; None of any other."""

    @classmethod
    def of(cls, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Layout:
        given: dict[int | str, Any] = {**dict(enumerate(args)), **kwargs}
        sizes = (len(value) if isinstance(value, tuple | list) else None for value in given.values())
        return cls(tuple(given), tuple(sizes))

    @property
    def owners(self) -> list[int | str]:
        """Per element, the argument that it belongs to."""
        pairs = zip(self.names, self.sizes, strict=True)
        return [name for name, size in pairs for _ in range(1 if size is None else size)]

    def call(self, function: Callable[..., Any], elements: Sequence[Any]) -> Any:
        """The function of these elements."""
        args: list[Any] = []
        kwargs: dict[str, Any] = {}
        at = 0
        for name, size in zip(self.names, self.sizes, strict=True):
            value = elements[at] if size is None else list(elements[at : at + size])
            at += 1 if size is None else size
            if isinstance(name, str):
                kwargs[name] = value
            else:
                args.append(value)
        return function(*args, **kwargs)
