"""JSON records: strict parsing, and streams of records from JSON, JSONL (compressed or not) and Parquet files.

Strict means what the JSON standard means and Python's parser does not insist on: no NaN or Infinity, no key twice in
one object, and integers of any length keep all their digits.
"""

from __future__ import annotations

import itertools
import json
import math
import sys
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Self

from linmap.data import BYTE_ORDER_MARK, require_content
from linmap.data.compressed import OPENERS, is_compressed, lines_of, open_bytes, suffix_of
from linmap.data.door import refuse_special
from linmap.data.parquet import read_parquet
from linmap.errors import DataError

try:
    import orjson
except ModuleNotFoundError:  # part of the extra `retrieve`; the standard parser does the same, slower
    orjson = None

WHITESPACE = b" \t\n\r"
OID = "$oid"  # how MongoDB's exports write the ids that it makes
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


NamedBy = Literal["text", "value", "number"]
"""Where the name of a record comes from: its "id", a text; its "id", a number or a truth value; or its own number."""


@dataclass(frozen=True, slots=True)
class Record:
    """One record of a file.

    A record `{"id": ..., "doc": ...}`, with or without a "label", is a document with its name and class. Any other
    record is itself the document; its name is its "id" where it has one (as JSON writes it, where it is no text), else
    its number in the file or folder, from 0. MongoDB's {"$oid": ...}, as its exports write an "id" or "_id", is the
    text in it.
    """

    id: str
    document: Any
    label: Any = None
    named_by: NamedBy = field(default="text", compare=False)


@dataclass(frozen=True)
class Layout:
    """How records lie in their files.

    Attributes
    ----------
    at
        Keys and indices that lead from the value of a file, or of a line, to an array of records; or to an object of
        them, whose keys are then their names. None: each value is a record, and so is each item of a `.json` array.
    ids
        "given": a record goes by its "id", or by its number where it has none; "number": by its number alone.
    """

    at: tuple[str | int, ...] | None = None
    ids: Literal["given", "number"] = "given"

    def as_json(self) -> dict[str, Any]:
        """What `from_json` reads."""
        return {"at": None if self.at is None else list(self.at), "ids": self.ids}

    @classmethod
    def from_json(cls, written: Mapping[str, Any]) -> Self:
        at = written["at"]
        return cls(None if at is None else tuple(at), written["ids"])


AS_THEY_ARE = Layout()


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


def read_records(path: Path | str, layout: Layout = AS_THEY_ARE) -> Iterator[Record]:
    """The records of a `.jsonl` (or `.ndjson`), `.json` (an array of records, or one record) or `.parquet` file, one
    after the other, or those of a folder of such files, in the order of their names; only `.json` is read at once.

    JSON and JSONL may be compressed: `.jsonl.gz`, `.json.zst`, ...

    Raises
    ------
    DataError
        If the file is missing, empty or of another kind, or holds an invalid record; the message has its line and
        column.
    """
    files = files_of(path, READERS)
    if not Path(path).is_dir():
        require_content(path)
    return number_records(((file, values_of(file, layout)) for file in files), layout)


def number_records(files: Iterator[tuple[Path, Iterator[Any]]], layout: Layout, first: int = 0) -> Iterator[Record]:
    """Records of the values of files, counted from `first`."""
    count = itertools.count(first)
    for file, values in files:
        for value, number in zip(values, count):  # noqa: B905  (numbers do not end)
            try:
                yield as_record(value, number, layout.ids)
            except DataError as error:
                raise DataError(f"{file}: {error}") from None


def values_of(file: Path, layout: Layout) -> Iterator[Any]:
    """The values of one file that are records."""
    values = READERS[suffix_of(file)](file)
    if layout.at is None:
        return values
    return itertools.chain.from_iterable(_items_at(value, layout.at, file) for value in values)


def _items_at(value: Any, at: tuple[str | int, ...], file: Path) -> Iterator[Any]:
    """The records that a value holds at the place `at`."""
    for step in at:
        try:
            value = value[step]
        except (KeyError, IndexError, TypeError):
            keys = ", ".join(f"{key!r:.40}" for key in itertools.islice(value, 8)) if isinstance(value, dict) else ""
            there = keys or f"{value!r:.40}"
            raise DataError(f"{file} has no {step!r:.80} on the way to its records; there is {there}.") from None
    if isinstance(value, list):
        yield from value
    elif isinstance(value, dict) and all(isinstance(item, dict) for item in value.values()):
        yield from ({"id": name, "doc": item} for name, item in value.items())
    else:
        raise DataError(f"{file} holds {value!r:.40} where its records should be; name the place of an array.")


