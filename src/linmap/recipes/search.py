"""`linmap index` and `linmap search`: vectors into a store, and what is near to a record, a value or a vector in it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from linmap.errors import UsageError

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
    asked = sum((settings.like is not None, settings.id is not None, bool(settings.at)))
    if settings.query is not None and asked:
        raise UsageError("--query looks for vectors; leave --like, --id and --at out.")
    if settings.query is None and settings.through is not None:
        raise UsageError("--through takes vectors to another model's; give them with --query vectors.npy.")
    if settings.query is None and asked != 1:
        raise UsageError("give what to look for: one of --like JSON, --id ID, --at PATH=VALUE and --query FILE.npy.")
    if settings.top < 1:
        raise UsageError(f"--top must be at least 1, got {settings.top}.")
    from linmap.recipes.matches import matching_records, nearest_vectors

    if settings.query is not None:
        return nearest_vectors(settings, settings.query)
    return matching_records(settings)
