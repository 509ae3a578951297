"""Texts to learn from and to answer: records from JSON, JSON Lines, CSV and plain text files."""

from __future__ import annotations

import csv
import io
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from linmap.data import require_content
from linmap.data.compressed import open_bytes
from linmap.data.door import SEPARATORS, refuse_special
from linmap.data.records import JSONTextError, parse_json
from linmap.errors import DataError

Task = Literal["language", "classification"]
Numbered = Iterator[tuple[str, Any]]  # where a record is in its file, and the record


@dataclass(frozen=True, slots=True)
class Form:
    """A kind of record: the fields that make the text, and the field of the answer or of the label."""

    task: Task
    text: str
    answer: str | None = None
    further: str | None = None  # a field that is added to the text where it is there and not empty


FORMS = (
    Form("language", "messages"),
    Form("language", "prompt", "completion"),
    Form("language", "question", "answer"),
    Form("language", "instruction", "output", further="input"),
    Form("classification", "text", "label"),
    Form("classification", "text", "category"),
    Form("language", "text"),
)
"""The first form whose fields the first record has is that of the whole file."""

EXPECTED = '"text"; "prompt" and "completion"; "question" and "answer"; "instruction" (and "input") and "output"; \
"messages"; or, to classify, "text" and "label" or "category"'


@dataclass(frozen=True, slots=True)
class TextRecord:
    """One record of a file.

    Attributes
    ----------
    place
        Where it stands, for messages: the file and the line.
    fields
        All that the record holds.
    text
        The text, or what comes before the answer; a question or an instruction ends with a line break.
    answer
        The completion, or the name of the class; None where there is none.
    messages
        The turns of a chat, each with "role" and "content"; None for other records.
    """

    place: str
    fields: dict[str, Any]
    text: str = ""
    answer: str | None = None
    messages: tuple[dict[str, str], ...] | None = None


@dataclass(frozen=True)
class TextFile:
    """The records of a file and what they are for."""

    path: Path
    task: Task
    records: list[TextRecord]


def read_training_texts(path: Path | str, task: Task | None = None) -> TextFile:
    """The records of a file to train on.

    A `.jsonl`, `.json` (an array), `.csv` or `.txt` (a text a line) file, each also with `.gz` behind. Each record has
    the fields of one of `FORMS`, the same in the whole file.

    Parameters
    ----------
    path
        The file.
    task
        What to train for, where the fields leave a choice; by the fields when None.

    Raises
    ------
    DataError
        If the file is missing, empty, of another kind, or holds a record that does not fit; the message has its line.
    """
    path = Path(path)
    numbered = _read(path)
    if not numbered:
        raise DataError(f"{path} holds no records; expected records with the fields {EXPECTED}.")
    form = _form_of(numbered[0], task)
    records = [_training_record(place, fields, form) for place, fields in numbered]
    if form.task == "classification" and len(labels_of(records)) < 2:
        raise DataError(f"{path}: every record has the {form.answer} {records[0].answer!r}; give two classes or more.")
    return TextFile(path, form.task, records)


def read_prompts(path: Path | str, task: Task) -> list[TextRecord]:
    """The records of a file to complete or to classify: as in `read_training_texts`, but answers may be missing.

    Raises
    ------
    DataError
        As `read_training_texts`.
    """
    path = Path(path)
    numbered = _read(path)
    if not numbered:
        raise DataError(f"{path} holds no records.")
    forms = [form for form in FORMS if form.task == task or form.text == "text"]
    place, first = numbered[0]
    form = next((form for form in forms if form.text in first and form.answer in first), None) or next(
        (form for form in forms if form.text in first), None
    )
    if form is None:
        wanted = " or ".join(dict.fromkeys(f'"{form.text}"' for form in forms))
        raise DataError(f"{place}: the record has the fields {_names(first)}; expected {wanted}.")
    return [_prompt_record(place, fields, form) for place, fields in numbered]


def read_text(path: Path | str) -> str:
    """All of a plain text file (`.txt` or `.md`, each also with `.gz` behind) as one text.

    Raises
    ------
    DataError
        If the file is missing, empty, of another kind, or not UTF-8; the message has the line.
    """
    path = Path(path)
    return _decoded(path, _content(path, (".txt", ".md")))


