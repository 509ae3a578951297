"""Vectors of the leaves of a document: literals, strings, numbers (exact, soft, quantile, thermometer), dates."""

from __future__ import annotations

import datetime
import math
import re
from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Float, Num

from linmap.errors import ArgumentError
from linmap.retrieve.mbat.codebook import Codebook, LeastRecentlyUsed
from linmap.retrieve.mbat.options import Options, collapsed_path
from linmap.retrieve.mbat.paths import Place, nfc
from linmap.retrieve.mbat.rarity import DATE, EMBEDDED, NUMBER, Part

EXACT_INTEGER = 2**53  # beyond it a float may stand for several integers
ASINH_OFFSET, ASINH_RANGE = 14.5, 29.0  # asinh(±1e6) = ±14.5
FIRST_DAY, LAST_DAY = datetime.date(1900, 1, 1).toordinal(), datetime.date(2100, 1, 1).toordinal()
_WORD = re.compile(r"\w+")
_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
_KEY_WORD = re.compile(r"[^\W_]+")
_DATE = re.compile(r"\d{4}-\d{2}-\d{2}(?:[T ]\d{2}:\d{2}(?::\d{2}(?:\.\d+)?)?(?:Z|[+-]\d{2}:?\d{2})?)?")


def canonical_number(value: int | float) -> str:
    """The token of a number: 1 and 1.0 are "1", big integers keep all their digits, -0.0 is "0".

    Raises
    ------
    ValueError
        If the number is NaN or infinite, or has more digits than Python writes out.
    """
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ArgumentError(f"the number {value} is not JSON; put null, leave the field out, or use a text.")
        if value.is_integer() and abs(value) < EXACT_INTEGER:
            value = int(value)
    return repr(value)


def word_tokens(text: str) -> list[str]:
    """Words without case, in order, repeats kept."""
    return _WORD.findall(text.casefold())


def character_trigrams(text: str) -> list[str]:
    """The 3-grams of ^text$."""
    framed = f"^{text}$"
    return [framed[i : i + 3] for i in range(len(framed) - 2)]


def string_tokens(text: str, strings: Any) -> tuple[str, list[str]]:
    """(kind, tokens) of what strings have in common: their words, or their trigrams; none for strings="exact"."""
    if strings == "exact":
        return "word", []
    return ("ngram", character_trigrams(text)) if strings == "ngrams" else ("word", word_tokens(text))


def key_words(key: str) -> list[str]:
    """The words of a key, without case: birthDate, birth_date and birth-date are all birth, date."""
    return _KEY_WORD.findall(_CAMEL.sub(" ", key).casefold())


def leaf_parts(value: Any, options: Options) -> list[Part]:
    """The parts of a leaf that are counted for their rarity."""
    if isinstance(value, str):
        if options.dates and date_position(value) is not None:
            return [DATE]
        if callable(options.strings):
            return [EMBEDDED]
        kind, tokens = string_tokens(nfc(value), options.strings)
        exact = [("str", nfc(value))] if options.strings == "mixed" or not tokens else []
        return [*exact, *((kind, token) for token in tokens)]
    if isinstance(value, int | float) and not isinstance(value, bool):
        return [("num", canonical_number(value)) if options.numbers == "exact" else NUMBER]
    return [("lit", literal_token(value))]


def key_parts(key: str, options: Options) -> list[tuple[Part, float]]:
    """The atoms that "has this key" is the weighted sum of, before key_presence.

    sqrt(1 - s) atom(has, key) + sqrt(s / n) sum of atom(has.word, t) over the n words t of the key, s = soft_keys:
    two keys have the expected inner product ((1 - s) [same key] + s common / sqrt(n n')) D.
    """
    exact: Part = ("has", key)
    words = key_words(key) if options.soft_keys else []
    if not words:
        return [(exact, 1.0)]
    share = math.sqrt(options.soft_keys / len(words))
    soft: list[tuple[Part, float]] = [(("has.word", word), share) for word in words]
    return soft if options.soft_keys == 1 else [(exact, math.sqrt(1 - options.soft_keys)), *soft]


def literal_token(value: Any) -> str:
    """null, true, false, {} or []."""
    if isinstance(value, dict | list):
        return "{}" if isinstance(value, dict) else "[]"
    return {None: "null", True: "true", False: "false"}[value]


