"""What a run reads: files cut into shards, each of which is read by itself, batch by batch."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from linmap.data.arrays import open_rows
from linmap.data.records import READERS, as_record, open_parquet, read_json, read_jsonl, read_parquet

SUFFIXES = (*READERS, ".npy")
Batch = list[Any] | np.ndarray
"""Records (`linmap.data.records.Record`) of a JSON or Parquet file, or rows of a `.npy` file."""


@dataclass(frozen=True)
class Shard:
    """A part of a file.

    Attributes
    ----------
    number
        Its place among all shards.
    path
        The file.
    first
        Number of its first record, counted through the whole source.
    count
        How many records it holds.
    start, stop
        Where it lies in the file: bytes of JSONL, row groups of Parquet, rows of `.npy`; unused for `.json`.
    before
        How many records of the file come before it.
    line
        Line of a JSONL file at which it begins, from 1.
    """

    number: int
    path: str
    first: int
    count: int
    start: int
    stop: int
    before: int = 0
    line: int = 1

    @property
    def holds_rows(self) -> bool:
        return self.path.lower().endswith(".npy")


class Outcome(NamedTuple):
    """A shard that is finished, or what is wrong with its data."""

    number: int
    error: str = ""


def cut(files: list[Path], shard_records: int) -> list[Shard]:
    """Shards of about `shard_records` records: exactly so many in JSONL and `.npy`, whole row groups in Parquet, and
    each `.json` as one. A file's last may be shorter; the cuts depend on nothing but the files and this number."""
    cutters = {".jsonl": _lines, ".ndjson": _lines, ".json": _whole, ".parquet": _row_groups, ".npy": _rows}
    shards, first = [], 0
    for file in files:
        before = 0
        for start, stop, count, line in cutters[file.suffix.lower()](file, shard_records):
            shards.append(Shard(len(shards), str(file), first, count, start, stop, before, line))
            first, before = first + count, before + count
    return shards or [Shard(0, str(files[0]), 0, 0, 0, 0)]


def read(shard: Shard, batch: int) -> Iterator[tuple[list[str], Batch]]:
    """The ids and the records of a shard, `batch` at a time."""
    path = Path(shard.path)
    if not shard.count:
        return
    if shard.holds_rows:
        rows = open_rows(path)
        for start in range(shard.start, shard.stop, batch):
            part = np.array(rows[start : min(start + batch, shard.stop)])
            first = shard.first + start - shard.start
            yield [str(number) for number in range(first, first + len(part))], part
        return
    values = {
        ".json": lambda: read_json(path),
        ".parquet": lambda: read_parquet(path, range(shard.start, shard.stop)),
    }.get(path.suffix.lower(), lambda: read_jsonl(path, shard.start, shard.stop, shard.line))()
    records = (as_record(value, number) for number, value in enumerate(values, shard.first))
    while part := list(itertools.islice(records, batch)):
        yield [record.id for record in part], part


Cut = tuple[int, int, int, int]  # start, stop, records, first line


def _lines(path: Path, size: int) -> Iterator[Cut]:
    """Every `size` lines that are not blank."""
    start = stop = count = 0
    line = 1
    with open(path, "rb") as file:
        for number, text in enumerate(file, 1):
            stop += len(text)
            count += not text.isspace()
            if count == size:
                yield start, stop, count, line
                start, count, line = stop, 0, number + 1
    if count:
        yield start, stop, count, line


def _whole(path: Path, size: int) -> Iterator[Cut]:
    yield 0, 0, sum(1 for _ in read_json(path)), 1


def _row_groups(path: Path, size: int) -> Iterator[Cut]:
    """Row groups until they hold `size` rows, for none can be entered in its middle."""
    start = count = 0
    with open_parquet(path) as file:
        groups = file.metadata.num_row_groups
        for group in range(groups):
            count += file.metadata.row_group(group).num_rows
            if count >= size or (group == groups - 1 and count):
                yield start, group + 1, count, 1
                start, count = group + 1, 0


def _rows(path: Path, size: int) -> Iterator[Cut]:
    rows = len(open_rows(path))
    for start in range(0, rows, size):
        stop = min(start + size, rows)
        yield start, stop, stop - start, 1
