"""Files of vectors: `.parquet` (columns id and vector) or `.npy` (with `.json` beside it), with their fingerprint."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

import numpy as np
from jaxtyping import Float

from linmap.artifacts import atomic_path, write_json
from linmap.data import require_content
from linmap.data.arrays import read_npy
from linmap.data.door import json_value, load_json, understood
from linmap.data.parquet import batches_of, open_parquet, require_proportion
from linmap.errors import ArtifactError, DataError, OutOfRangeError, word

METADATA, BEFORE = b"linmap.vectors", b"linmap.mbat"
"""Under which name a Parquet file keeps its metadata, and under which files of earlier versions do."""
FORMAT = 1
NO_PARQUET = "Parquet files need pyarrow: pip install 'linmap[retrieve]'; or write .npy."
MOST_IDS = 2**32
"""Bytes of the file of ids."""


class VectorFileWriter:
    """Writes vectors as they come; the file appears under its name when it is whole.

    Parameters
    ----------
    path
        Ends in `.parquet` or `.npy`.
    dim
        Length of the vectors.
    metadata
        What to keep with them: fingerprint, options, source.
    dtype
        float32 or float16.
    """

    def __init__(self, path: Path | str, dim: int, metadata: dict[str, Any], dtype: Any = np.float32) -> None:
        self._path, self._dim, self._dtype = check_output(path), dim, np.dtype(dtype)
        self._metadata = {"format": FORMAT, **metadata}
        self._ids: list[str] = []
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        partial = self._stack.enter_context(atomic_path(self._path))
        if self._path.suffix == ".npy":
            self._file = self._stack.enter_context(open(partial, "wb"))
            self._write_npy_header(0)
        else:
            pa, pq = _pyarrow()
            vector = pa.list_(pa.from_numpy_dtype(self._dtype), self._dim)
            metadata = {METADATA: json.dumps(self._metadata, ensure_ascii=False).encode()}
            self._schema = pa.schema([("id", pa.string()), ("vector", vector)], metadata=metadata)
            # vectors look like noise: compression and dictionaries cost time and save nothing
            self._parquet = self._stack.enter_context(
                pq.ParquetWriter(partial, self._schema, compression="none", use_dictionary=False)
            )
        return self

    def write(self, ids: Sequence[str], vectors: Float[np.ndarray, "batch dim"]) -> None:
        vectors = np.ascontiguousarray(vectors, self._dtype)
        if self._path.suffix == ".npy":
            self._ids.extend(ids)
            self._file.write(vectors.tobytes())
            return
        pa, _ = _pyarrow()
        column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), self._dim)
        self._parquet.write_batch(pa.record_batch([pa.array(list(ids), pa.string()), column], schema=self._schema))

    def __exit__(self, *error: Any) -> None:
        if self._path.suffix == ".npy" and error[0] is None:
            self._file.seek(0)
            self._write_npy_header(len(self._ids))
            self._file.flush()
            write_json(_sidecar(self._path), {**self._metadata, "ids": self._ids})
        self._stack.__exit__(*error)

    def _write_npy_header(self, rows: int) -> None:
        """NumPy pads headers, so that the number of rows can be filled in at the end."""
        header = {"descr": self._dtype.str, "fortran_order": False, "shape": (rows, self._dim)}
        np.lib.format.write_array_header_1_0(self._file, header)


class VectorFile:
    """A file of vectors, read block by block.

    Attributes
    ----------
    metadata
        What was kept with the vectors.
    ids
        The names of the records, in the order of rows.
    dim
        Length of the vectors.

    Raises
    ------
    ArtifactError
        If the file is missing, damaged, or was not written by `VectorFileWriter`.
    DataError
        If it is empty.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = check_suffix(path)
        if not self.path.exists():
            raise ArtifactError(
                f"{path} does not exist; `linmap apply SYSTEM --out {word(self.path)}` writes files of vectors."
            )
        require_content(self.path)
        self.metadata: dict[str, Any]
        self.ids: list[str]
        self.dim: int
        self.metadata, self.ids, self.dim = self._read_npy() if self.path.suffix == ".npy" else self._read_parquet()
        if not isinstance(self.metadata, dict) or type(self.metadata.get("format")) is not int:
            raise ArtifactError(f"{path} was not written by `linmap apply`: it names no format; write it again.")
        if self.metadata["format"] > FORMAT:
            raise ArtifactError(
                f"{path} has format {self.metadata['format']}, this linmap reads up to {FORMAT}; upgrade linmap."
            )

    def blocks(self, rows: int = 4096) -> Iterator[Float[np.ndarray, "block dim"]]:
        """The vectors, `rows` at a time, in float32."""
        if self.path.suffix == ".npy":
            vectors = read_npy(self.path, mmap_mode="r")
            yield from (np.asarray(vectors[first : first + rows], np.float32) for first in range(0, len(vectors), rows))
            return
        with open_parquet(self.path) as file:
            for batch in batches_of(self.path, file, rows, columns=["vector"]):
                with understood(self.path, "a file of vectors"):
                    column = batch.column(0)
                    numbers = column.flatten().to_numpy().astype(np.float32, copy=False)
                    block = numbers.reshape(len(batch), column.type.list_size)
                yield block

    def vector(self, row: int) -> Float[np.ndarray, " dim"]:
        """One vector, without the others.

        Raises
        ------
        IndexError
            If there is no such row.
        """
        if not 0 <= row < len(self.ids):
            raise OutOfRangeError(f"{self.path} has {len(self.ids)} vectors, and none at row {row}.")
        if self.path.suffix == ".npy":
            return np.array(read_npy(self.path, mmap_mode="r")[row], np.float32)
        with open_parquet(self.path) as file, understood(self.path, "a Parquet file"):
            group = 0
            while row >= (rows := file.metadata.row_group(group).num_rows):
                group, row = group + 1, row - rows
            column = file.read_row_group(group, columns=["vector"]).column(0)
            return column[row].values.to_numpy().astype(np.float32)

    def _read_npy(self) -> tuple[dict[str, Any], list[str], int]:
        sidecar = _sidecar(self.path)
        if not is_sidecar(sidecar):
            raise ArtifactError(
                f"{self.path} has no {sidecar.name} beside it with its ids and fingerprint; write both with `linmap "
                "apply`."
            )
        metadata = load_json(sidecar, MOST_IDS)
        ids = list(map(str, metadata.pop("ids")))
        try:
            vectors = read_npy(self.path, mmap_mode="r")
        except DataError as error:
            raise ArtifactError(str(error)) from None
        if vectors.dtype.kind not in "fiu":
            raise ArtifactError(f"{self.path} holds {vectors.dtype}, not numbers; write it again.")
        if vectors.ndim != 2 or len(vectors) != len(ids):
            raise ArtifactError(
                f"{self.path} has the shape {vectors.shape}, but {sidecar.name} beside it {len(ids)} ids; write both "
                "again."
            )
        return metadata, ids, vectors.shape[1]

    def _read_parquet(self) -> tuple[dict[str, Any], list[str], int]:
        try:
            with open_parquet(self.path) as file:
                require_proportion(self.path, 8 * file.metadata.num_rows, "its ids")
                kept = file.schema_arrow.metadata or {}
                metadata = json_value(kept[METADATA] if METADATA in kept else kept[BEFORE], self.path)
                length = file.schema_arrow.field("vector").type.list_size
                with understood(self.path, "a Parquet file"):
                    ids = file.read(columns=["id"]).column("id").to_pylist()
                return metadata, [str(name) for name in ids], length
        except DataError as error:
            raise ArtifactError(str(error)) from None
        except (KeyError, AttributeError, TypeError):
            raise ArtifactError(
                f"{self.path} was not written by `linmap apply`: it carries no fingerprint; write it again."
            ) from None


