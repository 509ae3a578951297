"""Search among many JSON documents: what smaller vectors and approximate indexes cost in recall and save in time.

The documents have the shape of the 418 embedded patients: each is one of them, with two or more of its six parts
(observations, conditions, ...) taken from others. They are encoded at D = 512. Recall@10 is the share of the ten
nearest by exact float32 search that an index finds, for 200 documents that are not in it; a time is that of one query,
memory the bytes of the index.
"""

from __future__ import annotations

import itertools
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks.measure import Measurement, medians
from linmap.data import EMBEDDED
from linmap.data.records import read_records
from linmap.data.vectors import VectorStore, open_store
from linmap.retrieve.mbat import JSONVectorizer

DOCUMENTS, QUERIES, TOP, DIM = 1_000_000, 200, 10, 512
BATCH = 50_000
STORES = {
    "exact, float32": ("faiss", {"index": "Flat"}),
    "exact, float16": ("faiss", {"index": "SQfp16"}),
    "int8": ("faiss", {"index": "SQ8"}),
    "sign bits": ("faiss", {"index": "bits"}),
    "sign bits, the best compared by int8": ("faiss", {"index": "bits,SQ8"}),
    "1,024 lists, int8": ("faiss", {"index": "IVF1024,SQ8"}),
}


def run(documents: int = DOCUMENTS) -> list[Measurement]:
    rng = np.random.default_rng(0)
    patients = [record.document for record in read_records(EMBEDDED / "fhir_patients.jsonl")]
    vectorizer = JSONVectorizer(dim=DIM, numbers="quantile", n_jobs=2).fit(patients, parse=False)
    queries = vectorizer.transform(list(mixed(patients, QUERIES, rng)), parse=False)
    start = time.perf_counter()
    stream = vectorizer.transform_stream(mixed(patients, documents, rng), parse=False)
    vectors = np.concatenate(list(stream))
    encoding = time.perf_counter() - start
    ids = [str(i) for i in range(documents)]
    measured, wanted = [], None
    for name, (kind, options) in STORES.items():
        with tempfile.TemporaryDirectory() as folder:
            with open_store(f"{kind}:{Path(folder) / 'store'}", DIM, **options) as store:
                building = put(store, ids, vectors)
                found = [{hit.id for hit in line} for line in store.search(queries, TOP)]
                wanted = wanted or found
                recall = sum(len(a & b) for a, b in zip(found, wanted, strict=True)) / (TOP * QUERIES)
                turn = itertools.cycle(queries[:, None])
                one = lambda store=store, turn=turn: store.search(next(turn), TOP)  # noqa: E731
                (seconds,) = medians(one, repeats=25)
                store.flush()
            size = sum(path.stat().st_size for path in Path(folder).rglob("*.faiss"))
        note = f"recall@{TOP} {recall:.3f}; filled in {building:.0f} s"
        measured.append(Measurement(f"{documents:,} documents, {name}", seconds, memory=size, note=note))
    measured.append(Measurement("encode them", encoding, items=documents, unit="documents", note="no parsing"))
    return measured


def put(store: VectorStore, ids: list[str], vectors: np.ndarray) -> float:
    start = time.perf_counter()
    for first in range(0, len(ids), BATCH):
        store.upsert(ids[first : first + BATCH], vectors[first : first + BATCH])
    return time.perf_counter() - start


def mixed(patients: list[dict], n: int, rng: np.random.Generator) -> Iterator[dict]:
    """Patients with some of the others' parts, so that hardly two are alike."""
    for _ in range(n):
        document = dict(patients[rng.integers(len(patients))])
        parts = list(document)
        for part in rng.permutation(len(parts))[: rng.integers(2, len(parts))]:
            other = patients[rng.integers(len(patients))]
            document[parts[part]] = other.get(parts[part], document[parts[part]])
        yield document
