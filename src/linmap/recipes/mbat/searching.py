"""Records near to a record, to a part of one, or to a value at a path, with the reasons."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from linmap.data.compressed import suffix_of
from linmap.data.records import READERS, Layout, parse_json, read_records
from linmap.data.vectors import VectorFile, VectorStore, open_store
from linmap.data.vectors.folder import read_header
from linmap.data.vectors.store import FIELD
from linmap.errors import ArtifactError, DataError, UsageError
from linmap.recipes.mbat.files import note_inner_records, place_of_records
from linmap.retrieve.mbat import MISSING, JSONVectorizer, format_path, nearest, parse_path

SHOWN_VALUES = 3  # of one path, in the breakdown of a match
RECORDS = tuple(suffix for suffix in READERS if suffix != ".parquet")


class Found(NamedTuple):
    """A record that a search found; where ids may repeat, `row` is its number in the file, and says which it is."""

    id: str
    score: float
    row: int | None = None

    @property
    def key(self) -> int | str:
        return self.id if self.row is None else self.row


@dataclass(frozen=True)
class Index:
    """Encoded records: how many, of which file, and what finds them."""

    vectorizer: JSONVectorizer
    count: int
    source: Path
    layout: Layout
    nearest: Callable[[np.ndarray, int], list[Found]]
    vector: Callable[[str], tuple[np.ndarray, Found]]
    """That of a record, by its id, and the record; UsageError if there is none."""


def search_records(
    where: str,
    like: str | None,
    name: str | None,
    at: tuple[str, ...],
    records: Path | None,
    top: int,
    reasons: int,
    field: str = FIELD,
    records_at: str | None = None,
) -> dict[str, Any]:
    """The nearest records by cosine, and which paths make them so."""
    if sum((like is not None, name is not None, bool(at))) != 1:
        raise UsageError("give what to look for: one of --like JSON, --id ID and --at PATH=VALUE.")
    if top < 1:
        raise UsageError(f"--top must be at least 1, got {top}.")
    index = open_index(where, field, place_of_records(records_at))
    document, asked, values = None, None, [value_at(text) for text in at]
    if like is not None:
        document = _query_document(like)
        query = index.vectorizer.transform([document], parse=False)[0]
    elif name is not None:
        query, asked = index.vector(name)
    else:
        query = partial_query(index.vectorizer, values)
    wanted = top + (asked is not None)
    found = [hit for hit in index.nearest(query, wanted) if asked is None or hit.key != asked.key][:top]
    told = found if asked is None else [*found, asked]
    source = records or index.source
    documents = _documents(source, index.layout, told) if records or source.exists() else {}
    if asked is not None and documents:
        document = documents[asked.key]

    def why(hit: Found) -> dict[str, Any]:
        if not documents:
            return {}
        if values:
            return {"because": [_compared(path, value, documents[hit.key]) for path, value in values]}
        return breakdown(index.vectorizer, document, documents[hit.key], reasons)

    matches = [{"id": hit.id, "cosine": round(hit.score, 4)} | why(hit) for hit in found]
    answer: dict[str, Any] = {"index": where, "records": index.count, "matches": matches}
    if not documents:
        answer["note"] = "the records' file is not where the index was made from: --records FILE says why they match"
    return answer


def partial_query(vectorizer: JSONVectorizer, values: Iterable[tuple[str, Any]]) -> np.ndarray:
    """The unit vector of a document of which only the values at some paths are known: the sum of their bound leaves."""
    if vectorizer.level_norm != "none":
        raise UsageError("--at adds up leaves, which level_norm=unit does not; encode with level_norm=none.")
    raw = JSONVectorizer.from_json(vectorizer.as_json() | {"normalize": "none"})
    query = np.zeros(raw.dim, np.float32)
    for path, value in values:
        query = raw.update(query, path, MISSING, value)
    length = float(np.linalg.norm(query))
    if length == 0:
        raise UsageError("--at: all of it is ignored by the options of this index; name another path.")
    return query / length


def value_at(text: str) -> tuple[str, Any]:
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


# -- what is searched --------------------------------------------------------------------------------------------------


def open_index(where: str, field: str = FIELD, at: tuple[str | int, ...] | None = None) -> Index:
    """From a file of vectors, a store that was filled from one, or records, which are encoded on the way; `at` says
    where these are in their file."""
    path = Path(where)
    if suffix_of(path) in RECORDS or (path.is_dir() and read_header(path) is None):
        return _records_index(path, Layout(at))
    if at is not None:
        raise UsageError("--records-at goes with a file of records; vectors know where theirs are.")
    if path.suffix in (".parquet", ".npy"):
        return _file_index(VectorFile(path))
    return _store_index(where, field)


def _checked_vectorizer(metadata: dict[str, Any], where: Any) -> JSONVectorizer:
    if not {"options", "fingerprint"} <= set(metadata):
        raise ArtifactError(
            f"{where} does not know how records became its vectors; fill it from a file of `linmap apply mbat` with "
            "`linmap index`, or ask with --query vectors.npy."
        )
    vectorizer = JSONVectorizer.from_json(metadata["options"])
    vectorizer.check_fingerprint(metadata["fingerprint"])
    return vectorizer


def _layout(metadata: dict[str, Any]) -> Layout:
    return Layout.from_json(metadata["layout"]) if "layout" in metadata else Layout()


def _file_index(file: VectorFile) -> Index:
    if not file.ids:
        raise DataError(f"{file.path} holds no vectors; there is nothing to search.")
    vectorizer = _checked_vectorizer(file.metadata, file.path)

    def find(query: np.ndarray, top: int) -> list[Found]:
        return [Found(file.ids[row], cosine, row) for row, cosine in nearest(query, file.blocks(), top)]

    def vector(name: str) -> tuple[np.ndarray, Found]:
        row = _row(name, file.ids, file.path)
        return file.vector(row), Found(name, 1.0, row)

    return Index(vectorizer, len(file.ids), Path(file.metadata["source"]), _layout(file.metadata), find, vector)


def _records_index(source: Path, layout: Layout) -> Index:
    vectorizer, ids, document = JSONVectorizer(), [], None

    def documents() -> Iterable[Any]:
        nonlocal document
        for record in read_records(source, layout):
            ids.append(record.id)
            document = record.document
            yield document

    blocks = list(vectorizer.transform_stream(documents(), parse=False))
    if not blocks:
        raise DataError(f"{source} holds no records; there is nothing to search.")
    if len(ids) == 1 and layout.at is None:
        note_inner_records(source, document)
    vectors = np.concatenate(blocks)

    def find(query: np.ndarray, top: int) -> list[Found]:
        return [Found(ids[row], cosine, row) for row, cosine in nearest(query, [vectors], top)]

    def vector(name: str) -> tuple[np.ndarray, Found]:
        row = _row(name, ids, source)
        return vectors[row], Found(name, 1.0, row)

    return Index(vectorizer, len(ids), source, layout, find, vector)


def _store_index(address: str, field: str) -> Index:
    store = open_store(address)
    vectorizer = _checked_vectorizer(store.metadata, address)
    if vectorizer.normalize != "l2":
        raise UsageError(f"{address} holds vectors that are not of unit length, whose products are no cosines.")

    def find(query: np.ndarray, top: int) -> list[Found]:
        return [Found(*hit) for hit in store.search(query[None], top, field)[0]]

    def vector(name: str) -> tuple[np.ndarray, Found]:
        return _vector_in(store, field, name, address), Found(name, 1.0)

    return Index(vectorizer, store.count(field), Path(store.metadata["source"]), _layout(store.metadata), find, vector)


def _vector_in(store: VectorStore, field: str, name: str, address: str) -> np.ndarray:
    for ids, block in store.iterate(field):
        if name in ids:
            return block[ids.index(name)]
    raise UsageError(f"{address} has no record with the id {name!r}.")


def _row(name: str, ids: list[str], where: Path) -> int:
    rows = [row for row, other in enumerate(ids) if other == name]
    if not rows:
        raise UsageError(f"{where} has no record with the id {name!r}; its ids are {', '.join(ids[:3])}, ...")
    if len(rows) > 1:
        warnings.warn(
            f"{len(rows)} records of {where} have the id {name!r}; the first of them is asked for.", stacklevel=2
        )
    return rows[0]


# -- the reasons -------------------------------------------------------------------------------------------------------


def breakdown(vectorizer: JSONVectorizer, query: Any, match: Any, reasons: int) -> dict[str, Any]:
    """The cosine as a sum over paths."""
    if vectorizer.level_norm != "none":
        return {"because": "level_norm=unit is not linear in the leaves: its cosines have no exact breakdown"}
    parts = vectorizer.similarity_breakdown(query, match)
    because = [
        {"path": part.path, "share": round(part.share, 4), "query": _short(part.left), "match": _short(part.right)}
        for part in parts.contributions[:reasons]
    ]
    rest = parts.cosine - parts.crosstalk - sum(part.share for part in parts.contributions[:reasons])
    return {"because": because, "other_paths": round(rest, 4), "crosstalk": round(parts.crosstalk, 4)}


def _compared(path: str, value: Any, document: Any) -> dict[str, Any]:
    steps = parse_path(path)
    try:
        for step in steps:
            document = document[step]
    except (KeyError, IndexError, TypeError):
        document = "(not there)"
    return {"path": format_path(steps), "query": value, "match": document}


def _short(values: list[Any]) -> Any:
    if len(values) == 1:
        return values[0]
    return [*values[:SHOWN_VALUES], "..."] if len(values) > SHOWN_VALUES else values


def _query_document(like: str) -> Any:
    path = Path(like)
    is_file = like.endswith(".json") and path.is_file()
    try:
        return parse_json(path.read_bytes() if is_file else like)
    except DataError as error:
        raise UsageError(f"--like {like[:60]!r} is neither JSON text nor the path of a .json file: {error}") from None


def _documents(path: Path, layout: Layout, hits: list[Found]) -> dict[int | str, Any]:
    """The documents of some records by their keys, from the file that was encoded."""
    wanted = {hit.key: hit for hit in hits}
    found: dict[int | str, Any] = {}
    for row, record in enumerate(read_records(path, layout)):
        for key in (row, record.id):
            if key in wanted and key not in found and record.id == wanted[key].id:
                found[key] = record.document
        if len(found) == len(wanted):
            return found
    lost = next(hit for hit in hits if hit.key not in found)
    raise ArtifactError(
        f"{path} has changed since the index was made from it: it has no record {lost.id!r}"
        + ("" if lost.row is None else f" at its place {lost.row}")
        + "; run `linmap apply mbat` again, or give the old file with --records."
    )