def check_suffix(path: Path | str) -> Path:
    path = Path(path)
    if path.suffix not in (".parquet", ".npy"):
        raise DataError(f"{path} must end in .parquet or .npy.")
    return path


def check_output(path: Path | str) -> Path:
    """Where vectors are to be written; their ids must not take the place of a file of the user's.

    Raises
    ------
    DataError
        If the name ends otherwise, a `.json` beside a `.npy` file holds something else than ids, or Parquet cannot be
        written here.
    """
    path = check_suffix(path)
    if path.suffix == ".parquet" and importlib.util.find_spec("pyarrow") is None:
        raise DataError(NO_PARQUET)
    sidecar = _sidecar(path)
    if path.suffix == ".npy" and sidecar.exists() and not is_sidecar(sidecar):
        raise DataError(
            f"{sidecar} is in the way: linmap did not write it, and the ids of {path.name} go into a file of this name "
            "beside it; choose another name."
        )
    return path


def _sidecar(path: Path) -> Path:
    return path.with_suffix(".json")


def is_sidecar(path: Path) -> bool:
    """The file is there and holds the ids of a `.npy` file; any other `.json` beside one has nothing to do with it."""
    try:
        value = load_json(path, MOST_IDS)
    except (OSError, ValueError):
        return False
    return isinstance(value, dict) and isinstance(value.get("ids"), list) and isinstance(value.get("format"), int)


def _pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ModuleNotFoundError:
        raise DataError(NO_PARQUET) from None
    return pyarrow, pyarrow.parquet
