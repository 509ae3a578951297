"""What `linmap search` answers: the nearest vectors or records, as JSON."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from linmap.data.arrays import open_rows
from linmap.data.door import read_bytes
from linmap.data.records import parse_json
from linmap.data.vectors import in_memory, open_store
from linmap.errors import DataError, UsageError
from linmap.recipes.search import SearchSettings
from linmap.retrieve.bt2 import EmbeddingUpgrade
from linmap.retrieve.mbat import MISSING, RecordIndex, explanation, parse_path


def nearest_vectors(settings: SearchSettings, path: Path) -> dict[str, Any]:
    """The vectors nearest to those in a file."""
    queries = np.asarray(open_rows(path), np.float32)
    if settings.through is not None:
        queries = np.asarray(EmbeddingUpgrade.load(settings.through).transform_query(queries))
    where = str(settings.index)
    of_file = Path(where).suffix in (".npy", ".parquet")
    with in_memory(where, settings.field) if of_file else open_store(where) as store:
        hits = store.search(queries, settings.top, settings.field)
        matches = [
            {"query": row, "matches": [{"id": hit.id, "score": round(hit.score, 4)} for hit in line]}
            for row, line in enumerate(hits)
        ]
        return {"index": where, "vectors": store.count(settings.field), "queries": matches}


def matching_records(settings: SearchSettings) -> dict[str, Any]:
    """The records nearest to what was asked for, and why."""
    where = str(settings.index)
    values = dict(map(path_and_value, settings.at))
    document = None if settings.like is None else _document(settings.like)
    with RecordIndex(where, settings.field, settings.records, settings.records_at) as index:
        if values:
            found = index.with_values(values, settings.top)
        elif settings.id is not None:
            found = index.like_record(settings.id, settings.top)
        else:
            found = index.like(document, settings.top)
        matches = [
            {"id": match.id, "cosine": round(match.cosine, 4)} | explanation(match, settings.reasons) for match in found
        ]
        answer: dict[str, Any] = {"index": where, "records": len(index), "matches": matches}
        if any(match.document is MISSING for match in found):
            answer["note"] = (
                "the records' file is not where the index was made from: --records FILE says why they match"
            )
        return answer


def path_and_value(text: str) -> tuple[str, Any]:
    """PATH=VALUE; the value is JSON where it can be read so, and else text.

    The path ends at the first = before which it can be read, for quoted keys may hold one.
    """
    parts = text.split("=")
    for end in range(1, len(parts)):
        path, value = "=".join(parts[:end]), "=".join(parts[end:])
        with suppress(ValueError):
            parse_path(path)
            return path, _json_or_text(value)
    try:
        parse_path(parts[0])
        problem = "there is no ="
    except ValueError as error:
        problem = str(error)
    raise UsageError(f"--at takes PATH=VALUE, e.g. address[0].state=Texas, got {text!r}: {problem}")


def _json_or_text(value: str) -> Any:
    try:
        return parse_json(value)
    except DataError:
        return value


def _document(like: str) -> Any:
    path = Path(like)
    is_file = like.endswith(".json") and path.is_file()
    try:
        return parse_json(read_bytes(path) if is_file else like)
    except DataError as error:
        raise UsageError(f"--like {like[:60]!r} is neither JSON text nor the path of a .json file: {error}") from None
