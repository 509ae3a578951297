"""Stores of strangers run nothing, read and write nothing elsewhere, and are told as damaged where they are."""

from __future__ import annotations

import json
import pickle
import random
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from linmap.cli import main
from linmap.cli.errors import WRONG_USE
from linmap.data.vectors import open_store
from linmap.data.vectors.qdrant_folder import SEVERAL
from linmap.errors import ArtifactError, LinmapError

X = np.random.default_rng(0).standard_normal((8, 8)).astype(np.float32)
IDS = [f"a{i}" for i in range(len(X))]
FOLDERS = ("array", "faiss", "usearch")
KINDS = (*FOLDERS, "lance", "qdrant")
COLLECTION = Path("collection", "linmap", "storage.sqlite")


def filled(kind: str, folder: Path, **options: Any) -> Path:
    with open_store(f"{kind}:{folder}", 8, **options) as store:
        store.upsert(IDS, X)
        store.metadata["x"] = 1
    return folder


def used(kind: str, folder: Path) -> None:
    with open_store(f"{kind}:{folder}") as store:
        store.search(X[:2], 2)
        store.get(IDS[:3])
        list(store.iterate())
        store.upsert(["a2", "n"], X[:2])


# -- Qdrant's folders --------------------------------------------------------------------------------------------------


