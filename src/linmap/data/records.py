"""JSON records: strict parsing, and streams of records from JSON, JSONL and Parquet files.

Strict means what the JSON standard means and Python's parser does not insist on: no NaN or Infinity, no key twice in
one object, and integers of any length keep all their digits.
"""

from __future__ import annotations

import datetime
import itertools
import json
import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from linmap.errors import DataError

try:
    import orjson
except ModuleNotFoundError:  # part of the extra `retrieve`; the standard parser does the same, slower
    orjson = None

WHITESPACE = b" \t\n\r"
LABELLED = ({"id", "doc"}, {"id", "label", "doc"})  # a document that comes with its name, and perhaps its class


class JSONTextError(DataError):
    """A text that is not JSON, with the place where it stops being so.

    Attributes
    ----------
    problem
        What is wrong.
    line, column
        Where, both counted from 1; None where the parser cannot tell.
    """

    def __init__(self, problem: str, line: int | None = None, column: int | None = None) -> None:
        self.problem, self.line, self.column = problem, line, column
        super().__init__(problem if line is None else f"line {line}, column {column}: {problem}")


@dataclass(frozen=True, slots=True)
class Record:
    """One record of a file.

    A record `{"id": ..., "doc": ...}`, with or without a "label", is a document with its name and class. Any other
    record is itself the document; its name is its "id" where it has one, else its number in the file or folder, from 0.
    """

    id: str
    document: Any
    label: Any = None


def parse_json(text: str | bytes) -> Any:
    """The value of a JSON text.

    Raises
    ------
    JSONTextError
        If the text is not JSON, an object has a key twice, or a number is NaN, infinite or beyond the range of floats.
    """
    if orjson is not None:
        try:
            value = orjson.loads(text)
            again = orjson.dumps(value)
        except (orjson.JSONDecodeError, orjson.JSONEncodeError):  # not JSON, or JSON beyond its limits
            return _parse_strictly(text)
        # orjson drops repeated keys and rounds big integers. A text that comes back as it was, spaces aside, has
        # neither; any other (escapes, 1.50, 1E5) is read again by the slower parser that notices.
        raw = text.encode() if isinstance(text, str) else text
        if again == raw or again.translate(None, WHITESPACE) == raw.translate(None, WHITESPACE):
            return value
    return _parse_strictly(text)


def read_records(path: Path | str) -> Iterator[Record]:
    """The records of a `.jsonl` (or `.ndjson`), `.json` (an array of records, or one record) or `.parquet` file, one
    after the other, or those of a folder of such files, in the order of their names; only `.json` is read at once.

    Raises
    ------
    DataError
        If the file is missing, of another kind, or holds an invalid record; the message has its line and column.
    """
    files = files_of(path, READERS)
    values = itertools.chain.from_iterable(READERS[file.suffix.lower()](file) for file in files)
    return (as_record(value, number) for number, value in enumerate(values))


def files_of(path: Path | str, suffixes: Collection[str]) -> list[Path]:
    """The file itself, or the files of a folder and the folders below, in the order of their names.

    Names that begin with a dot or an underscore are left out, as what others are still writing.

    Raises
    ------
    DataError
        If there is no such file or folder, or none of its files ends in one of `suffixes`.
    """
    path, kinds = Path(path), ", ".join(suffixes)
    if path.is_dir():
        inside = (file for file in path.rglob("*") if not any(p[0] in "._" for p in file.relative_to(path).parts))
        files = sorted(file for file in inside if file.suffix.lower() in suffixes and file.is_file())
        if not files:
            raise DataError(f"the folder {path} holds no file that ends in {kinds}.")
        return files
    if path.suffix.lower() not in suffixes:
        raise DataError(f"{path} must end in {kinds}; convert it, or rename it if it is one of these.")
    if not path.is_file():
        raise DataError(f"{path} is not a file; check the path.")
    return [path]


