"""What every store of vectors can do, whatever is behind it."""

from __future__ import annotations

import re
import reprlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Self

import numpy as np
from jaxtyping import Float, Num

from linmap.data.arrays import array_of
from linmap.data.door import json_value
from linmap.errors import ArgumentError, DataError

FIELD = "vector"
"""The name of the only field of a store, where nobody gave another."""
NAME = re.compile(r"[a-z_][a-z0-9_]*")
LONGEST_NAME = 63
"""Of what PostgreSQL cuts the rest off, without an error."""
NAMED = 5  # unknown ids in a message


class Hit(NamedTuple):
    """One result of a search."""

    id: str
    score: float


class VectorStore(ABC):
    """Vectors by the names of their records, in one or several fields that each have a length of their own.

    A record need not have all fields, so that old and new embeddings of a gallery can stand side by side. The score of
    a record is the inner product of its vector with the query: the cosine where both have the length 1.

    Attributes
    ----------
    fields
        Length of the vectors of each field.
    metadata
        What is kept with the vectors: how they were made, where they come from.
    """

    fields: dict[str, int]
    metadata: dict[str, Any]

    def upsert(self, ids: Sequence[str], vectors: Num[np.ndarray, "batch dim"], field: str = FIELD) -> None:
        """Put vectors in, in the place of those that these records have.

        Raises
        ------
        ValueError
            If there is no such field, the vectors are not as long as its own or not finite, or ids are missing,
            repeated or no Unicode texts.
        DataError
            If what is behind the store does not take them.
        """
        dim, vectors = self._dim(field), array_of(vectors)
        if vectors.ndim != 2 or vectors.shape[1] != dim:
            raise ArgumentError(f"vectors of the field {field!r} must have shape (n, {dim}), got {vectors.shape}.")
        ids = [_unicode(str(name)) for name in ids]
        if len(ids) != len(vectors):
            raise ArgumentError(f"there must be an id for each vector; got {len(ids)} ids and {len(vectors)} vectors.")
        if len(set(ids)) < len(ids):
            raise ArgumentError(f"the id {_repeated(ids)!r} stands twice in this batch; keep one of its vectors.")
        if ids:
            self._upsert(ids, _finite(vectors, "vectors"), field)

    def search(self, queries: Num[np.ndarray, "queries dim"], k: int, field: str = FIELD) -> list[list[Hit]]:
        """The k records with the largest scores for each query, best first; fewer if there are not as many.

        Raises
        ------
        ValueError
            If there is no such field, the queries do not fit it, or k is less than 1.
        """
        dim, queries = self._query_dim(field), array_of(queries)
        if queries.ndim != 2 or queries.shape[1] != dim:
            raise ArgumentError(f"queries of the field {field!r} must have shape (n, {dim}), got {queries.shape}.")
        if k < 1:
            raise ArgumentError(f"k must be at least 1, got {k!r}.")
        k = min(k, self.count(field))
        return self._search(_finite(queries, "queries"), k, field) if k and len(queries) else [[] for _ in queries]

    def get(self, ids: Sequence[str], field: str = FIELD) -> Float[np.ndarray, "ids dim"]:
        """The vectors of records, in the order of their ids, as far as the store keeps their precision.

        Raises
        ------
        ValueError
            If there is no such field.
        DataError
            If the store has no vector of a record; the message names the records.
        """
        dim, wanted = self._dim(field), [str(name) for name in ids]
        found = self._get(list(dict.fromkeys(wanted)), field) if wanted else {}
        unknown = [name for name in dict.fromkeys(wanted) if name not in found]
        if unknown:
            more = f" and {len(unknown) - NAMED} more" if len(unknown) > NAMED else ""
            raise DataError(
                f"the field {field!r} has no record with the id {', '.join(map(repr, unknown[:NAMED]))}{more}."
            )
        return np.array([found[name] for name in wanted], np.float32).reshape(len(wanted), dim)

    def iterate(
        self, field: str = FIELD, batch: int = 4096
    ) -> Iterator[tuple[list[str], Float[np.ndarray, "batch dim"]]]:
        """All ids with their vectors, as far as the store keeps their precision, batch by batch."""
        self._dim(field)
        return self._iterate(field, batch)

    @abstractmethod
    def count(self, field: str = FIELD) -> int:
        """How many records have this field."""

    def flush(self) -> None:
        """Make everything last. What is killed before leaves the state of the last flush."""
        return

    @abstractmethod
    def close(self) -> None:
        """Release the store without a flush."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: Any, *error: Any) -> None:
        try:
            if kind is None:
                self.flush()
        finally:
            self.close()

    @abstractmethod
    def _upsert(self, ids: list[str], vectors: np.ndarray, field: str) -> None: ...

    @abstractmethod
    def _search(self, queries: np.ndarray, k: int, field: str) -> list[list[Hit]]: ...

    @abstractmethod
    def _get(self, ids: list[str], field: str) -> dict[str, np.ndarray]:
        """The vectors of those of the ids that are there."""

    @abstractmethod
    def _iterate(self, field: str, batch: int) -> Iterator[tuple[list[str], np.ndarray]]: ...

    def _dim(self, field: str) -> int:
        if field not in self.fields:
            raise ArgumentError(f"there is no field {field!r} here; there is {', '.join(map(repr, self.fields))}.")
        return self.fields[field]

    def _query_dim(self, field: str) -> int:
        return self._dim(field)


class DatabaseStore(VectorStore):
    """A store whose vectors last at once; a flush keeps `metadata`."""

    _kept: dict[str, Any]

    def flush(self) -> None:
        if self.metadata != self._kept:
            self._keep(self.metadata)
            self._kept = dict(self.metadata)

    def _open_metadata(self, kept: Any, where: str) -> None:
        found = json_value(kept, f"the metadata of {where}") if isinstance(kept, str | bytes) else kept
        if not isinstance(found, dict):
            raise DataError(f"the metadata of {where} is {reprlib.repr(kept)}, not an object; fill a new store.")
        self.metadata, self._kept = dict(found), dict(found)

    @abstractmethod
    def _keep(self, metadata: dict[str, Any]) -> None: ...


def checked_fields(fields: Mapping[str, int] | int) -> dict[str, int]:
    """Lengths by name; a number is the length of the only field.

    Raises
    ------
    ValueError
        If a name is no lower-case identifier of at most 63 letters (databases take it as a column), or a length is
        less than 1.
    """
    fields = {FIELD: fields} if isinstance(fields, int) else dict(fields)
    for name, dim in fields.items():
        if not isinstance(name, str) or not NAME.fullmatch(name) or name == "id" or len(name) > LONGEST_NAME:
            raise ArgumentError(
                f"names of fields are lower-case letters, digits and _, at most {LONGEST_NAME}, and not 'id'; got "
                f"{reprlib.repr(name)}."
            )
        if not isinstance(dim, int) or isinstance(dim, bool) or dim < 1:
            raise ArgumentError(f"the field {name!r} must have a length of at least 1, got {dim!r}.")
    if not fields:
        raise ArgumentError("a store needs at least one field, such as {'vector': 384}.")
    return fields


def agreed_fields(found: Mapping[str, int] | None, asked: Mapping[str, int] | int | None, where: str) -> dict[str, int]:
    """The fields of a store that may be there already, and may have been asked for.

    Raises
    ------
    DataError
        If it is not there and nothing was asked for, or both disagree.
    """
    if asked is None:
        if not found:
            raise DataError(
                f"{where} does not exist; fill it with `linmap index`, or give the lengths of its vectors to make it: "
                "fields={'vector': 384}."
            )
        return dict(found)
    asked = checked_fields(asked)
    if found and dict(found) != asked:
        raise DataError(
            f"{where} has the fields {dict(found)}, not {asked}; open it without fields, or choose another place."
        )
    return asked


def _finite(vectors: np.ndarray, name: str) -> np.ndarray:
    if np.iscomplexobj(vectors):
        raise ArgumentError(
            f"{name} must be real numbers, got {vectors.dtype}; put real and imaginary parts side by side."
        )
    with np.errstate(over="ignore"):  # told below
        single = np.ascontiguousarray(vectors, np.float32)
    if not np.isfinite(single).all():
        row = int(np.flatnonzero(~np.isfinite(single).all(1))[0])
        if np.isfinite(vectors[row]).all():
            raise ArgumentError(f"{name} are kept in float32, and row {row} has a number beyond 3.4e38; divide them.")
        raise ArgumentError(f"{name} must be finite numbers, but row {row} has NaN or an infinity.")
    return single


def _unicode(name: str) -> str:
    try:
        name.encode()
    except UnicodeEncodeError:
        raise ArgumentError(f"the id {name!r} holds half a character (a lone surrogate); write it whole.") from None
    return name


def _repeated(ids: list[str]) -> str:
    seen: set[str] = set()
    return next(name for name in ids if name in seen or seen.add(name))
