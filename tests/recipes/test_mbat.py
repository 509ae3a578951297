import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from linmap.data.records import read_records
from linmap.errors import ArgumentError, ArtifactError, DataError, LinmapError, UsageError
from linmap.experiment import Result
from linmap.recipes.job import ApplyJob, CompareJob
from linmap.recipes.matches import path_and_value
from linmap.recipes.mbat import apply as applying
from linmap.recipes.mbat.apply import apply
from linmap.recipes.mbat.compare import compare
from linmap.recipes.mbat.flags import Apply, Compare
from linmap.recipes.search import IndexSettings, SearchSettings, search
from linmap.recipes.search import index as store_vectors
from linmap.retrieve.mbat import JSONVectorizer, VectorFile, VectorFileWriter, parse_path

RECORDS = [
    {"id": "ada", "name": "Ada Lovelace", "born": 1815, "topics": ["engines", "poetry"]},
    {"id": "alan", "name": "Alan Turing", "born": 1912, "topics": ["engines", "codes"]},
    {"id": "emmy", "name": "Emmy Noether", "born": 1882, "topics": ["algebra"]},
    {"id": "grace", "name": "Grace Hopper", "born": 1906, "topics": ["codes", "engines"]},
]


@pytest.fixture
def index(tmp_path: Path) -> Path:
    source = tmp_path / "people.jsonl"
    source.write_text("".join(json.dumps(record) + "\n" for record in RECORDS))
    out = tmp_path / "vectors.parquet"
    apply(Apply(ignore=("id",)), ApplyJob(data=source, out=out))
    return out


def test_apply_writes_a_vector_for_each_record(index: Path) -> None:
    file = VectorFile(index)
    vectorizer = JSONVectorizer(ignore=("id",))
    assert file.ids == ["ada", "alan", "emmy", "grace"]
    assert file.metadata["fingerprint"] == vectorizer.fingerprint_
    np.testing.assert_array_equal(np.concatenate(list(file.blocks())), vectorizer.transform(RECORDS))


def test_apply_takes_the_embedded_patients(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "few.jsonl").write_bytes(b"".join(applying.PATIENTS.read_bytes().splitlines(keepends=True)[:20]))
    monkeypatch.setattr(applying, "PATIENTS", tmp_path / "few.jsonl")
    summary = apply(Apply(dim=64, numbers="quantile", weights=("patient=2",)), ApplyJob(out=tmp_path / "v.npy"))
    assert summary["records"] == 20
    documents = [record.document for record in read_records(applying.PATIENTS)]
    expected = JSONVectorizer(64, numbers="quantile", weights={"patient": 2.0}).fit_transform(documents)
    np.testing.assert_array_equal(np.load(tmp_path / "v.npy"), expected)


def test_search_finds_a_record_like_another_and_says_why(index: Path) -> None:
    answer = search(SearchSettings(str(index), id="ada", top=2))
    first = answer["matches"][0]
    vectors = JSONVectorizer(ignore=("id",)).transform(RECORDS)
    nearest = 1 + np.argsort(-vectors[1:] @ vectors[0])[:2]
    assert [match["id"] for match in answer["matches"]] == [RECORDS[row]["id"] for row in nearest]
    assert first["id"] == "alan"
    assert first["cosine"] == pytest.approx(float(vectors[0] @ vectors[1]), abs=1e-4)
    assert first["because"][0]["path"] in ("born", "topics[0]")
    shares = sum(reason["share"] for reason in first["because"]) + first["other_paths"] + first["crosstalk"]
    assert shares == pytest.approx(first["cosine"], abs=1e-3)
    assert {"path": "topics[0]", "query": "engines", "match": "engines"}.items() <= next(
        reason for reason in first["because"] if reason["path"] == "topics[0]"
    ).items()


@pytest.mark.parametrize("as_file", [True, False])
def test_search_by_example(index: Path, tmp_path: Path, as_file: bool) -> None:
    example = '{"name": "Emmy"}'
    (tmp_path / "example.json").write_text(example)
    answer = search(SearchSettings(str(index), like=str(tmp_path / "example.json") if as_file else example, top=1))
    assert [match["id"] for match in answer["matches"]] == ["emmy"]


def test_search_without_the_records_still_ranks(index: Path, tmp_path: Path) -> None:
    moved = (tmp_path / "people.jsonl").rename(tmp_path / "moved.jsonl")
    answer = search(SearchSettings(str(index), id="ada"))
    assert "because" not in answer["matches"][0]
    assert "--records FILE" in answer["note"]
    assert "because" in search(SearchSettings(str(index), id="ada", records=moved))["matches"][0]