def asinh_position(value: int | float) -> float:
    """u = clip((asinh(v) + 14.5) / 29, 0, 1): logarithmic far from zero, linear near it."""
    return _clip((math.asinh(_as_float(value)) + ASINH_OFFSET) / ASINH_RANGE)


def date_position(text: str) -> float | None:
    """Days since 1900 as a fraction of 1900-2100, with the time of day; None if `text` is no ISO-8601 date."""
    if not _DATE.fullmatch(text):
        return None
    try:
        moment = datetime.datetime.fromisoformat(text)
    except ValueError:
        return None
    day = moment.toordinal() + (moment.hour * 3600 + moment.minute * 60 + moment.second) / 86_400
    return _clip((day - FIRST_DAY) / (LAST_DAY - FIRST_DAY))


def number_position(value: int | float, place: Place, options: Options) -> float:
    """u in [0, 1]: where a number stands on the scale that the options choose for its path."""
    if options.numbers == "quantile":
        knots = options.quantiles_at(place)
        if knots is not None:
            return empirical_position(_as_float(value), knots)
    if options.linear_scale is None:
        return asinh_position(value)
    low, high = options.linear_scale
    return _clip((_as_float(value) - low) / (high - low))


def empirical_position(value: float, knots: np.ndarray) -> float:
    """The empirical distribution function, half of the ties counted, linear between the sorted `knots`."""
    below, upto = np.searchsorted(knots, value, "left"), np.searchsorted(knots, value, "right")
    if below < upto:
        return float((below + upto) / (2 * len(knots)))
    if below in (0, len(knots)):
        return float(below / len(knots))
    left, right = float(knots[below - 1]), float(knots[below])
    ties = [empirical_position(knot, knots) for knot in (left, right)]
    return ties[0] + (ties[1] - ties[0]) * (value - left) / (right - left)


