"""FAISS indexes in a folder: whatever `faiss.index_factory` makes, and sign bits."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Num, UInt8

from linmap.data.vectors.folder import FieldIndex, FolderStore
from linmap.errors import ArgumentError, ArtifactError, DataError

REWRITE = 1000  # replaced rows that are looked past in a search, before the index is made anew
BREADTH = 128  # candidates of a graph, and lists of an inverted file's hundred, that a search looks at
CANDIDATES = 32  # by signs, for each that is asked for


class FaissIndex(FieldIndex):
    """A FAISS index over inner products, with all that its description puts before it: PCA, OPQ, L2norm, ...

    FAISS has no way to replace a row in every kind of index: the new one is appended, the old one is passed over, and
    before a save the index is made anew.

    Parameters
    ----------
    index
        What FAISS's factory made or a file holds.
    transforms
        How many transforms of vectors belong to the description. One more in front is for queries alone.
    """

    suffix = ".faiss"

    def __init__(self, index: Any, transforms: int = 0) -> None:
        faiss = faiss_module()
        self._whole = own = faiss.downcast_index(index)
        if len(transforms_of(own)) > transforms:
            own = faiss.downcast_index(own.index)
        self._own, self._owners, self.query_dim = own, [index], self._whole.d
        self._transforms = transforms_of(own)
        self._core = core_of(own)
        self._row = np.arange(self._core.ntotal)  # of each place in the index; -1: replaced
        # FAISS crashes where it is asked for a vector of such an index that comes from a file
        self._mute = self._core.ntotal > 0 and isinstance(self._core, faiss.IndexIVFFastScan)
        _set_breadth(own)

    def add(self, vectors: np.ndarray) -> None:
        self._append(np.arange(len(vectors)) + self._rows, vectors)

    def replace(self, rows: np.ndarray, vectors: np.ndarray) -> None:
        self._require_voice()
        before = self._row.copy()
        self._row[np.isin(self._row, rows)] = -1
        try:
            self._append(rows, vectors)
        except ValueError:
            self._row = before
            raise
        if len(self._row) - self._rows > REWRITE:
            self._rewrite()

    @property
    def _rows(self) -> int:
        return int((self._row >= 0).sum())

    def _append(self, rows: np.ndarray, vectors: np.ndarray) -> None:
        if not self._own.is_trained:
            self._train(vectors)
        self._put(_through(self._transforms, vectors))
        self._row = np.concatenate([self._row, rows])

    def _put(self, vectors: np.ndarray) -> None:
        """Into the core, behind all transforms."""
        try:
            self._core.add(vectors)
        except RuntimeError as error:
            raise ArgumentError(
                f"this kind of index does not take these vectors ({_reason(error)}); put all in at once, or take "
                "index='Flat' or index='HNSW32'."
            ) from None
        self._tell()

    def _tell(self) -> None:
        """What stands before the core counts for itself."""
        index = faiss_module().downcast_index(self._whole)
        while index is not self._core and hasattr(index, "chain"):
            index.ntotal, index.is_trained = self._core.ntotal, True
            index = faiss_module().downcast_index(index.index)

    def _train(self, vectors: np.ndarray) -> None:
        try:
            self._own.train(vectors)
        except RuntimeError as error:
            raise ArgumentError(
                f"this kind of index is trained on the first vectors that come, and {len(vectors)} are too few "
                f"({_reason(error)}); put more in at once, or take index='Flat' or index='HNSW32'."
            ) from None

    def search(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        rows, scores = self._found(queries, k)
        if k <= self._rows and (short := (rows < 0).any(1)).any():  # of those a graph or some lists lead to
            _set_breadth(self._own, 8 * self._core.ntotal)
            rows[short], scores[short] = self._found(queries[short], k)
            _set_breadth(self._own)
            if (short := (rows < 0).any(1)).any():
                rows[short], scores[short] = self._compared(queries[short], k)
        return rows, scores

    def _compared(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """The k best of all rows, each of which is looked at: a graph leads not to every one."""
        kept = self._kept(np.arange(self._rows))
        scores = _through(transforms_of(self._whole), queries) @ kept.T
        rows = np.argsort(-scores, axis=1, kind="stable")[:, :k]
        return rows, np.take_along_axis(scores, rows, 1)

    def _found(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        replaced = len(self._row) - self._rows
        wanted, there = k + replaced, self._core.ntotal
        if hasattr(self._core, "k_factor"):  # whose search fails where it finds fewer candidates
            wanted = min(wanted, there)
            self._core.k_factor = min(CANDIDATES, there / max(wanted, 1))
        scores, places = self._whole.search(queries, wanted)
        rows = np.where(places >= 0, self._row[places], -1)
        return _first(rows, scores, k)

    def get(self, rows: np.ndarray) -> np.ndarray:
        vectors = self._kept(rows)
        try:
            for transform in self._transforms[::-1]:
                vectors = transform.reverse_transform(np.ascontiguousarray(vectors))
        except RuntimeError as error:
            raise DataError(f"this index does not give its vectors back ({_reason(error)}).") from None
        return vectors

    def _kept(self, rows: np.ndarray) -> np.ndarray:
        """Rows as the core keeps them."""
        self._require_voice()
        found = np.empty((len(rows), self._core.d), np.float32)
        try:
            for i, place in enumerate(self._places(rows).tolist()):
                found[i] = self._core.reconstruct(place)
        except RuntimeError as error:
            raise DataError(f"this kind of index does not give its vectors back ({_reason(error)}).") from None
        return found

    def _places(self, rows: np.ndarray) -> np.ndarray:
        """Where rows are in the core: each at its own number, as long as none was replaced."""
        there = np.flatnonzero(self._row >= 0)
        if len(there) == len(self._row):
            return rows
        places = np.empty(len(there), np.int64)
        places[self._row[there]] = there
        return places[rows]

    def _require_voice(self) -> None:
        if self._mute:
            raise DataError(
                "FAISS does not give the vectors of an inverted file with fast codes ('IVF..,PQ..fs') back once it is "
                "in a file, so none can be replaced; fill a new store, or take 'IVF..,PQ..fs,RFlat'."
            )

    def _rewrite(self) -> None:
        """Row i at place i again."""
        n = self._rows
        if (len(self._row) == n) and (self._row == np.arange(n)).all():
            return
        vectors = self._kept(np.arange(n))
        self._core.reset()
        self._put(vectors)
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
        self._whole = faiss.IndexPreTransform(transform, self._own)
        self.query_dim = len(matrix)


def transforms_of(index: Any) -> list[Any]:
    """The transforms that vectors go through before the core, in their order; `index` owns them."""
    faiss, found = faiss_module(), []
    part = faiss.downcast_index(index)
    while isinstance(part, faiss.IndexPreTransform):
        found += [faiss.downcast_VectorTransform(part.chain.at(i)) for i in range(part.chain.size())]
        part = faiss.downcast_index(part.index)
    return found


def core_of(index: Any) -> Any:
    """What is behind the transforms; `index` owns it."""
    faiss = faiss_module()
    part = faiss.downcast_index(index)
    while isinstance(part, faiss.IndexPreTransform):
        part = faiss.downcast_index(part.index)
    return part


def _through(transforms: list[Any], vectors: np.ndarray) -> np.ndarray:
    for transform in transforms:
        vectors = transform.apply(np.ascontiguousarray(vectors))
    return np.ascontiguousarray(vectors)


class FaissBinaryIndex(FieldIndex):
    """The signs of vectors. The score is cos(pi h / d) of h different signs: what it is for random vectors."""

    suffix = ".faiss"

    def __init__(self, index: Any, dim: int) -> None:
        self._owner, self._index = index, faiss_module().downcast_IndexBinary(index)
        self.query_dim = dim

    def add(self, vectors: np.ndarray) -> None:
        self._index.add(pack_signs(vectors))

    def replace(self, rows: np.ndarray, vectors: np.ndarray) -> None:
        codes = self._codes(np.arange(self._index.ntotal))
        codes[rows] = pack_signs(vectors)
        self._index.reset()
        self._index.add(codes)

    def search(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        distances, rows = self._index.search(pack_signs(queries), k)
        return rows, np.cos(np.pi * distances / self.query_dim)

    def get(self, rows: np.ndarray) -> np.ndarray:
        bits = np.unpackbits(self._codes(rows), axis=1, bitorder="little")[:, : self.query_dim]
        return (1 - 2 * bits.astype(np.float32)) / np.float32(np.sqrt(self.query_dim))

    def _codes(self, rows: np.ndarray) -> np.ndarray:
        codes = self._index.xb
        return faiss_module().rev_swig_ptr(codes.data(), codes.size()).reshape(-1, self._index.code_size)[rows]

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
        looks for candidates by the signs and compares these by the numbers. Transforms stand in front, as in
        "L2norm,HNSW32" or "PCA64,SQ8"; those that learn do so from the first vectors that come.

    Raises
    ------
    ValueError
        If FAISS does not know the description, or has no inner products for it.
    """

    def __init__(self, folder: Path | str, fields: Mapping[str, int] | int | None = None, index: str = "Flat") -> None:
        def new(dim: int) -> FieldIndex:
            if index == "bits":
                return FaissBinaryIndex(faiss_module().IndexBinaryFlat(-(-dim // 8) * 8), dim)
            whole = described(dim, index)
            return FaissIndex(whole, len(transforms_of(whole)))

        def load(path: Path, dim: int) -> FieldIndex:
            return _read(path, dim, self.options)

        faiss_module()
        super().__init__(folder, "faiss", fields, new=new, load=load, options={"index": index, "transforms": True})

    def search_through(
        self,
        matrix: Num[np.ndarray, "query_dim dim"],
        bias: Num[np.ndarray, " dim"] | None = None,
        field: str = "vector",
    ) -> None:
        """From now on, also after a flush and in FAISS itself, take queries q as q matrix + bias.

        So the index of an old model's vectors can be asked with a new model's, and the vectors in it stay as they are.

        Raises
        ------
        ValueError
            If the matrix does not lead to the vectors of the field, or the field keeps signs.
        """
        index, dim = self.index(field), self.fields[field]
        if not isinstance(index, FaissIndex):
            raise ArgumentError("an index of signs takes no matrix; transform the queries before the search.")
        if matrix.shape[1] != dim:
            raise ArgumentError(f"the matrix must have shape (query length, {dim}), got {matrix.shape}.")
        index.through(matrix, bias)
        self.changed()


def described(dim: int, index: str) -> Any:
    """An empty index of a description, over inner products.

    Raises
    ------
    ValueError
        If FAISS does not make one.
    """
    faiss = faiss_module()
    signs, numbers = index.startswith("bits,"), index.removeprefix("bits,")
    try:
        whole = faiss.index_factory(dim, numbers, faiss.METRIC_INNER_PRODUCT)
        if whole.metric_type != faiss.METRIC_INNER_PRODUCT:
            raise RuntimeError("FAISS compares by distances in this kind of index")
        if isinstance(core_of(whole), faiss.IndexIDMap):
            raise RuntimeError("the ids are kept beside the index; leave IDMap out")
        return signs_first(whole) if signs else whole
    except RuntimeError as error:
        raise ArgumentError(
            f"FAISS makes no index {index!r} of length {dim} ({_reason(error)}); take 'Flat', 'SQfp16', 'SQ8', "
            "'HNSW32', 'IVF1024,Flat', 'bits' or 'bits,SQ8'."
        ) from None


def _read(path: Path, dim: int, options: Mapping[str, Any]) -> FieldIndex:
    """The index of a field from its file; `options` are those of the store."""
    faiss = faiss_module()
    try:
        if options["index"] == "bits":
            return FaissBinaryIndex(faiss.read_index_binary(str(path)), dim)
        transforms = len(transforms_of(described(dim, options["index"])))
        if transforms and "transforms" not in options:
            raise ArtifactError(
                f"{path} was filled without the transforms of its description {options['index']!r}, which linmap used "
                "to skip; fill a new store."
            )
        return FaissIndex(faiss.read_index(str(path)), transforms)
    except RuntimeError as error:
        raise ArtifactError(f"{path} is no index of FAISS ({_reason(error)}).") from None


def signs_first(index: Any) -> Any:
    """An index that asks `index` only about the candidates with the most signs in common."""
    faiss = faiss_module()
    signs = faiss.IndexLSH(index.d, index.d, False)
    signs.metric_type = index.metric_type  # it counts equal signs either way
    refined = faiss.IndexRefine(signs, index)
    return faiss.deserialize_index(faiss.serialize_index(refined))  # which owns its parts


def pack_signs(vectors: Num[np.ndarray, "documents dim"]) -> UInt8[np.ndarray, "documents bytes"]:
    """One bit per coordinate (1 for negative), little-endian in each byte, as FAISS's binary indexes take them."""
    return np.packbits(vectors < 0, axis=1, bitorder="little")


def _first(rows: np.ndarray, scores: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The first k rows that are there, in each line."""
    order = np.argsort(rows < 0, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(rows, order, 1), np.take_along_axis(scores, order, 1)


def _reason(error: RuntimeError) -> str:
    """What FAISS says, without the place in its source."""
    return re.sub(r"^Error in .*?\.(cpp|h):\d+: ", "", str(error).splitlines()[-1])[:160]


def _set_breadth(index: Any, breadth: int = BREADTH) -> None:
    """In every graph and inverted file of the index, wherever it stands."""
    index = faiss_module().downcast_index(index)
    for inner in ("index", "base_index"):
        if hasattr(index, inner):
            _set_breadth(getattr(index, inner), breadth)
    if hasattr(index, "hnsw"):
        index.hnsw.efSearch = breadth
    if hasattr(index, "nprobe"):
        index.nprobe = max(1, min(index.nlist, breadth // 8))
        if not (index.ntotal and isinstance(index, faiss_module().IndexIVFFastScan)):  # FAISS crashes on filled ones
            index.make_direct_map()


def faiss_module() -> Any:
    try:
        import faiss
    except ModuleNotFoundError:
        raise DataError("FAISS is not installed: pip install 'linmap[retrieve]'.") from None
    return faiss
