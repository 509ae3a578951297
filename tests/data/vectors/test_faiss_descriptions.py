"""Whatever stands in a description of FAISS is done to the vectors as FAISS itself does it."""

import json
from pathlib import Path

import faiss
import numpy as np
import pytest

from linmap.data.vectors import open_store
from linmap.data.vectors.faiss_store import FaissStore
from linmap.errors import ArtifactError, DataError

RNG = np.random.default_rng(0)
N, DIM = 400, 16
VECTORS = RNG.standard_normal((N, DIM)).astype(np.float32) * RNG.uniform(0.1, 10, (N, 1)).astype(np.float32)
IDS = [str(i) for i in range(N)]
TRANSFORMED = ("L2norm,Flat", "RR16,Flat", "PCA8,Flat", "PCAW8,Flat", "PCA8,L2norm,Flat", "Pad32,Flat", "L2norm,SQfp16")


def by_faiss(description: str) -> tuple[np.ndarray, np.ndarray]:
    index = faiss.index_factory(DIM, description, faiss.METRIC_INNER_PRODUCT)
    index.train(VECTORS)
    index.add(VECTORS)
    if "IVF" in description:
        faiss.extract_index_ivf(index).nprobe = 4
    scores, rows = index.search(VECTORS[:100], 3)
    return scores, rows.astype(str)


@pytest.mark.parametrize(
    "description",
    [*TRANSFORMED, pytest.param("OPQ4,PQ4x4", marks=pytest.mark.slow), "L2norm,HNSW32", "L2norm,IVF4,Flat"],
)
def test_a_description_finds_what_faiss_finds(description: str, tmp_path: Path) -> None:
    scores, ids = by_faiss(description)
    with open_store(f"faiss:{tmp_path / 's'}", DIM, index=description) as store:
        store.upsert(IDS, VECTORS)
        before = store.search(VECTORS[:100], 3)
    with open_store(str(tmp_path / "s")) as store:
        after = store.search(VECTORS[:100], 3)
    for hits in (before, after):
        assert np.mean(np.array([[hit.id for hit in line] for line in hits]) == ids) > 0.99
        np.testing.assert_allclose([[hit.score for hit in line] for line in hits], scores, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("description", TRANSFORMED)
def test_replaced_vectors_go_through_the_transforms_too(description: str, tmp_path: Path) -> None:
    with open_store(f"faiss:{tmp_path / 's'}", DIM, index=description) as store:
        store.upsert(IDS, VECTORS)
        store.upsert(IDS[:7], VECTORS[7:14])
        store.upsert(IDS[:7], VECTORS[:7])
    scores, ids = by_faiss(description)
    with open_store(str(tmp_path / "s")) as store:
        hits = store.search(VECTORS[:100], 3)
    assert np.mean(np.array([[hit.id for hit in line] for line in hits]) == ids) > 0.99
    np.testing.assert_allclose([[hit.score for hit in line] for line in hits], scores, rtol=2e-3, atol=1e-3)


@pytest.mark.slow
def test_fast_codes_in_a_file_are_not_asked_for_their_vectors(tmp_path: Path) -> None:
    with open_store(f"faiss:{tmp_path / 's'}", DIM, index="IVF4,PQ4x4fs") as store:
        store.upsert(IDS, VECTORS)
        store.upsert(IDS[:7], VECTORS[7:14])
    with open_store(str(tmp_path / "s")) as store:
        assert len(store.search(VECTORS[:2], 3)[0]) == 3
        with pytest.raises(DataError, match=r"does not give the vectors .* back"):
            store.upsert(IDS[:7], VECTORS[:7])
        store.upsert(["new"], VECTORS[:1])
    with open_store(str(tmp_path / "s")) as store:
        assert store.count() == N + 1


def test_vectors_come_back_through_the_transforms(tmp_path: Path) -> None:
    for description, wanted in (
        ("RR16,Flat", VECTORS),
        ("L2norm,Flat", VECTORS / np.linalg.norm(VECTORS, axis=1, keepdims=True)),
    ):
        with open_store(f"faiss:{tmp_path / description}", DIM, index=description) as store:
            store.upsert(IDS, VECTORS)
            kept = np.concatenate([block for _, block in store.iterate()])
        np.testing.assert_allclose(kept, wanted, rtol=1e-3, atol=1e-4)
    with open_store(f"faiss:{tmp_path / 'whitened'}", DIM, index="PCAW8,Flat") as store:
        store.upsert(IDS, VECTORS)
        with pytest.raises(DataError, match="does not give its vectors back"):
            list(store.iterate())


def test_a_matrix_for_queries_stands_before_the_transforms(tmp_path: Path) -> None:
    A = RNG.standard_normal((5, DIM)).astype(np.float32)
    queries = RNG.standard_normal((40, 5)).astype(np.float32)
    with FaissStore(tmp_path / "s", DIM, index="L2norm,Flat") as store:
        store.search_through(A)
        store.upsert(IDS, VECTORS)
    unit = VECTORS / np.linalg.norm(VECTORS, axis=1, keepdims=True)
    wanted = np.argmax(queries @ A @ unit.T, axis=1).astype(str).tolist()
    with open_store(str(tmp_path / "s")) as store:
        assert [line[0].id for line in store.search(queries, 1)] == wanted
        store.upsert(IDS[:1], VECTORS[:1])
    with open_store(str(tmp_path / "s")) as store:
        assert [line[0].id for line in store.search(queries, 1)] == wanted


@pytest.mark.parametrize(
    ("description", "message"),
    [("IDMap,Flat", "leave IDMap out"), ("HNSW32_PQ8", "compares by distances"), ("LSH", "METRIC_L2")],
)
def test_what_has_no_inner_products_or_ids_of_its_own_is_refused_by_name(
    description: str, message: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=f"FAISS makes no index '{description}' of length 16 .*{message}"):
        open_store(f"faiss:{tmp_path}", DIM, index=description)


def test_stores_that_were_filled_without_their_transforms_are_refused(tmp_path: Path) -> None:
    for description in ("L2norm,Flat", "Flat"):
        folder = tmp_path / description
        with open_store(f"faiss:{folder}", DIM, index=description) as store:
            store.upsert(IDS, VECTORS)
        header = json.loads((folder / "store.json").read_text())
        del header["options"]["transforms"]
        (folder / "store.json").write_text(json.dumps(header))
    with pytest.raises(ArtifactError, match="without the transforms of its description 'L2norm,Flat'"):
        open_store(str(tmp_path / "L2norm,Flat"))
    assert open_store(str(tmp_path / "Flat")).count() == N
