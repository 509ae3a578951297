"""Laws of all stores, against exact search over arrays."""

import json
import os
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from threading import Barrier

import faiss
import numpy as np
import pytest

from fresh import Fresh
from linmap.data.vectors import VectorFileWriter, VectorStore, fill, open_store
from linmap.data.vectors.faiss_store import FaissStore
from linmap.data.vectors.postgres_store import PostgresStore, column_type, index_statement, statements
from linmap.errors import ArtifactError, DataError
from linmap.locks import BusyError
from linmap.processes import this_process

FIELDS = {"old": 6, "new": 9}
RNG = np.random.default_rng(0)
OLD, NEW = RNG.standard_normal((40, 6)).astype(np.float32), RNG.standard_normal((25, 9)).astype(np.float32)
IDS = [f"é/{i} '\"" for i in range(40)]


KINDS = ["array", "faiss", "usearch", "lance", "qdrant", "postgres"]


class Place:
    """Where a store of a kind is; opened again and again."""

    def __init__(self, kind: str, folder: Path, request: pytest.FixtureRequest) -> None:
        self.options = {}
        self.address = f"{kind}:{folder / kind}"
        if kind == "postgres":
            self.address = request.getfixturevalue("postgres")
            self.options = {"table": f"t{abs(hash(folder)) % 10**9}"}

    def open(self, fields: dict[str, int] | None = None) -> VectorStore:
        return open_store(self.address, fields, **self.options)


@pytest.fixture(params=KINDS)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    return Place(request.param, tmp_path, request)


def filled(place: Place) -> VectorStore:
    store = place.open(FIELDS)
    store.upsert(IDS[:30], OLD[:30], "old")
    store.upsert(IDS[5:30], NEW, "new")
    store.upsert(IDS[30:], OLD[30:], "old")
    return store


def exact(queries: np.ndarray, vectors: np.ndarray, ids: list[str], k: int) -> list[list[str]]:
    return [[ids[row] for row in np.argsort(-vectors @ q, kind="stable")[:k]] for q in queries]


def check(store: VectorStore) -> None:
    assert store.fields == FIELDS
    assert (store.count("old"), store.count("new")) == (40, 25)
    for field, vectors, ids in (("old", OLD, IDS), ("new", NEW, IDS[5:30])):
        queries = RNG.standard_normal((7, vectors.shape[1])).astype(np.float32)
        hits = store.search(queries, 5, field)
        assert [[hit.id for hit in line] for line in hits] == exact(queries, vectors, ids, 5)
        for query, line in zip(queries, hits, strict=True):
            expected = [float(query @ vectors[ids.index(hit.id)]) for hit in line]
            np.testing.assert_allclose([hit.score for hit in line], expected, rtol=1e-4, atol=1e-4)
        found = {name: v for names, block in store.iterate(field, 8) for name, v in zip(names, block, strict=True)}
        assert set(found) == set(ids)
        np.testing.assert_allclose(np.stack([found[name] for name in ids]), vectors, rtol=1e-6)


def test_every_store_finds_what_exact_search_finds_before_and_after_it_was_closed(place: Place) -> None:
    with filled(place) as store:
        check(store)
    with place.open() as store:
        check(store)


def test_what_is_said_of_the_vectors_stays_with_them(place: Place) -> None:
    kept = {"fingerprint": "f00", "options": {"dim": 6, "weights": [["a.b", 2.5]], "seed": "ü"}}
    with filled(place) as store:
        assert store.metadata == {}
        store.metadata.update(kept)
    with place.open() as store:
        assert store.metadata == kept
        assert store.fields == FIELDS
        store.metadata["fingerprint"] = "f01"
        store.upsert(IDS[:1], OLD[:1], "old")
    with place.open() as store:
        assert store.metadata == kept | {"fingerprint": "f01"}


def test_an_upsert_replaces_the_vector_and_leaves_the_other_field(place: Place) -> None:
    with filled(place) as store:
        store.upsert([IDS[7], "fresh"], np.stack([OLD[8] * 3, OLD[9] * 5]), "old")
        assert (store.count("old"), store.count("new")) == (41, 25)
        assert store.search(OLD[8:9], 1, "old")[0][0].id == exact(OLD[8:9], changed(), [*IDS, "fresh"], 1)[0][0]
    with place.open() as store:
        found = {name: v for names, block in store.iterate("old") for name, v in zip(names, block, strict=True)}
        np.testing.assert_allclose(found[IDS[7]], OLD[8] * 3, rtol=1e-6)
        np.testing.assert_allclose(found["fresh"], OLD[9] * 5, rtol=1e-6)
        new = {name: v for names, block in store.iterate("new") for name, v in zip(names, block, strict=True)}
        np.testing.assert_allclose(new[IDS[7]], NEW[2], rtol=1e-6)


