"""USearch's graph in a folder; its numbers may have 32, 16, 8 or 1 bits."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from linmap.data.vectors.folder import FieldIndex, FolderStore
from linmap.errors import ArgumentError, DataError

DTYPES = ("f32", "f16", "bf16", "i8")
BREADTH = 128  # candidates that a search looks at
STEPS = 127  # of a number in 8 bits
MORE = 1 << 16  # bytes that a full disk does not take
LENGTHS = 0.01  # by which the length of a vector in 8 bits may differ from 1


class UsearchIndex(FieldIndex):
    suffix = ".usearch"

    def __init__(self, index: Any, dtype: str = "f32") -> None:
        self._index, self.query_dim, self._directions = index, index.ndim, dtype == "i8"

    def rows(self) -> int:
        return len(self._index)

    def add(self, vectors: np.ndarray) -> None:
        self._check(vectors)
        n = len(self._index)
        self._index.add(np.arange(n, n + len(vectors), dtype=np.uint64), vectors)

    def replace(self, rows: np.ndarray, vectors: np.ndarray) -> None:
        self._check(vectors)
        self._index.remove(rows.astype(np.uint64))
        self._index.add(rows.astype(np.uint64), vectors)

    def search(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        self._index.expansion_search = max(BREADTH, 2 * k)
        rows, scores = np.full((len(queries), k), -1), np.zeros((len(queries), k), np.float32)
        for i, query in enumerate(queries):
            found = self._index.search(query, k)
            if len(found) < min(k, len(self._index)):  # the graph leads not to every one
                found = self._index.search(query, k, exact=True)
            rows[i, : len(found)] = found.keys.astype(np.int64)
            scores[i, : len(found)] = 1 - found.distances
        if self._directions:  # the products are those of whole numbers, of the query's direction too
            scores *= np.linalg.norm(queries, axis=1, keepdims=True) / STEPS**2
        return rows, scores

    def _check(self, vectors: np.ndarray) -> None:
        """USearch keeps of vectors in 8 bits their direction alone."""
        lengths = np.linalg.norm(vectors, axis=1)
        other = np.flatnonzero((np.abs(lengths - 1) > LENGTHS) & (lengths > 0))
        if self._directions and len(other):
            raise ArgumentError(
                f"dtype='i8' keeps directions alone, so vectors must have the length 1, but that of row {other[0]} is "
                f"{lengths[other[0]]:.4g}; divide each by its length, or take dtype='f16'."
            )

    def get(self, rows: np.ndarray) -> np.ndarray:
        return np.asarray(self._index.get(rows.astype(np.uint64), dtype="f32"))

    def save(self, path: Path) -> None:
        try:
            self._index.save(str(path))
        except RuntimeError:  # which does not say why
            with open(path, "ab") as file:
                file.write(bytes(MORE))  # a full disk does
            raise


class UsearchStore(FolderStore):
    """Approximate search in a graph (HNSW).

    Parameters
    ----------
    folder, fields
        As in `open_store`.
    dtype
        "f32", "f16", "bf16", or "i8" for vectors of the length 1.
    """

    def __init__(self, folder: Path | str, fields: Mapping[str, int] | int | None = None, dtype: str = "f32") -> None:
        try:
            from usearch.index import Index
        except ModuleNotFoundError:
            raise DataError("USearch is not installed: pip install 'linmap[stores]'.") from None
        if dtype not in DTYPES:
            raise ArgumentError(f"dtype must be one of {', '.join(DTYPES)}, got {dtype!r}.")
        super().__init__(
            folder,
            "usearch",
            fields,
            new=lambda dim: UsearchIndex(Index(ndim=dim, metric="ip", dtype=dtype), dtype),
            load=lambda path, dim: UsearchIndex(Index.restore(str(path)), self.options["dtype"]),
            options={"dtype": dtype},
        )
