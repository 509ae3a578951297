"""LanceDB: a table for each field, with the columns id and vector, and one for the metadata."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from datetime import timedelta
from typing import Any

import numpy as np

from linmap.data.vectors.store import FIELD, DatabaseStore, Hit, agreed_fields, checked_fields
from linmap.errors import DataError
from linmap.locks import sole

METADATA = "linmap_metadata"
AT_ONCE = 1000  # ids of one request
WHOLE = "id IS NOT NULL AND vector IS NOT NULL"


class LanceStore(DatabaseStore):
    """Tables of LanceDB; every upsert is a version of the table, and lasts.

    LanceDB looks for ids in the version that a table was opened with, and lets two programs insert one id at once. So
    each request looks for the newest version, and in a folder one program writes at a time, while others wait.

    Parameters
    ----------
    place
        A folder, or any address that `lancedb.connect` takes.
    fields
        As in `open_store`.
    """

    def __init__(self, place: str, fields: Mapping[str, int] | int | None = None) -> None:
        os.environ.setdefault("LANCEDB_LOG", "error")  # else it notes every table that is new
        try:
            import lancedb
            import pyarrow
        except ModuleNotFoundError:
            raise DataError("LanceDB is not installed: pip install 'linmap[stores]'.") from None
        self._pa, self._folder = pyarrow, None if "://" in place else place
        self.database = lancedb.connect(place, read_consistency_interval=timedelta(0))
        with nullcontext() if fields is None else self._alone():  # of two that make one store, one finds it
            there = {name: self.database.open_table(name) for name in self._names()}
            kept = there.pop(METADATA, None)
            rows = [] if kept is None else kept.to_arrow().column(0).to_pylist()
            self._open_metadata(rows[0] if rows else "{}", place)
            self._tables: dict[str, Any] = {name: table for name, table in there.items() if _dim(table.schema)}
            self.fields = self._agreed({name: _dim(table.schema) for name, table in there.items()}, fields, place)
            for name, dim in self.fields.items():
                if name not in self._tables:
                    self._tables[name] = self.database.create_table(name, schema=self._schema(dim))

    def _alone(self) -> AbstractContextManager[None]:
        """Nobody else of linmap writes in the folder while this runs."""
        return sole(self._folder, wait=True)

    def _names(self) -> list[str]:
        names, page = [], self.database.list_tables()
        names += page.tables
        while page.page_token:
            page = self.database.list_tables(page_token=page.page_token)
            names += page.tables
        return names

    @staticmethod
    def _agreed(dims: dict[str, int], fields: Mapping[str, int] | int | None, place: str) -> dict[str, int]:
        """Tables of other programs may stand beside: those with ids and vectors are fields too."""
        found = {name: dim for name, dim in dims.items() if dim}
        foreign = [name for name in dims if name not in found]
        asked = {} if fields is None else checked_fields(fields)
        taken = next((name for name in foreign if name in asked), None)
        if taken or (foreign and not found and fields is None):
            raise DataError(
                f"{place}: the table {taken or foreign[0]!r} is no field, for it lacks a column `id` of texts or a "
                "column `vector` of float lists of one length; choose another place, or another name for the field."
            )
        return agreed_fields(found, fields, place)

    def table(self, field: str = FIELD) -> Any:
        """LanceDB's table of a field, for instance to build an index on it."""
        self._dim(field)
        return self._tables[field]

    def _schema(self, dim: int) -> Any:
        pa = self._pa
        return pa.schema([("id", pa.string()), ("vector", pa.list_(pa.float32(), dim))])

    def _upsert(self, ids: list[str], vectors: np.ndarray, field: str) -> None:
        pa, dim, table = self._pa, self.fields[field], self._tables[field]
        column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), dim)
        rows = pa.table([pa.array(ids, pa.string()), column], schema=self._schema(dim))
        kinds = pa.schema([(name, table.schema.field(name).type) for name in ("id", "vector")])
        merge = table.merge_insert("id").when_matched_update_all().when_not_matched_insert_all()
        try:
            with self._alone():
                merge.execute(rows.cast(kinds))
        except (ValueError, RuntimeError, OSError) as error:
            if table.schema.names == rows.schema.names:
                raise
            others = ", ".join(name for name in table.schema.names if name not in rows.schema.names)
            raise DataError(
                f"the table {field!r} does not take records without its other columns ({others}): "
                f"{str(error).splitlines()[0]:.160}"
            ) from None

    def _search(self, queries: np.ndarray, k: int, field: str) -> list[list[Hit]]:
        table: Any = self._tables[field]
        found = (table.search(query).distance_type("dot").select(["id", "_distance"]).limit(k) for query in queries)
        return [self._hits(self._whole(query, field)) for query in found]

    def _whole(self, query: Any, field: str) -> Any:
        """Rows that have an id and a vector, as all of linmap's do."""
        return query if self._is_own(field) else query.where(WHOLE)

    def _is_own(self, field: str) -> bool:
        return self._tables[field].schema == self._schema(self.fields[field])

    def _hits(self, query: Any) -> list[Hit]:
        found = query.to_arrow()
        distances = found.column("_distance").to_pylist()  # 1 - inner product
        return [Hit(name, 1 - d) for name, d in zip(found.column("id").to_pylist(), distances, strict=True)]

    def _get(self, ids: list[str], field: str) -> dict[str, np.ndarray]:
        found: dict[str, np.ndarray] = {}
        for first in range(0, len(ids), AT_ONCE):
            names = ", ".join("'" + name.replace("'", "''") + "'" for name in ids[first : first + AT_ONCE])
            condition = f"id IN ({names}) AND vector IS NOT NULL"
            query = self._tables[field].search().where(condition).select(["id", "vector"])
            for names_, vectors in map(_block, query.to_batches()):
                found |= zip(names_, vectors, strict=True)
        return found

    def _iterate(self, field: str, batch: int) -> Iterator[tuple[list[str], np.ndarray]]:
        query = self._whole(self._tables[field].search().select(["id", "vector"]), field)
        for part in query.to_batches(batch_size=batch):
            if len(part):
                yield _block(part)

    def count(self, field: str = FIELD) -> int:
        self._dim(field)
        return self._tables[field].count_rows(None if self._is_own(field) else WHOLE)

    def _keep(self, metadata: dict[str, Any]) -> None:
        row = self._pa.table({"metadata": [json.dumps(metadata)]})
        with self._alone():
            self.database.create_table(METADATA, row, mode="overwrite")

    def close(self) -> None:
        self._tables.clear()


def _block(batch: Any) -> tuple[list[str], np.ndarray]:
    """Ids and vectors of some rows."""
    vectors = batch.column("vector").flatten().to_numpy().reshape(len(batch), -1)
    return batch.column("id").to_pylist(), vectors.astype(np.float32)


def _dim(schema: Any) -> int:
    """Length of the vectors of a table with ids; 0 if it is no such table."""
    from pyarrow import types

    if not {"id", "vector"} <= set(schema.names):
        return 0
    name, vector = schema.field("id").type, schema.field("vector").type
    if not (types.is_string(name) or types.is_large_string(name)) or not types.is_fixed_size_list(vector):
        return 0
    return vector.list_size if types.is_floating(vector.value_type) else 0
