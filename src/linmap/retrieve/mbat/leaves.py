"""Vectors of the leaves of a document: literals, strings, numbers (exact, soft, quantile, thermometer), dates."""

from __future__ import annotations

import datetime
import math
import re
from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Float, Num

from linmap.retrieve.mbat.codebook import Codebook, LeastRecentlyUsed
from linmap.retrieve.mbat.options import Options
from linmap.retrieve.mbat.paths import Place, nfc

EXACT_INTEGER = 2**53  # beyond it a float may stand for several integers
ASINH_OFFSET, ASINH_RANGE = 14.5, 29.0  # asinh(±1e6) = ±14.5
FIRST_DAY, LAST_DAY = datetime.date(1900, 1, 1).toordinal(), datetime.date(2100, 1, 1).toordinal()
_WORD = re.compile(r"\w+")
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
            raise ValueError(f"the number {value} is not JSON; put null, leave the field out, or use a text.")
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
        self._levels: LeastRecentlyUsed[int, np.ndarray] = LeastRecentlyUsed(vectors)

    def vector(self, value: Any, place: Place) -> Num[np.ndarray, " dim"]:
        """The vector of a leaf: null, true, false, {}, [], a string or a number. Read-only."""
        if isinstance(value, str):
            if len(value) > 256:  # long texts seldom come twice
                return self._string(nfc(value))
            return self._cache.get((str, value), lambda: self._string(nfc(value)))
        if isinstance(value, bool) or value is None:
            return self._atom("lit", {None: "null", True: "true", False: "false"}[value])
        if isinstance(value, int | float):
            return self._number(value, place)
        return self._atom("lit", "{}" if isinstance(value, dict) else "[]")

    def level(self, position: float) -> Num[np.ndarray, " dim"]:
        """The level code of u: the base atom with the first m = floor(u D / 2 + 1/2) coordinates negated.

        Two levels have the inner product D (1 - 2 |m - m'| / D) exactly; the extremes are orthogonal.
        """
        m = math.floor(position * self._options.dim / 2 + 0.5)
        return self._levels.get(m, lambda: np.where(self._level_rank < m, -1, 1) * self._atom("level", ""))

    def level_correlations(self, vector: Float[np.ndarray, " dim"]) -> Float[np.ndarray, " levels"]:
        """<vector, L_m> for all levels m = 0..D/2 at once: flipping one more coordinate takes away twice its share."""
        order = np.argsort(self._level_rank)[: self._options.dim // 2]
        shares = vector * self._atom("level", "")
        return shares.sum() - 2 * np.concatenate(([0.0], np.cumsum(shares[order])))

    def _atom(self, kind: str, token: str) -> np.ndarray:
        return np.asarray(self._codebook.atom(kind, token)).astype(self._dtype, copy=False)

    def _string(self, text: str) -> np.ndarray:
        options, exact = self._options, lambda: self._atom("str", text)
        if options.dates and (position := date_position(text)) is not None:
            return self._blend(self.level(position), exact)
        if callable(options.strings):
            return self._embedded(text, options.strings)
        if options.strings == "exact":
            return exact()
        kind, tokens = (
            ("ngram", character_trigrams(text)) if options.strings == "ngrams" else ("word", word_tokens(text))
        )
        if not tokens:
            return exact()
        total = np.zeros(options.dim, self._dtype)
        for token in tokens:
            total += self._codebook.atom(kind, token)
        soft = total / self._dtype.type(math.sqrt(len(tokens)))
        if options.strings != "mixed":
            return soft
        return (exact() + soft) * self._dtype.type(math.sqrt(0.5))

    def _number(self, value: int | float, place: Place) -> np.ndarray:
        token = canonical_number(value)
        options, exact = self._options, lambda: self._atom("num", token)
        if options.numbers == "exact":
            return exact()
        position = number_position(value, place, options)
        if options.numbers == "thermometer":
            return self._blend(self._thermometer(position), exact)
        return self._blend(self.level(position), exact)

    def _thermometer(self, position: float) -> np.ndarray:
        """Sum of the vectors of all thresholds up to the value, scaled to norm sqrt(D)."""
        top = math.floor(position * (self._options.thermometer_levels - 1) + 0.5)
        total = np.zeros(self._options.dim, self._dtype)
        for threshold in range(top + 1):
            total += self._codebook.atom("level", str(threshold))
        return total / self._dtype.type(math.sqrt(top + 1))

    def _blend(self, soft: np.ndarray, exact: Callable[[], np.ndarray]) -> np.ndarray:
        """sqrt(1 - w) soft + sqrt(w) exact, with w = number_exact: near values are similar, yet not the same."""
        w = self._options.number_exact
        if w == 0:
            return soft
        blended = self._dtype.type(math.sqrt(1 - w)) * soft
        blended += self._dtype.type(math.sqrt(w)) * exact()
        return blended

    def _embedded(self, text: str, embed: Callable[[str], Any]) -> np.ndarray:
        """A user's embedding e in R^m through a fixed D x m matrix of ±1/sqrt(m), scaled to norm sqrt(D).

        Column j holds the signs of the atom (embed, j).
        """
        embedding = np.asarray(embed(text), np.float64)
        if embedding.ndim != 1 or not np.isfinite(embedding).all():
            raise ValueError(
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
