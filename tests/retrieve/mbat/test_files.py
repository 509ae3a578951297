"""Files of records encoded in Python."""

import json
from pathlib import Path

import numpy as np
import pytest

from linmap.errors import DataError
from linmap.retrieve.mbat import JSONVectorizer, RecordIndex, VectorFile, encode_files


def test_a_file_is_encoded_as_its_documents_are_and_can_be_searched(tmp_path: Path) -> None:
    documents = [{"name": f"n{i}", "size": i, "tags": ["a", "b"][: i % 3]} for i in range(7)]
    source = tmp_path / "records.jsonl"
    source.write_text("".join(json.dumps(document) + "\n" for document in documents))
    seen: list[int] = []
    done = encode_files(JSONVectorizer(64), source, tmp_path / "v.parquet", progress=lambda n, total: seen.append(n))
    assert done.records == 7 == seen[-1]
    written = np.concatenate(list(VectorFile(tmp_path / "v.parquet").blocks()))
    np.testing.assert_allclose(written, JSONVectorizer(64).fit(documents).transform(documents), atol=1e-6)
    with RecordIndex(str(tmp_path / "v.parquet")) as index:
        assert index.like(documents[3], 1)[0].document == documents[3]


def test_what_holds_no_records_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.json").write_text("[]")
    with pytest.raises(DataError, match="holds no records"):
        encode_files(JSONVectorizer(64), tmp_path / "empty.json", tmp_path / "v.parquet")
