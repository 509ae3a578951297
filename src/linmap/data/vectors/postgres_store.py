"""PostgreSQL with the extension pgvector: one table, a column for each field, of the type that its length allows."""

from __future__ import annotations

import hashlib
import json
import reprlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from operator import itemgetter
from typing import Any, Literal, LiteralString, cast

import numpy as np

from linmap.data.vectors.store import FIELD, LONGEST_NAME, NAME, DatabaseStore, Hit, agreed_fields, checked_fields
from linmap.errors import ArgumentError, DataError

ColumnType = Literal["vector", "halfvec", "bit"]
LONGEST: dict[str, int] = {"vector": 2000, "halfvec": 4000, "bit": 64000}
"""Numbers of a column that pgvector can index: float32, float16 and signs."""
OPERATOR = {"vector": "<#>", "halfvec": "<#>", "bit": "<~>"}
METADATA = "_metadata"
MOST_FROM_GRAPH = 1000  # records that pgvector's graph looks at, at most
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
    raise ArgumentError(
        f"pgvector indexes at most {LONGEST['bit']:,} bits, got a length of {dim:,}; encode with fewer dimensions."
    )


def statements(fields: Mapping[str, int] | int, table: str = "linmap") -> list[str]:
    """The SQL that makes the table, for those who keep their schema themselves; indexes come with `index_statement`.

    Raises
    ------
    ValueError
        If a field or the table has a name that is no lower-case identifier, or too long a one.
    """
    columns = ", ".join(f'"{name}" {column_type(dim)}({dim})' for name, dim in checked_fields(fields).items())
    return [
        "CREATE EXTENSION IF NOT EXISTS vector",
        f"CREATE TABLE IF NOT EXISTS {quoted(table)} (id text PRIMARY KEY, {columns})",
    ]


def index_statement(field: str, dim: int, table: str = "linmap", kind: ColumnType | None = None) -> str:
    """The SQL of a graph (HNSW) over one field, of the type of its column; build it when the table is filled.

    Raises
    ------
    ValueError
        As of `statements`.
    """
    checked_fields({field: dim})
    operators, name = CLASS[kind or column_type(dim)], f"{table}_{field}"
    if len(name) > LONGEST_NAME:  # of two long names, PostgreSQL would keep the same beginning
        name = f"{name[:46]}_{hashlib.sha256(name.encode()).hexdigest()[:16]}"
    return f'CREATE INDEX IF NOT EXISTS "{name}" ON {quoted(table)} USING hnsw ("{field}" {operators})'


