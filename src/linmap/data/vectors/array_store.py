"""NumPy arrays in a folder: exact search, no dependency; what the others are measured by."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from linmap.data.arrays import read_npy, write_npy
from linmap.data.vectors.folder import FieldIndex, FolderStore
from linmap.errors import DataError

AT_ONCE = 2**24  # scores that are held together
GROWTH = 1.5


class ArrayIndex(FieldIndex):
    """Rows of a matrix."""

    suffix = ".npy"

    def __init__(self, vectors: np.ndarray) -> None:
        self._store, self._n, self.query_dim = vectors, len(vectors), vectors.shape[1]

    def rows(self) -> int:
        return self._n

    def add(self, vectors: np.ndarray) -> None:
        n = self._n + len(vectors)
        if n > len(self._store):
            grown = np.empty((max(n, int(GROWTH * len(self._store))), self.query_dim), np.float32)
            grown[: self._n] = self._store[: self._n]
            self._store = grown
        self._store[self._n : n] = vectors
        self._n = n

    def replace(self, rows: np.ndarray, vectors: np.ndarray) -> None:
        self._store[rows] = vectors

    def search(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        step = max(1, AT_ONCE // self._n)
        parts = [self._nearest(queries[i : i + step], k) for i in range(0, len(queries), step)]
        return np.concatenate([rows for rows, _ in parts]), np.concatenate([scores for _, scores in parts])

    def _nearest(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        scores = queries @ self._store[: self._n].T
        rows = np.argpartition(-scores, k - 1, axis=1)[:, :k] if k < self._n else np.argsort(-scores, axis=1)
        found = np.take_along_axis(scores, rows, 1)
        order = np.lexsort((rows, -found), axis=1)
        return np.take_along_axis(rows, order, 1), np.take_along_axis(found, order, 1)

    def get(self, rows: np.ndarray) -> np.ndarray:
        return self._store[rows]

    def save(self, path: Path) -> None:
        write_npy(path, self._store[: self._n])


def _matrix(path: Path, dim: int) -> np.ndarray:
    vectors = read_npy(path)
    if vectors.dtype != np.float32 or vectors.shape[1:] != (dim,):
        raise DataError(f"{path} holds {vectors.dtype} of shape {vectors.shape}, not float32 vectors of {dim} numbers.")
    return vectors


class ArrayStore(FolderStore):
    """Exact search in memory; `fields` as in `open_store`."""

    def __init__(self, folder: Path | str, fields: Mapping[str, int] | int | None = None) -> None:
        super().__init__(
            folder,
            "array",
            fields,
            new=lambda dim: ArrayIndex(np.empty((0, dim), np.float32)),
            load=lambda path, dim: ArrayIndex(_matrix(path, dim)),
        )


class MemoryStore(ArrayStore):
    """Exact search in memory, of vectors that no folder keeps."""

    def __init__(self, fields: Mapping[str, int] | int) -> None:
        super().__init__(Path("(memory)"), fields)

    def flush(self) -> None:
        return

    def _begin(self) -> None:
        return
