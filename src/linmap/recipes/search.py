"""`linmap index` and `linmap search`: vectors into a store, and what is near to a record, a value or a vector in it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from linmap.errors import UsageError

if TYPE_CHECKING:
    from linmap.data.vectors import VectorStore

FIELD = "vector"
"""`linmap.data.vectors.store.FIELD`, which is not imported for the sake of help."""


@dataclass(frozen=True)
class IndexSettings:
    """Flags of `linmap index`."""

    into: str
    """array:FOLDER, faiss:FOLDER, usearch:FOLDER, lance:FOLDER, qdrant:FOLDER, qdrant:http://HOST:6333 or
    postgresql://USER@HOST/DATABASE."""
    data: Path
    """Vectors: written by `linmap apply`, or any .npy matrix (ids are its row numbers)."""
    field: str = FIELD
    """Name of the vectors in the store."""
    faiss_index: str = "Flat"
    """FAISS: Flat, SQfp16, SQ8, HNSW32, IVF1024,Flat ... or bits (signs alone)."""
    dtype: str = "f32"
    """USearch: f32, f16, bf16 or i8."""


@dataclass(frozen=True)
class SearchSettings:
    """Flags of `linmap search`."""

    index: str
    """Vectors written by `linmap apply mbat`, a store that `linmap index` filled, or a file or folder of records, which
    are encoded on the way. `--index` may be left out before it."""
    like: str | None = None
    """What to look for: JSON text, or the path of a .json file."""
    id: str | None = None
    """What to look for: the record of the index with this id."""
    at: tuple[str, ...] = ()
    """What to look for: values at paths, e.g. address[0].state=Texas; JSON where they can be read so, else text."""
    query: Path | None = None
    """What to look for: a .npy matrix, one vector a row."""
    through: Path | None = None
    """With --query: a run of `linmap fit bt2` that takes the vectors of a new model to those of the index."""
    field: str = FIELD
    """Name of the vectors in the store."""
    records: Path | None = None
    """The records' file, to say why they match; where the index was made from when left out."""
    records_at: str | None = None
    """Where a file of records holds them, e.g. Records, features or data.items, if it is not one array of them."""
    top: int = 5
    """How many matches."""
    reasons: int = 6
    """How many paths to show for each match."""


def index(settings: IndexSettings) -> dict[str, Any]:
    """Put a file of vectors into a store."""
    from linmap.data.vectors import fill, open_store
    from linmap.data.vectors.opening import length_of

    options = {}
    if settings.into.startswith("faiss:"):
        options["index"] = settings.faiss_index
    elif settings.into.startswith("usearch:"):
        options["dtype"] = settings.dtype
    with open_store(settings.into, {settings.field: length_of(settings.data)}, **options) as store:
        n = fill(store, settings.data, settings.field)
        return {"into": settings.into, "put": n, "vectors": store.count(settings.field), "fields": store.fields}


def search(settings: SearchSettings) -> dict[str, Any]:
    """The nearest of an index."""
    if settings.query is not None:
        return _search_vectors(settings, settings.query)
    if settings.through is not None:
        raise UsageError("--through takes vectors to another model's; give them with --query vectors.npy.")
    from linmap.recipes.mbat.searching import search_records

    return search_records(
        str(settings.index), settings.like, settings.id, settings.at, settings.records, settings.top, settings.reasons,
        settings.field, settings.records_at,
    )  # fmt: skip


def _search_vectors(settings: SearchSettings, path: Path) -> dict[str, Any]:
    import numpy as np

    from linmap.data.arrays import open_rows

    if settings.like is not None or settings.id is not None or settings.at:
        raise UsageError("--query looks for vectors; leave --like, --id and --at out.")
    if settings.top < 1:
        raise UsageError(f"--top must be at least 1, got {settings.top}.")
    queries = np.asarray(open_rows(path), np.float32)
    if settings.through is not None:
        from linmap.retrieve.bt2 import EmbeddingUpgrade

        queries = np.asarray(EmbeddingUpgrade.load(settings.through).transform_query(queries))
    where = str(settings.index)
    with _opened(where, settings.field) as store:
        hits = store.search(queries, settings.top, settings.field)
        matches = [
            {"query": row, "matches": [{"id": hit.id, "score": round(hit.score, 4)} for hit in line]}
            for row, line in enumerate(hits)
        ]
        return {"index": where, "vectors": store.count(settings.field), "queries": matches}


def _opened(where: str, field: str) -> VectorStore:
    """A store; a file of vectors goes into one that is never written."""
    from linmap.data.vectors import fill, open_store
    from linmap.data.vectors.array_store import ArrayStore
    from linmap.data.vectors.opening import length_of

    class InMemory(ArrayStore):
        def flush(self) -> None:
            return

        def _begin(self) -> None:
            return

    path = Path(where)
    if path.suffix not in (".npy", ".parquet"):
        return open_store(where)
    store = InMemory(path.with_suffix(".none"), {field: length_of(path)})
    fill(store, path, field)
    return store
