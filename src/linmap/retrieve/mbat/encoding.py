"""The definition: one vector for one JSON value, bottom-up, in the order of the method's text.

    V(leaf)   = the leaf's vector                                          (leaves.py)
    V(object) = sum_k M_key(k) V(value_k)  [+ w sum_k atom(has, k)]
    V(array)  = M_arr sum_i M_seq^i V(x_i), i from 1, by Horner's rule     [bag: M_arr sum_i V(x_i)]

It serves every option; `bound_leaves.py` computes the same sums faster where V is linear in the leaves.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import Any

import numpy as np
from jaxtyping import Num

from linmap.errors import ArgumentError, ArgumentTypeError, DataError
from linmap.retrieve.mbat.codebook import Codebook, LeastRecentlyUsed
from linmap.retrieve.mbat.leaves import LeafCoder
from linmap.retrieve.mbat.operators import Operator, as_operator
from linmap.retrieve.mbat.options import Options, collapsed_path
from linmap.retrieve.mbat.paths import Path, PathRules, Place, Step, format_path, nfc

SCALARS = (str, int, float, bool, type(None))


class Encoder:
    """The encoding of JSON values under given options.

    Parameters
    ----------
    options
        The options.
    codebook
        Anything with `.atom(kind, token)` and `.operator(kind, token)`; the format's own where None.
    """

    def __init__(self, options: Options, codebook: Any = None) -> None:
        if codebook is None:
            codebook = Codebook(options.dim, options.seed, operators=options.operators)
        if getattr(codebook, "dim", options.dim) != options.dim:
            raise ArgumentError(
                f"the codebook has dim={codebook.dim}, the vectorizer dim={options.dim}; make them equal."
            )
        self.options, self.codebook = options, codebook
        self.rules = PathRules(options.ignore, options.weights)
        self.leaves = LeafCoder(options, codebook)
        self._powers: LeastRecentlyUsed[int, Operator] = LeastRecentlyUsed(max(16, (16 << 20) // (9 * options.dim)))
        self._dtype = options.working_dtype

    # -- operators -------------------------------------------------------------------------------------------------

    def key_operator(self, key: str) -> Operator:
        return as_operator(self.codebook.operator("key", key))

    def array_operator(self) -> Operator:
        return as_operator(self.codebook.operator("arr", ""))

    def sequence_operator(self, power: int) -> Operator:
        """M_seq^power, from the power before it where that is at hand, else by repeated squaring."""
        if power == 1:
            return as_operator(self.codebook.operator("seq", ""))

        def make() -> Operator:
            first = power - 1 if power - 1 in self._powers else power // 2
            return self.sequence_operator(first).compose(self.sequence_operator(power - first))

        return self._powers.get(power, make)

    def bind(self, place: Place, x: Num[np.ndarray, "*batch dim"]) -> Num[np.ndarray, "*batch dim"]:
        """R_p x: the operators of the path, the innermost first."""
        for above in place.upwards():
            x = self._bind_step(above.step, x)
        return x

    def unbind(self, place: Place, vector: Num[np.ndarray, "*batch dim"]) -> Num[np.ndarray, "*batch dim"]:
        """R_p^T v: what the vector holds at the path, plus noise from all the rest."""
        for below in list(place.upwards())[::-1]:
            vector = self._unbind_step(below.step, vector)
        return vector

    def _bind_step(self, step: Step, x: np.ndarray) -> np.ndarray:
        if isinstance(step, str):
            return self.key_operator(step).apply(x)
        if self.options.arrays == "bag":
            return self.array_operator().apply(x)
        item = self.sequence_operator(step + 1).apply(x)
        return self.array_operator().apply(item if self.options.arrays == "sequence" else (item + x) * self._half)

    def _unbind_step(self, step: Step, y: np.ndarray) -> np.ndarray:
        if isinstance(step, str):
            return self.key_operator(step).transpose(y)
        y = self.array_operator().transpose(y)
        if self.options.arrays == "bag":
            return y
        item = self.sequence_operator(step + 1).transpose(y)
        return item if self.options.arrays == "sequence" else (item + y) * self._half

    @property
    def _half(self) -> np.floating:
        """The share of each of the two readings of an array in arrays="both"."""
        return self._dtype.type(math.sqrt(0.5))

    def group(self, place: Place) -> str:
        """Name of the directions that a leaf lies in: its path, without the indices where they do not count."""
        return format_path(place.path()) if self.options.arrays == "sequence" else collapsed_path(place)

    # -- places ----------------------------------------------------------------------------------------------------

    def place(self, path: Path) -> Place:
        place = Place(self.rules)
        for step in path:
            place = Place(self.rules, place, step)
        return place

    def checked_items(self, container: dict | list, place: Place) -> Iterator[tuple[Step, Any]]:
        """Steps (keys in NFC) and values; two keys that are the same text are refused."""
        if place.depth >= self.options.max_depth:
            raise TooDeep(place)
        if isinstance(container, list):
            yield from enumerate(container)
            return
        seen: set[str] = set()
        for key, value in container.items():
            name = checked_key(key, place)
            if name in seen:
                raise DataError(
                    f"at {place}: the key {key!r} comes twice once written in Unicode form NFC; rename one."
                )
            seen.add(name)
            yield name, value

    def walk(self, value: Any) -> Iterator[tuple[Place, Any]]:
        """All leaves of a document with their places, in its order; what is ignored is left out."""
        root, left = Place(self.rules), self.options.max_values
        stack: list[tuple[Place, Any]] = [] if root.ignored else [(root, value)]
        while stack:
            place, item = stack.pop()
            item = plain(item, self.options.default, place)
            if not isinstance(item, dict | list) or not item:
                yield place, item
                continue
            left = values_left(left, item, self.options)
            try:
                steps = list(self.checked_items(item, place))
            except TooDeep as problem:
                raise depth_problem(value, problem.place, self.options.max_depth) from None
            below = [(Place(self.rules, place, step), inner) for step, inner in steps]
            stack.extend((at, inner) for at, inner in reversed(below) if not at.ignored)

    def keys(self, leaves: Iterable[Place]) -> Iterator[tuple[Place, str]]:
        """(object, key) above these leaves, of all keys that have a presence atom, each once."""
        if self.options.key_presence:
            places = {above.path(): above for place in leaves for above in place.upwards()}
            yield from ((p.parent, p.step) for p in places.values() if p.parent and isinstance(p.step, str))

    # -- vectors ---------------------------------------------------------------------------------------------------

    def presence(self, key: str, place: Place) -> Num[np.ndarray, " dim"]:
        """w atom(has, key), or its soft form, of an object at `place`; not bound to it."""
        return self.leaves.presence(key, place) * self._dtype.type(self.options.key_presence)

    def leaf(self, value: Any, place: Place) -> Num[np.ndarray, " dim"]:
        """The weighted vector of a leaf, before binding.

        Raises
        ------
        DataError
            If the value cannot be expressed (NaN, a lone surrogate); the message has its path.
        """
        try:
            x = self.leaves.vector(value, place)
        except ValueError as error:
            raise DataError(f"at {place}: {error}") from None
        return x if place.weight == 1.0 else x * self._dtype.type(place.weight)

    def encode(self, value: Any, place: Place | None = None) -> Num[np.ndarray, " dim"]:
        """V(value), before normalisation; for a value that stands at `place`, its part R_p V(value) of the whole.

        Raises
        ------
        TypeError
            If the value holds something that is not JSON; the message has its path.
        DataError
            If a number is not finite, a text is not Unicode, or containers are nested too deep.
        """
        root, bag = place or Place(self.rules), np.zeros(self.options.dim, self._dtype)
        return self.bind(root, self.encode_unbound(value, root, bag)) + bag

    def encode_unbound(
        self, value: Any, root: Place, bag: Num[np.ndarray, " dim"] | None = None
    ) -> Num[np.ndarray, " dim"]:
        """V(value) of a value that stands at `root`, not bound to its path; leaves without path are added to `bag`."""
        bag = np.zeros(self.options.dim, self._dtype) if bag is None else bag
        if root.ignored:
            return np.zeros_like(bag)
        # A generator asks for the vectors of its items; the stack of generators stands in for recursion.
        stack: list[Generator[tuple[Any, Place], Any, np.ndarray]] = [self._value(value, root, bag)]
        vector: Any = None
        left = values_left(self.options.max_values, value, self.options)
        while stack:
            try:
                request = stack[-1].send(vector)
            except StopIteration as finished:
                stack.pop()
                vector = finished.value
            except TooDeep as problem:
                raise depth_problem(value, problem.place, self.options.max_depth) from None
            else:
                left = values_left(left, request[0], self.options)
                stack.append(self._value(request[0], request[1], bag))
                vector = None
        return vector

    def _value(self, value: Any, place: Place, bag: np.ndarray) -> Generator[tuple[Any, Place], np.ndarray, np.ndarray]:
        value = plain(value, self.options.default, place)
        if not isinstance(value, dict | list) or not value:
            x = self.leaf(value, place)
            bag += x * self._dtype.type(self.options.path_backoff)
            return x
        total = yield from self._object(value, place) if isinstance(value, dict) else self._array(value, place)
        if self.options.level_norm == "unit" and (norm := np.linalg.norm(total)) > 0:
            total = total * self._dtype.type(math.sqrt(self.options.dim) / norm)
        return total

    def _object(self, value: dict, place: Place) -> Generator[tuple[Any, Place], np.ndarray, np.ndarray]:
        total = np.zeros(self.options.dim, self._dtype)
        for key, item in self.checked_items(value, place):
            below = Place(self.rules, place, key)
            if below.ignored:
                continue
            total = total + self.key_operator(key).apply((yield item, below))  # pyright: ignore[reportArgumentType]
            if self.options.key_presence:
                total = total + self.presence(key, place)  # pyright: ignore[reportArgumentType]
        return total

    def _array(self, value: list, place: Place) -> Generator[tuple[Any, Place], np.ndarray, np.ndarray]:
        sequence = bag = np.zeros(self.options.dim, self._dtype)
        arrays, next_item = self.options.arrays, self.sequence_operator(1)
        for index, item in reversed(list(self.checked_items(value, place))):
            below = Place(self.rules, place, index)
            x = np.zeros(self.options.dim, self._dtype) if below.ignored else (yield item, below)
            sequence = sequence if arrays == "bag" else next_item.apply(x + sequence)
            bag = bag + x
        total = {"sequence": sequence, "bag": bag}.get(arrays)
        return self.array_operator().apply((sequence + bag) * self._half if total is None else total)


def plain(value: Any, default: Callable[[Any], Any] | None, place: Place) -> Any:
    """`value` as a type of JSON in Python: NumPy scalars and tuples are converted, the rest goes through `default`.

    Raises
    ------
    TypeError
        If the value is not JSON; the message has its path and type.
    """
    converted = _plain(value)
    if converted is _NOT_JSON and default is not None:
        converted = _plain(default(value))
    if converted is _NOT_JSON:
        raise ArgumentTypeError(
            f"at {place}: {type(value).__module__}.{type(value).__qualname__} is not a JSON type; convert it, or pass "
            "default=function that turns such a value into JSON."
        )
    return converted


_NOT_JSON = object()


def _plain(value: Any) -> Any:
    if type(value) in (*SCALARS, dict, list):
        return value
    if isinstance(value, np.generic):
        scalar: Any = value.item()
        return scalar if isinstance(scalar, SCALARS) else _NOT_JSON
    bases: tuple[tuple[Any, Callable[[Any], Any]], ...]
    bases = ((str, str.__str__), (int, int), (float, float), (dict, dict), (list | tuple, list))
    for kind, convert in bases:
        if isinstance(value, kind):
            return convert(value)
    return _NOT_JSON


def checked_key(key: Any, place: Place) -> str:
    """A key of an object in NFC."""
    if not isinstance(key, str):
        raise ArgumentTypeError(
            f"at {place}: the key {key!r} has type {type(key).__name__}; JSON keys are texts: use str(key)."
        )
    try:
        key.encode()
    except UnicodeEncodeError:
        raise DataError(f"at {place}: the key {key!r:.60} holds a lone surrogate, which is not Unicode text.") from None
    return nfc(str.__str__(key))


def values_left(left: int, value: Any, options: Options) -> int:
    """How many values a document may still have, after those of one that it holds.

    Raises
    ------
    DataError
        If there are more.
    """
    left -= len(value) if isinstance(value, dict | list | tuple) else 0
    if left < 0:
        raise DataError(
            f"it has more than max_values={options.max_values} values, which one vector cannot hold; leave parts of it "
            "out, make several documents of it, or raise that bound."
        )
    return left


class TooDeep(Exception):
    """Raised inside a document; `depth_problem` says why."""

    def __init__(self, place: Place) -> None:
        self.place = place


def depth_problem(document: Any, place: Place, max_depth: int) -> DataError:
    """What to tell about a document that is too deep: whether a container holds itself."""
    cycle = find_cycle(document)
    if cycle is not None:
        return DataError(
            f"at {format_path(cycle)}: a container holds itself, which JSON cannot express; break the cycle."
        )
    return DataError(
        f"at {place!s:.60}...: containers are nested deeper than max_depth={max_depth}; raise max_depth, "
        "or flatten the document."
    )


def find_cycle(document: Any) -> Path | None:
    """The path of a container that is one of the containers around it; None if there is none."""
    open_containers: set[int] = set()
    finished: set[int] = set()
    stack: list[tuple[Any, Path, bool]] = [(document, (), False)]
    while stack:
        value, path, leaving = stack.pop()
        if not isinstance(value, dict | list | tuple) or id(value) in finished:
            continue
        if leaving:
            open_containers.discard(id(value))
            finished.add(id(value))
        elif id(value) in open_containers:
            return path
        else:
            open_containers.add(id(value))
            stack.append((value, path, True))
            items = value.items() if isinstance(value, dict) else enumerate(value)
            stack.extend((item, (*path, step), False) for step, item in items)
    return None
