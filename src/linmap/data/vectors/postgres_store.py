"""PostgreSQL with the extension pgvector: one table, a column for each field, of the type that its length allows."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, Literal

import numpy as np

from linmap.data.vectors.store import FIELD, NAME, DatabaseStore, Hit, agreed_fields, checked_fields
from linmap.errors import DataError

ColumnType = Literal["vector", "halfvec", "bit"]
LONGEST: dict[str, int] = {"vector": 2000, "halfvec": 4000, "bit": 64000}
"""Numbers of a column that pgvector can index: float32, float16 and signs."""
OPERATOR = {"vector": "<#>", "halfvec": "<#>", "bit": "<~>"}
CLASS = {"vector": "vector_ip_ops", "halfvec": "halfvec_ip_ops", "bit": "bit_hamming_ops"}


def column_type(dim: int) -> ColumnType:
    """The most exact type of column that pgvector can index at this length.

    Raises
    ------
    ValueError
        If there is none.
    """
    for name in ("vector", "halfvec", "bit"):
        if dim <= LONGEST[name]:
            return name
    raise ValueError(
        f"pgvector indexes at most {LONGEST['bit']:,} bits, got a length of {dim:,}; encode with fewer dimensions."
    )


def statements(fields: Mapping[str, int] | int, table: str = "linmap") -> list[str]:
    """The SQL that makes the table, for those who keep their schema themselves; indexes come with `index_statement`."""
    columns = ", ".join(f"{name} {column_type(dim)}({dim})" for name, dim in checked_fields(fields).items())
    return [
        "CREATE EXTENSION IF NOT EXISTS vector",
        f"CREATE TABLE IF NOT EXISTS {table} (id text PRIMARY KEY, {columns})",
    ]


def index_statement(field: str, dim: int, table: str = "linmap") -> str:
    """The SQL of a graph (HNSW) over one field; build it when the table is filled."""
    return f"CREATE INDEX IF NOT EXISTS {table}_{field} ON {table} USING hnsw ({field} {CLASS[column_type(dim)]})"


class PostgresStore(DatabaseStore):
    """A table of PostgreSQL. Search is exact until `create_index`.

    Columns of bits keep signs; their score is cos(pi h / d) of h different signs, as it is for random vectors.

    Parameters
    ----------
    url
        postgresql://user:password@host/database
    fields
        As in `open_store`.
    table
        Its name; `metadata` is kept in TABLE_metadata.
    """

    def __init__(self, url: str, fields: Mapping[str, int] | int | None = None, table: str = "linmap") -> None:
        try:
            import pgvector.psycopg
            import psycopg
        except ModuleNotFoundError:
            raise DataError("PostgreSQL's driver is not installed: pip install 'linmap[stores]'.") from None
        if not NAME.fullmatch(table):
            raise ValueError(f"table must be lower-case letters, digits and _, got {table!r}.")
        self.table, self._pgvector = table, pgvector
        try:
            self.connection = psycopg.connect(url, autocommit=True)
        except psycopg.OperationalError as error:
            raise DataError(f"cannot connect to {url.split('@')[-1]}: {str(error).strip().splitlines()[0]}") from None
        try:
            self.fields = agreed_fields(self._found(), fields, f"the table {table!r}")
            for statement in statements(self.fields, table):
                self._execute(statement)
            pgvector.psycopg.register_vector(self.connection)
            self._open_metadata(self._found_metadata())
        except psycopg.errors.FeatureNotSupported:
            self.connection.close()
            raise DataError("this PostgreSQL has no extension `vector`; install pgvector on the server.") from None
        except psycopg.errors.UndefinedObject:
            self.connection.close()
            raise DataError(
                f"the pgvector of this PostgreSQL has no {' or '.join(_newer(self.fields))} columns, which fields "
                f"longer than {LONGEST['vector']} take; install pgvector 0.7 or newer on the server."
            ) from None
        except Exception:
            self.connection.close()
            raise

    def _found(self) -> dict[str, int] | None:
        rows = self._execute(
            "SELECT attname, atttypmod FROM pg_attribute WHERE attrelid = to_regclass(%s) AND attnum > 0 "
            "AND NOT attisdropped AND attname <> 'id' ORDER BY attnum",
            (self.table,),
        ).fetchall()
        return dict(rows) or None

    def _found_metadata(self) -> dict[str, Any]:
        if self._execute("SELECT to_regclass(%s)", (f"{self.table}_metadata",)).fetchone() == (None,):
            return {}
        row = self._execute(f"SELECT metadata FROM {self.table}_metadata").fetchone()
        return row[0] if row else {}

    def _keep(self, metadata: dict[str, Any]) -> None:
        name = f"{self.table}_metadata"
        with self.connection.transaction():
            self._execute(f"CREATE TABLE IF NOT EXISTS {name} (metadata json NOT NULL)")
            self._execute(f"DELETE FROM {name}")
            self._execute(f"INSERT INTO {name} VALUES (%s)", (json.dumps(metadata),))

    def create_index(self, field: str = FIELD) -> None:
        """A graph (HNSW) over a field: faster, and no longer exact."""
        self._execute(index_statement(field, self._dim(field), self.table))

    def _execute(self, statement: str, values: tuple[Any, ...] = ()) -> Any:
        return self.connection.execute(statement, values)  # pyright: ignore[reportArgumentType]

    def _value(self, vector: np.ndarray) -> Any:
        kind = column_type(len(vector))
        if kind == "bit":
            return self._pgvector.Bit(vector < 0)
        return self._pgvector.Vector(vector) if kind == "vector" else self._pgvector.HalfVector(vector)

    def _upsert(self, ids: list[str], vectors: np.ndarray, field: str) -> None:
        statement: Any = (
            f"INSERT INTO {self.table} (id, {field}) VALUES (%s, %s) "
            f"ON CONFLICT (id) DO UPDATE SET {field} = EXCLUDED.{field}"
        )
        with self.connection.transaction(), self.connection.cursor() as cursor:
            cursor.executemany(statement, [(name, self._value(v)) for name, v in zip(ids, vectors, strict=True)])

    def _search(self, queries: np.ndarray, k: int, field: str) -> list[list[Hit]]:
        dim = self.fields[field]
        kind = column_type(dim)
        distance = f"{field} {OPERATOR[kind]} %s"
        statement = f"SELECT id, {distance} FROM {self.table} WHERE {field} IS NOT NULL ORDER BY {distance} LIMIT {k}"
        hits = []
        with self.connection.transaction():
            self._execute(f"SET LOCAL hnsw.ef_search = {min(max(k, 100), 1000)}")
            for query in queries:
                value = self._value(query)
                rows = self._execute(statement, (value, value)).fetchall()
                hits.append([Hit(name, float(np.cos(np.pi * d / dim)) if kind == "bit" else -d) for name, d in rows])
        return hits

    def _iterate(self, field: str, batch: int) -> Iterator[tuple[list[str], np.ndarray]]:
        with self.connection.transaction(), self.connection.cursor(name="linmap_iterate") as cursor:
            statement: Any = f"SELECT id, {field} FROM {self.table} WHERE {field} IS NOT NULL ORDER BY id"
            cursor.execute(statement)
            while rows := cursor.fetchmany(batch):
                yield [name for name, _ in rows], np.stack([_numbers(vector) for _, vector in rows])

    def count(self, field: str = FIELD) -> int:
        self._dim(field)
        return self._execute(f"SELECT count({field}) FROM {self.table}").fetchone()[0]

    def close(self) -> None:
        self.connection.close()


def _newer(fields: Mapping[str, int]) -> list[str]:
    return sorted({column_type(dim) for dim in fields.values()} - {"vector"})


def _numbers(value: Any) -> np.ndarray:
    if isinstance(value, np.ndarray):
        return value.astype(np.float32)
    if isinstance(value, str):  # bits
        bits = np.frombuffer(value.encode(), np.uint8) - ord("0")
        return (1 - 2 * bits.astype(np.float32)) / np.float32(np.sqrt(len(bits)))
    return np.asarray(value.to_numpy(), np.float32)