def labels_of(records: Sequence[TextRecord]) -> list[str]:
    """The classes of these records, sorted; numbers in the order of numbers."""
    names = {record.answer for record in records if record.answer is not None}
    return sorted(names, key=lambda name: (0, int(name), name) if name.isdecimal() else (1, 0, name))


# -- records -----------------------------------------------------------------------------------------------------------


def _form_of(first: tuple[str, dict[str, Any]], task: Task | None) -> Form:
    place, fields = first
    for form in FORMS:
        if form.text in fields and (form.answer is None or form.answer in fields) and task in (None, form.task):
            return form
    wanted = '"text" and "label" (or "category")' if task == "classification" else EXPECTED
    raise DataError(f"{place}: the record has the fields {_names(fields)}; expected {wanted}.")


def _training_record(place: str, fields: dict[str, Any], form: Form) -> TextRecord:
    if form.text == "messages":
        messages = _messages(place, fields)
        if messages[-1]["role"] != "assistant":
            last = messages[-1]["role"]
            raise DataError(
                f'{place}, field "messages": the last role is "{last}"; expected "assistant", whose answer is learnt.'
            )
        return TextRecord(place, fields, messages=messages)
    text = _text(place, fields, form)
    if form.answer is None and not text.strip():
        raise DataError(f'{place}, field "text": it is empty; leave the record out.')
    if form.answer is None:
        return TextRecord(place, fields, text)
    answer = (
        _label(place, fields, form.answer) if form.task == "classification" else _string(place, fields, form.answer)
    )
    if not answer.strip():
        raise DataError(f'{place}, field "{form.answer}": it is empty; there is nothing to learn from it.')
    return TextRecord(place, fields, text, answer)


def _prompt_record(place: str, fields: dict[str, Any], form: Form) -> TextRecord:
    if form.text == "messages":
        messages = _messages(place, fields)
        if messages[-1]["role"] == "assistant":
            messages = messages[:-1]
        if not messages:
            raise DataError(f'{place}, field "messages": there is no turn to answer.')
        return TextRecord(place, fields, messages=messages)
    name = form.answer if form.task == "classification" else None
    answer = None if name is None or fields.get(name) is None else _label(place, fields, name)
    return TextRecord(place, fields, _text(place, fields, form), answer)


def _text(place: str, fields: dict[str, Any], form: Form) -> str:
    parts = [_string(place, fields, form.text)]
    if form.further is not None and fields.get(form.further):
        parts.append(_string(place, fields, form.further))
    asks = form.text in ("question", "instruction")
    return "".join(f"{part}\n" for part in parts) if asks else parts[0]


def _string(place: str, fields: dict[str, Any], name: str) -> str:
    if name not in fields:
        raise DataError(
            f'{place}: the field "{name}" is missing (there are {_names(fields)}); the first record has it, and so '
            "must every one."
        )
    value = fields[name]
    if not isinstance(value, str):
        raise DataError(f'{place}, field "{name}": got {_described(value)}, expected a text.')
    return _characters(value, f'{place}, field "{name}"')


