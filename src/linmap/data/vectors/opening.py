"""Which store an address means."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from linmap.data.arrays import open_rows
from linmap.data.door import refuse_endless
from linmap.data.vectors.files import VectorFile, check_suffix, is_sidecar
from linmap.data.vectors.folder import read_header
from linmap.data.vectors.store import FIELD, VectorStore
from linmap.errors import DataError, word
from linmap.ownership import check_way

STORES = {
    "array": "store.json",
    "faiss": "store.json",
    "usearch": "store.json",
    "lance": "*.lance",
    "qdrant": "meta.json",
}
"""Kinds of stores in folders, and what is in the folder of one."""
OTHERS = ("config.json", "linmap.json", "model.safetensors", "adapter_config.json", "result.json")
"""What is in the folder of a run or a model."""
AT_ONCE = 4096  # vectors that go from a file into a store together


def open_store(address: str, fields: Mapping[str, int] | int | None = None, **options: Any) -> VectorStore:
    """A store of vectors, opened or made.

    Parameters
    ----------
    address
        array:FOLDER, faiss:FOLDER, usearch:FOLDER, lance:FOLDER, qdrant:FOLDER, qdrant:http://HOST:6333 or
        postgresql://USER@HOST/DATABASE; or the folder of an array, faiss or usearch store that is there.
    fields
        Lengths of the vectors by field, or of the only one, `vector`. None: the store is there already.
    options
        `index` of FAISS, `dtype` of USearch, `collection` and `api_key` of Qdrant, `table` of PostgreSQL.

    Raises
    ------
    DataError
        If the address means no store, its library is not installed, or `fields` are not those of the store.
    """
    if address.startswith(("postgresql://", "postgres://")):
        from linmap.data.vectors.postgres_store import PostgresStore

        return PostgresStore(address, fields, **options)
    kind, colon, place = address.partition(":")
    if colon and kind in STORES:
        _check_folder(kind, place, fields is not None)
    else:
        header = read_header(Path(address))
        if header is None:
            kinds = ", ".join(f"{kind}:FOLDER" for kind in STORES)
            raise DataError(f"{address!r} is no store of vectors; addresses are {kinds} and postgresql://...")
        kind, place = header["kind"], address
    return _store_class(kind)(place, fields, **options)


def _check_folder(kind: str, place: str, make: bool) -> None:
    """Refuse what no store is in, and where none is to be made."""
    if not place.strip():
        raise DataError(f"{kind}: lacks its folder; write {kind}:FOLDER.")
    if "://" in place:
        return
    folder = Path(place)
    refuse_endless(folder)
    if folder.exists() and not folder.is_dir():
        raise DataError(f"{place} is a file, and a store is a folder; name another place.")
    if any(folder.glob(STORES[kind])):
        return
    if not make:
        raise DataError(
            f"{place} holds no {kind} store; `linmap index VECTORS --into {word(kind + ':' + place)}` makes one, and "
            "in Python, give the lengths of its vectors."
        )
    if found := next((name for name in OTHERS if (folder / name).exists()), None):
        raise DataError(f"{place} is a run or a model, as it holds {found}; name another folder for the store.")
    check_way(folder)


def in_memory(path: Path | str, field: str = FIELD) -> VectorStore:
    """A store that holds what a file of vectors holds, is searched exactly and is never written.

    Parameters
    ----------
    path
        As in `fill`.
    """
    from linmap.data.vectors.array_store import MemoryStore

    store = MemoryStore({field: length_of(path)})
    fill(store, path, field)
    return store


def _store_class(kind: str) -> Any:
    if kind == "array":
        from linmap.data.vectors.array_store import ArrayStore as Store
    elif kind == "faiss":
        from linmap.data.vectors.faiss_store import FaissStore as Store
    elif kind == "usearch":
        from linmap.data.vectors.usearch_store import UsearchStore as Store
    elif kind == "lance":
        from linmap.data.vectors.lance_store import LanceStore as Store
    else:
        from linmap.data.vectors.qdrant_store import QdrantStore as Store
    return Store


def fill(store: VectorStore, path: Path | str, field: str = FIELD) -> int:
    """Put a file of vectors into a store, block by block; the number of vectors.

    Parameters
    ----------
    path
        A `VectorFile`, or any `.npy` matrix, whose ids are then its row numbers.

    Raises
    ------
    DataError
        If the file holds no vectors, or one id twice: nothing is put in then.
    """
    path = check_suffix(path)
    if _is_plain(path):
        rows = open_rows(path)
        for first in range(0, len(rows), AT_ONCE):
            block = rows[first : first + AT_ONCE]
            store.upsert([str(i) for i in range(first, first + len(block))], block, field)
        return len(rows)
    file, first = VectorFile(path), 0
    _require_one_vector_each(file)
    for block in file.blocks(AT_ONCE):
        store.upsert(file.ids[first : first + len(block)], block, field)
        first += len(block)
    store.metadata.update(file.metadata)
    return first


def _require_one_vector_each(file: VectorFile) -> None:
    if not file.ids:
        raise DataError(f"{file.path} holds no vectors; there is nothing to put in.")
    rows: dict[str, int] = {}
    for row, name in enumerate(file.ids):
        if rows.setdefault(name, row) != row:
            raise DataError(
                f"{file.path}: the id {name!r} is that of the rows {rows[name]} and {row}, and a store keeps one "
                "vector of each; give the records ids of their own, or encode them again with ids='number'."
            )


def length_of(path: Path | str) -> int:
    """How many numbers a vector of a file has."""
    path = check_suffix(path)
    return open_rows(path).shape[1] if _is_plain(path) else VectorFile(path).dim


def _is_plain(path: Path) -> bool:
    """A matrix whose ids are its row numbers."""
    return path.suffix == ".npy" and not is_sidecar(path.with_suffix(".json"))
