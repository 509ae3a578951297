"""What `JSONVectorizer.fit` learns: the distribution of the numbers at each path, and how rare its parts are."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from jaxtyping import Float

from linmap.errors import DataError
from linmap.retrieve.mbat.encoding import Encoder
from linmap.retrieve.mbat.leaves import canonical_number, key_parts, leaf_parts
from linmap.retrieve.mbat.options import collapsed_path
from linmap.retrieve.mbat.paths import Place
from linmap.retrieve.mbat.rarity import Part, Rarity

QUANTILE_KNOTS = 1000  # at most so many values are kept of each path's distribution


def learn(encoder: Encoder, documents: Iterable[Any]) -> tuple[dict[str, np.ndarray], Rarity]:
    """The knots of each path (numbers="quantile") and the document frequencies (idf > 0); a single pass.

    Raises
    ------
    DataError
        If a number is NaN or infinite; the message has its path.
    """
    values: dict[str, list[float]] = {}
    rarity = Rarity()
    for number, document in enumerate(documents):
        leaves = _leaves(encoder, document, number)
        for place, value in leaves:
            if isinstance(value, int | float) and not isinstance(value, bool):
                try:
                    canonical_number(value)
                except ValueError as error:
                    raise DataError(f"document {number}, at {place}: {error}") from None
                if encoder.options.numbers == "quantile":
                    values.setdefault(collapsed_path(place), []).append(float(value))
        if encoder.options.idf:
            rarity.add(_parts(encoder, leaves))
    return {path: _knots(seen) for path, seen in values.items()}, rarity


def _leaves(encoder: Encoder, document: Any, number: int) -> list[tuple[Place, Any]]:
    try:
        return list(encoder.walk(document))
    except DataError as error:
        raise DataError(f"document {number}, {error}") from None


def _parts(encoder: Encoder, leaves: list[tuple[Place, Any]]) -> Iterator[tuple[str, Part]]:
    """All parts of a document with their paths: those of its leaves, and of its keys where they are encoded."""
    for place, value in leaves:
        yield from ((collapsed_path(place), part) for part in leaf_parts(value, encoder.options))
    for above, key in encoder.keys(place for place, _ in leaves):
        yield from ((collapsed_path(above), part) for part, _ in key_parts(key, encoder.options))


def _knots(values: list[float]) -> Float[np.ndarray, " knots"]:
    """The sorted values of a path, thinned to evenly spaced ranks where there are many."""
    ordered = np.sort(np.array(values))
    if len(ordered) <= QUANTILE_KNOTS:
        return ordered
    return ordered[np.linspace(0, len(ordered) - 1, QUANTILE_KNOTS).round().astype(np.intp)]
