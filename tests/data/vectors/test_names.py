"""Names and ids that a user or a stranger's file gives: refused in one line, or kept as they are, in every store."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from linmap.data.vectors import open_store
from linmap.data.vectors.postgres_store import index_statement, statements
from linmap.errors import ArgumentError, DataError

KINDS = ["array", "faiss", "usearch", "lance", "qdrant", "postgres"]
NAMES = [
    "", "a b", 'a"b', "a'b", "a;b", "a--", "a\\b", "a\0b", "a\nb", "a%s", "a.b", "../a", "/a", "A", "1a", "é", "ａ",
    "a\u202eb", 'x" vector(3)); DROP TABLE linmap; --', "id", "a" * 64, "a" * 100_000,
]  # fmt: skip
KEYWORDS = ("user", "order", "select", "table", "vector", "limit", "group", "all", "default", "null")
IDS = [
    "'", '"', "\\", "\\'", "''", "%s", "%", "{}", "$1", "a;b", "'); DROP TABLE linmap; --", "' OR '1'='1", "x\ny", "é",
    "e\u0301", "\u202e", "😀", "../../x", "NULL", " ", "a" * 2000,
]  # fmt: skip
VECTORS = np.random.default_rng(0).standard_normal((len(IDS), 4)).astype(np.float32)


@pytest.fixture(params=KINDS)
def address(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    kind = request.param
    return request.getfixturevalue("postgres") if kind == "postgres" else f"{kind}:{tmp_path / 'store'}"


def table(address: str, name: str) -> dict[str, Any]:
    return {"table": name} if address.startswith("postgresql") else {}


@pytest.mark.parametrize("name", NAMES, ids=lambda name: ascii(name[:20]))
def test_sql_is_written_of_no_other_name(name: str) -> None:
    of_fields = [lambda: statements({name: 4}), lambda: index_statement(name, 4)]
    of_tables = [lambda: statements(4, name), lambda: index_statement("a", 4, name)]
    for write in of_fields + (of_tables if name != "id" else []):
        with pytest.raises(ArgumentError) as refused:
            write()
        assert len(str(refused.value)) < 200
        assert "\n" not in str(refused.value)


def test_every_name_in_sql_is_in_quotes() -> None:
    text = " ".join([*statements({"user": 4, "order": 3}, "select"), index_statement("group", 4, "table")])
    assert not re.search(r'(?<!["\w])(user|order|group)(?!["\w])', text)
    long = {index_statement("a" * 30 + end, 4, "t" * 50).split('"')[1] for end in "xy"}
    assert len(long) == 2
    assert max(map(len, long)) <= 63


@pytest.mark.slow
def test_no_store_takes_another_name_and_none_is_changed_by_it(address: str) -> None:
    with open_store(address, 4, **table(address, "names")) as store:
        store.upsert(["a"], VECTORS[:1])
    for name in NAMES:
        with pytest.raises(ArgumentError, match="names of fields are"):
            open_store(address, {name: 4}, **table(address, "names"))
        if address.startswith("postgresql") and name != "id":
            with pytest.raises(ArgumentError, match="table must be"):
                open_store(address, 4, table=name)
        with open_store(address, **table(address, "names")) as store:
            with pytest.raises(ValueError, match="field"):
                store.search(VECTORS[:1], 1, name)
            with pytest.raises(ValueError, match="field"):
                store.upsert(["b"], VECTORS[:1], name)
            assert store.count() == 1


@pytest.mark.slow
def test_words_of_sql_are_names_like_any_other(address: str) -> None:
    fields = dict.fromkeys([*KEYWORDS, "a" * 63], 4)
    options = table(address, "select")
    with open_store(address, fields, **options) as store:
        for field in fields:
            store.upsert(["a", "b"], VECTORS[:2], field)
    with open_store(address, **options) as store:
        for field in fields:
            np.testing.assert_allclose(store.get(["b"], field), VECTORS[1:2], rtol=1e-6)
            assert store.search(VECTORS[:1] / np.linalg.norm(VECTORS[0]), 2, field)[0][0].id in ("a", "b")
            assert store.count(field) == 2
            index: Any = getattr(store, "create_index", None)
            if index is not None:
                index(field)


@pytest.mark.slow
def test_ids_come_back_as_they_are(address: str) -> None:
    with open_store(address, 4, **table(address, "odd_ids")) as store:
        store.upsert(IDS, VECTORS)
        store.flush()
    with open_store(address, **table(address, "odd_ids")) as store:
        np.testing.assert_allclose(store.get(IDS), VECTORS, rtol=1e-6)
        assert {name for ids, _ in store.iterate() for name in ids} == set(IDS)
        hits = store.search(VECTORS, len(IDS))
        assert all({hit.id for hit in line} == set(IDS) for line in hits)
        with pytest.raises(DataError):
            store.get(["' OR '1'='1' --"])
        if address.startswith("postgresql"):
            with pytest.raises(DataError, match=r"does not take these records .*NUL"):
                store.upsert(["a\0b"], VECTORS[:1])
        else:
            store.upsert(["a\0b"], VECTORS[:1])
            np.testing.assert_allclose(store.get(["a\0b"]), VECTORS[:1], rtol=1e-6)
