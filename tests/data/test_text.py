import csv
import gzip
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from linmap.data import EMBEDDED
from linmap.data.text import labels_of, read_prompts, read_text, read_training_texts
from linmap.errors import DataError


def write(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    raw = content.encode() if isinstance(content, str) else content
    path.write_bytes(gzip.compress(raw) if name.endswith(".gz") else raw)
    return path


def jsonl(*records: object) -> str:
    return "".join(json.dumps(record) + "\n" for record in records)


texts = st.text(st.characters(codec="utf-8", exclude_characters="\r"), min_size=1).filter(str.strip)


@settings(max_examples=10)
@given(pairs=st.lists(st.tuples(texts, texts), min_size=1, max_size=5), packed=st.booleans())
def test_json_jsonl_and_csv_hold_the_same_records(
    tmp_path_factory: pytest.TempPathFactory, pairs: list[tuple[str, str]], packed: bool
) -> None:
    folder, gz = tmp_path_factory.mktemp("files"), ".gz" if packed else ""
    records = [{"prompt": prompt, "completion": completion} for prompt, completion in pairs]
    plain = folder / "plain.csv"
    with open(plain, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ["prompt", "completion"], quoting=csv.QUOTE_ALL)
        writer.writeheader()
        writer.writerows(records)
    for path in (
        write(folder, f"a.jsonl{gz}", jsonl(*records)),
        write(folder, f"a.json{gz}", json.dumps(records)),
        write(folder, f"a.csv{gz}", plain.read_bytes()),
    ):
        found = read_training_texts(path)
        assert found.task == "language"
        assert [(record.text, record.answer) for record in found.records] == pairs
        assert [record.fields for record in found.records] == records


@pytest.mark.parametrize(
    ("record", "text", "answer"),
    [
        ({"text": "t"}, "t", None),
        ({"prompt": "p", "completion": "c"}, "p", "c"),
        ({"prompt": "", "completion": "c"}, "", "c"),
        ({"question": "q", "answer": "a"}, "q\n", "a"),
        ({"instruction": "i", "output": "o"}, "i\n", "o"),
        ({"instruction": "i", "input": "x", "output": "o"}, "i\nx\n", "o"),
        ({"instruction": "i", "input": "", "output": "o", "id": 4}, "i\n", "o"),
    ],
)
def test_forms_of_records(tmp_path: Path, record: dict, text: str, answer: str | None) -> None:
    found = read_training_texts(write(tmp_path, "a.jsonl", jsonl(record)))
    assert found.task == "language"
    assert [(item.text, item.answer, item.fields) for item in found.records] == [(text, answer, record)]


def test_text_files_hold_a_text_a_line(tmp_path: Path) -> None:
    path = write(tmp_path, "a.txt", "\ufeffone\r\n\n  \ntwo\u2028still two\n")
    found = read_training_texts(path)
    assert [record.text for record in found.records] == ["one", "two\u2028still two"]
    assert [record.place for record in found.records] == [f"{path}, line 1", f"{path}, line 4"]


def test_classes_are_names_and_sort_as_numbers_do(tmp_path: Path) -> None:
    path = write(tmp_path, "a.jsonl", jsonl(*({"text": "t", "label": label} for label in (10, 9, "b", "a", True))))
    found = read_training_texts(path)
    assert found.task == "classification"
    assert [record.answer for record in found.records] == ["10", "9", "b", "a", "True"]
    assert labels_of(found.records) == ["9", "10", "True", "a", "b"]


def test_the_task_can_be_chosen_where_the_fields_leave_a_choice(tmp_path: Path) -> None:
    path = write(tmp_path, "a.csv", "text,category\nx,1\ny,2\n")
    assert read_training_texts(path).task == "classification"
    assert [record.answer for record in read_training_texts(path, "language").records] == [None, None]
    with pytest.raises(DataError, match='"text" and "label"'):
        read_training_texts(write(tmp_path, "b.jsonl", jsonl({"prompt": "p", "completion": "c"})), "classification")


def test_embedded_data_are_read() -> None:
    gsm8k = read_training_texts(EMBEDDED / "gsm8k_train2000.jsonl.gz")
    assert (gsm8k.task, len(gsm8k.records)) == ("language", 2000)
    banking = read_training_texts(EMBEDDED / "banking77_train.csv.gz")
    assert (banking.task, len(labels_of(banking.records))) == ("classification", 77)


USER, ASSISTANT = {"role": "user", "content": "u"}, {"role": "assistant", "content": "a"}
BAD = {
    "a.jsonl": [
        (b'{"text": "a"}\n\n{"text": \n', "line 3, column"),
        (jsonl({"text": "a"}, ["b"]), r"line 2: got a list .*expected an object"),
        (
            jsonl({"prompt": "a", "answer": "b"}),
            r'line 1: the record has the fields "prompt", "answer"; expected "text"',
        ),
        (jsonl({"prompt": "a", "completion": "b"}, {"prompt": "a"}), 'line 2: the field "completion" is missing'),
        (jsonl({"prompt": "a", "completion": 3}), r'line 1, field "completion": got a number \(3\), expected a text'),
        (jsonl({"prompt": "a", "completion": " "}), 'line 1, field "completion": it is empty'),
        (jsonl({"text": "  "}), 'line 1, field "text": it is empty'),
        (jsonl({"text": "a", "label": None}), 'line 1, field "label": got nothing'),
        (jsonl({"text": "a", "label": [1]}), 'line 1, field "label": got a list'),
        (jsonl({"text": "a", "label": 1}, {"text": "b", "label": 1}), "every record has the label '1'"),
        (jsonl({"messages": []}), 'line 1, field "messages": got a list'),
        (jsonl({"messages": [USER]}), 'line 1, field "messages": the last role is "user"'),
        (jsonl({"messages": [USER, {"role": "assistant"}]}), "turn 2: expected the texts"),
        ('{"text": "a", "text": "b"}\n', "line 1: the key 'text' comes twice"),
        (b'{"text": "\xff"}\n', "line 1, column 11: byte 0xff is not UTF-8"),
        ("", "is empty; there is nothing to read"),
    ],
    "a.json": [
        ('{"text": "a"}', "expected an array"),
        ('[{"text": "a"}, {"text": 1}]', 'record 2, field "text": got a number'),
        ('{"text": "a"}\n{"text": "b"}', "call it .jsonl"),
    ],
    "a.csv": [
        ("text,label\na,b\nc\n", "line 3: there are 1 fields, and 2 in the header"),
        ("text,text\na,b\n", "the column 'text' comes twice"),
        ('text,label\n"a"b,c\n', "line 2: not CSV"),
        ('text,label\n"a\nb",c\nd\n', "line 4: there are 1 fields"),
        (b"text,label\na,b\n\xe9,c\n", "line 3: byte 0xe9 is not UTF-8"),
        ("text,label\n", "holds no records"),
    ],
    "a.txt": [("\n  \n", "is empty; there is nothing to read")],
    "a.parquet": [(b"PAR1", "must end in .jsonl, .json, .csv, .txt")],
}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [(name, content, message) for name, rows in BAD.items() for content, message in rows],
)
def test_what_is_wrong_is_named_with_file_line_and_field(
    tmp_path: Path, name: str, content: str | bytes, message: str
) -> None:
    path = write(tmp_path, name, content)
    with pytest.raises(DataError, match=message) as caught:
        read_training_texts(path)
    assert str(path) in str(caught.value)