def test_stores_that_are_open_at_once_keep_one_vector_of_each_record(place: Place) -> None:
    """Whoever may write, whatever the other one has written since; who may not is told."""
    rng = np.random.default_rng(1)
    with place.open(FIELDS):
        pass
    told: dict[str, np.ndarray] = {}
    with ExitStack() as stack:
        stores = [stack.enter_context(place.open())]
        try:
            stores.append(stack.enter_context(place.open()))
        except BusyError:
            assert place.address.startswith("qdrant")
        for turn in range(12):
            store, names = stores[turn % len(stores)], list(rng.choice(IDS, 8, replace=False))
            vectors = rng.standard_normal((8, 6)).astype(np.float32)
            try:
                store.upsert(names, vectors, "old")
                store.flush()
            except (BusyError, ArtifactError):
                continue
            told |= dict(zip(names, vectors, strict=True))
            assert store.count("old") == len(told)
            np.testing.assert_array_equal(store.get(list(told), "old"), list(told.values()))
    with place.open() as store:
        found = [
            (name, tuple(v)) for names, block in store.iterate("old") for name, v in zip(names, block, strict=True)
        ]
    assert sorted(found) == sorted((name, tuple(vector)) for name, vector in told.items())


@pytest.mark.parametrize("place", ["lance", "postgres"], indirect=True)
def test_records_that_two_writers_bring_at_the_same_moment_are_there_once(place: Place) -> None:
    start, rounds = Barrier(2), 6

    def write(who: int) -> None:
        with place.open(FIELDS) as store:  # which neither of them finds
            for turn in range(rounds):
                names = [f"{turn}-{row}" for row in range(20)][:: 1 - 2 * who]
                start.wait(60)
                store.upsert(names, np.full((20, 6), who + 1, np.float32), "old")

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(write, range(2)))
    with place.open() as store:
        assert store.count("old") == 20 * rounds
        found = [name for names, _ in store.iterate("old") for name in names]
        assert len(found) == len(set(found)) == 20 * rounds
        vectors = store.get(found, "old")
    assert (vectors == vectors[:, :1]).all()
    assert set(vectors.ravel()) <= {1, 2}


def test_get_gives_the_vectors_that_were_put(place: Place) -> None:
    with filled(place) as store:
        store.upsert([IDS[7], "fresh"], np.stack([OLD[8] * 3, OLD[9] * 5]), "old")
        for _ in range(2):  # before and after a flush
            wanted = [IDS[31], "fresh", IDS[7], IDS[0], IDS[31]]
            np.testing.assert_allclose(store.get(wanted, "old"), changed()[[31, 40, 7, 0, 31]], rtol=1e-6)
            np.testing.assert_allclose(store.get(IDS[5:30], "new"), NEW, rtol=1e-6)
            store.flush()
        assert store.get([], "old").shape == (0, 6)
    with place.open() as store:
        np.testing.assert_allclose(store.get([*IDS, "fresh"], "old"), changed(), rtol=1e-6)
        with pytest.raises(DataError, match=r"the field 'new' has no record with the id 'fresh', 'nobody'\."):
            store.get([IDS[6], "fresh", "nobody", "fresh"], "new")
        with pytest.raises(DataError, match="has no record with the id '0', '1', '2', '3', '4' and 3 more"):
            store.get(list(map(str, range(8))), "old")
        with pytest.raises(ValueError, match="no field 'other'"):
            store.get(IDS[:1], "other")


def changed() -> np.ndarray:
    vectors = np.concatenate([OLD, OLD[9:10] * 5])
    vectors[7] = OLD[8] * 3
    return vectors


def test_more_than_there_is_and_nothing_at_all(place: Place) -> None:
    with place.open(FIELDS) as store:
        assert store.search(OLD[:2], 3, "old") == [[], []]
        store.upsert(IDS[:3], OLD[:3], "old")
        assert [len(line) for line in store.search(OLD[:2], 10, "old")] == [3, 3]
        store.upsert([], OLD[:0], "old")
        assert store.count("old") == 3


