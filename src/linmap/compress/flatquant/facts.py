"""What a quantised decoder was found to be, to see at each call in one pass whether it still is."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import chain
from operator import is_
from typing import Any, NoReturn

import torch
from torch import Tensor, nn
from torch.nn.modules import module as torch_modules

from linmap.compress.flatquant.words import Words

CAPTURES = "install_output_capuring_hook.<locals>.output_capturing_hook"  # of Transformers; mostly idle
HALVES = (torch.bfloat16, torch.float16)
TABLES = ("_parameters", "_buffers", "_modules", "_forward_hooks", "_forward_pre_hooks")
"""Attributes of a module whose tables are looked at."""
CALLS: tuple[Any, Any] = nn.Module.__call__, nn.Module._call_impl
"""How PyTorch calls a module, unless somebody came before."""
OWN_CALLS = frozenset(("forward", "_call_impl", "_compiled_call_impl"))
"""Attributes of a module that are called in place of what its class has."""


class Other(Exception):
    """A block that takes the ordinary way."""


def form(tensor: Tensor) -> tuple[Any, ...]:
    """How the numbers of a tensor are read from its place."""
    return tensor.shape, tensor.stride(), tensor.dtype, tensor.is_neg()


class Facts:
    """What was looked at, to see in one pass whether it still holds.

    A pass over some thousand entries is made for every token: loops are those of C, and the tables that a module holds
    its tensors, modules and hooks in are compared as a whole.
    """

    def __init__(self) -> None:
        self.seen: set[tuple[int, Any]] = set()
        self.tables: list[dict[Any, Any]] = []
        self.names: list[Any] = []  # of all tables, one behind the other, and what stood there
        self.contents: list[Any] = []
        self.dicts: list[dict[Any, Any]] = []
        self.keys: list[Any] = []  # of each of them, and what stood there
        self.values: list[Any] = []
        self.entries: list[tuple[Any, Any, Any]] = []  # the same of other mappings
        self.functions: list[tuple[Any, Any]] = []  # and their code
        self.modules: list[nn.Module] = []
        self.kinds: list[type] = []  # theirs
        self.calls: dict[type[nn.Module], tuple[Any, Any]] = {}  # of each class, how its modules are called
        self.attributes: list[dict[str, Any]] = []  # theirs, none of `OWN_CALLS` among them
        self.hooks: list[Mapping[int, Any]] = [
            torch_modules._global_forward_hooks,
            torch_modules._global_forward_pre_hooks,
        ]  # empty ones
        self.tensors: list[Tensor] = []
        self.places: list[int] = []
        self.forms: list[tuple[Any, ...]] = []
        self.widened: list[tuple[Tensor, Tensor]] = []  # of half precision, and their numbers in float32
        self.captures = False
        self.words = Words((), (), ())

    def hold(self) -> bool:
        """Whether nothing has changed: by the words of memory that tell it, and where they do not, by all."""
        if self.words.hold() and self._same_entries() and self._same_calls():
            return True
        tables: list[Any] = [*self.tables, *self.dicts, *self.attributes, *self.hooks]
        self.words = Words(self.modules, {id(table): table for table in tables}.values(), self.tensors)
        return self._same()

    def _same_entries(self) -> bool:
        return all(mapping.get(key) is value for mapping, key, value in self.entries)

    def _same_calls(self) -> bool:
        """Whether functions do what they did, and modules are called as PyTorch calls them."""
        same = all(function.__code__ is code for function, code in self.functions)
        return same and all(_calls(kind) == seen for kind, seen in self.calls.items())

    def _same(self) -> bool:
        return (
            not any(self.hooks)
            and [*chain.from_iterable(self.tables)] == self.names
            and all(map(is_, chain.from_iterable(map(dict.values, self.tables)), self.contents))
            and all(map(is_, map(dict.get, self.dicts, self.keys), self.values))
            and all(map(OWN_CALLS.isdisjoint, self.attributes))
            and self._same_entries()
            and self._same_calls()
            and all(map(is_, map(type, self.modules), self.kinds))
            and all(map(is_, map(vars, self.modules), self.attributes))
            and [*map(Tensor.data_ptr, self.tensors)] == self.places
            and [*map(form, self.tensors)] == self.forms
        )

    def look(self, mapping: Any, key: Any, owner: Any = None) -> Any:
        """What stands there; `owner` keeps a mapping that is made anew at each look, as `vars` of a class is."""
        value = mapping.get(key)
        if self._is_new(owner or mapping, key):  # blocks share classes, configs and functions
            if type(mapping) is dict:
                self.dicts.append(mapping)
                self.keys.append(key)
                self.values.append(value)
            else:
                self.entries.append((mapping, key, value))
        return value

    def entry(self, table: dict[Any, Any], key: Any) -> Any:
        """What stands there in a table that is compared as a whole."""
        self.table(table)
        return table.get(key)

    def table(self, table: dict[Any, Any]) -> None:
        if self._is_new(table):
            self.tables.append(table)
            self.names += table
            self.contents += table.values()

    def _is_new(self, mapping: Any, key: Any = None) -> bool:
        place = (id(mapping), key)
        if place in self.seen:
            return False
        self.seen.add(place)
        return True

    def attribute(self, module: nn.Module, name: str) -> Any:
        return self.look(vars(module), name)

    def module(self, parent: nn.Module, name: str, *hooks: Callable[..., Any]) -> Any:
        """The module of this name; its hooks before and behind must be those given."""
        module = self.entry(parent._modules, name)
        if module is None:
            refuse(f"no {name}")
        self.modules.append(module)
        self.kinds.append(type(module))
        for own in OWN_CALLS.intersection(vars(module)):
            self.attribute(module, own)
            refuse(f"{name} has a {own} of its own")
        self.attributes.append(vars(module))
        self.calls[type(module)] = _calls(type(module))
        if self.calls[type(module)] != CALLS or not all(map(_made_there, CALLS)):
            refuse(f"{name} is called in a way of its own")
        for table in TABLES:
            self.attribute(module, table)
        found = [*module._forward_pre_hooks.values()]
        behind = [*module._forward_hooks.values()]
        captures = [hook for hook in behind if getattr(hook, "__qualname__", "") == CAPTURES]
        self.captures |= bool(captures)
        found += [hook for hook in behind if hook not in captures]
        for registered in (module._forward_pre_hooks, module._forward_hooks):
            self.table(registered) if registered else self.hooks.append(registered)
        if tuple(found) != hooks:
            refuse(f"hooks of others on {name}")
        return module

    def runs(self, function: Any, *known: Instructions) -> bool:
        """Whether a function is one of these, by its instructions, which are looked at each time."""
        for part in _wrapped(function):
            if self._is_new(part, "__code__"):
                self.functions.append((part, part.__code__))
        return instructions(function) in known

    def code(self, module: nn.Module, known: tuple[Instructions, ...]) -> Any:
        """The function that this module's class calls, if it is one of these."""
        forward = None
        for kind in type(module).__mro__:
            forward = self.look(vars(kind), "forward", kind)
            if forward is not None:
                break
        if not self.runs(forward, *known):
            refuse(f"{type(module).__name__} has a forward that is not known")
        return forward

    def tensor(self, module: nn.Module, name: str, *shape: int, kind: Any = torch.float32, there: bool = True) -> int:
        """Where a tensor lies, or its numbers in float32 if it is of half precision; 0 for one that is None."""
        stored = module._parameters if name in module._parameters else module._buffers
        tensor: Any = self.entry(stored, name)
        if tensor is None:
            return refuse(f"no {name}") if there else 0
        if type(tensor) not in (Tensor, nn.Parameter):
            refuse(f"{name} is no plain tensor")
        place = tensor.data_ptr()
        self.tensors.append(tensor)
        self.places.append(place)
        self.forms.append(form(tensor))
        wide = kind is torch.float32 and tensor.dtype in HALVES
        kinds = tensor.dtype is kind or wide
        if not (tensor.is_cpu and kinds and tensor.shape == shape and tensor.is_contiguous()):
            refuse(f"{name} is {tuple(tensor.shape)} in {tensor.dtype}")
        if wide:
            self.widened.append((tensor, torch.empty(shape)))
            return self.widened[-1][1].data_ptr()
        return place