def as_record(value: Any, number: int) -> Record:
    """A parsed record with its name; `number` counts the records of the file from 0."""
    if not isinstance(value, dict):
        return Record(str(number), value)
    name = value.get("id")
    name = str(number) if name is None or isinstance(name, dict | list) else str(name)
    if len(value) <= 3 and value.keys() in LABELLED:
        return Record(name, value["doc"], value.get("label"))
    return Record(name, value)


def read_jsonl(path: Path, start: int = 0, stop: int | None = None, first_line: int = 1) -> Iterator[Any]:
    """The values of the lines between two byte offsets, at which lines begin; `first_line` counts for messages."""
    with open(path, "rb") as file:
        file.seek(start)
        for number, line in enumerate(file, first_line):
            if stop is not None and start >= stop:
                return
            start += len(line)
            if line.isspace():
                continue
            try:
                yield parse_json(line.rstrip(b"\r\n"))
            except JSONTextError as error:
                column = "" if error.column is None else f", column {error.column}"
                raise DataError(f"{path}, line {number}{column}: {error.problem}") from None


def read_json(path: Path) -> Iterator[Any]:
    """The values of one array, or one value."""
    try:
        value = parse_json(path.read_bytes())
    except JSONTextError as error:
        hint = "; if it holds one record a line, call it .jsonl" if "Extra data" in error.problem else ""
        raise DataError(f"{path}, {error}{hint}") from None
    yield from value if isinstance(value, list) else [value]


def read_parquet(path: Path, groups: Sequence[int] | None = None) -> Iterator[Any]:
    """The rows of some row groups, or of all."""
    with open_parquet(path) as file:
        for batch in file.iter_batches(batch_size=1024, row_groups=groups):
            yield from map(_with_iso_dates, batch.to_pylist())


def open_parquet(path: Path) -> Any:
    """A `pyarrow.parquet.ParquetFile`.

    Raises
    ------
    DataError
        If pyarrow is not installed, or the file is not Parquet.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ModuleNotFoundError:
        raise DataError(f"reading {path} needs pyarrow: pip install 'linmap[retrieve]'.") from None
    try:
        return pyarrow.parquet.ParquetFile(path)
    except pyarrow.ArrowInvalid as error:
        raise DataError(f"{path} is not a Parquet file: {error}") from None


READERS = {".jsonl": read_jsonl, ".ndjson": read_jsonl, ".json": read_json, ".parquet": read_parquet}


def _with_iso_dates(value: Any) -> Any:
    """Parquet's dates and timestamps as ISO-8601 texts; the schema bounds the depth, and so the recursion."""
    if isinstance(value, dict):
        return {key: _with_iso_dates(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_with_iso_dates(item) for item in value]
    return value.isoformat() if isinstance(value, datetime.date | datetime.time) else value


def _parse_strictly(text: str | bytes) -> Any:
    """By the standard library's parser, with every liberty it takes refused."""
    if isinstance(text, bytes):
        try:
            text = text.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            before = error.object[: error.start]
            raise JSONTextError(
                f"byte 0x{error.object[error.start]:02x} is not UTF-8; save the text in UTF-8",
                before.count(b"\n") + 1,
                error.start - before.rfind(b"\n"),
            ) from None
    try:
        return json.loads(
            text, object_pairs_hook=_unique_keys, parse_constant=_refuse_constant, parse_float=_finite_float
        )
    except json.JSONDecodeError as error:
        raise JSONTextError(f"not JSON: {error.msg}", error.lineno, error.colno) from None
    except RecursionError:
        raise JSONTextError("containers are nested too deep for the parser; flatten the document") from None
    except JSONTextError:
        raise
    except ValueError as error:  # Python limits the digits of an integer
        raise JSONTextError(str(error)) from None


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise JSONTextError(f"the key {twice!r} comes twice in one object; keep one of the two")
    return values


def _refuse_constant(name: str) -> None:
    raise JSONTextError(f"{name} is not JSON; put null, or leave the field out")


def _finite_float(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise JSONTextError(f"the number {text} is beyond the range of floats; put it into a text")
    return value