def test_wrong_use_is_named_and_changes_nothing(place: Place) -> None:
    with place.open(FIELDS) as store:
        store.upsert(IDS[:3], OLD[:3], "old")
        for ids, vectors, field, message in (
            (IDS[:3], OLD[:3], "other", "no field 'other' here; there is 'old', 'new'"),
            (IDS[:3], NEW[:3], "old", r"must have shape \(n, 6\), got \(3, 9\)"),
            (IDS[:2], OLD[:3], "old", "2 ids and 3 vectors"),
            (["a", "b", "a"], OLD[:3], "old", "'a' stands twice"),
            (IDS[:3], np.where(np.eye(3, 6) > 0, np.nan, 1), "old", "row 0 has NaN"),
        ):
            with pytest.raises(ValueError, match=message):
                store.upsert(ids, vectors, field)
        with pytest.raises(ValueError, match=r"queries of the field 'old' must have shape \(n, 6\)"):
            store.search(NEW[:1], 3, "old")
        with pytest.raises(ValueError, match="k must be at least 1"):
            store.search(OLD[:1], 0, "old")
        assert store.count("old") == 3
    with pytest.raises(DataError, match="has the fields"):
        place.open({"old": 7, "new": 9})


def test_a_store_that_is_not_there(tmp_path: Path, postgres: str) -> None:
    for kind in KINDS[:-1]:
        with pytest.raises(DataError, match=r"give the lengths of its vectors"):
            open_store(f"{kind}:{tmp_path / kind}")
    assert not list(tmp_path.iterdir())
    with pytest.raises(DataError, match=r"give the lengths of its vectors"):
        open_store(postgres, table="nowhere")
    with pytest.raises(DataError, match="is no store of vectors; addresses are array:FOLDER"):
        open_store(str(tmp_path))
    with pytest.raises(DataError, match="cannot connect to nobody:1"):
        open_store("postgresql://me@nobody:1/x?connect_timeout=1".replace("nobody:1/x?connect_timeout=1", "nobody:1"))
    with pytest.raises(DataError, match="no Qdrant answers at http://localhost:1"):
        open_store("qdrant:http://localhost:1", 3)
    for name in ("Vector", "id", "a b", "x;--"):
        with pytest.raises(ValueError, match="names of fields are lower-case"):
            open_store(f"array:{tmp_path / 'x'}", {name: 3})
    with pytest.raises(ValueError, match="length of at least 1, got 0"):
        open_store(f"array:{tmp_path / 'x'}", 0)


@pytest.mark.parametrize(
    ("index", "error"),
    [
        ("Flat", 1e-6),
        ("SQfp16", 2e-3),
        ("HNSW32", 1e-6),
        ("HNSW32,SQfp16", 2e-3),
        ("bits,Flat", 1e-6),
        ("bits,SQfp16", 2e-3),
    ],
)
def test_kinds_of_faiss_indexes_keep_vectors_to_their_precision(tmp_path: Path, index: str, error: float) -> None:
    vectors = RNG.standard_normal((300, 16)).astype(np.float32)
    ids = [str(i) for i in range(300)]
    with open_store(f"faiss:{tmp_path / 's'}", 16, index=index) as store:
        store.upsert(ids, -vectors)
        store.upsert(ids, vectors)  # all replaced
    with open_store(str(tmp_path / "s")) as store:
        kept = np.concatenate([block for _, block in store.iterate()])
        np.testing.assert_allclose(kept, vectors, rtol=error, atol=error)
        hits = store.search(vectors[:50] + 0.01, 10)
    wanted = exact(vectors[:50] + 0.01, vectors, ids, 10)
    found = [{hit.id for hit in line} & set(line_) for line, line_ in zip(hits, wanted, strict=True)]
    assert sum(map(len, found)) >= 490


def test_candidates_by_signs_are_ranked_by_their_numbers(tmp_path: Path) -> None:
    vectors = RNG.standard_normal((3000, 128)).astype(np.float32)
    queries, ids = vectors[:40] + 0.3 * RNG.standard_normal((40, 128)).astype(np.float32), [str(i) for i in range(3000)]
    wanted = [set(line) for line in exact(queries, vectors, ids, 10)]
    recall = {}
    for index in ("bits", "bits,SQ8"):
        with open_store(f"faiss:{tmp_path / index}", 128, index=index) as store:
            store.upsert(ids, vectors)
        with open_store(str(tmp_path / index)) as store:
            hits = store.search(queries, 10)
        recall[index] = sum(len({h.id for h in line} & right) for line, right in zip(hits, wanted, strict=True)) / 400
    np.testing.assert_allclose([line[0].score for line in hits], (queries * vectors[:40]).sum(1), rtol=0.02)
    assert recall["bits,SQ8"] > 0.8 > 0.5 > recall["bits"]