def test_vectors_with_another_fingerprint_are_refused(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = VectorFile.__init__

    def tampered(self: VectorFile, path: Path) -> None:
        original(self, path)
        self.metadata["fingerprint"] = "0" * 64

    monkeypatch.setattr(VectorFile, "__init__", tampered)
    with pytest.raises(DataError, match="must not be compared"):
        search(SearchSettings(str(index), id="ada"))


def test_wrong_use_is_told(index: Path, tmp_path: Path) -> None:
    for wrong, message in [
        (SearchSettings(str(index)), "one of --like JSON, --id ID, --at PATH=VALUE and --query FILE.npy"),
        (SearchSettings(str(index), id="ada", like="{}"), "one of --like JSON, --id ID, --at PATH=VALUE and --query"),
        (SearchSettings(str(index), id="nobody"), "no record with the id 'nobody'; its ids are ada, alan"),
        (SearchSettings(str(index), like="{"), "neither JSON text nor the path"),
        (SearchSettings(str(index), id="ada", top=0), "--top must be at least 1"),
    ]:
        with pytest.raises(LinmapError, match=message):
            search(wrong)
    with pytest.raises(UsageError, match="PATTERN=FACTOR"):
        apply(Apply(weights=("name",)), ApplyJob(out=tmp_path / "v.npy"))
    with pytest.raises(ArgumentError, match="dim must be an integer"):
        apply(Apply(dim=5), ApplyJob(out=tmp_path / "v.npy"))
    (tmp_path / "people.jsonl").write_text('{"id": "new"}\n')
    with pytest.raises(ArtifactError, match="has changed since"):
        search(SearchSettings(str(index), id="ada"))


def test_a_broken_record_leaves_no_index(tmp_path: Path) -> None:
    source = tmp_path / "broken.jsonl"
    source.write_text('{"a": 1}\n{"a": NaN}\n')
    with pytest.raises(DataError, match=f"^{source}, line 2: NaN is not JSON"):
        apply(Apply(dim=64), ApplyJob(data=source, out=tmp_path / "v.parquet"))
    source.write_text('{"a": 1}\n{"a": "\\ud800"}\n')
    with pytest.raises(DataError, match=f"^{source}: document 1, at a: .*lone surrogate"):
        apply(Apply(dim=64), ApplyJob(data=source, out=tmp_path / "v.parquet"))
    assert not (tmp_path / "v.parquet").exists()


def labelled(path: Path, records: int = 30) -> Path:
    """Two classes whose numbers are near to each other and never equal."""
    rng = np.random.default_rng(0)
    lines = [
        {"id": i, "label": ["low", "high"][i % 2], "doc": {"level": 10.0 ** (3 * (i % 2)) * rng.uniform(0.8, 1.2)}}
        for i in range(records)
    ]
    path.write_text("\n".join(map(json.dumps, lines)))
    return path


def test_compare_on_the_users_own_labelled_records(tmp_path: Path) -> None:
    job = CompareJob(data=labelled(tmp_path / "own.jsonl"), out=tmp_path)
    result = compare(Compare(dim=256), job)
    scores = {row.name: row for row in result.rows}
    assert scores["MBAT soft (words, levels)"].mean("kNN-5") == 1.0  # near numbers are similar,
    assert scores["MBAT exact"].mean("kNN-5") < 0.9  # equal ones never occur
    assert {len(values) for row in result.rows for values in row.values.values()} == {5}
    assert (tmp_path / "accuracy.svg").read_text().startswith("<?xml")
    assert result.verdict.startswith("With kNN-5: Take MBAT mixed (default)")
    result.save(tmp_path)


@pytest.mark.slow  # tests/experiment has it for every comparison
def test_finished_folds_are_kept_and_a_changed_file_is_measured_again(tmp_path: Path) -> None:
    data = labelled(tmp_path / "own.jsonl")

    def compared(resume: bool) -> tuple[Result, set[str]]:
        before = set(tmp_path.rglob("runs/*.json"))
        result = compare(Compare(dim=64, folds=2), CompareJob(data=data, out=tmp_path, resume=resume))
        return result, {path.name for path in set(tmp_path.rglob("runs/*.json")) - before}

    first, runs = compared(resume=False)
    assert len(runs) == 2 * len(first.rows)
    again, new = compared(resume=True)
    assert (again.rows, new) == (first.rows, set())
    labelled(data, records=28)
    _, new = compared(resume=True)
    assert len(new) == len(runs)


def test_data_that_cannot_be_compared_are_refused(tmp_path: Path) -> None:
    (tmp_path / "plain.jsonl").write_text('{"a": 1}\n{"a": 2}\n')
    with pytest.raises(DataError, match="needs records"):
        compare(Compare(), CompareJob(data=tmp_path / "plain.jsonl", out=tmp_path))
    few = [{"id": i, "label": str(i), "doc": i} for i in range(5)]
    (tmp_path / "few.jsonl").write_text("\n".join(map(json.dumps, few)))
    with pytest.raises(DataError, match="fewer than the 5 folds"):
        compare(Compare(), CompareJob(data=tmp_path / "few.jsonl", out=tmp_path))
    with pytest.raises(UsageError, match="--folds must be at least 2 and --seeds at least 1"):
        compare(Compare(folds=1), CompareJob(out=tmp_path))


def test_search_for_values_at_paths(index: Path) -> None:
    answer = search(SearchSettings(str(index), at=("topics[0]=algebra",), top=1))
    assert [match["id"] for match in answer["matches"]] == ["emmy"]
    assert answer["matches"][0]["because"] == [{"path": "topics[0]", "query": "algebra", "match": "algebra"}]
    vectors = JSONVectorizer(ignore=("id",)).transform([*RECORDS, {"topics": ["algebra"]}])
    assert answer["matches"][0]["cosine"] == pytest.approx(float(vectors[2] @ vectors[4]), abs=1e-4)
    both = search(SearchSettings(str(index), at=("born=1912", "topics[1]=codes", "nothing.here=1"), top=1))
    assert both["matches"][0]["id"] == "alan"
    assert [reason["match"] for reason in both["matches"][0]["because"]] == [1912, "codes", "(not there)"]
    for wrong in ("topics", "a[=1"):
        with pytest.raises(UsageError, match="--at takes PATH=VALUE"):
            search(SearchSettings(str(index), at=(wrong,)))
    with pytest.raises(ArgumentError, match="ignore all of the paths"):
        search(SearchSettings(str(index), at=("id=ada",)))


@pytest.mark.parametrize("address", ["array", "faiss", "usearch"])
def test_a_store_answers_as_the_file_that_filled_it(index: Path, tmp_path: Path, address: str) -> None:
    into = f"{address}:{tmp_path / 'store'}"
    assert store_vectors(IndexSettings(into=into, data=index))["vectors"] == 4
    for where in (into, str(tmp_path / "store")):
        asked: list[dict[str, Any]] = [{"id": "ada"}, {"like": json.dumps(RECORDS[1])}, {"at": ("name=Emmy Noether",)}]
        for question in asked:
            ours, theirs = (search(SearchSettings(place, top=2, **question)) for place in (where, str(index)))
            assert ours["matches"] == theirs["matches"]
    with pytest.raises(DataError, match="no record with the id 'bob'"):
        search(SearchSettings(into, id="bob"))


def test_records_are_searched_without_an_index(index: Path) -> None:
    folder = index.parent / "records"
    folder.mkdir()
    (folder / "people.jsonl").write_bytes((index.parent / "people.jsonl").read_bytes())
    for where in (folder, index.parent / "people.jsonl"):
        answer = search(SearchSettings(str(where), like=json.dumps(RECORDS[3]), top=2))
        assert answer["matches"][0]["id"] == "grace"
        assert answer["matches"][0]["cosine"] == pytest.approx(1, abs=1e-4)
        assert answer["matches"][0]["because"]


@pytest.mark.parametrize("kind", ["array", "faiss", "lance", "qdrant"])
def test_records_are_found_in_every_store_that_was_filled_from_their_vectors(
    index: Path, tmp_path: Path, kind: str
) -> None:
    address = f"{kind}:{tmp_path / kind}"
    store_vectors(IndexSettings(into=address, data=index, field="json"))
    asked: list[dict[str, Any]] = [{"id": "ada"}, {"like": json.dumps(RECORDS[0])}]
    for question in asked:
        expected, found = (
            search(SearchSettings(where, field=field, top=2, **question))["matches"]
            for where, field in ((str(index), "vector"), (address, "json"))
        )
        assert [match["id"] for match in found] == [match["id"] for match in expected]
        assert found[0]["because"] == expected[0]["because"]


def test_vectors_are_searched_with_vectors(index: Path, tmp_path: Path) -> None:
    vectors = np.concatenate(list(VectorFile(index).blocks()))
    np.save(tmp_path / "q.npy", vectors[2:])
    store_vectors(IndexSettings(into=f"array:{tmp_path / 's'}", data=index, field="new"))
    for where, field in ((str(index), "vector"), (str(tmp_path / "s"), "new")):
        answer = search(SearchSettings(where, query=tmp_path / "q.npy", top=1, field=field))
        assert [query["matches"][0] for query in answer["queries"]] == [
            {"id": "emmy", "score": 1.0},
            {"id": "grace", "score": 1.0},
        ]
    for wrong, message in (
        (SearchSettings(str(index), query=tmp_path / "q.npy", id="ada"), "leave --like, --id and --at out"),
        (SearchSettings(str(index), query=tmp_path / "q.npy", top=0), "--top must be at least 1"),
        (SearchSettings(str(index), through=tmp_path, id="ada"), "give them with --query"),
        (SearchSettings(str(index)), "one of --like JSON, --id ID, --at PATH=VALUE and --query"),
    ):
        with pytest.raises(UsageError, match=message):
            search(wrong)
    np.save(tmp_path / "plain.npy", vectors)
    store_vectors(IndexSettings(into=f"array:{tmp_path / 'plain'}", data=tmp_path / "plain.npy"))
    with pytest.raises(ArtifactError, match="does not know how records became its vectors"):
        search(SearchSettings(str(tmp_path / "plain"), id="0"))


@pytest.mark.parametrize(
    ("text", "path", "value"),
    [
        ("a=b=c", "a", "b=c"),
        ('["a=b"].c=[1, 2]', '["a=b"].c', [1, 2]),
        ("$.name=n3", "$.name", "n3"),
        ("a=", "a", ""),
        ("a=NaN", "a", "NaN"),
        ("/x~1y=null", "/x~1y", None),
    ],
)
def test_at_is_split_where_its_path_ends(text: str, path: str, value: object) -> None:
    assert path_and_value(text) == (path, value)


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"])), min_size=1, max_size=3), st.integers())
def test_at_takes_any_quoted_key(keys: list[str], value: int) -> None:
    quoted = "".join(f"[{json.dumps(key)}]" for key in keys)
    path, read = path_and_value(f"{quoted}={value}")
    assert (parse_path(path), read) == (parse_path(keys), value)


def test_a_hit_is_explained_by_the_record_that_was_found(tmp_path: Path) -> None:
    source = tmp_path / "r.jsonl"
    source.write_text('{"id": "a", "x": "first"}\n{"id": "b", "x": "other"}\n{"id": "a", "x": "second"}\n')
    with pytest.warns(UserWarning, match="'a' is that of the records 0 and 2"):
        apply(Apply(dim=512, n_jobs=1), ApplyJob(data=source, out=tmp_path / "v.npy"))
    for where in (source, tmp_path / "v.npy"):
        (best,) = search(SearchSettings(str(where), at=("x=second",), top=1))["matches"]
        assert best["because"] == [{"path": "x", "query": "second", "match": "second"}]
        with pytest.warns(UserWarning, match="2 records of .* have the id 'a'; the first"):
            matches = search(SearchSettings(str(where), id="a", top=5))["matches"]
        assert sorted(match["id"] for match in matches) == ["a", "b"]
        assert ["second"] in [[reason["match"] for reason in m["because"] if reason["path"] == "x"] for m in matches]


def test_a_record_that_is_no_longer_at_its_place_is_told(tmp_path: Path) -> None:
    source = tmp_path / "r.jsonl"
    source.write_text('{"id": "a", "x": 1}\n{"id": "b", "x": 2}\n')
    apply(Apply(dim=64, n_jobs=1), ApplyJob(data=source, out=tmp_path / "v.npy"))
    source.write_text('{"id": "b", "x": 2}\n{"id": "a", "x": 1}\n')
    with pytest.raises(ArtifactError, match="has no record 'a' at its place 0"):
        search(SearchSettings(str(tmp_path / "v.npy"), at=("x=1",), top=1))


def test_records_inside_of_a_file_are_offered_and_read(tmp_path: Path) -> None:
    trail, out = tmp_path / "trail.json", tmp_path / "v.parquet"
    trail.write_text(json.dumps({"Records": [{"eventID": f"e{i}", "name": "Put"} for i in range(20)]}))
    job = ApplyJob(data=trail, out=out)
    offered = "each of the 20 objects at Records in it as one, give records_at='Records'"
    with pytest.warns(UserWarning, match=offered):
        assert apply(Apply(dim=64, n_jobs=1), job)["records"] == 1
    assert apply(Apply(dim=64, n_jobs=1, records_at="$.Records"), job)["records"] == 20
    for where, place in ((trail, "Records"), (out, None)):
        answer = search(SearchSettings(str(where), at=("eventID=e7",), top=1, records_at=place))
        assert answer["matches"][0]["because"][0]["match"] == "e7"
        assert answer["records"] == 20
    with pytest.warns(UserWarning, match=offered):
        search(SearchSettings(str(trail), at=("Records[0].name=Put",), top=1))
    with pytest.raises(ArgumentError, match="records_at='Records' goes with a file of records"):
        search(SearchSettings(str(out), id="0", records_at="Records"))
    with pytest.raises(UsageError, match=r"--records-at 'a\[': path"):
        apply(Apply(records_at="a["), job)


def test_compressed_records_are_read_where_that_is_said(tmp_path: Path) -> None:
    source, out = tmp_path / "r.jsonl.gz", tmp_path / "v.npy"
    source.write_bytes(gzip.compress(b'{"id": "a", "x": 1}\n'))
    with pytest.raises(DataError, match=r"r\.jsonl\.gz is compressed.*by one worker \(decompress=True\)"):
        apply(Apply(dim=64), ApplyJob(data=source, out=out))
    assert apply(Apply(dim=64, decompress=True), ApplyJob(data=source, out=out))["records"] == 1
    assert search(SearchSettings(str(source), at=("x=1",)))["matches"][0]["id"] == "a"


@pytest.mark.parametrize("content", ["", "\n \n"])
def test_nothing_to_encode_is_told(tmp_path: Path, content: str) -> None:
    source, out = tmp_path / "empty.jsonl", tmp_path / "v.npy"
    source.write_text(content)
    for use in (
        lambda: apply(Apply(dim=64), ApplyJob(data=source, out=out)),
        lambda: search(SearchSettings(str(source), like="{}")),
    ):
        with pytest.raises(DataError, match=r"empty\.jsonl is empty; there is nothing to read\."):
            use()
    assert list(tmp_path.iterdir()) == [source]
    (tmp_path / "none.json").write_text("[]")
    with pytest.raises(DataError, match=r"none\.json holds no records; there is nothing to encode"):
        apply(Apply(dim=64), ApplyJob(data=tmp_path / "none.json", out=out))


@pytest.mark.parametrize("name", ["v.npy", "v.parquet"])
def test_a_file_of_no_vectors_is_neither_searched_nor_indexed(tmp_path: Path, name: str) -> None:
    vectorizer = JSONVectorizer(64)
    metadata = {"fingerprint": vectorizer.fingerprint_, "options": vectorizer.as_json(), "source": "r.jsonl"}
    with VectorFileWriter(tmp_path / name, 64, metadata):
        pass
    with pytest.raises(DataError, match="holds no vectors; there is nothing to put in"):
        store_vectors(IndexSettings(f"array:{tmp_path / 's'}", tmp_path / name))
    assert not (tmp_path / "s").exists()
    with pytest.raises(DataError, match="holds no vectors; there is nothing to search"):
        search(SearchSettings(str(tmp_path / name), id="a"))


def test_embedded_records_never_go_where_a_user_keeps_vectors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("r.jsonl").write_text('{"id": "a"}')
    monkeypatch.setattr(applying, "PATIENTS", Path("r.jsonl"))
    Path("vectors.parquet").write_bytes(b"mine")
    assert apply(Apply(dim=64, n_jobs=1), ApplyJob())["out"] == "runs/mbat/vectors.parquet"
    assert Path("vectors.parquet").read_bytes() == b"mine"


def test_ids_never_take_the_place_of_another_file(tmp_path: Path) -> None:
    source = tmp_path / "v.json"
    source.write_text('[{"id": "a"}]')
    with pytest.raises(DataError, match=r"v\.json is in the way: linmap did not write it"):
        apply(Apply(dim=64, n_jobs=1), ApplyJob(data=source, out=tmp_path / "v.npy"))
    assert source.read_text() == '[{"id": "a"}]'
