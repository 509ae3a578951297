"""FAISS indexes in a folder: whatever `faiss.index_factory` makes, and sign bits."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Num

from linmap.data.vectors.folder import FieldIndex, FolderStore
from linmap.errors import ArtifactError, DataError

REWRITE = 1000  # replaced rows that are looked past in a search, before the index is made anew
BREADTH = 128  # candidates of a graph, and lists of an inverted file's hundred, that a search looks at
CANDIDATES = 32  # by signs, for each that is asked for


class FaissIndex(FieldIndex):
    """A FAISS index over inner products.

    FAISS has no way to replace a row in every kind of index: the new one is appended, the old one is passed over, and
    before a save the index is made anew.
    """

    suffix = ".faiss"

    def __init__(self, index: Any) -> None:
        self._whole, self._owners = index, []
        faiss = faiss_module()
        self.query_dim = index.d
        down = faiss.downcast_index(index)
        self._index = faiss.downcast_index(down.index) if isinstance(down, faiss.IndexPreTransform) else down
        self._row = np.arange(self._index.ntotal)  # of each place in the index; -1: replaced
        _set_breadth(self._index)

    def add(self, vectors: np.ndarray) -> None:
        self._append(np.arange(len(vectors)) + self._rows, vectors)

    def replace(self, rows: np.ndarray, vectors: np.ndarray) -> None:
        self._row[np.isin(self._row, rows)] = -1
        self._append(rows, vectors)
        if len(self._row) - self._rows > REWRITE:
            self._rewrite()

    @property
    def _rows(self) -> int:
        return int((self._row >= 0).sum())

    def _append(self, rows: np.ndarray, vectors: np.ndarray) -> None:
        if not self._index.is_trained:
            self._train(vectors)
        self._index.add(vectors)
        self._row = np.concatenate([self._row, rows])
        if self._whole is not self._index:
            self._whole.ntotal = self._index.ntotal

    def _train(self, vectors: np.ndarray) -> None:
        try:
            self._index.train(vectors)
        except RuntimeError as error:
            raise ValueError(
                f"this kind of index is trained on the first vectors that come, and {len(vectors)} are too few "
                f"({_reason(error)}); put more in at once, or take index='Flat' or 'HNSW32'."
            ) from None

    def search(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        replaced = len(self._row) - self._rows
        wanted, there = k + replaced, self._index.ntotal
        if hasattr(self._index, "k_factor"):  # whose search fails where it finds fewer candidates
            wanted = min(wanted, there)
            self._index.k_factor = min(CANDIDATES, there / max(wanted, 1))
        scores, places = self._whole.search(queries, wanted)
        rows = np.where(places >= 0, self._row[places], -1)
        return _first(rows, scores, k)

    def get(self, first: int, last: int) -> np.ndarray:
        places = np.flatnonzero((self._row >= first) & (self._row < last))
        found = np.empty((last - first, self._index.d), np.float32)
        for place in places:
            found[self._row[place] - first] = self._index.reconstruct(int(place))
        return found

    def _rewrite(self) -> None:
        """Row i at place i again."""
        n = self._rows
        if (len(self._row) == n) and (self._row == np.arange(n)).all():
            return
        vectors = self.get(0, n)
        self._index.reset()
        self._index.add(vectors)
        self._row = np.arange(n)

    def save(self, path: Path) -> None:
        self._rewrite()
        faiss_module().write_index(self._whole, str(path))

    def through(self, matrix: np.ndarray, bias: np.ndarray | None) -> None:
        """Queries q are searched as q matrix + bias from now on; what is in the index stays."""
        faiss = faiss_module()
        transform = faiss.LinearTransform(len(matrix), matrix.shape[1], bias is not None)
        faiss.copy_array_to_vector(np.ascontiguousarray(matrix.T, np.float32).ravel(), transform.A)
        if bias is not None:
            faiss.copy_array_to_vector(np.ascontiguousarray(bias, np.float32), transform.b)
        transform.is_trained = True
        self._owners += [self._whole, transform]  # Python frees what nobody names, also where FAISS points to it
        self._whole = faiss.IndexPreTransform(transform, self._index)
        self.query_dim = len(matrix)


class FaissBinaryIndex(FieldIndex):
    """The signs of vectors. The score is cos(pi h / d) of h different signs: what it is for random vectors."""

    suffix = ".faiss"

    def __init__(self, index: Any, dim: int) -> None:
        self._owner, self._index = index, faiss_module().downcast_IndexBinary(index)
        self.query_dim = dim

    def add(self, vectors: np.ndarray) -> None:
        self._index.add(packed_signs(vectors))

    def replace(self, rows: np.ndarray, vectors: np.ndarray) -> None:
        codes = self._codes(0, self._index.ntotal)
        codes[rows] = packed_signs(vectors)
        self._index.reset()
        self._index.add(codes)

    def search(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        distances, rows = self._index.search(packed_signs(queries), k)
        return rows, np.cos(np.pi * distances / self.query_dim)

    def get(self, first: int, last: int) -> np.ndarray:
        bits = np.unpackbits(self._codes(first, last), axis=1, bitorder="little")[:, : self.query_dim]
        return (1 - 2 * bits.astype(np.float32)) / np.float32(np.sqrt(self.query_dim))

    def _codes(self, first: int, last: int) -> np.ndarray:
        faiss = faiss_module()
        width = self._index.code_size
        return faiss.vector_to_array(self._index.xb).reshape(-1, width)[first:last].copy()

    def save(self, path: Path) -> None:
        faiss_module().write_index_binary(self._index, str(path))


class FaissStore(FolderStore):
    """A FAISS index for each field.

    Parameters
    ----------
    folder, fields
        As in `open_store`.
    index
        FAISS's own description: "Flat" (exact), "SQfp16" (two bytes a number), "SQ8" (one), "HNSW32" (a graph),
        "IVF1024,Flat", ...; "bits" keeps the signs alone, 32 times as small as "Flat"; "bits,SQ8" (or "bits,Flat", ...)
        looks for candidates by the signs and compares these by the numbers.

    Raises
    ------
    ValueError
        If FAISS does not know the description.
    """

    def __init__(self, folder: Path | str, fields: Mapping[str, int] | int | None = None, index: str = "Flat") -> None:
        faiss = faiss_module()

        def new(dim: int) -> FieldIndex:
            if index == "bits":
                return FaissBinaryIndex(faiss.IndexBinaryFlat(-(-dim // 8) * 8), dim)
            signs, numbers = index.startswith("bits,"), index.removeprefix("bits,")
            try:
                whole = faiss.index_factory(dim, numbers, faiss.METRIC_INNER_PRODUCT)
                return FaissIndex(signs_first(whole) if signs else whole)
            except RuntimeError as error:
                raise ValueError(
                    f"FAISS makes no index {index!r} of length {dim} ({_reason(error)}); take 'Flat', 'SQfp16', 'SQ8', "
                    "'HNSW32', 'IVF1024,Flat', 'bits' or 'bits,SQ8'."
                ) from None

        def load(path: Path, dim: int) -> FieldIndex:
            try:
                if self.options["index"] == "bits":
                    return FaissBinaryIndex(faiss.read_index_binary(str(path)), dim)
                return FaissIndex(faiss.read_index(str(path)))
            except RuntimeError as error:
                raise ArtifactError(f"{path} is no index of FAISS ({_reason(error)}).") from None

        super().__init__(folder, "faiss", fields, new=new, load=load, options={"index": index})

    def search_through(
        self,
        matrix: Num[np.ndarray, "query_dim dim"],
        bias: Num[np.ndarray, " dim"] | None = None,
        field: str = "vector",
    ) -> None:
        """From now on, also after a flush and in FAISS itself, take queries q as q matrix + bias.

        So the index of an old model's vectors is asked with a new model's (BT²'s `query_matrix`), and the vectors in it
        stay as they are.

        Raises
        ------
        ValueError
            If the matrix does not lead to the vectors of the field, or the field keeps signs.
        """
        index, dim = self.index(field), self.fields[field]
        if not isinstance(index, FaissIndex):
            raise ValueError("an index of signs takes no matrix; transform the queries before the search.")
        if matrix.shape[1] != dim:
            raise ValueError(f"the matrix must have shape (query length, {dim}), got {matrix.shape}.")
        index.through(matrix, bias)
        self.changed()


def signs_first(index: Any) -> Any:
    """An index that asks `index` only about the candidates with the most signs in common."""
    faiss = faiss_module()
    signs = faiss.IndexLSH(index.d, index.d, False)
    signs.metric_type = index.metric_type  # it counts equal signs either way
    refined = faiss.IndexRefine(signs, index)
    return faiss.deserialize_index(faiss.serialize_index(refined))  # which owns its parts


def packed_signs(vectors: np.ndarray) -> np.ndarray:
    """One bit a number, 1 for negative ones, little-endian in each byte."""
    return np.packbits(vectors < 0, axis=1, bitorder="little")


def _first(rows: np.ndarray, scores: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The first k rows that are there, in each line."""
    order = np.argsort(rows < 0, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(rows, order, 1), np.take_along_axis(scores, order, 1)


def _reason(error: RuntimeError) -> str:
    """What FAISS says, without the place in its source."""
    return re.sub(r"^Error in .*?\.(cpp|h):\d+: ", "", str(error).splitlines()[-1])[:160]


def _set_breadth(index: Any) -> None:
    if hasattr(index, "hnsw"):
        index.hnsw.efSearch = BREADTH
    if hasattr(index, "nprobe"):
        index.nprobe = max(1, min(index.nlist, BREADTH // 8))
        index.make_direct_map()


def faiss_module() -> Any:
    try:
        import faiss
    except ModuleNotFoundError:
        raise DataError("FAISS is not installed: pip install 'linmap[retrieve]'.") from None
    return faiss
