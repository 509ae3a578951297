"""Where a value stands in a document: key paths, their notations, and rules by path (`ignore`, `weights`).

A path is a tuple of steps: a text for an object's key, an integer (from 0) for an array's item. As text it is written
`patient.address[0].state`, with `["..."]` around keys that hold dots, brackets or quotes, or as a JSON Pointer
(RFC 6901) `/patient/address/0/state`. A leading `$` is the document itself, as in JSONPath: `$.patient` is `patient`;
a key of that name is written `["$"]`. In patterns `*` is any one step, `[*]` any item, `**` any number of steps.
"""

from __future__ import annotations

import enum
import json
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from linmap.errors import ArgumentError, ArgumentTypeError

Step = str | int
Path = tuple[Step, ...]
PathLike = str | Sequence[Step]


class Wildcard(enum.Enum):
    """The steps of a pattern that are no single key or index."""

    STEP = "*"
    ITEM = "[*]"
    STEPS = "**"


Segment = Step | Wildcard

DIGITS = 18
"""Of an index."""
_TOKEN = re.compile(
    r"""\[(?P<index>\d+)\] | (?P<item>\[\*\]) | \[(?P<quoted>"(?:[^"\\]|\\.)*")\] | (?P<dot>\.?)(?P<key>[^.\[\]"]+)""",
    re.VERBOSE,
)


def nfc(text: str) -> str:
    """Unicode normal form C: é is one code point however it was typed."""
    return text if text.isascii() else unicodedata.normalize("NFC", text)


def parse_path(path: PathLike) -> Path:
    """The steps of a path in any of its notations.

    Raises
    ------
    ValueError
        If a text is not in one of the notations.
    TypeError
        If a step is neither a key nor an index.
    """
    if isinstance(path, str):
        return _parse_pointer(path) if path.startswith("/") else tuple(_parse_dotted(path))
    return tuple(_check_step(step, path) for step in path)


def parse_pattern(pattern: PathLike) -> tuple[Segment, ...]:
    """The segments of a path pattern; the same notations, and wildcards."""
    if isinstance(pattern, str) and not pattern.startswith("/"):
        return tuple(_parse_dotted_pattern(pattern))
    return tuple(_wildcard(step) if isinstance(step, str) else step for step in parse_path(pattern))


def format_path(path: Sequence[Segment]) -> str:
    """The dotted notation, which `parse_path` reads back; `$` for the whole document."""
    text = ""
    for step in path:
        if isinstance(step, Wildcard):
            text += step.value if step is Wildcard.ITEM else "." + step.value
        elif isinstance(step, int):
            text += f"[{step}]"
        elif step and not re.search(r'[.\[\]"\\$*/]', step):
            text += "." + step
        else:
            text += f"[{json.dumps(step, ensure_ascii=False)}]"
    return text.removeprefix(".") or "$"


class Place:
    """A position in a document, with what the rules say about it.

    Attributes
    ----------
    parent, step
        The container's place and the step from it; None at the top.
    depth
        Number of steps from the top.
    ignored
        The value here, and all below it, contributes nothing.
    weight
        Factor of a leaf here.
    """

    __slots__ = ("_rank", "_reached", "depth", "ignored", "parent", "step", "weight")

    def __init__(self, rules: PathRules, parent: Place | None = None, step: Step | None = None) -> None:
        self.parent = parent
        self.step: Any = step  # a Step, but at the top
        self.depth = 0 if parent is None else parent.depth + 1
        rules.judge(self)

    def upwards(self) -> Iterator[Place]:
        """This place and its containers up to the top, which is left out."""
        place = self
        while place.parent is not None:
            yield place
            place = place.parent

    def path(self) -> Path:
        return tuple(place.step for place in self.upwards())[::-1]

    def __str__(self) -> str:
        return format_path(self.path())