class Called:
    """Of which a pickle calls something."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return self.call


def hostile(marker: Path) -> Iterator[bytes]:
    """Pickles that make a file; of several protocols, alone and inside of a point."""
    from qdrant_client import models

    for protocol in (0, 2, 4):
        for calls in (
            Called(exec, f"open({str(marker)!r}, 'w')"),
            Called(Path.touch, marker),
            Called(getattr, marker, "touch"),
        ):
            yield pickle.dumps(calls, protocol)
            payload: Any = {"id": "a", "x": calls}
            point = models.PointStruct.model_construct(id=1, vector={"vector": [1.0] * 8}, payload=payload)
            yield pickle.dumps(point, protocol)
    outside = b"cqdrant_client.http.models.models\nPointStruct.__init__.__globals__\n."
    yield outside.replace(b"c", b"\x80\x04c", 1)
    yield b"cqdrant_client.http.models.models\nAny\n(tR."
    yield b"(S'" + str(marker).encode() + b"'\nipathlib\nPath\n."


def test_no_pickle_of_a_folder_of_qdrant_runs_anything(tmp_path: Path) -> None:
    folder, marker = filled("qdrant", tmp_path / "s"), tmp_path / "marker"
    for data in hostile(marker):
        with closing(sqlite3.connect(folder / COLLECTION)) as points:
            points.execute("UPDATE points SET point = ? WHERE rowid = 7", (data,))
            points.commit()
        for fields in (None, 8):
            with pytest.raises(LinmapError, match="fill a new store"):
                open_store(f"qdrant:{folder}", fields)
        assert not marker.exists()


KILLED = """
import os, sqlite3, sys
points = sqlite3.connect(sys.argv[1])
points.execute("PRAGMA cache_size = 2")  # pages, so that the file itself is written before the end
points.execute("UPDATE points SET point = zeroblob(5000)")
os._exit(0)
"""


def test_points_of_a_writer_that_was_killed_are_taken_back(tmp_path: Path) -> None:
    folder = filled("qdrant", tmp_path / "s")
    subprocess.run([sys.executable, "-c", KILLED, folder / COLLECTION], check=True)
    journal = (folder / COLLECTION).with_name("storage.sqlite-journal")
    left, torn = journal.read_bytes(), (folder / COLLECTION).read_bytes()
    victim = tmp_path / "victim"
    victim.write_text("mine")
    journal.write_bytes(left + bytes(4) + str(victim).encode() + bytes(8) + SEVERAL)
    with pytest.raises(ArtifactError, match="names another file"):
        open_store(f"qdrant:{folder}")
    assert victim.read_text() == "mine"
    assert (folder / COLLECTION).read_bytes() == torn
    journal.write_bytes(left)
    with open_store(f"qdrant:{folder}") as store:
        assert store.count() == 8
    assert not journal.exists()


def test_other_programs_read_their_own_pickles_as_before(tmp_path: Path) -> None:
    from qdrant_client.local import persistence

    filled("qdrant", tmp_path / "s")
    assert isinstance(persistence.pickle.loads(pickle.dumps(tmp_path)), Path)


def test_a_collection_lies_in_its_folder(tmp_path: Path) -> None:
    folder = filled("qdrant", tmp_path / "s")
    whole = (folder / "meta.json").read_text()
    before = sorted(tmp_path.rglob("*"))
    for name in ("../../elsewhere", "/tmp/linmap-elsewhere", "..", "a/b", "a\0", ""):
        meta = json.loads(whole)
        meta["collections"][name] = meta["collections"]["linmap"]
        (folder / "meta.json").write_text(json.dumps(meta))
        with pytest.raises(ArtifactError, match="no name of a file in that folder"):
            open_store(f"qdrant:{folder}")
        assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    "statements",
    [
        "ALTER TABLE points RENAME TO p; CREATE VIEW points AS SELECT * FROM p, (WITH RECURSIVE n(i) AS "
        "(SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT i FROM n)",
        "CREATE TRIGGER t AFTER INSERT ON points BEGIN DELETE FROM points; END",
        "DROP TABLE points; CREATE TABLE points (id TEXT PRIMARY KEY, point BLOB AS (zeroblob(1000000000)))",
    ],
)
def test_what_sqlite_would_compute_is_refused(statements: str, tmp_path: Path) -> None:
    folder = filled("qdrant", tmp_path / "s")
    with closing(sqlite3.connect(folder / COLLECTION)) as points:
        points.executescript(statements)
    with pytest.raises(ArtifactError, match="holds other things than points"):
        open_store(f"qdrant:{folder}")


# -- damage ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", FOLDERS)
def test_an_index_of_which_a_bit_was_turned_is_refused(kind: str, tmp_path: Path) -> None:
    folder, rng = filled(kind, tmp_path / "s"), random.Random(kind)
    for path in folder.glob("vector-*"):
        whole = path.read_bytes()
        for _ in range(20):
            changed = bytearray(whole)
            changed[rng.randrange(len(whole))] ^= 1 << rng.randrange(8)
            path.write_bytes(changed)
            with pytest.raises(ArtifactError, match="was changed since it was written"):
                open_store(f"{kind}:{folder}")
        path.write_bytes(whole)
    used(kind, folder)


@pytest.mark.parametrize("kind", FOLDERS)
def test_a_store_without_sums_is_one_that_was_written_before_there_were_any(kind: str, tmp_path: Path) -> None:
    path = filled(kind, tmp_path / "s") / "store.json"
    header = json.loads(path.read_text())
    del header["fields"]["vector"]["sums"]
    path.write_text(json.dumps(header))
    used(kind, tmp_path / "s")


def test_rows_that_an_index_makes_up_are_damage(tmp_path: Path) -> None:
    folder = filled("array", tmp_path / "s")
    with open_store(f"array:{folder}") as store:
        index: Any = store.index("vector")  # type: ignore[attr-defined]
        index.search = lambda queries, k: (np.full((len(queries), k), 10**6), np.zeros((len(queries), k)))
        with pytest.raises(ArtifactError, match="is damaged"):
            store.search(X[:1], 1)


@pytest.mark.parametrize("kind", ["qdrant", "lance"])
@pytest.mark.parametrize("kept", ["[1]", "{", "null", "[" * 10**5, '{"a": NaN}'])
def test_metadata_that_are_no_object_are_told(kind: str, kept: str, tmp_path: Path) -> None:
    folder = filled(kind, tmp_path / "s")
    if kind == "qdrant":
        meta = json.loads((folder / "meta.json").read_text())
        meta["collections"]["linmap"]["metadata"]["linmap"] = kept
        (folder / "meta.json").write_text(json.dumps(meta))
    else:
        import lancedb
        import pyarrow as pa

        lancedb.connect(folder).create_table("linmap_metadata", pa.table({"metadata": [kept]}), mode="overwrite")
    with pytest.raises(LinmapError, match="the metadata of"):
        open_store(f"{kind}:{folder}")


# -- places ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_a_store_is_not_made_where_none_is_meant(kind: str, tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    np.save("v.npy", X)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text("{}")
    before = sorted(tmp_path.rglob("*"))
    for place in ("", " ", "run", "v.npy", "no/../store"):
        for words in (["index", "v.npy", "--into", f"{kind}:{place}"], ["search", f"{kind}:{place}", "--id", "0"]):
            assert main(words) == WRONG_USE, words
            assert capsys.readouterr().err.count("\n") == 1
    assert main(["search", f"{kind}:nowhere", "--query", "v.npy"]) == WRONG_USE
    assert sorted(tmp_path.rglob("*")) == before


def test_memory_is_a_folder_like_others(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    filled("qdrant", Path(":memory:"))
    used("qdrant", Path(":memory:"))
