"""Reading a vector: unbind a path, clean up among candidates, explain leaves away, break a cosine down by paths."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Num

from linmap.errors import ArgumentError, ArgumentTypeError, DataError
from linmap.retrieve.mbat.capacity import smallest_significant_z
from linmap.retrieve.mbat.encoding import Encoder
from linmap.retrieve.mbat.leaves import ASINH_OFFSET, ASINH_RANGE
from linmap.retrieve.mbat.paths import Place, format_path, parse_path

FALSE_ALARMS = 1e-3
"""Share of the questions about absent values that are answered all the same."""


class Decoded(NamedTuple):
    """What a vector holds at a path."""

    value: Any
    """The best candidate."""
    score: float
    """<unbound vector, candidate> / D: about the leaf's weight for the right one (before normalisation)."""
    margin: float
    """Lead of the score over the second best candidate; infinite with one candidate."""
    z: float
    """The score in standard deviations of a score by chance."""


def clean_up(
    unbound: Float[np.ndarray, " dim"],
    codes: Num[np.ndarray, "candidates dim"],
    candidates: Sequence[Any],
    false_alarms: float = FALSE_ALARMS,
) -> Decoded | None:
    """The candidate whose code correlates most with an unbound vector; None where chance does as well.

    The score is rejected below z_min = Phi^-1(1 - false_alarms / N).
    """
    dim, norm = len(unbound), np.linalg.norm(unbound)
    if norm == 0:
        return None
    scores = codes @ unbound / dim
    best = int(np.argmax(scores))
    # <v, c> has the standard deviation |v| |c| / sqrt(D) for an independent c; |c| = sqrt(D) for one atom
    z = float(scores[best] * dim / norm * math.sqrt(dim) / np.linalg.norm(codes[best]))
    if z < smallest_significant_z(len(candidates), false_alarms):
        return None
    others = np.delete(scores, best)
    margin = float(scores[best] - others.max()) if len(others) else math.inf
    return Decoded(candidates[best], float(scores[best]), margin, z)


