"""LanceDB: a table for each field, with the columns id and vector, and one for the metadata."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from linmap.data.vectors.store import FIELD, DatabaseStore, Hit, agreed_fields
from linmap.errors import DataError

METADATA = "linmap_metadata"


class LanceStore(DatabaseStore):
    """Tables of LanceDB; every upsert is a version of the table, and lasts.

    Parameters
    ----------
    place
        A folder, or any address that `lancedb.connect` takes.
    fields
        As in `open_store`.
    """

    def __init__(self, place: str, fields: Mapping[str, int] | int | None = None) -> None:
        try:
            import lancedb
            import pyarrow
        except ModuleNotFoundError:
            raise DataError("LanceDB is not installed: pip install 'linmap[stores]'.") from None
        self._pa = pyarrow
        self.database = lancedb.connect(place)
        self._tables: dict[str, Any] = {
            name: self.database.open_table(name) for name in self.database.list_tables().tables
        }
        kept = self._tables.pop(METADATA, None)
        self._open_metadata({} if kept is None else json.loads(kept.to_arrow().column(0)[0].as_py()))
        found = {name: table.schema.field("vector").type.list_size for name, table in self._tables.items()}
        self.fields = agreed_fields(found, fields, place)
        for name, dim in self.fields.items():
            if name not in self._tables:
                self._tables[name] = self.database.create_table(name, schema=self._schema(dim))

    def table(self, field: str = FIELD) -> Any:
        """LanceDB's table of a field, for instance to build an index on it."""
        self._dim(field)
        return self._tables[field]

    def _schema(self, dim: int) -> Any:
        pa = self._pa
        return pa.schema([("id", pa.string()), ("vector", pa.list_(pa.float32(), dim))])

    def _upsert(self, ids: list[str], vectors: np.ndarray, field: str) -> None:
        pa, dim = self._pa, self.fields[field]
        column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), dim)
        rows = pa.table([pa.array(ids, pa.string()), column], schema=self._schema(dim))
        merge = self._tables[field].merge_insert("id").when_matched_update_all().when_not_matched_insert_all()
        merge.execute(rows)

    def _search(self, queries: np.ndarray, k: int, field: str) -> list[list[Hit]]:
        table = self._tables[field]
        return [self._hits(table.search(query).distance_type("dot").select(["id"]).limit(k)) for query in queries]

    def _hits(self, query: Any) -> list[Hit]:
        found = query.to_arrow()
        distances = found.column("_distance").to_pylist()  # 1 - inner product
        return [Hit(name, 1 - d) for name, d in zip(found.column("id").to_pylist(), distances, strict=True)]

    def _iterate(self, field: str, batch: int) -> Iterator[tuple[list[str], np.ndarray]]:
        for part in self._tables[field].search().to_batches(batch_size=batch):
            if len(part):
                vectors = part.column("vector").flatten().to_numpy().reshape(len(part), -1)
                yield part.column("id").to_pylist(), vectors

    def count(self, field: str = FIELD) -> int:
        self._dim(field)
        return self._tables[field].count_rows()

    def _keep(self, metadata: dict[str, Any]) -> None:
        row = self._pa.table({"metadata": [json.dumps(metadata)]})
        self.database.create_table(METADATA, row, mode="overwrite")

    def close(self) -> None:
        self._tables.clear()
