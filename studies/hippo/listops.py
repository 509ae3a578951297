"""ListOps (Nangia and Bowman, 2018) by the rules of the Long Range Arena: nested list operations on digits.

A tree is drawn depth by depth for thousands of trees at once; siblings lie beside each other in their level, so that
arguments are contiguous segments. Trees become token sequences in depth-first order.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from linmap.errors import ArgumentError

OPERATORS = ("[MIN", "[MAX", "[MED", "[SM")
DIGITS = tuple("0123456789")
SPECIAL = ("<pad>", "<unk>", "<eos>")
VOCABULARY = (*SPECIAL, *DIGITS, *OPERATORS, "]")
PAD, UNKNOWN, END = range(3)
ZERO = VOCABULARY.index("0")
FIRST_OPERATOR, CLOSE = VOCABULARY.index("[MIN"), VOCABULARY.index("]")
ID = {token: number for number, token in enumerate(VOCABULARY)}
P_DIGIT = 0.75
FOREST = 4096  # trees drawn at once
BARREN = 10  # forests without a new tree, after which there are hardly more


@dataclass(frozen=True)
class ListOps:
    """Distinct trees as token sequences, and what each evaluates to."""

    tokens: list[np.ndarray]
    """Indices into `VOCABULARY`, one array per tree, without the end mark."""
    labels: Int[np.ndarray, " trees"]
    """0 to 9."""

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, part: slice) -> ListOps:
        return ListOps(self.tokens[part], self.labels[part])

    @property
    def majority(self) -> float:
        """Accuracy of always answering the most frequent label."""
        return float(np.bincount(self.labels).max() / len(self))


class Level(NamedTuple):
    """The nodes of one depth in all trees."""

    token: np.ndarray
    arguments: np.ndarray
    """Number of children in the next level; 0 for a digit."""


def generate_listops(
    samples: int,
    *,
    min_length: int = 500,
    max_length: int = 2000,
    max_depth: int = 10,
    max_args: int = 10,
    seed: int = 0,
) -> ListOps:
    """Distinct random trees of `min_length` < length < `max_length`; the length counts digits, and 2 per operator.

    A node is a digit with probability 3/4, and always at `max_depth` (the root has depth 1); otherwise one of four
    operators on 2 to `max_args` nodes, all choices uniform. The Long Range Arena's setting is the default with 100,000
    samples; `min_length=10, max_length=128` is a small version.

    Raises
    ------
    ValueError
        If a setting is out of its range, or no tree can have such a length.
    """
    _check(samples, min_length, max_length, max_depth, max_args)
    rng = np.random.default_rng(seed)
    found: dict[bytes, int] = {}
    barren = 0
    while len(found) < samples:
        before = len(found)
        for tokens, value in _forest(rng, min_length, max_length, max_depth, max_args):
            found.setdefault(tokens.tobytes(), value)
        barren = barren + 1 if len(found) == before else 0
        if barren == BARREN:
            raise ArgumentError(
                f"{BARREN * FOREST:,} trees brought none with {min_length} < length < {max_length} beyond "
                f"{len(found)}; widen the range of lengths, raise max_depth (now {max_depth}), or ask for fewer than "
                f"{samples}."
            )
    kept = list(found.items())[:samples]
    return ListOps([np.frombuffer(tokens, np.int64) for tokens, _ in kept], np.array([value for _, value in kept]))


def split_listops(data: ListOps, validation: int = 2000, test: int = 2000) -> tuple[ListOps, ListOps, ListOps]:
    """Training, validation and test trees; the last ones are held out (trees are in random order)."""
    if validation < 0 or test < 0 or validation + test >= len(data):
        raise ArgumentError(
            f"validation = {validation} and test = {test} leave nothing of {len(data)} trees to train on."
        )
    ends = (0, len(data) - validation - test, len(data) - test, len(data))
    training, held_out, last = (data[slice(*span)] for span in pairwise(ends))
    return training, held_out, last


def evaluate(tokens: Sequence[str] | np.ndarray) -> int:
    """The value of one tree, given as tokens or as indices into `VOCABULARY`.

    MIN, MAX; MED, the median with .5 cut off; SM, the sum modulo 10.

    Raises
    ------
    ValueError
        If the tokens are not one whole tree.
    """
    stack: list[tuple[str, list[int]]] = [("", [])]
    for position, token in enumerate(tokens):
        token = token if isinstance(token, str) else VOCABULARY[int(token)]
        if token in OPERATORS:
            stack.append((token, []))
        elif token == "]":
            operator, arguments = stack.pop()
            if not arguments or not stack:
                raise ArgumentError(f"token {position}: ']' closes an operator without arguments, or none at all.")
            stack[-1][1].append(_apply(operator, arguments))
        elif token in DIGITS:
            stack[-1][1].append(int(token))
        else:
            raise ArgumentError(f"token {position}: {token!r} is no part of a tree.")
    if len(stack) > 1 or len(stack[0][1]) != 1:
        raise ArgumentError(f"the tokens are not one whole tree: {len(stack) - 1} operators are open at the end.")
    return stack[0][1][0]


def tokenise(text: str) -> Int[np.ndarray, " tokens"]:
    """Indices of the tokens of a text, separated by spaces; parentheses are dropped, other words are `<unk>`."""
    words = [word for word in text.split() if word not in ("(", ")")]
    return np.array([ID.get(word, UNKNOWN) for word in words], np.int64)


def as_text(tokens: Int[np.ndarray, " tokens"]) -> str:
    """The tokens with spaces between them."""
    return " ".join(VOCABULARY[token] for token in tokens)


def pad_tokens(
    sequences: Sequence[np.ndarray], max_length: int = 2048
) -> tuple[Int[Tensor, "trees length"], Int[Tensor, " trees"]]:
    """Sequences with `<eos>` at their end, cut at `max_length` and padded on the right, and their lengths."""
    ended = [np.append(tokens, END)[:max_length] for tokens in sequences]
    lengths = torch.tensor([len(tokens) for tokens in ended])
    return torch.nn.utils.rnn.pad_sequence([torch.from_numpy(t) for t in ended], batch_first=True), lengths


def one_hot(sequences: Sequence[np.ndarray], max_length: int = 2048) -> list[np.ndarray]:
    """Each sequence with `<eos>` as float32 (length, 18): a series with a channel per word of the vocabulary."""
    rows = np.eye(len(VOCABULARY), dtype=np.float32)
    return [rows[np.append(tokens, END)[:max_length]] for tokens in sequences]


# -- trees -----------------------------------------------------------------------------------------------------------


def _forest(
    rng: np.random.Generator, min_length: int, max_length: int, max_depth: int, max_args: int
) -> Iterator[tuple[np.ndarray, int]]:
    """Tokens and value of those of `FOREST` random trees that have the right length."""
    levels = _grow(rng, max_depth, max_args)
    lengths = _lengths(levels)
    values = _values(levels)
    tokens, starts = _depth_first(levels, lengths)
    for tree in np.flatnonzero((min_length < lengths[0]) & (lengths[0] < max_length)):
        yield tokens[starts[tree] : starts[tree] + lengths[0][tree]], int(values[tree])


def _grow(rng: np.random.Generator, max_depth: int, max_args: int) -> list[Level]:
    levels, nodes = [], FOREST
    for depth in range(1, max_depth + 1):
        inner = rng.random(nodes) >= P_DIGIT if depth < max_depth else np.zeros(nodes, bool)
        operator = rng.integers(FIRST_OPERATOR, FIRST_OPERATOR + len(OPERATORS), nodes)
        token = np.where(inner, operator, rng.integers(ZERO, ZERO + 10, nodes))
        arguments = np.where(inner, rng.integers(2, max_args + 1, nodes), 0)
        levels.append(Level(token, arguments))
        nodes = int(arguments.sum())
        if nodes == 0:
            break
    return levels


def _lengths(levels: list[Level]) -> list[np.ndarray]:
    """Tokens of the subtree below each node, by level."""
    lengths = [np.ones(len(levels[-1].token), np.int64)]
    for level in reversed(levels[:-1]):
        here = np.ones(len(level.token), np.int64)
        inner, segments = _segments(level)
        here[inner] = 2 + np.add.reduceat(lengths[0], segments)
        lengths.insert(0, here)
    return lengths


def _values(levels: list[Level]) -> np.ndarray:
    """The value of each root."""
    values = levels[-1].token - ZERO
    for level in reversed(levels[:-1]):
        here = level.token - ZERO
        inner, segments = _segments(level)
        counts = level.arguments[inner]
        order = np.lexsort((values, np.repeat(np.arange(len(inner)), counts)))
        middle = values[order]
        smallest, largest = np.minimum.reduceat(values, segments), np.maximum.reduceat(values, segments)
        median = (middle[segments + (counts - 1) // 2] + middle[segments + counts // 2]) // 2
        results = np.stack([smallest, largest, median, np.add.reduceat(values, segments) % 10])
        here[inner] = results[level.token[inner] - FIRST_OPERATOR, np.arange(len(inner))]
        values = here
    return values


def _depth_first(levels: list[Level], lengths: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """All trees' tokens one after the other, and where each tree starts."""
    starts = np.cumsum(lengths[0]) - lengths[0]
    tokens = np.empty(lengths[0].sum(), np.int64)
    position = starts
    for depth, level in enumerate(levels):
        tokens[position] = level.token
        inner, segments = _segments(level)
        tokens[position[inner] + lengths[depth][inner] - 1] = CLOSE
        if depth + 1 < len(levels):
            before = np.cumsum(lengths[depth + 1]) - lengths[depth + 1]  # tokens of all nodes to the left in the level
            first = position[inner] + 1 - before[segments]
            position = before + np.repeat(first, level.arguments[inner])
    return tokens, starts


def _segments(level: Level) -> tuple[np.ndarray, np.ndarray]:
    """The operators of a level, and where the arguments of each begin in the next one."""
    inner = np.flatnonzero(level.arguments)
    return inner, np.cumsum(level.arguments[inner]) - level.arguments[inner]


def _apply(operator: str, arguments: list[int]) -> int:
    match operator:
        case "[MIN":
            return min(arguments)
        case "[MAX":
            return max(arguments)
        case "[MED":
            return int(np.median(arguments))
        case _:
            return sum(arguments) % 10


def _check(samples: int, min_length: int, max_length: int, max_depth: int, max_args: int) -> None:
    if samples < 1:
        raise ArgumentError(f"samples must be at least 1, got {samples}.")
    if not 0 <= min_length < max_length - 1:
        raise ArgumentError(f"no length lies between min_length = {min_length} and max_length = {max_length}.")
    if max_depth < 2 or max_args < 2:
        raise ArgumentError(f"max_depth and max_args must be at least 2, got {max_depth} and {max_args}.")