def inner_records(document: Any) -> tuple[tuple[str, ...], int] | None:
    """Where a document is little more than an array of objects, or a map of many: its place, and how many it holds.

    Such files (`{"Records": [...]}`, GeoJSON's features, bundles, an array in the one line of a
    `.jsonl` file) are mostly meant as many records, not as one.
    """
    found: list[tuple[int, tuple[str, ...], int]] = []

    def look(value: Any, place: tuple[str, ...]) -> None:
        items, least = (value, 2) if isinstance(value, list) else (list(value.values()), 10)
        if len(items) >= least and all(isinstance(item, dict) for item in items):
            found.append((len(json.dumps(value)), place, len(items)))
        elif isinstance(value, dict) and len(place) < 3:
            for key, item in value.items():
                if isinstance(item, dict | list):
                    look(item, (*place, key))

    with suppress(RecursionError):  # nested too deep to be written, and so no such file
        if isinstance(document, dict | list):
            look(document, ())
            size, place, count = max(found, default=(0, (), 0))
            return (place, count) if size > len(json.dumps(document)) / 2 else None
    return None


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
        files = sorted(file for file in inside if _is_one_of(file, suffixes) and file.is_file())
        if not files:
            raise DataError(f"the folder {path} holds no file that ends in {kinds}.")
        return files
    if not _is_one_of(path, suffixes):
        raise DataError(f"{path} must end in {kinds}{_how_to_end(path, suffixes)}.")
    refuse_special(path)
    if not path.is_file():
        raise DataError(f"{path} is not a file; check the path.")
    return [path]


def _is_one_of(path: Path, suffixes: Collection[str]) -> bool:
    return suffix_of(path) in suffixes and (not is_compressed(path) or suffix_of(path) in COMPRESSIBLE)


def _how_to_end(path: Path, suffixes: Collection[str]) -> str:
    """What to do with a file of another kind."""
    inner = Path(path.stem).suffix.lower()
    if not COMPRESSIBLE.isdisjoint(suffixes) and (is_compressed(path) or inner in suffixes):
        kinds = ", ".join(sorted(COMPRESSIBLE & set(suffixes)))
        return f"; of compressed files {kinds} are read, with {', '.join(OPENERS)} behind; decompress it"
    if inner in suffixes or is_compressed(path):
        return "; decompress it"
    return "; convert it, or rename it if it is one of these"


def as_record(value: Any, number: int, ids: Literal["given", "number"] = "given") -> Record:
    """A parsed record with its name; `number` counts the records of the file from 0.

    Raises
    ------
    DataError
        If its name is no Unicode text.
    """
    if not isinstance(value, dict):
        return Record(str(number), value, named_by="number")
    name, named_by = _name(_given_id(value), number) if ids == "given" else (str(number), "number")
    if len(value) <= 3 and value.keys() in LABELLED:
        return Record(name, value["doc"], value.get("label"), named_by)
    return Record(name, value, named_by=named_by)


def _given_id(value: dict[str, Any]) -> Any:
    """The "id" of a record, or the one that MongoDB gave it."""
    given = value.get("id")
    for key in ("id", "_id"):
        own = value.get(key)
        if (given is None or key == "id") and isinstance(own, dict) and own.keys() == {OID}:
            return own[OID]
    return given


def _name(given: Any, number: int) -> tuple[str, NamedBy]:
    if isinstance(given, str):
        if not given.isascii():
            _require_unicode(given, number)
        return given, "text"
    if given is None or isinstance(given, dict | list):
        return str(number), "number"
    return json.dumps(given), "value"


def _require_unicode(name: str, number: int) -> None:
    try:
        name.encode()
    except UnicodeEncodeError:
        raise DataError(
            f"record {number} has the id {name!r}, which holds half a character (a lone surrogate); write it whole."
        ) from None


def read_jsonl(path: Path, start: int = 0, stop: int | None = None, first_line: int = 1) -> Iterator[Any]:
    """The values of the lines between two byte offsets, at which lines begin; `first_line` counts for messages.

    Compressed files are read as a whole.
    """
    with open_bytes(path, whole=False) as file:
        if start:
            file.seek(start)
        for number, line in enumerate(lines_of(path, file), first_line):
            if stop is not None and start >= stop:
                return
            start += len(line)
            if is_blank(line):
                continue
            try:
                yield parse_json(line.rstrip(b"\r\n"))
            except JSONTextError as error:
                column = "" if error.column is None else f", column {error.column}"
                raise DataError(f"{path}, line {number}{column}: {error.problem}") from None


def is_blank(line: bytes) -> bool:
    """A line without a record; the first may begin with a byte order mark."""
    return line.isspace() or (line.startswith(BYTE_ORDER_MARK) and not line[len(BYTE_ORDER_MARK) :].strip())


def read_json(path: Path) -> Iterator[Any]:
    """The values of one array, or one value."""
    require_content(path)
    try:
        with open_bytes(path) as file:
            value = parse_json(file.read())
    except JSONTextError as error:
        hint = "; if it holds one record a line, call it .jsonl" if "Extra data" in error.problem else ""
        raise DataError(f"{path}, {error}{hint}") from None
    yield from value if isinstance(value, list) else [value]


READERS = {".jsonl": read_jsonl, ".ndjson": read_jsonl, ".json": read_json, ".parquet": read_parquet}
COMPRESSIBLE = {".jsonl", ".ndjson", ".json"}


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
    except ValueError:  # Python limits the digits of an integer
        most = sys.get_int_max_str_digits()
        raise JSONTextError(f"an integer has more than {most} digits; put it into a text") from None


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