def _characters(text: str, place: str) -> str:
    """The text, if all of it can be written as UTF-8, in which tokenizers read."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        half = text[error.start].encode("unicode_escape").decode()
        raise DataError(
            f"{place}: character {error.start + 1} is half of a pair ({half}), which is no character; take it out, or "
            "write the pair."
        ) from None
    return text


def _label(place: str, fields: dict[str, Any], name: str) -> str:
    value = fields.get(name)
    if isinstance(value, int):
        return str(value)
    if name in fields and not isinstance(value, str):
        raise DataError(f'{place}, field "{name}": got {_described(value)}, expected the name of one class.')
    return _string(place, fields, name)


def _messages(place: str, fields: dict[str, Any]) -> tuple[dict[str, str], ...]:
    turns = fields.get("messages")
    if not isinstance(turns, list) or not turns:
        raise DataError(f'{place}, field "messages": got {_described(turns)}, expected a list of turns.')
    for number, turn in enumerate(turns, 1):
        if not isinstance(turn, dict) or not all(isinstance(turn.get(name), str) for name in ("role", "content")):
            raise DataError(f'{place}, field "messages", turn {number}: expected the texts "role" and "content".')
        for name in ("role", "content"):
            _characters(turn[name], f'{place}, field "messages", turn {number}, "{name}"')
    return tuple({"role": turn["role"], "content": turn["content"]} for turn in turns)


def _names(fields: dict[str, Any]) -> str:
    return ", ".join(f'"{name}"' for name in fields) or "no field"


def _described(value: Any) -> str:
    kinds = {type(None): "nothing", bool: "a truth value", int: "a number", float: "a number", dict: "an object"}
    text = repr(value)
    return f"{kinds.get(type(value), 'a list' if isinstance(value, list) else type(value).__name__)} ({text[:40]})"


# -- files -------------------------------------------------------------------------------------------------------------


def _read(path: Path) -> list[tuple[str, dict[str, Any]]]:
    """All records of a file, each with its place."""
    readers = {".jsonl": _read_jsonl, ".json": _read_json, ".csv": _read_csv, ".txt": _read_txt}
    content = _content(path, readers)
    records = []
    for place, fields in readers[_kind(path)](path, content):
        if not isinstance(fields, dict):
            raise DataError(f"{place}: got {_described(fields)}, expected an object with named fields.")
        records.append((place, fields))
    return records


def _content(path: Path, kinds: Collection[str]) -> bytes:
    """The bytes of a file of one of these kinds, unpacked."""
    if path.is_dir():
        raise DataError(f"{path} is a folder; expected a file of texts ({', '.join(kinds)}, each also with .gz).")
    if _kind(path) not in kinds:
        raise DataError(f"{path} must end in {', '.join(kinds)}, or in one of these and .gz; convert or rename it.")
    refuse_special(path)
    if not path.is_file():
        raise DataError(f"{path} is not a file; check the path.")
    require_content(path)
    with open_bytes(path) as file:
        return file.read()


def _kind(path: Path) -> str:
    """The end of the name, without .gz."""
    return (path.with_suffix("") if path.suffix.lower() == ".gz" else path).suffix.lower()


def _read_jsonl(path: Path, content: bytes) -> Numbered:
    for number, line in enumerate(content.splitlines(), 1):
        if not line or line.isspace():
            continue
        try:
            yield f"{path}, line {number}", parse_json(line)
        except JSONTextError as error:
            column = "" if error.column is None else f", column {error.column}"
            raise DataError(f"{path}, line {number}{column}: {error.problem}") from None


def _read_json(path: Path, content: bytes) -> Numbered:
    try:
        value = parse_json(content)
    except JSONTextError as error:
        hint = "; if it holds one record a line, call it .jsonl" if "Extra data" in error.problem else ""
        raise DataError(f"{path}, {error}{hint}") from None
    if not isinstance(value, list):
        inner = [name for name, part in value.items() if isinstance(part, list)] if isinstance(value, dict) else []
        hint = f'; write what is in "{inner[0]}" alone' if inner else ""
        raise DataError(f"{path}: got {_described(value)}, expected an array of records{hint}.")
    for number, record in enumerate(value, 1):
        yield f"{path}, record {number}", record


def _read_csv(path: Path, content: bytes) -> Numbered:
    reader = csv.reader(io.StringIO(_decoded(path, content), newline=""), strict=True)
    try:
        header = [name.strip() for name in next(reader, [])]
        if twice := [name for name in header if header.count(name) > 1]:
            raise DataError(f"{path}, line 1: the column {twice[0]!r} comes twice; rename one.")
        if len(header) == 1 and (sign := next((sign for sign in SEPARATORS if sign in header[0]), None)):
            raise DataError(f"{path}, line 1: the columns are separated by {SEPARATORS[sign]}; save it with commas.")
        start = reader.line_num
        for row in reader:
            place, start = f"{path}, line {start + 1}", reader.line_num
            if not row:
                continue
            if len(row) != len(header):
                raise DataError(
                    f"{place}: there are {len(row)} fields, and {len(header)} in the header; quote what holds commas."
                )
            yield place, dict(zip(header, row, strict=True))
    except csv.Error as error:
        raise DataError(f"{path}, line {reader.line_num}: not CSV: {error}") from None


def _read_txt(path: Path, content: bytes) -> Numbered:
    for number, line in enumerate(io.StringIO(_decoded(path, content), newline=None), 1):
        if line.strip():
            yield f"{path}, line {number}", {"text": line.rstrip("\n")}


def _decoded(path: Path, content: bytes) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise DataError(
            f"{path}, line {line}: byte 0x{content[error.start]:02x} is not UTF-8; save it in UTF-8."
        ) from None