def test_signs_estimate_cosines(tmp_path: Path) -> None:
    vectors = RNG.standard_normal((50, 1003)).astype(np.float32)
    near = vectors[:5] + RNG.standard_normal((5, 1003)).astype(np.float32)  # cosine .71
    with open_store(f"faiss:{tmp_path / 's'}", 1003, index="bits") as store:
        store.upsert([str(i) for i in range(50)], -vectors)
        store.upsert([str(i) for i in range(50)], vectors)
    with open_store(str(tmp_path / "s")) as store:
        hits = store.search(near, 2)
        assert [line[0].id for line in hits] == ["0", "1", "2", "3", "4"]
        np.testing.assert_allclose([line[0].score for line in hits], 2**-0.5, atol=0.08)
        kept = np.concatenate([block for _, block in store.iterate()])
        np.testing.assert_array_equal(kept > 0, vectors > 0)
        np.testing.assert_array_equal(store.get(["7", "3"]), kept[[7, 3]])
        np.testing.assert_allclose(np.linalg.norm(kept, axis=1), 1, rtol=1e-5)
    size = (
        (tmp_path / "s" / json.loads((tmp_path / "s/store.json").read_text())["fields"]["vector"]["index"])
        .stat()
        .st_size
    )
    assert size < 50 * 1003 / 8 + 1000


def test_queries_of_another_space_go_through_a_matrix_that_faiss_keeps(tmp_path: Path) -> None:
    A, b = RNG.standard_normal((9, 6)).astype(np.float32), RNG.standard_normal(6).astype(np.float32)
    with FaissStore(tmp_path / "s", 6) as store:
        store.upsert(IDS, OLD)
        store.search_through(A, b)
        store.upsert(IDS[:1], OLD[:1])
    wanted = exact(NEW @ A + b, OLD, IDS, 4)
    with open_store(f"faiss:{tmp_path / 's'}") as store:
        assert [[hit.id for hit in line] for line in store.search(NEW, 4)] == wanted
        np.testing.assert_allclose(np.concatenate([block for _, block in store.iterate()]), OLD)
    entry = json.loads((tmp_path / "s/store.json").read_text())["fields"]["vector"]
    index, ids = (
        faiss.read_index(str(tmp_path / "s" / entry["index"])),
        json.loads((tmp_path / "s" / entry["ids"]).read_text()),
    )
    assert [[ids[row] for row in line] for line in index.search(NEW, 4)[1]] == wanted
    with pytest.raises(ValueError, match=r"shape \(query length, 6\), got \(6, 9\)"):
        FaissStore(tmp_path / "s").search_through(A.T)
    with pytest.raises(ValueError, match="FAISS makes no index 'Flap'"):
        FaissStore(tmp_path / "t", 6, index="Flap")
    with pytest.raises(ValueError, match="trained on the first vectors that come, and 40 are too few"):
        FaissStore(tmp_path / "t", 6, index="IVF1024,Flat").upsert(IDS, OLD)


KILLED = """
import sys, threading, numpy as np
from linmap.data.vectors import open_store

def write(store):
    rng = np.random.default_rng(1)
    while True:
        store.upsert([f"{i}" for i in range(2000)], rng.standard_normal((2000, 32)).astype("f4"))
        store.flush()

stores = [open_store(address) for address in sys.argv[1:]]
print("ready", flush=True)
for store in stores:
    threading.Thread(target=write, args=(store,)).start()
"""


def test_a_writer_that_is_killed_leaves_whole_stores(tmp_path: Path) -> None:
    addresses = [f"{kind}:{tmp_path / kind}" for kind in ("array", "faiss", "usearch", "lance", "qdrant")]
    for address in addresses:
        with open_store(address, 32) as store:
            store.upsert(["kept", "0"], np.ones((2, 32), np.float32))
    writer = Fresh(KILLED, *addresses)
    while "ready" not in writer.stdout:
        assert writer.poll() is None, writer.stderr
        time.sleep(0.02)
    time.sleep(1.5)
    writer.kill()
    for address in addresses:
        with open_store(address) as store:
            assert store.search(np.ones((1, 32), np.float32), 3000)[0]
            found = {name: v for names, block in store.iterate() for name, v in zip(names, block, strict=True)}
            np.testing.assert_array_equal(found["kept"], 1)
            assert store.count() == len(found)
            store.upsert(["0"], np.full((1, 32), 2, np.float32))
    for kind in ("array", "faiss", "usearch"):
        assert len(list((tmp_path / kind).iterdir())) == 3  # index, ids, store.json


