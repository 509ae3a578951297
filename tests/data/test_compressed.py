import bz2
import gzip
import json
import lzma
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow
import pytest

from linmap.data import require_content
from linmap.data.engines import map_records
from linmap.data.records import read_records
from linmap.errors import DataError

RECORDS = [{"id": f"r{i}", "x": i} for i in range(2000)]
LINES = "".join(json.dumps(record) + "\n" for record in RECORDS).encode()


def zstandard(raw: bytes) -> bytes:
    return pyarrow.Codec("zstd").compress(raw, asbytes=True)


WAYS = {"gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress, "zst": zstandard}
each = pytest.mark.parametrize(("suffix", "compress"), WAYS.items())


@each
def test_a_compressed_file_holds_what_the_plain_one_holds(
    tmp_path: Path, suffix: str, compress: Callable[[bytes], bytes]
) -> None:
    (tmp_path / "r.jsonl").write_bytes(LINES)
    (tmp_path / f"r.jsonl.{suffix}").write_bytes(compress(LINES[:700]) + compress(LINES[700:]))  # as logs are appended
    (tmp_path / f"r.json.{suffix.upper()}").write_bytes(compress(json.dumps(RECORDS).encode()))
    plain = list(read_records(tmp_path / "r.jsonl"))
    assert list(read_records(tmp_path / f"r.jsonl.{suffix}")) == plain
    assert list(read_records(tmp_path / f"r.json.{suffix.upper()}")) == plain


@each
def test_what_is_no_such_file_is_told(tmp_path: Path, suffix: str, compress: Callable[[bytes], bytes]) -> None:
    path = tmp_path / f"r.jsonl.{suffix}"
    for content in (LINES, compress(LINES)[:-9]):
        path.write_bytes(content)
        with pytest.raises(DataError, match="is damaged, or not compressed as its name says"):
            list(read_records(path))
    for blank in (b"", compress(b" \n\n")):
        path.write_bytes(blank)
        with pytest.raises(DataError, match=rf"r\.jsonl\.{suffix} is empty; there is nothing to read"):
            require_content(path)


def test_a_compressed_file_is_mapped_as_one_shard(tmp_path: Path) -> None:
    (tmp_path / "r.jsonl").write_bytes(LINES)
    (tmp_path / "r.jsonl.gz").write_bytes(gzip.compress(LINES))
    for name in ("r.jsonl", "r.jsonl.gz"):
        done = map_records(
            tmp_path / name,
            tmp_path / f"{name}.npy",
            lambda rs: np.array([[r.document["x"]] for r in rs]),
            shard_records=100,
            batch=30,
        )
        assert done.records == 2000
    assert (tmp_path / "r.jsonl.npy").read_bytes() == (tmp_path / "r.jsonl.gz.npy").read_bytes()


@pytest.mark.parametrize("name", ["r.parquet.gz", "r.jsonl.lz4", "r.gz", "r.jsonl.zip"])
def test_other_compressed_files_are_to_be_decompressed(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(DataError, match=r"of compressed files \.json, \.jsonl, \.ndjson are read") as refused:
        read_records(tmp_path / name)
    assert "rename it" not in str(refused.value)
