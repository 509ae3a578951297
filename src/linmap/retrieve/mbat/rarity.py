"""How rare each part of a leaf is among the documents that `fit` has seen, and the weights that follow.

A part is (kind, token), the atom it is made with: ("word", "ada"), ("str", "Ada Lovelace"), ("lit", "null"), ("has",
"birth_date"). A soft code stands for a whole neighbourhood of values: all that have one count as the one part NUMBER,
DATE or EMBEDDED. Parts are counted by path, indices replaced by [*].
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from typing import Any, Self

Part = tuple[str, str]
NUMBER: Part = ("num", "")
DATE: Part = ("date", "")
EMBEDDED: Part = ("embed", "")


class Rarity:
    """Document frequencies df of parts by path.

    Parameters
    ----------
    documents
        n, how many documents have been counted.
    counts
        (path, kind, token) -> df.
    """

    def __init__(self, documents: int = 0, counts: Counter[tuple[str, str, str]] | None = None) -> None:
        self.documents, self.counts = documents, Counter() if counts is None else counts

    def add(self, parts: Iterable[tuple[str, Part]]) -> None:
        """Count one document, by all (path, part) in it."""
        self.counts.update({(path, *part) for path, part in parts})
        self.documents += 1

    def weight(self, path: str, part: Part) -> float:
        """1 + log((1 + n) / (1 + df)): 1 for what every document has; a part never seen counts as seen once."""
        return 1.0 + math.log((1 + self.documents) / (1 + max(self.counts[(path, *part)], 1)))

    def as_json(self) -> dict[str, Any]:
        """All that decides a weight: what was seen once need not be written."""
        counts = sorted([*part, count] for part, count in self.counts.items() if count > 1)
        return {"documents": self.documents, "counts": counts}

    @classmethod
    def from_json(cls, written: dict[str, Any]) -> Self:
        return cls(written["documents"], Counter({tuple(part): count for *part, count in written["counts"]}))