class LeafCoder:
    """Leaf value -> vector of norm about sqrt(D).

    Parameters
    ----------
    options
        How strings, numbers and dates are coded.
    codebook
        Source of the atoms.
    """

    def __init__(self, options: Options, codebook: Any) -> None:
        self._options, self._codebook = options, codebook
        self._dtype = options.working_dtype
        dim = options.dim
        order = (
            codebook.level_order() if hasattr(codebook, "level_order") else Codebook(dim, options.seed).level_order()
        )
        self._level_rank = np.empty(dim, np.intp)  # place of each coordinate in the flip order
        self._level_rank[order] = np.arange(dim)
        vectors = options.cache_bytes // 16 // (dim * self._dtype.itemsize)
        self._cache: LeastRecentlyUsed[tuple, np.ndarray] = LeastRecentlyUsed(vectors)
        self._base = self._plain(("level", ""))
        self._levels: LeastRecentlyUsed[int, np.ndarray] = LeastRecentlyUsed(vectors)

    def vector(self, value: Any, place: Place) -> Num[np.ndarray, " dim"]:
        """The vector of a leaf: null, true, false, {}, [], a string or a number. Read-only."""
        if isinstance(value, str):
            if len(value) > 256 or self._options.idf:  # long texts seldom come twice; rarity differs by path
                return self._string(nfc(value), place)
            return self._cache.get((str, value), lambda: self._string(nfc(value), place))
        if isinstance(value, int | float) and not isinstance(value, bool):
            return self._number(value, place)
        return self._atom(("lit", literal_token(value)), place)

    def presence(self, key: str, place: Place) -> Num[np.ndarray, " dim"]:
        """The vector of "the object at `place` has this key", before key_presence."""
        total = np.zeros(self._options.dim, self._dtype)
        for part, share in key_parts(key, self._options):
            total += self._dtype.type(share) * self._atom(part, place)
        return total

    def level(self, position: float) -> Num[np.ndarray, " dim"]:
        """The level code of u: the base atom with the first m = floor(u D / 2 + 1/2) coordinates negated.

        Two levels have the inner product D (1 - 2 |m - m'| / D) exactly; the extremes are orthogonal.
        """
        m = math.floor(position * self._options.dim / 2 + 0.5)
        return self._levels.get(m, lambda: np.where(self._level_rank < m, -1, 1) * self._base)

    def level_correlations(self, vector: Float[np.ndarray, " dim"]) -> Float[np.ndarray, " levels"]:
        """<vector, L_m> for all levels m = 0..D/2 at once: flipping one more coordinate takes away twice its share."""
        order = np.argsort(self._level_rank)[: self._options.dim // 2]
        shares = vector * self._base
        return shares.sum() - 2 * np.concatenate(([0.0], np.cumsum(shares[order])))

    def _plain(self, part: Part) -> np.ndarray:
        return np.asarray(self._codebook.atom(*part)).astype(self._dtype, copy=False)

    def _atom(self, part: Part, place: Place) -> np.ndarray:
        return self._weighted(self._plain(part), part, place)

    def _weighted(self, x: np.ndarray, part: Part, place: Place) -> np.ndarray:
        """x times the rarity of the part it is made for, to the power idf."""
        idf = self._options.idf
        return x * self._dtype.type(self._options.rarity.weight(collapsed_path(place), part) ** idf) if idf else x

    def _string(self, text: str, place: Place) -> np.ndarray:
        options, exact = self._options, lambda: self._atom(("str", text), place)
        if options.dates and (position := date_position(text)) is not None:
            return self._weighted(self._blend(self.level(position), ("str", text)), DATE, place)
        if callable(options.strings):
            return self._weighted(self._embedded(text, options.strings), EMBEDDED, place)
        kind, tokens = string_tokens(text, options.strings)
        if not tokens:
            return exact()
        total = np.zeros(options.dim, self._dtype)
        for token in tokens:
            total += self._atom((kind, token), place)
        soft = total / self._dtype.type(math.sqrt(len(tokens)))
        if options.strings != "mixed":
            return soft
        return (exact() + soft) * self._dtype.type(math.sqrt(0.5))

    def _number(self, value: int | float, place: Place) -> np.ndarray:
        exact = ("num", canonical_number(value))
        if self._options.numbers == "exact":
            return self._atom(exact, place)
        position = number_position(value, place, self._options)
        soft = self._thermometer(position) if self._options.numbers == "thermometer" else self.level(position)
        return self._weighted(self._blend(soft, exact), NUMBER, place)

    def _thermometer(self, position: float) -> np.ndarray:
        """Sum of the vectors of all thresholds up to the value, scaled to norm sqrt(D)."""
        top = math.floor(position * (self._options.thermometer_levels - 1) + 0.5)
        total = np.zeros(self._options.dim, self._dtype)
        for threshold in range(top + 1):
            total += self._codebook.atom("level", str(threshold))
        return total / self._dtype.type(math.sqrt(top + 1))

    def _blend(self, soft: np.ndarray, exact: Part) -> np.ndarray:
        """sqrt(1 - w) soft + sqrt(w) exact, with w = number_exact: near values are similar, yet not the same."""
        w = self._options.number_exact
        if w == 0:
            return soft
        blended = self._dtype.type(math.sqrt(1 - w)) * soft
        blended += self._dtype.type(math.sqrt(w)) * self._plain(exact)
        return blended

    def _embedded(self, text: str, embed: Callable[[str], Any]) -> np.ndarray:
        """A user's embedding e in R^m through a fixed D x m matrix of ±1/sqrt(m), scaled to norm sqrt(D).

        Column j holds the signs of the atom (embed, j).
        """
        embedding = np.asarray(embed(text), np.float64)
        if embedding.ndim != 1 or not np.isfinite(embedding).all():
            raise ArgumentError(
                f"strings({text!r:.40}) returned an array of shape {embedding.shape}; expected a finite vector."
            )
        total = np.zeros(self._options.dim)
        for j, coefficient in enumerate(embedding):
            total += coefficient * self._codebook.atom("embed", str(j))
        norm = np.linalg.norm(total)
        return (total * (math.sqrt(self._options.dim) / norm) if norm > 0 else total).astype(self._dtype)


def _as_float(value: int | float) -> float:
    try:
        return float(value)
    except OverflowError:  # an integer beyond 1e308
        return math.inf if value > 0 else -math.inf


def _clip(position: float) -> float:
    return min(max(position, 0.0), 1.0)
