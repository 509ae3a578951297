"""What a run reads: files cut into shards, each of which is read by itself, batch by batch."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from linmap.data.arrays import open_rows
from linmap.data.compressed import is_compressed, suffix_of
from linmap.data.door import read_bytes, understood
from linmap.data.parquet import batches_of, open_parquet, read_parquet
from linmap.data.records import READERS, Layout, is_blank, number_records, parse_json, read_jsonl, values_of
from linmap.errors import DataError

VECTORS = (".npy", ".parquet")
SUFFIXES = {None: (*READERS, ".npy"), "records": tuple(READERS), "vectors": VECTORS}
WAVE, WAVE_PER_WORKER = 4096, 64  # shards
Batch = list[Any] | np.ndarray
"""Records (`linmap.data.records.Record`), or vectors, one a row."""


class Names(NamedTuple):
    """Of some records: their ids, and a letter each for where the id comes from: t(ext), v(alue) or n(umber)."""

    ids: list[str]
    origins: str


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
        Where it lies in the file: bytes of JSONL, row groups of Parquet, rows of `.npy`; unused where the file is read
        as a whole.
    before
        How many records of the file come before it.
    line
        Line of a JSONL file at which it begins, from 1.
    rows
        Whether it holds rows of vectors, and not records.
    named
        Whether its records have ids of their own, and not their numbers alone.
    """

    number: int
    path: str
    first: int
    count: int
    start: int
    stop: int
    before: int = 0
    line: int = 1
    rows: bool = False
    named: bool = True

    @property
    def place(self) -> str:
        """In words."""
        kind = "rows" if self.rows else "documents"
        return f"{kind} {self.before} to {self.before + self.count - 1} of {self.path}"


class Outcome(NamedTuple):
    """A shard that is finished, or what is wrong with its data."""

    number: int
    error: str = ""


def cut(files: list[Path], shard_records: int, vectors: bool, layout: Layout) -> list[Shard]:
    """Shards of about `shard_records` records: exactly so many in JSONL and `.npy`, whole row groups in Parquet, and
    each file as one that must be read as one. A file's last may be shorter; the cuts depend on nothing but the files,
    their layout and this number.

    With `vectors`, Parquet files hold vectors too: columns id and vector.
    """
    shards, first = [], 0
    for file in files:
        before, kind = 0, suffix_of(file)
        if vectors and kind == ".parquet":
            with open_parquet(file) as table:
                _check_table(file, table.schema_arrow)
        rows, named = vectors or kind == ".npy", kind != ".npy" or ids_beside(file) is not None
        if not vectors and is_whole(file, layout):
            cuts = iter([(0, 0, sum(1 for _ in values_of(file, layout)), 1)])
        else:
            cuts = CUTTERS[kind](file, shard_records)
        for start, stop, count, line in cuts:
            shards.append(Shard(len(shards), str(file), first, count, start, stop, before, line, rows, named))
            first, before = first + count, before + count
    return shards or [Shard(0, str(files[0]), 0, 0, 0, 0)]


def waves(shards: list[Shard], workers: int) -> Iterator[list[Shard]]:
    """Parts of a list that are handed in one after the other: enough that workers seldom wait for the last of one."""
    size = max(WAVE, WAVE_PER_WORKER * workers)
    for first in range(0, len(shards), size):
        yield shards[first : first + size]


def is_whole(path: Path, layout: Layout) -> bool:
    """Nothing tells where a record in the middle of the file begins."""
    return suffix_of(path) == ".json" or is_compressed(path) or layout.at is not None


def ids_beside(path: Path) -> list[str] | None:
    """The ids in the `.json` beside a `.npy` file, if it is a file of vectors that has one."""
    sidecar = path.with_suffix(".json")
    return _ids_in(sidecar, sidecar.stat().st_mtime_ns) if sidecar.exists() else None


@lru_cache(maxsize=1)
def _ids_in(sidecar: Path, mtime: int) -> list[str] | None:
    """Read once for all shards of a file, as long as it is not written again."""
    value = parse_json(read_bytes(sidecar))
    ids = value.get("ids") if isinstance(value, dict) else None
    return list(map(str, ids)) if isinstance(ids, list) else None


def read(shard: Shard, batch: int, layout: Layout) -> Iterator[tuple[Names, Batch]]:
    """The names and the records of a shard, `batch` at a time."""
    path = Path(shard.path)
    if not shard.count:
        return
    if shard.rows:
        yield from (_read_table if path.suffix.lower() == ".parquet" else _read_matrix)(shard, path, batch)
        return
    if is_whole(path, layout):
        values = values_of(path, layout)
    elif path.suffix.lower() == ".parquet":
        values = read_parquet(path, range(shard.start, shard.stop))
    else:
        values = read_jsonl(path, shard.start, shard.stop, shard.line)
    records = number_records(iter([(path, values)]), layout, shard.first)
    while part := list(itertools.islice(records, batch)):
        yield Names([record.id for record in part], "".join(record.named_by[0] for record in part)), part


def _read_matrix(shard: Shard, path: Path, batch: int) -> Iterator[tuple[Names, Batch]]:
    rows, ids = open_rows(path), ids_beside(path) if shard.named else None
    if ids is not None and len(ids) != len(rows):
        raise DataError(f"{path} has {len(rows)} rows, but {path.stem}.json beside it {len(ids)} ids; write both anew.")
    for start in range(shard.start, shard.stop, batch):
        stop = min(start + batch, shard.stop)
        numbers = range(start - shard.start + shard.first, stop - shard.start + shard.first)
        names = ids[start:stop] if ids else [str(number) for number in numbers]
        yield Names(names, ("t" if ids else "n") * len(names)), np.array(rows[start:stop])


def _read_table(shard: Shard, path: Path, batch: int) -> Iterator[tuple[Names, Batch]]:
    with open_parquet(path) as file:
        for part in batches_of(path, file, batch, range(shard.start, shard.stop), ["id", "vector"]):
            for name in ("id", "vector"):
                if part.column(name).null_count:
                    raise DataError(f"{path} has a row without {name}; fill its column, or leave the row out.")
            ids = [str(name) for name in part.column("id").to_pylist()]
            with understood(path, "a file of vectors"):
                vectors = part.column("vector").flatten().to_numpy().reshape(len(ids), -1)
            yield Names(ids, "t" * len(ids)), vectors


def _check_table(path: Path, schema: Any) -> None:
    from pyarrow import types

    column = schema.field("vector").type if {"id", "vector"} <= set(schema.names) else None
    if column is None or not types.is_fixed_size_list(column) or not types.is_floating(column.value_type):
        raise DataError(
            f"{path} must hold vectors: a column id, and a column vector of lists of floats, all of one length."
        )


Cut = tuple[int, int, int, int]  # start, stop, records, first line


def _lines(path: Path, size: int) -> Iterator[Cut]:
    """Every `size` lines that are not blank."""
    start = stop = count = 0
    line = 1
    with open(path, "rb") as file:
        for number, text in enumerate(file, 1):
            stop += len(text)
            count += not is_blank(text)
            if count == size:
                yield start, stop, count, line
                start, count, line = stop, 0, number + 1
    if count:
        yield start, stop, count, line


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


CUTTERS = {".jsonl": _lines, ".ndjson": _lines, ".parquet": _row_groups, ".npy": _rows}
