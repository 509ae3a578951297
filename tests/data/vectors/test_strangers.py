"""Collections and tables that linmap did not make: used where they can be, and else refused by name."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import psycopg
import pyarrow as pa
import pytest

from linmap.data.vectors import open_store
from linmap.errors import DataError

if TYPE_CHECKING:  # clients that take seconds to import, which only the process that tests them should spend
    from qdrant_client import models

X = np.random.default_rng(0).standard_normal((30, 8)).astype(np.float32)
QUERY = np.random.default_rng(1).standard_normal((4, 8)).astype(np.float32)
IDS = [f"i{i}" for i in range(30)]


def best(vectors: np.ndarray, k: int = 3) -> tuple[list[list[str]], np.ndarray]:
    rows = np.argsort(-(QUERY @ vectors.T), axis=1)[:, :k]
    return [[IDS[row] for row in line] for line in rows], np.take_along_axis(QUERY @ vectors.T, rows, 1)


def check(store: Any, vectors: np.ndarray, field: str = "vector") -> None:
    hits = store.search(QUERY, 3, field)
    ids, scores = best(vectors)
    assert [[hit.id for hit in line] for line in hits] == ids
    np.testing.assert_allclose([[hit.score for hit in line] for line in hits], scores, rtol=1e-4, atol=1e-5)


# -- Qdrant ------------------------------------------------------------------------------------------------------------


def collection(folder: Path, config: Any, named: bool = True, payload: bool = True) -> str:
    from qdrant_client import QdrantClient, models

    client = QdrantClient(path=str(folder))
    client.create_collection("linmap", vectors_config=config)
    points = [
        models.PointStruct(
            id=i,
            vector=cast("Any", {"vector": x.tolist()} if named else x.tolist()),
            payload={"id": IDS[i]} if payload else {"text": "x"},
        )
        for i, x in enumerate(X)
    ]
    client.upsert("linmap", points)
    client.close()
    return f"qdrant:{folder}"


def params(distance: str) -> models.VectorParams:
    from qdrant_client import models

    return models.VectorParams(size=8, distance=models.Distance(distance))


@pytest.mark.parametrize("distance", ["Dot", "Cosine", "Euclid", "Manhattan"])
def test_scores_are_inner_products_whatever_a_collection_compares_by(tmp_path: Path, distance: str) -> None:
    unit = X / np.linalg.norm(X, axis=1, keepdims=True)
    with open_store(collection(tmp_path, {"vector": params(distance)})) as store:
        check(store, unit if distance == "Cosine" else X)
        kept = unit if distance == "Cosine" else X
        np.testing.assert_allclose(store.get(["i7", "i2"]), kept[[7, 2]], rtol=1e-5)
        with pytest.raises(DataError, match="no record with the id '7'"):
            store.get(["7"])
        with pytest.raises(DataError, match="was filled by another program, whose points have other ids"):
            store.upsert(["i0"], X[:1])


def test_a_collection_that_keeps_no_lengths_takes_none(tmp_path: Path) -> None:
    from qdrant_client import QdrantClient

    client = QdrantClient(path=str(tmp_path))
    client.create_collection("linmap", vectors_config={"vector": params("Cosine")})
    client.close()
    with open_store(f"qdrant:{tmp_path}") as store:
        with pytest.raises(DataError, match="by cosine and keeps no lengths"):
            store.upsert(IDS, X)
        unit = X / np.linalg.norm(X, axis=1, keepdims=True)
        store.upsert(IDS, unit)
        check(store, unit)


def test_collections_of_another_form_are_refused_by_name(tmp_path: Path) -> None:
    from qdrant_client import QdrantClient, models

    with pytest.raises(DataError, match="'linmap' keeps vectors without a name"):
        open_store(collection(tmp_path / "a", params("Dot"), named=False))
    with open_store(collection(tmp_path / "b", {"vector": params("Dot")}, payload=False)) as store:
        for use in (lambda: store.search(QUERY, 2), lambda: list(store.iterate()), lambda: store.upsert(IDS, X)):
            with pytest.raises(DataError, match="of the collection 'linmap' has no `id` in its payload"):
                use()
    several = models.MultiVectorConfig(comparator=models.MultiVectorComparator.MAX_SIM)
    config = models.VectorParams(size=8, distance=models.Distance.DOT, multivector_config=several)
    client = QdrantClient(path=str(tmp_path / "c"))
    client.create_collection("linmap", vectors_config={"vector": config})
    client.close()
    with pytest.raises(DataError, match="keeps several vectors of each point as 'vector'"):
        open_store(f"qdrant:{tmp_path / 'c'}")


def test_a_folder_that_another_program_has_open_is_told(tmp_path: Path) -> None:
    with open_store(f"qdrant:{tmp_path}", 8), pytest.raises(DataError, match=r"cannot be opened: .*already accessed"):
        open_store(f"qdrant:{tmp_path}")


# -- LanceDB -----------------------------------------------------------------------------------------------------------


def vectors(values: np.ndarray, kind: str = "float") -> pa.Array:
    return pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)).cast(kind), values.shape[1])


def test_tables_of_others_stand_beside_or_are_searched(tmp_path: Path) -> None:
    import lancedb

    database = lancedb.connect(tmp_path)
    database.create_table("notes", pa.table({"text": ["a", "b"]}))
    database.create_table("numbered", pa.table({"id": [1, 2], "vector": vectors(X[:2])}))
    with pytest.raises(DataError, match="the table 'notes' is no field, for it lacks a column `id`"):
        open_store(f"lance:{tmp_path}")
    with pytest.raises(DataError, match="the table 'notes' is no field"):
        open_store(f"lance:{tmp_path}", {"notes": 8})
    with open_store(f"lance:{tmp_path}", 8) as store:
        store.upsert(IDS, X)
        check(store, X)
    table = pa.table(
        {"id": [*IDS, None], "vector": vectors(np.concatenate([X, 9 * QUERY[:1]]), "double"), "text": ["x"] * 31}
    )
    database.create_table("docs", table)
    with open_store(f"lance:{tmp_path}") as store:
        assert store.fields == {"docs": 8, "vector": 8}
        assert store.count("docs") == 30
        check(store, X, "docs")
        np.testing.assert_allclose(store.get(["i7", "i2"], "docs"), X[[7, 2]], rtol=1e-6)
        assert [name for names, _ in store.iterate("docs") for name in names] == IDS
        store.upsert(["i0"], 2 * X[:1], "docs")
        store.upsert(["i0"], X[:1], "docs")
        check(store, X, "docs")
    assert database.open_table("docs").count_rows("text = 'x'") == 31


# -- PostgreSQL --------------------------------------------------------------------------------------------------------


def test_tables_with_other_columns(postgres: str) -> None:
    connection: Any = psycopg.connect(postgres, autocommit=True)
    connection.execute("CREATE EXTENSION IF NOT EXISTS vector")
    connection.execute("CREATE TABLE mixed (text text, id text PRIMARY KEY, vector vector(8), n int, loose vector)")
    with open_store(postgres, table="mixed") as store:
        assert store.fields == {"vector": 8}
        store.upsert(IDS, X)
        check(store, X)
    connection.execute("CREATE TABLE strict (id text PRIMARY KEY, vector vector(8), owner text NOT NULL)")
    connection.execute("CREATE TABLE numbered (id int, vector halfvec(8))")
    for table, message in (("strict", "null value in column"), ("numbered", "no unique or exclusion constraint|type")):
        with open_store(postgres, table=table) as store:
            with pytest.raises(DataError, match=f"the table '{table}' does not take these records .*{message}"):
                store.upsert(IDS, X)
            assert store.count() == 0
    connection.execute("INSERT INTO numbered VALUES (7, '[1,0,0,0,0,0,0,0]'), (NULL, '[1,0,0,0,0,0,0,0]')")
    with open_store(postgres, table="numbered") as store:
        assert store.search(np.eye(8, dtype=np.float32)[:1], 5) == [[("7", 1.0)]]
        np.testing.assert_array_equal(store.get(["7"]), np.eye(8)[:1])
        assert store.count() == 1
    connection.execute("CREATE TABLE plain (id text, body text)")
    connection.execute("CREATE TABLE nameless (key text, vector vector(8))")
    for table, lacks in (("plain", "of the type vector"), ("nameless", "a column `id`; its columns are key, vector")):
        with pytest.raises(DataError, match=f"the table '{table}' lacks .*{lacks}"):
            open_store(postgres, table=table)
    connection.close()


def test_ids_that_a_database_does_not_take(postgres: str, tmp_path: Path) -> None:
    for address, options in ((f"array:{tmp_path}", {}), (postgres, {"table": "odd"})):
        message = r"the id '\\ud800' holds half a character"
        with open_store(address, 8, **options) as store, pytest.raises(ValueError, match=message):
            store.upsert(["\ud800"], X[:1])
    with open_store(postgres, table="odd") as store, pytest.raises(DataError, match="does not take these records"):
        store.upsert(["a\0b"], X[:1])