def quoted(table: str) -> str:
    """The name of a table in SQL.

    Raises
    ------
    ValueError
        If it is no lower-case identifier, or too long to stand before `_metadata`.
    """
    longest = LONGEST_NAME - len(METADATA)
    if not isinstance(table, str) or not NAME.fullmatch(table) or len(table) > longest:
        raise ArgumentError(
            f"table must be at most {longest} lower-case letters, digits and _, got {reprlib.repr(table)}."
        )
    return f'"{table}"'


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
        self.table, self._pgvector, self._errors = table, pgvector, psycopg.errors
        self._quoted = quoted(table)
        try:
            self.connection = psycopg.connect(url, autocommit=True)
        except psycopg.OperationalError as error:
            raise DataError(f"cannot connect to {url.split('@')[-1]}: {str(error).strip().splitlines()[0]}") from None
        try:
            with self._alone():  # of two that make one table, one finds it
                there = self._found()
                dims = {name: dim for name, (_, dim) in there.items()} or None
                self.fields = agreed_fields(dims, fields, f"the table {table!r}")
                self._kinds: dict[str, ColumnType] = {
                    name: there[name][0] if there else column_type(dim) for name, dim in self.fields.items()
                }
                for statement in statements(self.fields, table):
                    self._execute(statement)
            pgvector.psycopg.register_vector(self.connection)
            self._open_metadata(self._found_metadata(), f"the table {table!r}")
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

    def _found(self) -> dict[str, tuple[ColumnType, int]]:
        """Type and length of each field of a table that is there; columns of other types are left alone.

        Raises
        ------
        DataError
            If the table has no column of ids, or none of vectors.
        """
        rows = self._execute(
            "SELECT attname, typname, atttypmod FROM pg_attribute JOIN pg_type ON pg_type.oid = atttypid "
            "WHERE attrelid = to_regclass(%s) AND attnum > 0 AND NOT attisdropped ORDER BY attnum",
            (self._quoted,),
        ).fetchall()
        found = {
            name: (kind, dim)
            for name, kind, dim in rows
            if kind in LONGEST and dim > 0 and NAME.fullmatch(name) and name != "id"  # of others, linmap writes no SQL
        }
        names = [name for name, *_ in rows]
        if rows and ("id" not in names or not found):
            lacks = "a column `vector` (or of another name) of the type vector(n), halfvec(n) or bit(n)"
            raise DataError(
                f"the table {self.table!r} lacks {'a column `id`' if 'id' not in names else lacks}; its columns are "
                f"{', '.join(names)}. Choose another table."
            )
        return found

    def _found_metadata(self) -> Any:
        if self._execute("SELECT to_regclass(%s)", (f"{self.table}{METADATA}",)).fetchone() == (None,):
            return {}
        row = self._execute(f"SELECT metadata FROM {self.table}{METADATA}").fetchone()
        return row[0] if row else {}

    def _keep(self, metadata: dict[str, Any]) -> None:
        name = f"{self.table}{METADATA}"  # no keyword, and no name that needs quotes
        with self._alone():
            self._execute(f"CREATE TABLE IF NOT EXISTS {name} (metadata json NOT NULL)")
            self._execute(f"DELETE FROM {name}")
            self._execute(f"INSERT INTO {name} VALUES (%s)", (json.dumps(metadata),))

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """A transaction, while which no other one of linmap makes the extension, tables or metadata."""
        with self.connection.transaction():
            self._execute("SELECT pg_advisory_xact_lock(hashtext('linmap'))")
            yield

    def create_index(self, field: str = FIELD) -> None:
        """A graph (HNSW) over a field: faster, and no longer exact."""
        self._execute(index_statement(field, self._dim(field), self.table, self._kinds[field]))

    def _execute(self, statement: str, values: tuple[Any, ...] = (), prepare: bool | None = None) -> Any:
        return self.connection.execute(cast("LiteralString", statement), values or None, prepare=prepare)

    def _value(self, vector: np.ndarray, kind: ColumnType) -> Any:
        if kind == "bit":
            return self._pgvector.Bit(vector < 0)
        return self._pgvector.Vector(vector) if kind == "vector" else self._pgvector.HalfVector(vector)

    def _upsert(self, ids: list[str], vectors: np.ndarray, field: str) -> None:
        statement: Any = (
            f'INSERT INTO {self._quoted} (id, "{field}") VALUES (%s, %s) '
            f'ON CONFLICT (id) DO UPDATE SET "{field}" = EXCLUDED."{field}"'
        )
        kind = self._kinds[field]
        in_order = sorted(zip(ids, vectors, strict=True), key=itemgetter(0))  # two writers lock rows alike: no deadlock
        rows = [(name, self._value(vector, kind)) for name, vector in in_order]
        try:
            with self.connection.transaction(), self.connection.cursor() as cursor:
                cursor.executemany(statement, rows)
        except (self._errors.DataError, self._errors.IntegrityError, self._errors.ProgrammingError) as error:
            raise DataError(
                f"the table {self.table!r} does not take these records ({str(error).splitlines()[0]}); linmap's tables "
                "have ids that are texts and a primary key."
            ) from None

    def _search(self, queries: np.ndarray, k: int, field: str) -> list[list[Hit]]:
        dim, kind = self.fields[field], self._kinds[field]
        distance = f'"{field}" {OPERATOR[kind]} %s'
        there = f'"{field}" IS NOT NULL AND id IS NOT NULL'
        statement = f"SELECT id, {distance} FROM {self._quoted} WHERE {there} ORDER BY {distance} LIMIT {k}"
        hits = []
        with self.connection.transaction():
            self._execute(f"SET LOCAL hnsw.ef_search = {min(max(k, 100), MOST_FROM_GRAPH)}")
            for query in queries:
                value = self._value(query, kind)
                rows = self._execute(statement, (value, value)).fetchall()
                if len(rows) < k:  # a graph gives so many at most, and counts what has been replaced since among them
                    self._execute("SET LOCAL enable_indexscan = off; SET LOCAL enable_seqscan = on")
                    rows = self._execute(statement, (value, value), prepare=False).fetchall()  # with a plan of its own
                hits.append(
                    [Hit(str(name), float(np.cos(np.pi * d / dim)) if kind == "bit" else -d) for name, d in rows]
                )
        return hits

    def _get(self, ids: list[str], field: str) -> dict[str, np.ndarray]:
        statement = f'SELECT id, "{field}" FROM {self._quoted} WHERE id::text = ANY(%s) AND "{field}" IS NOT NULL'
        return {str(name): _numbers(vector) for name, vector in self._execute(statement, (ids,)).fetchall()}

    def _iterate(self, field: str, batch: int) -> Iterator[tuple[list[str], np.ndarray]]:
        with self.connection.transaction(), self.connection.cursor(name="linmap_iterate") as cursor:
            statement: Any = (
                f'SELECT id, "{field}" FROM {self._quoted} WHERE "{field}" IS NOT NULL AND id IS NOT NULL ORDER BY id'
            )
            cursor.execute(statement)
            while rows := cursor.fetchmany(batch):
                yield [str(name) for name, _ in rows], np.stack([_numbers(vector) for _, vector in rows])

    def count(self, field: str = FIELD) -> int:
        self._dim(field)
        return self._execute(f'SELECT count("{field}") FROM {self._quoted} WHERE id IS NOT NULL').fetchone()[0]

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
