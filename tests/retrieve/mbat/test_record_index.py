"""What `linmap search` does, from Python."""

import json
from pathlib import Path
from typing import Any

import pytest

from linmap.data.vectors import fill, open_store
from linmap.errors import ArgumentError, DataError
from linmap.retrieve.mbat import MISSING, JSONVectorizer, RecordIndex, VectorFileWriter

RECORDS = [
    {"id": "ada", "born": 1815, "topics": ["engines", "poetry"]},
    {"id": "alan", "born": 1912, "topics": ["engines", "codes"]},
    {"id": "emmy", "born": 1882, "topics": ["algebra"]},
]
IDS = [record["id"] for record in RECORDS]


@pytest.fixture(params=["records", "file", "store"])
def index(request: pytest.FixtureRequest, tmp_path: Path) -> RecordIndex:
    source = tmp_path / "people.jsonl"
    source.write_text("".join(json.dumps(record) + "\n" for record in RECORDS))
    return RecordIndex(made(source, request.param))


def made(source: Path, kind: str, **options: Any) -> str:
    """Vectors of the records: none yet, in a file, or in a store."""
    vectorizer, where = JSONVectorizer(**options), source.with_name("v.npy")
    metadata = {"fingerprint": vectorizer.fingerprint_, "options": vectorizer.as_json(), "source": str(source)}
    with VectorFileWriter(where, vectorizer.dim, metadata) as file:
        file.write(IDS, vectorizer.transform(RECORDS))
    if kind == "store":
        with open_store(f"array:{source.with_name('store')}", vectorizer.dim) as store:
            fill(store, where)
    return str({"records": source, "file": where, "store": source.with_name("store")}[kind])


def test_matches_come_with_their_cosine_and_its_parts(index: RecordIndex) -> None:
    vectors = JSONVectorizer().transform(RECORDS)
    with index:
        assert len(index) == 3
        for found, asked in ((index.like_record("ada"), vectors[0]), (index.like(RECORDS[1]), vectors[1])):
            for match in found:
                row = IDS.index(match.id)
                assert match.cosine == pytest.approx(float(vectors[row] @ asked), abs=1e-5)
                assert match.document == RECORDS[row]
                assert match.breakdown is not None
                parts = match.breakdown
                assert match.cosine == pytest.approx(
                    parts.crosstalk + sum(p.share for p in parts.contributions), abs=1e-5
                )
        assert [match.id for match in index.like_record("ada")] == ["alan", "emmy"]
        assert index.like(RECORDS[1], top=1)[0].id == "alan"


def test_values_at_paths_are_found_and_shown_beside_what_is_there(index: RecordIndex) -> None:
    with index:
        (best,) = index.with_values({"topics[0]": "algebra", ("born",): 1882, "no.such": 1}, top=1)
        assert best.id == "emmy"
        assert [value.found for value in best.values] == ["algebra", 1882, MISSING]
        assert best.breakdown is None


def test_without_the_file_of_records_there_are_no_reasons(tmp_path: Path) -> None:
    source = tmp_path / "people.jsonl"
    source.write_text("".join(json.dumps(record) + "\n" for record in RECORDS))
    where = made(source, "file")
    moved = source.rename(tmp_path / "moved.jsonl")
    with RecordIndex(where) as index, RecordIndex(where, records=moved) as told:
        for found in (index.like_record("ada"), index.with_values({"born": 1815})):
            assert all(match.document is MISSING and not match.values for match in found)
        assert told.like_record("ada")[0].document == RECORDS[1]


def test_wrong_use_is_named(index: RecordIndex) -> None:
    with index:
        with pytest.raises(DataError, match="no record with the id 'bob'"):
            index.like_record("bob")
        with pytest.raises(ArgumentError, match="ignore all of the paths"):
            index.with_values({})
        with pytest.raises(ValueError, match="must be at least 1, got 0"):
            index.like({}, top=0)


def test_vectors_that_are_no_sums_of_leaves(tmp_path: Path) -> None:
    source = tmp_path / "people.jsonl"
    source.write_text("".join(json.dumps(record) + "\n" for record in RECORDS))
    with RecordIndex(made(source, "file", level_norm="unit")) as index:
        assert index.like(RECORDS[2], top=1)[0].breakdown is None
        with pytest.raises(ArgumentError, match="which level_norm='unit' does not"):
            index.with_values({"born": 1815})
    with pytest.raises(ArgumentError, match="not of unit length"):
        RecordIndex(made(source, "store", normalize="none"))
