"""Records found by example, by their id or by values at paths, with the reasons."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
from jaxtyping import Float

from linmap.data.compressed import suffix_of
from linmap.data.records import READERS, Layout, inner_records, read_records
from linmap.data.vectors import VectorFile, VectorStore, open_store
from linmap.data.vectors.folder import read_header
from linmap.data.vectors.store import FIELD
from linmap.errors import ArgumentError, ArtifactError, DataError
from linmap.retrieve.mbat.decoding import Breakdown
from linmap.retrieve.mbat.paths import PathLike, format_path, parse_path
from linmap.retrieve.mbat.search import nearest
from linmap.retrieve.mbat.vectorizer import MISSING, JSONVectorizer

RECORDS = tuple(suffix for suffix in READERS if suffix != ".parquet")
Query = Float[np.ndarray, " dim"]


class ValueAt(NamedTuple):
    """What was asked for at a path, and what a record has there."""

    path: str
    asked: Any
    found: Any
    """`MISSING` where the record has no such path."""


@dataclass(frozen=True)
class RecordMatch:
    """A record that a search found."""

    id: str
    cosine: float
    document: Any = MISSING
    """The record itself; `MISSING` where the file of records is not at hand."""
    breakdown: Breakdown | None = None
    """The cosine as a sum over paths, for a search by example or by id; None without the records, or where
    level_norm="unit" allows no exact one."""
    values: tuple[ValueAt, ...] = ()
    """For a search by values at paths."""


class Found(NamedTuple):
    """A record by its id, and by its number in the file where ids may repeat."""

    id: str
    cosine: float
    row: int | None = None

    @property
    def key(self) -> int | str:
        return self.id if self.row is None else self.row


class RecordIndex:
    """Encoded records, to be searched by other records or by values at paths.

    Parameters
    ----------
    where
        A file of vectors that `linmap apply mbat` wrote; the address of a store that was filled from one (see
        `linmap.data.vectors.open_store`); or records, a file or a folder, which are encoded on the way with the
        defaults of `JSONVectorizer`.
    field
        Name of the vectors in a store.
    records
        The file of records, for the reasons; where the vectors were made from when None.
    records_at
        Where a file of records holds them, such as "Records" or "data.items", if it is not one array of them.

    Attributes
    ----------
    vectorizer
        What turned the records into vectors.
    source
        The file of records.

    Raises
    ------
    ArtifactError
        If the vectors do not say how they were made, or another version of the format made them.
    DataError
        If there are none.

    Examples
    --------
    >>> index = RecordIndex("vectors.parquet")  # doctest: +SKIP
    >>> for match in index.with_values({"patient.gender": "female"}, top=3):  # doctest: +SKIP
    ...     print(match.id, match.cosine, match.values)
    """

    def __init__(
        self,
        where: Path | str,
        field: str = FIELD,
        records: Path | str | None = None,
        records_at: PathLike | None = None,
    ) -> None:
        path, at = Path(where), None if records_at is None else parse_path(records_at)
        if suffix_of(path) in RECORDS or (path.is_dir() and read_header(path) is None):
            self.vectorizer, self._vectors = _encoded(path, Layout(at))
            self.source, self._layout = path, Layout(at)
        elif at is not None:
            raise ArgumentError(
                f"records_at={records_at!r} goes with a file of records; vectors know where theirs are."
            )
        else:
            of_file = path.suffix in (".parquet", ".npy")
            self._vectors = _Rows.of_file(VectorFile(path)) if of_file else _Stored(str(where), field)
            metadata = self._vectors.metadata
            self.vectorizer = _vectorizer(metadata, where)
            if not of_file and self.vectorizer.normalize != "l2":
                raise ArgumentError(
                    f"{where} holds vectors that are not of unit length, whose products are no cosines."
                )
            self.source = Path(metadata["source"])
            self._layout = Layout.from_json(metadata["layout"]) if "layout" in metadata else Layout()
        self._given = records is not None
        self.source = self.source if records is None else Path(records)

    def __len__(self) -> int:
        """How many records."""
        return self._vectors.count()

    def like(self, document: Any, top: int = 5) -> list[RecordMatch]:
        """The records most like a document, whole or a part of one, best first."""
        query = self.vectorizer.transform([document], parse=False)[0]
        found = self._vectors.nearest(query, top)
        documents = self._documents(found)
        return [self._explained(hit, document, documents) for hit in found]

    def like_record(self, id: str, top: int = 5) -> list[RecordMatch]:
        """The records most like one of the index, without itself.

        Raises
        ------
        DataError
            If there is no record with the id.
        """
        query, asked = self._vectors.vector(id)
        found = [hit for hit in self._vectors.nearest(query, top + 1) if hit.key != asked.key][:top]
        documents = self._documents([*found, asked])
        return [self._explained(hit, documents.get(asked.key, MISSING), documents) for hit in found]

    def with_values(self, values: Mapping[Any, Any], top: int = 5) -> list[RecordMatch]:
        """The records nearest to one of which only the values at some paths are known: the sum of their bound leaves.

        Parameters
        ----------
        values
            By path, in any of the notations of `linmap.retrieve.mbat.parse_path`.
        top
            How many, at most.

        Raises
        ------
        ValueError
            If the vectors are no sums of leaves (level_norm="unit"), or the options ignore all of the paths.
        """
        pairs: list[tuple[PathLike, Any]] = list(values.items())
        found = self._vectors.nearest(self._partial(pairs), top)
        documents = self._documents(found)
        if not documents:
            return [RecordMatch(hit.id, hit.cosine) for hit in found]
        return [
            RecordMatch(hit.id, hit.cosine, document, values=tuple(value_at(document, *pair) for pair in pairs))
            for hit, document in ((hit, documents[hit.key]) for hit in found)
        ]

    def close(self) -> None:
        """Release the store behind it."""
        self._vectors.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    # -- private -------------------------------------------------------------------------------------------------------

    def _partial(self, pairs: Sequence[tuple[PathLike, Any]]) -> Query:
        if self.vectorizer.level_norm != "none":
            raise ArgumentError(
                "values at paths are added up, which level_norm='unit' does not; encode with level_norm='none'."
            )
        raw = JSONVectorizer.from_json(self.vectorizer.as_json() | {"normalize": "none"})
        query = np.zeros(raw.dim, np.float32)
        for path, value in pairs:
            query = raw.update(query, path, MISSING, value)
        length = float(np.linalg.norm(query))
        if length == 0:
            raise ArgumentError("the options of this index ignore all of the paths that were given; name another path.")
        return query / length

    def _explained(self, hit: Found, asked: Any, documents: Mapping[int | str, Any]) -> RecordMatch:
        if not documents:
            return RecordMatch(hit.id, hit.cosine)
        document, linear = documents[hit.key], self.vectorizer.level_norm == "none"
        why = self.vectorizer.similarity_breakdown(asked, document) if linear else None
        return RecordMatch(hit.id, hit.cosine, document, why)

    def _documents(self, hits: Sequence[Found]) -> dict[int | str, Any]:
        """The records by their keys; none where their file is not where it was."""
        if not self._given and not self.source.exists():
            return {}
        wanted = {hit.key: hit for hit in hits}
        found: dict[int | str, Any] = {}
        for row, record in enumerate(read_records(self.source, self._layout)):
            for key in (row, record.id):
                if key in wanted and key not in found and record.id == wanted[key].id:
                    found[key] = record.document
            if len(found) == len(wanted):
                return found
        lost = next(hit for hit in hits if hit.key not in found)
        raise ArtifactError(
            f"{self.source} has changed since the index was made from it: it has no record {lost.id!r}"
            + ("" if lost.row is None else f" at its place {lost.row}")
            + "; run `linmap apply mbat` again, or give the old file with records=..."
        )


def value_at(document: Any, path: PathLike, asked: Any) -> ValueAt:
    """What a record has at a path, beside what was asked for."""
    steps = parse_path(path)
    try:
        for step in steps:
            document = document[step]
    except (KeyError, IndexError, TypeError):
        document = MISSING
    return ValueAt(format_path(steps), asked, document)


# -- where the vectors are ---------------------------------------------------------------------------------------------


class _Vectors(ABC):
    metadata: Mapping[str, Any]

    @abstractmethod
    def count(self) -> int: ...

    @abstractmethod
    def nearest(self, query: Query, top: int) -> list[Found]: ...

    @abstractmethod
    def vector(self, name: str) -> tuple[Query, Found]:
        """That of a record."""

    def close(self) -> None:
        return


@dataclass
class _Rows(_Vectors):
    """Vectors by row numbers, in a file or in memory."""

    where: Path
    ids: list[str]
    blocks: Callable[[], Iterable[np.ndarray]]
    row: Callable[[int], np.ndarray]
    metadata: Mapping[str, Any]

    @classmethod
    def of_file(cls, file: VectorFile) -> Self:
        if not file.ids:
            raise DataError(f"{file.path} holds no vectors; there is nothing to search.")
        return cls(file.path, file.ids, file.blocks, file.vector, file.metadata)

    def count(self) -> int:
        return len(self.ids)

    def nearest(self, query: Query, top: int) -> list[Found]:
        return [Found(self.ids[row], cosine, row) for row, cosine in nearest(query, self.blocks(), top)]

    def vector(self, name: str) -> tuple[Query, Found]:
        rows = [row for row, other in enumerate(self.ids) if other == name]
        if not rows:
            known = ", ".join(self.ids[:3])
            raise DataError(f"{self.where} has no record with the id {name!r}; its ids are {known}, ...")
        if len(rows) > 1:
            warnings.warn(
                f"{len(rows)} records of {self.where} have the id {name!r}; the first of them is asked for.",
                stacklevel=3,
            )
        return self.row(rows[0]), Found(name, 1.0, rows[0])


class _Stored(_Vectors):
    def __init__(self, address: str, field: str) -> None:
        self.address, self.field = address, field
        self.store: VectorStore = open_store(address)
        self.metadata = self.store.metadata

    def count(self) -> int:
        return self.store.count(self.field)

    def nearest(self, query: Query, top: int) -> list[Found]:
        return [Found(*hit) for hit in self.store.search(query[None], top, self.field)[0]]

    def vector(self, name: str) -> tuple[Query, Found]:
        return self.store.get([name], self.field)[0], Found(name, 1.0)

    def close(self) -> None:
        self.store.close()


def _vectorizer(metadata: Mapping[str, Any], where: Path | str) -> JSONVectorizer:
    if not {"options", "fingerprint"} <= set(metadata):
        raise ArtifactError(
            f"{where} does not know how records became its vectors; fill it from a file of `linmap apply mbat`, or "
            "search it by vectors."
        )
    vectorizer = JSONVectorizer.from_json(metadata["options"])
    vectorizer.check_fingerprint(metadata["fingerprint"])
    return vectorizer


def _encoded(source: Path, layout: Layout) -> tuple[JSONVectorizer, _Rows]:
    """Records that nobody has encoded yet."""
    vectorizer, ids = JSONVectorizer(), list[str]()
    last: Any = None

    def documents() -> Iterator[Any]:
        nonlocal last
        for record in read_records(source, layout):
            ids.append(record.id)
            last = record.document
            yield last

    blocks = list(vectorizer.transform_stream(documents(), parse=False))
    if not blocks:
        raise DataError(f"{source} holds no records; there is nothing to search.")
    if len(ids) == 1 and layout.at is None:
        warn_of_inner_records(source, last)
    vectors = np.concatenate(blocks)
    return vectorizer, _Rows(source, ids, lambda: [vectors], lambda row: vectors[row], {})


def warn_of_inner_records(path: Path, document: Any) -> None:
    """Say of a file of one record that it may have been meant as many."""
    inner = inner_records(document)
    if inner is not None:
        warnings.warn(
            f"{path} is taken as one record; to take each of the {inner[1]} objects at {format_path(inner[0])} in it "
            f"as one, give records_at={format_path(inner[0])!r}.",
            stacklevel=3,
        )