def test_files_that_cannot_be_opened(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is not a file"):
        read_training_texts(tmp_path / "none.jsonl")
    with pytest.raises(DataError, match="is a folder"):
        read_training_texts(tmp_path)
    (tmp_path / "a.jsonl.gz").write_bytes(b"no gzip")
    with pytest.raises(DataError, match=r"not compressed as its name says|cannot be unpacked"):
        read_training_texts(tmp_path / "a.jsonl.gz")


def test_prompts_need_no_answers_and_keep_their_fields(tmp_path: Path) -> None:
    rows = [{"id": 7, "question": "q", "answer": "a"}, {"id": 8, "question": "r"}]
    found = read_prompts(write(tmp_path, "a.jsonl", jsonl(*rows)), "language")
    assert [(record.text, record.answer, record.fields) for record in found] == [
        ("q\n", None, rows[0]),
        ("r\n", None, rows[1]),
    ]
    chats = [{"messages": [USER, ASSISTANT]}, {"messages": [USER]}]
    found = read_prompts(write(tmp_path, "b.jsonl", jsonl(*chats)), "language")
    assert [record.messages for record in found] == [(USER,), (USER,)]
    found = read_prompts(write(tmp_path, "c.csv", "text,category\na,1\nb,2\n"), "classification")
    assert [(record.text, record.answer) for record in found] == [("a", "1"), ("b", "2")]
    found = read_prompts(write(tmp_path, "d.txt", "a\nb\n"), "classification")
    assert [(record.text, record.answer) for record in found] == [("a", None), ("b", None)]
    with pytest.raises(DataError, match=r'line 1: .*expected "messages" or "prompt"'):
        read_prompts(write(tmp_path, "e.jsonl", jsonl({"title": "a"})), "language")
    with pytest.raises(DataError, match="there is no turn to answer"):
        read_prompts(write(tmp_path, "f.jsonl", jsonl({"messages": [ASSISTANT]})), "language")


@given(text=texts, packed=st.booleans())
def test_a_plain_text_is_read_whole(text: str, packed: bool, tmp_path_factory: pytest.TempPathFactory) -> None:
    name = "a.md.gz" if packed else "a.txt"
    assert read_text(write(tmp_path_factory.mktemp("text"), name, text)) == text.removeprefix("\ufeff")


def test_texts_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    for name, content, message in (
        ("a.jsonl", "{}", "must end in .txt, .md"),
        ("a.txt", " \n", "is empty; there is nothing to read"),
        ("b.txt", b"a\n\xff", "line 2: byte 0xff is not UTF-8"),
    ):
        with pytest.raises(DataError, match=message):
            read_text(write(tmp_path, name, content))
    with pytest.raises(DataError, match="is not a file"):
        read_text(tmp_path / "none.txt")


def test_the_embedded_novels_are_whole() -> None:
    calibration, test = (read_text(EMBEDDED / f"austen_{part}.txt.gz") for part in ("calib", "test"))
    assert calibration.startswith("NORTHANGER ABBEY")
    assert len(calibration.encode()) == 433_411
    assert len(test.encode()) == 466_854


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv", "a.txt"])
@pytest.mark.parametrize("content", [b"", b" \n\t\r\n", b"\xef\xbb\xbf\n"])
@pytest.mark.parametrize("packed", [False, True])
def test_an_empty_or_blank_file_is_refused_in_one_sentence(tmp_path: Path, name, content, packed):
    path = tmp_path / (f"{name}.gz" if packed else name)
    path.write_bytes(gzip.compress(content) if packed else content)
    for read in (read_training_texts, lambda path: read_prompts(path, "language")):
        with pytest.raises(DataError, match=rf"{path.name} is empty; there is nothing to read\.$"):
            read(str(path))


@pytest.mark.parametrize(("sign", "name"), [(";", "semicolons"), ("\t", "tabs"), ("|", "vertical bars")])
def test_another_separator_is_named(tmp_path: Path, sign, name):
    (tmp_path / "a.csv").write_text(f"prompt{sign}completion\na{sign}b\n")
    with pytest.raises(DataError, match=f"a.csv, line 1: the columns are separated by {name}; save it with commas"):
        read_training_texts(tmp_path / "a.csv")


def test_an_array_inside_an_object_is_pointed_at(tmp_path: Path):
    (tmp_path / "a.json").write_text('{"version": 1, "data": [{"text": "a"}]}')
    with pytest.raises(DataError, match='expected an array of records; write what is in "data" alone'):
        read_training_texts(tmp_path / "a.json")


@pytest.mark.parametrize(
    ("record", "place"),
    [
        ({"prompt": "a\ud800b", "completion": "c"}, '"prompt": character 2'),
        ({"prompt": "a", "completion": "\udc00"}, '"completion": character 1'),
        ({"messages": [{"role": "assistant", "content": "ab\ud83d"}]}, 'turn 1, "content": character 3'),
        ({"text": "a", "label": "\ud800"}, '"label": character 1'),
    ],
)
def test_half_of_a_surrogate_pair_is_refused_where_it_stands(tmp_path: Path, record, place):
    (tmp_path / "a.jsonl").write_text(json.dumps(record) + "\n" + json.dumps({"prompt": "\U0001f600"}) + "\n")
    with pytest.raises(DataError, match=f"line 1, field .*{place} is half of a pair"):
        read_training_texts(tmp_path / "a.jsonl")