class Decoder:
    """Questions to vectors made under the same options."""

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder

    def get(
        self, vector: np.ndarray, path: Any, candidates: Sequence[Any], false_alarms: float = FALSE_ALARMS
    ) -> Decoded | None:
        place = self._encoder.place(parse_path(path))
        unbound = self._encoder.unbind(place, self._checked(vector))
        candidates = check_candidates(candidates, path)
        return clean_up(unbound, self._codes(place, candidates), candidates, false_alarms)

    def get_number(self, vector: np.ndarray, path: Any) -> Decoded | None:
        """Matched filter over all D/2 + 1 levels; the value is the middle of the best level's interval."""
        options = self._encoder.options
        if options.numbers != "level":
            raise ArgumentError(
                f"get_number reads level codes, but numbers={options.numbers!r}; use get with candidates."
            )
        unbound = self._encoder.unbind(self._encoder.place(parse_path(path)), self._checked(vector))
        correlations = self._encoder.leaves.level_correlations(unbound)
        best, norm = int(np.argmax(correlations)), float(np.linalg.norm(unbound))
        z = float(correlations[best] / norm) if norm > 0 else 0.0
        if z < smallest_significant_z(len(correlations)):
            return None
        position = best / (options.dim // 2)
        if options.linear_scale is None:
            value = math.sinh(position * ASINH_RANGE - ASINH_OFFSET)
        else:
            low, high = options.linear_scale
            value = low + position * (high - low)
        # margin: over the levels that share less than half of their coordinates' signs with the best
        far = np.abs(np.arange(len(correlations)) - best) > options.dim // 4
        margin = (correlations[best] - correlations[far].max()) / options.dim if far.any() else math.inf
        return Decoded(value, float(correlations[best] / options.dim), float(margin), z)

    def decode(self, vector: np.ndarray, schema: Mapping[Any, Sequence[Any]]) -> dict[str, Decoded | None]:
        """Matching pursuit: the most certain path first, its bound leaf taken out, until nothing is significant."""
        if not self._encoder.options.linear:
            raise ArgumentError("decode explains leaves away, which needs level_norm='none'; use get path by path.")
        residual = self._checked(vector)
        questions = {
            format_path(parse_path(path)): (self._encoder.place(parse_path(path)), check_candidates(values, path))
            for path, values in schema.items()
        }
        codes = {path: self._codes(place, values) for path, (place, values) in questions.items()}
        found: dict[str, Decoded | None] = dict.fromkeys(questions)
        while questions:
            answers = {
                path: clean_up(self._encoder.unbind(place, residual), codes[path], values)
                for path, (place, values) in questions.items()
            }
            path, answer = max(answers.items(), key=lambda item: -math.inf if item[1] is None else item[1].z)
            if answer is None:
                break
            found[path] = answer
            place, values = questions.pop(path)
            code = codes[path][next(i for i, value in enumerate(values) if value is answer.value)]
            bound = self._encoder.bind(place, code)
            residual = residual - (residual @ bound) / (bound @ bound) * bound
        return found

    def has(self, vector: np.ndarray, path: Any) -> Decoded | None:
        """Whether a key is there, whatever its value, by its atom (has, key)."""
        if not self._encoder.options.key_presence:
            raise ArgumentError(
                "has reads the atoms that key_presence adds, but key_presence=0; encode with key_presence=1."
            )
        steps = parse_path(path)
        if not steps or not isinstance(steps[-1], str):
            raise ArgumentError(f"path {path!r} must end in a key, for only keys have a presence atom.")
        place = self._encoder.place(steps[:-1])
        unbound = self._encoder.unbind(place, self._checked(vector))
        return clean_up(unbound, self._encoder.presence(steps[-1], place)[None], [True])

    def array_length(self, vector: np.ndarray, path: Any, candidates: Sequence[Any]) -> int:
        """Number of items from the first on whose values are recognised among the candidates; 0 also for []."""
        steps, length = parse_path(path), 0
        while self.get(vector, (*steps, length), candidates) is not None:
            length += 1
        return length

    def _codes(self, place: Place, candidates: Sequence[Any]) -> np.ndarray:
        """The candidates' vectors, as they are found after unbinding; rules by path hold for them as well."""
        codes = np.stack([self._encoder.encode_unbound(value, place) for value in candidates])
        if self._encoder.options.idf:  # a rare candidate must not win by its weight
            codes /= np.linalg.norm(codes, axis=1, keepdims=True) / math.sqrt(codes.shape[1])
        return codes

    def _checked(self, vector: Any) -> np.ndarray:
        vector = np.asarray(vector)
        dim = self._encoder.options.dim
        if vector.shape != (dim,):
            raise ArgumentError(f"vector must have the shape ({dim},), got {vector.shape}; pass one row at a time.")
        if not np.isfinite(vector).all():
            raise ArgumentError("vector holds NaN or infinite entries.")
        return vector.astype(np.float64)


class Contribution(NamedTuple):
    """What one path gives to the cosine of two documents."""

    path: str
    share: float
    """Part of the cosine; all contributions and the crosstalk add up to it."""
    left: list[Any]
    """The first document's values there."""
    right: list[Any]


class Breakdown(NamedTuple):
    """Why two documents are similar."""

    cosine: float
    contributions: list[Contribution]
    """For every path that both documents have, the largest share first."""
    crosstalk: float
    """What leaves at different paths add by chance: 0 on average, with a deviation of about 1/sqrt(D)."""


def similarity_breakdown(encoder: Encoder, left: Any, right: Any) -> Breakdown:
    """The cosine of two documents as a sum over paths; exact, for V is linear in the leaves.

    Items of arrays="bag" or "both" share directions across indices, and are put together under [*].
    """
    if not encoder.options.linear:
        raise ArgumentError(
            "the breakdown is exact only for level_norm='none', where vectors are linear in the leaves."
        )
    parts = [_parts(encoder, document) for document in (left, right)]
    totals = [sum((vector for vector, _ in part.values()), np.zeros(encoder.options.dim)) for part in parts]
    scale = float(np.linalg.norm(totals[0]) * np.linalg.norm(totals[1]))
    if scale == 0:
        raise DataError("a document whose leaves are all ignored has a zero vector, which has no cosine.")
    contributions = [
        Contribution(path, float(vector @ parts[1][path][0]) / scale, values, parts[1][path][1])
        for path, (vector, values) in parts[0].items()
        if path in parts[1]
    ]
    cosine = float(totals[0] @ totals[1]) / scale
    contributions.sort(key=lambda contribution: -contribution.share)
    return Breakdown(cosine, contributions, cosine - sum(contribution.share for contribution in contributions))


def _parts(encoder: Encoder, document: Any) -> dict[str, tuple[np.ndarray, list[Any]]]:
    """Group name -> (sum of its bound vectors, values)."""
    parts: dict[str, tuple[np.ndarray, list[Any]]] = {}

    def add(name: str, vector: np.ndarray, *values: Any) -> None:
        total, seen = parts.get(name, (0, []))
        parts[name] = (total + vector.astype(np.float64), [*seen, *values])

    leaves = list(encoder.walk(document))
    for place, value in leaves:
        x = encoder.leaf(value, place)
        add(encoder.group(place), encoder.bind(place, x), value)
        if encoder.options.path_backoff:
            add("(values wherever they stand)", x * encoder.options.path_backoff, value)
    for above, key in encoder.keys(place for place, _ in leaves):
        name = encoder.group(Place(encoder.rules, above, key))
        add(f"(has {name})", encoder.bind(above, encoder.presence(key, above)))
    return parts


def check_candidates(candidates: Sequence[Any], path: Any) -> list[Any]:
    """Candidates as a list with at least one entry."""
    if isinstance(candidates, str | bytes | Mapping):
        raise ArgumentTypeError(f"candidates for {path!r} must be a list of values, got {type(candidates).__name__}.")
    values = list(candidates)
    if not values:
        raise ArgumentError(f"candidates for {path!r} are empty; give the values that the path may have.")
    return values
