import json
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from linmap.data import EMBEDDED, records
from linmap.data.records import JSONTextError, Layout, Record, as_record, inner_records, parse_json, read_records
from linmap.errors import DataError

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**80), 2**80)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner),
    max_leaves=10,
)


@pytest.fixture(params=["orjson", "standard library"])
def parser(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "standard library":
        monkeypatch.setattr(records, "orjson", None)


@given(JSON, st.sampled_from([None, 1]), st.booleans(), st.sampled_from([(",", ":"), (" ,", " : ")]))
def test_parsing_gives_back_what_was_written(value, indent, ascii_only: bool, separators: tuple[str, str]) -> None:
    text = json.dumps(value, indent=indent, ensure_ascii=ascii_only, separators=separators)
    for parsed in (parse_json(text), parse_json(text.encode())):
        assert parsed == value
        assert json.dumps(parsed) == json.dumps(value)  # 1, 1.0 and True are equal in Python


@pytest.mark.usefixtures("parser")
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a":1,"a":1}', "key 'a' comes twice"),
        ('{"x": [{"a": {}, "b": 2, "a": {}}]}', "key 'a' comes twice"),
        (r'{"a":1,"\u0061":2}', "key 'a' comes twice"),
        (r'{":":"\":","a":1,"a":2}', "key 'a' comes twice"),
        ("[NaN]", "NaN is not JSON"),
        ("[-Infinity]", "-Infinity is not JSON"),
        ("[1e999]", "beyond the range of floats"),
        ('{"a": }', "line 1, column 7: not JSON"),
        ('{"a": 1,\n "b": x}', "line 2, column 7: not JSON"),
        ("{} {}", "Extra data"),
        ("", "line 1, column 1: not JSON"),
        (b'["\xff"]', "line 1, column 3: byte 0xff is not UTF-8"),
        ("[" * 100_000, "nested too deep"),
    ],
)
def test_what_is_not_json_is_refused_with_its_place(text, message: str) -> None:
    with pytest.raises(JSONTextError, match=message):
        parse_json(text)


@pytest.mark.usefixtures("parser")
@pytest.mark.parametrize(
    "text", ["[18446744073709551616]", "[123456789012345678901234567890, 1.50]", '["\\ud83d\\ude00"]']
)
def test_all_digits_and_characters_are_kept(text: str) -> None:
    assert parse_json(text) == json.loads(text)


RECORDS = [{"id": "x", "doc": {"a": 1}}, {"id": 7, "label": "sick", "doc": [2]}, {"id": 8, "a": {"b": 1}}, {"a": 3}, 5]
EXPECTED = [
    Record("x", {"a": 1}),
    Record("7", [2], "sick"),
    Record("8", {"id": 8, "a": {"b": 1}}),
    Record("3", {"a": 3}),
    Record("4", 5),
]


def test_records_of_every_format(tmp_path: Path) -> None:
    (tmp_path / "r.jsonl").write_text("\n\n".join(map(json.dumps, RECORDS)) + "\r\n")
    (tmp_path / "r.json").write_text(json.dumps(RECORDS, indent=1))
    (tmp_path / "one.json").write_text(json.dumps(RECORDS[2]))
    assert list(read_records(tmp_path / "r.jsonl")) == EXPECTED
    assert list(read_records(tmp_path / "r.json")) == EXPECTED
    assert list(read_records(tmp_path / "one.json")) == [EXPECTED[2]]