class PathRules:
    """`ignore` and `weights` patterns as one automaton that walks down with the document.

    A leaf takes the weight of the last pattern in `weights` that matches its path or a container above it.
    """

    def __init__(self, ignore: Sequence[PathLike] = (), weights: Mapping[PathLike, float | int] | None = None) -> None:
        if isinstance(ignore, str):
            raise ArgumentTypeError(
                f"ignore must be a sequence of path patterns, got the text {ignore!r}; write ({ignore!r},)."
            )
        weights = weights or {}
        for pattern, weight in weights.items():
            if isinstance(weight, bool) or not isinstance(weight, int | float) or not abs(weight) < float("inf"):
                raise ArgumentError(f"weights[{pattern!r}] must be a finite number, got {weight!r}.")
        self._patterns = [parse_pattern(pattern) for pattern in (*ignore, *weights)]
        self._n_ignore = len(ignore)
        self._weights = list(weights.values())

    def judge(self, place: Place) -> None:
        """Set the place's `ignored` and `weight` from those of its container."""
        parent = place.parent
        if parent is None:
            reached = self._closure({(i, 0) for i in range(len(self._patterns))})
            ignored, rank = False, -1
        else:
            reached, ignored, rank = parent._reached, parent.ignored, parent._rank  # the common case: no patterns
            if reached:
                reached = self._closure(set(self._advance(reached, place.step)))
        for pattern, position in reached:
            if position == len(self._patterns[pattern]):
                ignored |= pattern < self._n_ignore
                rank = max(rank, pattern - self._n_ignore)
        place._reached, place.ignored, place._rank = reached, ignored, rank
        place.weight = float(self._weights[rank]) if rank >= 0 else 1.0

    def _advance(self, reached: frozenset[tuple[int, int]], step: Step) -> Iterator[tuple[int, int]]:
        for pattern, position in reached:
            if position == len(self._patterns[pattern]):
                continue
            segment = self._patterns[pattern][position]
            if segment is Wildcard.STEPS:
                yield pattern, position
            elif (
                segment is Wildcard.STEP
                or (segment is Wildcard.ITEM and isinstance(step, int))
                or (type(segment) is type(step) and segment == step)
            ):
                yield pattern, position + 1

    def _closure(self, reached: set[tuple[int, int]]) -> frozenset[tuple[int, int]]:
        """`**` also matches no step at all."""
        for pattern, position in list(reached):
            segments = self._patterns[pattern]
            while position < len(segments) and segments[position] is Wildcard.STEPS:
                position += 1
                reached.add((pattern, position))
        return frozenset(reached)


def _parse_dotted(text: str) -> Iterator[Step]:
    for segment in _parse_dotted_pattern(text, wildcards=False):
        assert not isinstance(segment, Wildcard)
        yield segment


def _parse_dotted_pattern(text: str, wildcards: bool = True) -> Iterator[Segment]:
    position = 1 if re.match(r"\$(?:[.\[]|\Z)", text) else 0
    while position < len(text):
        match = _TOKEN.match(text, position)
        starts_right = match is not None and (match["key"] is None or bool(match["dot"]) == (position > 0))
        if match is None or not starts_right or (match["item"] and not wildcards):
            raise ArgumentError(
                f"path {text!r:.80} cannot be read at position {position} ({text[position:][:20]!r}); write a.b[0].c, "
                'put keys with dots or brackets as a["b.c"], or give a tuple of keys and indices.'
            )
        if match["index"]:
            yield _index(match["index"], text)
        elif match["item"]:
            yield Wildcard.ITEM
        elif match["quoted"]:
            yield nfc(_quoted(match["quoted"], text))
        else:
            yield _wildcard(match["key"]) if wildcards else nfc(match["key"])
        position = match.end()


def _parse_pointer(text: str) -> Path:
    """RFC 6901: `~1` is `/`, `~0` is `~`; digits are taken as an array index."""
    steps = [part.replace("~1", "/").replace("~0", "~") for part in text[1:].split("/")]
    return tuple(_index(step, text) if re.fullmatch(r"0|[1-9]\d*", step) else nfc(step) for step in steps)


def _index(digits: str, text: str) -> int:
    if len(digits) > DIGITS:
        raise ArgumentError(f"path {text[:40]!r}... has an index of {len(digits)} digits; no array is as long.")
    return int(digits)


def _quoted(key: str, text: str) -> str:
    try:
        return json.loads(key)
    except ValueError as error:
        raise ArgumentError(f"path {text[:80]!r}: the key {key[:40]} is no text of JSON ({error}).") from None


def _wildcard(step: str) -> Segment:
    return {"*": Wildcard.STEP, "[*]": Wildcard.ITEM, "**": Wildcard.STEPS}.get(step) or nfc(step)


def _check_step(step: Any, path: Any) -> Step:
    if isinstance(step, str):
        return nfc(step)
    if isinstance(step, bool) or not isinstance(step, int) or step < 0:
        raise ArgumentTypeError(f"path {path!r} holds {step!r}; a step is a key (text) or an index from 0.")
    return step
