"""A search among the records of a run, each hit with the paths that make it near."""

from __future__ import annotations

import json
from itertools import islice
from typing import Any

from linmap.data.records import parse_json, read_records
from linmap.errors import DataError, UsageError
from linmap.recipes.matches import path_and_value
from linmap.recipes.mbat.apply import PATIENTS, layout_of
from linmap.recipes.mbat.flags import Apply
from linmap.recipes.view import Asked, Seen, text
from linmap.retrieve.mbat import MISSING, RecordIndex, RecordMatch, explanation

NAMED = 300
"""Records that can be chosen."""
HITS, REASONS = 5, 6
LETTERS = 12_000
"""Of what is looked for, and of a record that is shown."""


class SearchView:
    """The records that a run encoded, or the embedded patients."""

    def __init__(self, seen: Seen) -> None:
        records = seen.data or PATIENTS
        where = records
        if seen.words:
            found = [path for path in seen.place.rglob("vectors.parquet") if path.is_file()]
            if not found:
                raise UsageError("This run wrote no single file of vectors; a run of one file of records has a search.")
            where = found[0]
        self.index = RecordIndex(where, records=records)
        layout = layout_of(seen.settings(Apply))
        self.ids = list(dict.fromkeys(record.id for record in islice(read_records(records, layout), NAMED)))

    def start(self) -> dict[str, Any]:
        """The names of the records, and what is near to the first."""
        return {"ids": self.ids, "records": len(self.index), **self.answer({"id": self.ids[0]})}

    def answer(self, asked: Asked) -> dict[str, Any]:
        """What is nearest to the record with an `id`, to a part of a record (`like`, JSON) or to a value `at` a path
        (PATH=VALUE)."""
        if at := text(asked, "at", LETTERS).strip():
            hits = self.index.with_values(dict([path_and_value(at)]), HITS)
        elif like := text(asked, "like", LETTERS).strip():
            try:
                document = parse_json(like)
            except DataError as error:
                raise UsageError(f"This is no JSON: {error}") from None
            hits = self.index.like(document, HITS)
        else:
            hits = self.index.like_record(text(asked, "id", LETTERS), HITS)
        return {"hits": [_told(hit) for hit in hits]}


def _told(hit: RecordMatch) -> dict[str, Any]:
    """A hit with its reasons; values as JSON text."""
    why = explanation(hit, REASONS)
    document = None if hit.document is MISSING else _json(hit.document, 2)
    because = why.get("because", [])
    if isinstance(because, list):
        because = [one | {"query": _json(one["query"]), "match": _json(one["match"])} for one in because]
    rest = {name: why[name] for name in ("other_paths", "crosstalk") if name in why}
    return {"id": hit.id, "cosine": float(hit.cosine), "because": because, "document": document, **rest}


def _json(value: Any, indent: int | None = None) -> str:
    written = json.dumps(value, ensure_ascii=False, indent=indent)
    return written if len(written) <= LETTERS else f"{written[:LETTERS]} …"
