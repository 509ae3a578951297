import json
import re
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from linmap.data.arrays import open_rows
from linmap.data.vectors import open_store
from linmap.errors import ArgumentError, ArtifactError, DataError
from linmap.retrieve.mbat import VectorFile, VectorFileWriter

VECTORS = np.random.default_rng(0).normal(size=(5, 64)).astype(np.float32)
METADATA = {"fingerprint": "f00", "options": {"dim": 64}}


def write(path: Path) -> None:
    with VectorFileWriter(path, 64, METADATA) as file:
        file.write(["a", "b", "é"], VECTORS[:3])
        file.write(["d", "e"], VECTORS[3:])


@pytest.mark.parametrize("name", ["v.parquet", "v.npy"])
def test_what_is_written_is_read(tmp_path: Path, name: str) -> None:
    write(tmp_path / name)
    file = VectorFile(tmp_path / name)
    assert file.ids == ["a", "b", "é", "d", "e"]
    assert file.metadata["fingerprint"] == "f00"
    for rows in (1, 2, 100):
        np.testing.assert_array_equal(np.concatenate(list(file.blocks(rows))), VECTORS)
    np.testing.assert_array_equal([file.vector(row) for row in range(5)], VECTORS)
    for row in (-1, 5):
        with pytest.raises(IndexError, match="has 5 vectors, and none at row"):
            file.vector(row)


def test_files_of_earlier_versions_are_read(tmp_path: Path) -> None:
    """Their metadata had another name."""
    write(tmp_path / "v.parquet")
    table = pyarrow.parquet.read_table(tmp_path / "v.parquet")
    kept = {b"linmap.mbat": table.schema.metadata[b"linmap.vectors"]}
    pyarrow.parquet.write_table(table.replace_schema_metadata(kept), tmp_path / "old.parquet")
    assert VectorFile(tmp_path / "old.parquet").metadata == VectorFile(tmp_path / "v.parquet").metadata


def test_other_programs_read_the_files(tmp_path: Path) -> None:
    write(tmp_path / "v.npy")
    np.testing.assert_array_equal(np.load(tmp_path / "v.npy"), VECTORS)
    write(tmp_path / "v.parquet")
    table = pyarrow.parquet.read_table(tmp_path / "v.parquet")
    np.testing.assert_array_equal(np.array(table["vector"].to_pylist(), np.float32), VECTORS)


@pytest.mark.parametrize("name", ["v.parquet", "v.npy"])
def test_a_failed_write_leaves_nothing_behind(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="stop"):
        write_and_fail(tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def write_and_fail(path: Path) -> None:
    with VectorFileWriter(path, 64, METADATA) as file:
        file.write(["a"], VECTORS[:1])
        raise ValueError("stop")


def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="does not exist"):
        VectorFile(tmp_path / "v.parquet")
    with pytest.raises(DataError, match=r"must end in \.parquet or \.npy"):
        VectorFile(tmp_path / "v.csv")
    pyarrow.parquet.write_table(pyarrow.table({"id": ["a"]}), tmp_path / "other.parquet")
    with pytest.raises(ArtifactError, match="carries no fingerprint"):
        VectorFile(tmp_path / "other.parquet")
    write(tmp_path / "cut.parquet")
    (tmp_path / "cut.parquet").write_bytes((tmp_path / "cut.parquet").read_bytes()[:-20])
    with pytest.raises(ArtifactError, match="cannot be read as a Parquet file"):
        VectorFile(tmp_path / "cut.parquet")
    np.save(tmp_path / "other.npy", VECTORS)
    with pytest.raises(ArtifactError, match=r"has no other\.json beside it"):
        VectorFile(tmp_path / "other.npy")
    write(tmp_path / "new.npy")
    sidecar = tmp_path / "new.json"
    sidecar.write_text(json.dumps(json.loads(sidecar.read_text()) | {"format": 99}))
    with pytest.raises(ArtifactError, match="upgrade linmap"):
        VectorFile(tmp_path / "new.npy")


def test_what_a_matrix_holds_instead_is_told(tmp_path: Path) -> None:
    for array in (VECTORS[0], VECTORS[None], VECTORS[:0], VECTORS > 0, VECTORS * 1j):
        np.save(tmp_path / "v.npy", array)
        with pytest.raises(DataError, match=re.escape(f"holds {array.dtype} of the shape {array.shape}; expected one")):
            open_rows(tmp_path / "v.npy")


@pytest.mark.parametrize("value", [3.5e38, -1e300])
def test_numbers_beyond_float32_are_not_called_infinite(value: float, tmp_path: Path) -> None:
    vectors = VECTORS.astype(np.float64)
    vectors[2, 5] = value
    with open_store(f"array:{tmp_path}/s", vectors.shape[1]) as store:
        with pytest.raises(ArgumentError, match="kept in float32, and row 2 has a number beyond 3"):
            store.upsert([str(i) for i in range(len(vectors))], vectors)
        vectors[2, 5] = np.inf
        with pytest.raises(ArgumentError, match="row 2 has NaN or an infinity"):
            store.upsert([str(i) for i in range(len(vectors))], vectors)