def test_what_a_killed_flush_left_is_swept(tmp_path: Path) -> None:
    dead = this_process().replace(f"{os.getpid()}-", "99-", 1)
    names = (
        f".store.{dead}.0.partial.json",
        f".vector-000007.{dead}.1.partial.npy",
        "vector-000007.json",
        "others.txt",
    )
    with open_store(f"array:{tmp_path}", 6) as store:
        store.upsert(IDS, OLD)
        store.flush()
        for name in names:
            (tmp_path / name).touch()
        store.upsert(IDS[:1], OLD[:1])
    found = {path.name for path in tmp_path.iterdir()}
    assert found == {"store.json", "vector-000002.npy", "vector-000002.json", "others.txt"}


def test_complex_vectors_are_refused(tmp_path: Path) -> None:
    with open_store(f"array:{tmp_path / 's'}", 6) as store:
        with pytest.raises(ValueError, match="must be real numbers, got complex64"):
            store.upsert(IDS[:2], OLD[:2] * 1j)
        store.upsert(IDS, OLD)
        with pytest.raises(ValueError, match="must be real numbers, got complex64"):
            store.search(OLD[:2] * 1j, 1)


@pytest.mark.parametrize("dtype", ["f32", "f16", "bf16", "i8"])
def test_scores_of_usearch_are_inner_products_in_every_type(dtype: str, tmp_path: Path) -> None:
    vectors = RNG.standard_normal((200, 64)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    names = [str(i) for i in range(200)]
    with open_store(f"usearch:{tmp_path / 's'}", 64, dtype=dtype) as store:
        store.upsert(names, vectors)
    with open_store(str(tmp_path / "s")) as store:
        for length in (1, 5):
            for query, hits in zip(vectors[:9], store.search(length * vectors[:9], 20), strict=True):
                exact = [float(length * query @ vectors[int(hit.id)]) for hit in hits]
                np.testing.assert_allclose([hit.score for hit in hits], exact, atol=0.08 * length)


def test_vectors_of_which_8_bits_keep_the_direction_alone_are_refused(tmp_path: Path) -> None:
    with open_store(f"usearch:{tmp_path / 's'}", 6, dtype="i8") as store:
        with pytest.raises(ValueError, match="must have the length 1, but that of row 0 is"):
            store.upsert(IDS, OLD)
        store.upsert(["nothing"], np.zeros((1, 6)))


def test_files_fill_stores(tmp_path: Path) -> None:
    np.save(tmp_path / "plain.npy", OLD)
    with VectorFileWriter(tmp_path / "named.parquet", 6, {"fingerprint": "f00"}) as file:
        file.write(IDS, OLD)
    with open_store(f"array:{tmp_path / 's'}", {"plain": 6, "named": 6}) as store:
        assert fill(store, tmp_path / "plain.npy", "plain") == 40
        assert fill(store, tmp_path / "named.parquet", "named") == 40
    with open_store(str(tmp_path / "s")) as store:
        assert store.search(OLD[:1], 1, "plain")[0][0].id == exact(OLD[:1], OLD, [str(i) for i in range(40)], 1)[0][0]
        assert next(iter(store.iterate("named")))[0] == IDS
        assert store.metadata["fingerprint"] == "f00"
    (tmp_path / "s/store.json").write_text("{}")
    with pytest.raises(ArtifactError, match="does not describe a store"):
        open_store(str(tmp_path / "s"))
    shutil.rmtree(tmp_path / "s")


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("usearch", {}),
        *(
            ("faiss", {"index": i})
            for i in ("HNSW8", "IVF64,Flat", "L2norm,IVF32,Flat", "PCA3,HNSW8", "IVF32,PQ2x4fs,RFlat")
        ),
        ("faiss", {"index": "bits,SQ8"}),
    ],
)
def test_approximate_searches_find_as_many_as_were_asked_for(kind: str, options: dict, tmp_path: Path) -> None:
    """However few of them a graph or the lists nearby lead to, and also where all were replaced."""
    n = 1300
    vectors = np.random.default_rng(3).standard_normal((n, 4)).astype(np.float32)
    ids = [str(row) for row in range(n)]
    with open_store(f"{kind}:{tmp_path / 's'}", 4, **options) as store:
        store.upsert(ids, vectors)
        store.upsert(ids[::-1], vectors[::-1])
        for k in (1, 400, 1000, n, n + 5):
            for line in store.search(vectors[:3], k):
                assert len({hit.id for hit in line}) == len(line) == min(k, n)
                scores = [hit.score for hit in line]
                assert scores == sorted(scores, reverse=True)
        exactly = store.search(vectors[:1], n)[0]
        if kind == "usearch" or options["index"] in ("HNSW8", "IVF64,Flat"):
            products = [float(vectors[0] @ vectors[int(hit.id)]) for hit in exactly]
            np.testing.assert_allclose([hit.score for hit in exactly], products, rtol=1e-3, atol=1e-4)