def test_parquet_rows_are_records_with_dates_as_texts(tmp_path: Path) -> None:
    table = pyarrow.table(
        {
            "id": ["p", "q"],
            "born": pyarrow.array([0, None], pyarrow.date32()),
            "visits": [[{"at": "x", "n": 1}], []],
        }
    )
    pyarrow.parquet.write_table(table, tmp_path / "r.parquet")
    first, second = read_records(tmp_path / "r.parquet")
    assert first == Record("p", {"id": "p", "born": "1970-01-01", "visits": [{"at": "x", "n": 1}]})
    assert second == Record("q", {"id": "q", "born": None, "visits": []})


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("r.jsonl", b'{}\n\n{"a": \n', r"r\.jsonl, line 3, column 7: not JSON"),
        ("r.jsonl", b'{"a":1,"a":2}\n', r"line 1: the key 'a' comes twice"),
        ("r.json", b'{"a": 1}\n{"a": 2}\n', r"line 2, column 1: .*call it \.jsonl"),
        ("r.parquet", b"nonsense", "as a Parquet file"),
        ("r.txt", b"", r"must end in \.jsonl"),
    ],
)
def test_broken_files_name_the_place(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        list(read_records(tmp_path / name))


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is not a file"):
        read_records(tmp_path / "none.jsonl")


def test_embedded_patients() -> None:
    patients = list(read_records(EMBEDDED / "fhir_patients.jsonl"))
    assert len(patients) == 418
    assert {patient.label for patient in patients} == {"none", "prediabetes", "diabetes"}
    assert patients[0].id == "p0000"
    assert patients[0].document["patient"]["gender"] == "male"


@pytest.mark.parametrize(
    ("value", "at", "names"),
    [
        ({"Records": [{"id": "a"}, {"x": 1}]}, ("Records",), ["a", "1"]),
        ({"data": {"items": [{"id": 1}, {"id": 2.5}, {"id": True}]}}, ("data", "items"), ["1", "2.5", "true"]),
        ({"\U0001f600": {"name": "grin"}, "x": {"name": "y"}}, (), ["\U0001f600", "x"]),
        ([{"entry": [{"id": "p"}]}, {"entry": [{"id": "q"}, {"id": "r"}]}], ("entry",), ["p", "q", "r"]),
        ([[{"id": "p"}], [{"id": "q"}]], (0,), None),
    ],
)
def test_records_inside_of_a_value(tmp_path: Path, value, at: tuple, names: list[str] | None) -> None:
    (tmp_path / "r.json").write_text(json.dumps(value))
    (tmp_path / "r.jsonl").write_text("\n".join(map(json.dumps, value if isinstance(value, list) else [value])))
    for name in ("r.json", "r.jsonl"):
        if names is None:
            with pytest.raises(DataError, match=r"holds {'id': 'p'} where its records should be|'p'"):
                list(read_records(tmp_path / name, Layout(at)))
        else:
            assert [record.id for record in read_records(tmp_path / name, Layout(at))] == names


def test_a_place_that_is_not_there_is_named_with_what_is(tmp_path: Path) -> None:
    (tmp_path / "r.json").write_text(json.dumps({"Records": [1], "next": None}))
    with pytest.raises(DataError, match=r"r\.json has no 'records' on the way .*there is 'Records', 'next'"):
        list(read_records(tmp_path / "r.json", Layout(("records",))))
    with pytest.raises(DataError, match="holds None where its records should be"):
        list(read_records(tmp_path / "r.json", Layout(("next",))))


def test_a_file_that_is_little_more_than_an_array_is_recognised() -> None:
    events = [{"eventID": str(i), "name": "PutObject"} for i in range(50)]
    assert inner_records({"Records": events}) == (("Records",), 50)
    assert inner_records({"type": "FeatureCollection", "features": events, "bbox": [1, 2]}) == (("features",), 50)
    assert inner_records({"hits": {"total": 50, "hits": events}}) == (("hits", "hits"), 50)
    assert inner_records({f"e{i}": event for i, event in enumerate(events)}) == ((), 50)
    assert inner_records(events) == ((), 50)
    assert inner_records([1, 2, 3]) is None
    assert inner_records({"note": "x" * 9000, "tags": events}) is None
    assert inner_records({"name": "Ada", "topics": ["a", "b"], "born": {"year": 1815}}) is None


@pytest.mark.parametrize(
    ("record", "name", "named_by"),
    [
        ({"id": {"$oid": "65f0"}}, "65f0", "text"),
        ({"_id": {"$oid": "65f0"}, "x": 1}, "65f0", "text"),
        ({"id": "own", "_id": {"$oid": "65f0"}}, "own", "text"),
        ({"id": None, "_id": {"$oid": "65f0"}}, "65f0", "text"),
        ({"id": {"$oid": "65f0"}, "doc": {"x": 1}}, "65f0", "text"),
        ({"_id": "plain"}, "7", "number"),
        ({"id": {"$oid": "65f0", "more": 1}}, "7", "number"),
        ({"id": {"$uuid": "65f0"}, "_id": {"$oid": "1"}}, "7", "number"),
    ],
)
def test_an_id_that_mongodb_made_is_the_text_in_it(record: dict, name: str, named_by: str) -> None:
    found = as_record(record, 7)
    assert (found.id, found.named_by) == (name, named_by)
    assert as_record(record, 7, "number").id == "7"


def test_records_by_number(tmp_path: Path) -> None:
    (tmp_path / "r.jsonl").write_text('{"id": "b"}\n{"id": "b", "doc": 1}\n')
    assert [record.id for record in read_records(tmp_path / "r.jsonl", Layout(ids="number"))] == ["0", "1"]


@pytest.mark.parametrize("name", ["r.jsonl", "r.ndjson", "r.json", "r.parquet"])
@pytest.mark.parametrize("content", [b"", b" \n\n", b"\xef\xbb\xbf\r\n"])
def test_an_empty_file_is_told(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=rf"{name} is empty; there is nothing to read\."):
        list(read_records(tmp_path / name))


def test_empty_parts_of_a_folder_and_a_byte_order_mark_are_passed_over(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b"")
    (tmp_path / "b.jsonl").write_bytes(b'\xef\xbb\xbf\n{"id": "x"}\n')
    assert [record.id for record in read_records(tmp_path)] == ["x"]


@given(
    st.dictionaries(st.text(max_size=6).map(lambda key: 100 * key), st.none(), max_size=12),
    st.text(max_size=6).map(lambda step: 1000 * step),
)
def test_a_place_that_is_not_there_is_told_in_one_short_line(keys: dict[str, None], step: str) -> None:
    assume(step not in keys)
    with pytest.raises(DataError) as refused:
        list(records._items_at(keys, (step,), Path("records.json")))
    assert len(str(refused.value)) < 600
    assert "\n" not in str(refused.value)
    assert f"has no {step!r:.80} on the way" in str(refused.value)