def _calls(kind: type[nn.Module]) -> tuple[Any, Any]:
    """The functions by which modules of a class are called."""
    return kind.__call__, kind._call_impl


def refuse(reason: str) -> NoReturn:
    raise Other(reason)


Instructions = tuple[Any, ...]
"""What a function, and those that it wraps, do: instructions, constants and names."""


def instructions(function: Any) -> Instructions:
    return tuple(
        (code.co_code, code.co_consts, code.co_names, code.co_varnames, code.co_freevars)
        for code in (part.__code__ for part in _wrapped(function))
    )


def of_transformers(*functions: Any) -> tuple[Instructions, ...]:
    """The instructions of functions as Transformers has them; none of those that somebody has put in their place."""
    return tuple(filter(None, map(instructions, filter(_made_there, functions))))


def _made_there(function: Any) -> bool:
    """Whether a function, and those that it wraps, are PyTorch's or Transformers', whatever they say of themselves."""
    names = (part.__globals__["__name__"] for part in _wrapped(function))
    return all(name.startswith(("torch.", "transformers.")) for name in names)


def _wrapped(function: Any) -> Iterator[Any]:
    """A function, and those that it wraps; of anything else, nothing."""
    while hasattr(function, "__code__"):
        yield function
        function = getattr(function, "__wrapped__", None)