def test_a_graph_of_postgres_leaves_no_record_out_that_was_asked_for(postgres: str) -> None:
    """Of rows that were replaced, and beyond what a graph gives."""
    vectors = RNG.standard_normal((1200, 4)).astype(np.float32)
    ids = [str(row) for row in range(1200)]
    with PostgresStore(postgres, 4, table="graph") as store:
        store.upsert(ids, vectors)
        store.create_index()
        for _ in range(2):
            store.upsert(ids, vectors)
        store.connection.execute("SET enable_seqscan = off")
        for k in (1, 100, 600, 1100, 1200):
            for _ in range(3):  # also where the statement has been prepared
                hits = store.search(vectors[:3], k)
                assert [len({hit.id for hit in line}) for line in hits] == [k] * 3


@pytest.mark.parametrize(("dim", "kind"), [(2000, "vector"), (2001, "halfvec"), (4000, "halfvec"), (4001, "bit")])
def test_postgres_columns_by_length(postgres: str, dim: int, kind: str) -> None:
    assert column_type(dim) == kind
    vectors = np.random.default_rng(dim).standard_normal((30, dim)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    with PostgresStore(postgres, dim, table=f"length_{dim}") as store:
        store.upsert([str(i) for i in range(30)], vectors)
        kept = np.concatenate([block for _, block in store.iterate()])
        assert kept.shape == vectors.shape
        np.testing.assert_array_equal(store.get([str(i) for i in range(30)])[[3]], store.get(["3"]))
        for _ in range(2):  # exact, then by the graph
            hits = store.search(vectors + 0.01 * vectors[::-1], 3)
            assert [line[0].id for line in hits] == [str(i) for i in range(30)]
            np.testing.assert_allclose([line[0].score for line in hits], 1, atol=0.02)
            store.create_index()


def test_an_old_pgvector_is_told(postgres: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("linmap.data.vectors.postgres_store.statements", lambda fields, table: ["SELECT ''::halfvek"])
    message = r"no halfvec columns, which fields longer than 2000 take; install pgvector 0\.7"
    with pytest.raises(DataError, match=message):
        PostgresStore(postgres, 3000, table="old_pgvector")


def test_no_column_is_long_enough() -> None:
    with pytest.raises(ValueError, match="at most 64,000 bits"):
        column_type(64001)


def test_the_sql_is_there_to_read() -> None:
    assert statements({"old": 384, "new": 3072}, "gallery")[1] == (
        'CREATE TABLE IF NOT EXISTS "gallery" (id text PRIMARY KEY, "old" vector(384), "new" halfvec(3072))'
    )
    assert index_statement("new", 3072, "gallery") == (
        'CREATE INDEX IF NOT EXISTS "gallery_new" ON "gallery" USING hnsw ("new" halfvec_ip_ops)'
    )


def test_half_a_file_of_the_same_generation_is_swept(tmp_path: Path) -> None:
    """A writer that was killed in the flush that is now done again."""
    with open_store(f"array:{tmp_path / 'a'}", 4) as store:
        store.upsert(["x"], np.ones((1, 4), np.float32))
    current = {path.name for path in (tmp_path / "a").iterdir()}
    vectors = next(name for name in current if name.endswith(".npy"))
    dead = this_process().replace(f"{os.getpid()}-", "123-", 1)
    again = f".{vectors[:-10]}{int(vectors[-10:-4]) + 1:06d}.{dead}.0.partial.npy"
    (tmp_path / "a" / again).touch()
    with open_store(f"array:{tmp_path / 'a'}") as store:
        store.upsert(["y"], np.ones((1, 4), np.float32))
    assert len(list((tmp_path / "a").iterdir())) == 3
