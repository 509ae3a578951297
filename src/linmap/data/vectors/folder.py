"""Stores that are a folder: an index file and the ids of its rows for each field, and `store.json`, which names both.

A flush writes new files under new names and then `store.json`; a process that is killed in the middle leaves the old
ones. One store writes at a time: from the first change to the flush it holds the folder's lock, and it writes only on
top of the state that it has read. Any program that reads the index's own format can read the files too.
"""

from __future__ import annotations

import re
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, NotRequired, TypedDict

import numpy as np

from linmap.artifacts import atomic_path, write_json
from linmap.data.door import inside, load_json, reason, refuse_special, understood
from linmap.data.schema import Range, typed
from linmap.data.vectors.store import Hit, VectorStore, agreed_fields
from linmap.errors import ArgumentTypeError, ArtifactError, DataError, LinmapError
from linmap.locks import FolderLock
from linmap.ownership import replacing
from linmap.processes import sweep

FORMAT = 1
PARTS = ("index", "ids")  # files of a field
BLOCK = 2**22  # bytes that are read at once
MOST_IDS = 2**32  # bytes of their file
READS = 5  # of a store that others write meanwhile


class Entry(TypedDict):
    """What `store.json` says of a field."""

    dim: Annotated[int, Range(1, 2**20)]
    index: str
    ids: str
    sums: NotRequired[dict[str, int]]


class Header(TypedDict):
    """What `store.json` says."""

    format: int
    kind: str
    generation: Annotated[int, Range(0, 2**53)]
    fields: dict[str, dict[str, Any]]
    options: dict[str, Any]
    metadata: dict[str, Any]
    others: NotRequired[list[str]]


class Begun(TypedDict):
    """What it says before the first flush."""

    others: list[str]


class Ids(TypedDict):
    """The names of rows."""

    ids: list[str]


class FieldIndex(ABC):
    """The vectors of one field by row numbers that count up from 0."""

    suffix: str
    query_dim: int

    def rows(self) -> int | None:
        """How many there are; None where the index keeps no count."""
        return None

    @abstractmethod
    def add(self, vectors: np.ndarray) -> None:
        """Append rows."""

    @abstractmethod
    def replace(self, rows: np.ndarray, vectors: np.ndarray) -> None: ...

    @abstractmethod
    def search(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """(queries, k) rows and scores, best first; -1 where nothing was found."""

    @abstractmethod
    def get(self, rows: np.ndarray) -> np.ndarray:
        """The vectors of rows."""

    @abstractmethod
    def save(self, path: Path) -> None: ...


class FolderStore(VectorStore):
    """A store in a folder.

    Parameters
    ----------
    folder
        Where it is, or is to be.
    kind
        Which kind of store this is, as in `store.json`.
    fields
        Lengths of the vectors by field, where the store is new.
    new, load
        An empty index of a length, and one from a file.
    options
        What `new` depends on, kept in `store.json`.
    """

    def __init__(
        self,
        folder: Path | str,
        kind: str,
        fields: Mapping[str, int] | int | None,
        new: Callable[[int], FieldIndex],
        load: Callable[[Path, int], FieldIndex],
        options: Mapping[str, Any] | None = None,
    ) -> None:
        self.folder, self.kind, self._lock = Path(folder), kind, None
        for _ in range(READS):
            header = read_header(self.folder)
            try:
                self._open(header, fields, new, load, options)
                return
            except FileNotFoundError as error:  # another program has flushed in between
                lost = error
        raise ArtifactError(f"{lost.filename or folder} is missing; fill a new store.") from None

    def _open(
        self,
        header: dict[str, Any] | None,
        fields: Mapping[str, int] | int | None,
        new: Callable[[int], FieldIndex],
        load: Callable[[Path, int], FieldIndex],
        options: Mapping[str, Any] | None,
    ) -> None:
        folder, kind = self.folder, self.kind
        if header and header["kind"] != kind:
            raise ArtifactError(
                f"{folder} is a store of the kind {header['kind']!r}; open it as {header['kind']}:{folder}."
            )
        found = {name: entry["dim"] for name, entry in header["fields"].items()} if header else None
        self.fields = agreed_fields(found, fields, str(folder))
        self.metadata = header["metadata"] if header else {}
        self.options = dict(header["options"] if header else options or {})
        self._generation = header["generation"] if header else 0
        self._others = set(header.get("others", ()) if header else ())
        self._ids: dict[str, list[str]] = {}
        self._indexes: dict[str, FieldIndex] = {}
        for name, dim in self.fields.items():
            entry = header["fields"][name] if header else None
            if entry is None:
                self._ids[name], self._indexes[name] = [], new(dim)
                continue
            index, names = _there(inside(folder, entry["index"])), inside(folder, entry["ids"])
            try:
                _check_sums(folder, entry)
                self._ids[name] = typed(Ids, {"ids": load_json(names, MOST_IDS)}, "store")["ids"]
                with understood(index, f"an index of {kind}", "fill a new store"):
                    self._indexes[name] = load(index, dim)
            except (DataError, ArgumentTypeError) as error:
                _ = _there(index), _there(names)  # unless another program has taken them away meanwhile
                raise ArtifactError(str(error)) from None
            known, rows = len(set(self._ids[name])), self._indexes[name].rows()
            if known != len(self._ids[name]) or rows not in (None, known):
                raise ArtifactError(f"{index} holds {rows} vectors, and the store {known} ids; fill a new store.")
        self._rows = {name: {key: row for row, key in enumerate(ids)} for name, ids in self._ids.items()}
        self._changed = header is None

    def index(self, field: str) -> FieldIndex:
        """What holds the vectors of a field."""
        self._dim(field)
        return self._indexes[field]

    def count(self, field: str = "vector") -> int:
        self._dim(field)
        return len(self._ids[field])

    def _upsert(self, ids: list[str], vectors: np.ndarray, field: str) -> None:
        self._begin()
        rows, index = self._rows[field], self._indexes[field]
        known = np.array([name in rows for name in ids])
        self._changed = True
        if known.any():
            index.replace(np.array([rows[name] for name in ids if name in rows]), vectors[known])
        if not known.all():
            index.add(vectors[~known])
            for name in [name for name in ids if name not in rows]:
                rows[name] = len(self._ids[field])
                self._ids[field].append(name)

    def _search(self, queries: np.ndarray, k: int, field: str) -> list[list[Hit]]:
        ids = self._ids[field]
        with self._damage_told():
            rows, scores = self._indexes[field].search(queries, k)
            return [
                [Hit(ids[row], float(score)) for row, score in zip(*pair, strict=True) if row >= 0]
                for pair in zip(rows, scores, strict=True)
            ]

    def _get(self, ids: list[str], field: str) -> dict[str, np.ndarray]:
        rows = {name: row for name in ids if (row := self._rows[field].get(name)) is not None}
        if not rows:
            return {}
        with self._damage_told():
            return dict(zip(rows, self._indexes[field].get(np.array(list(rows.values()))), strict=True))

    def _iterate(self, field: str, batch: int) -> Iterator[tuple[list[str], np.ndarray]]:
        ids, index = self._ids[field], self._indexes[field]
        for first in range(0, len(ids), batch):
            part = ids[first : first + batch]
            with self._damage_told():
                vectors = index.get(np.arange(first, first + len(part)))
            yield part, vectors

    @contextmanager
    def _damage_told(self) -> Iterator[None]:
        """What libraries say of an index whose parts do not fit together."""
        try:
            yield
        except LinmapError:
            raise
        except (IndexError, RuntimeError, ValueError) as error:
            raise ArtifactError(f"{self.folder} is damaged{reason(error)}; fill a new store.") from error

    def _query_dim(self, field: str) -> int:
        self._dim(field)
        return self._indexes[field].query_dim

    def changed(self) -> None:
        """The next flush is to write, although no vector came in."""
        self._begin()
        self._changed = True

    def _begin(self) -> None:
        """Nobody else writes from now on, and nobody has since this store was opened."""
        if self._lock is None:
            lock = FolderLock(self.folder)
            try:
                self._require_generation()
            except ArtifactError:
                lock.release()
                raise
            self._lock = lock

    def _require_generation(self) -> None:
        header = read_header(self.folder)
        there = header["generation"] if header else 0
        if there != self._generation:
            raise ArtifactError(
                f"{self.folder} was written by another program after it was opened here (state {there}, not "
                f"{self._generation}); open it again, and put the vectors in again."
            )

    def flush(self) -> None:
        if self._changed:
            self._begin()
            with replacing():
                self._write()
        self._release()

    def _release(self) -> None:
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def _write(self) -> None:
        if not self._generation:
            self._others = self._found_here()
        generation, entries = self._next_generation(), dict[str, Any]()
        for name, index in self._indexes.items():
            stem = f"{name}-{generation:06d}"
            entry: dict[str, Any] = {"dim": self.fields[name], "index": f"{stem}{index.suffix}", "ids": f"{stem}.json"}
            with atomic_path(self.folder / entry["index"]) as partial:
                index.save(partial)
            write_json(self.folder / entry["ids"], self._ids[name])
            entry["sums"] = {part: _sum(self.folder / entry[part]) for part in PARTS}
            entries[name] = entry
        self._require_generation()  # where nothing locks
        header = {"format": FORMAT, "kind": self.kind, "generation": generation, "fields": entries}
        header |= {"options": self.options, "metadata": self.metadata, "others": sorted(self._others)}
        write_json(self.folder / "store.json", header)
        self._generation, self._changed = generation, False
        self._sweep({entry[part] for entry in entries.values() for part in PARTS})

    def _found_here(self) -> set[str]:
        """Files with such names that were in the folder before the store was made, and stay.

        They are noted before the first flush, for one that is killed leaves files that do not.
        """
        path = self.folder / "store.json"
        if path.is_file():
            return set(load_json(path)["others"])
        others = set(filter(self._own_name().fullmatch, (path.name for path in self.folder.iterdir())))
        write_json(path, {"format": FORMAT, "kind": self.kind, "generation": 0, "others": sorted(others)})
        return others

    def _next_generation(self) -> int:
        """One for which no file is there already, such as one of the user's."""
        generation = self._generation + 1
        files = [(name, suffix) for name, index in self._indexes.items() for suffix in (index.suffix, ".json")]
        while any((self.folder / f"{name}-{generation:06d}{suffix}").exists() for name, suffix in files):
            generation += 1
        return generation

    def _own_name(self) -> re.Pattern[str]:
        """Names of the files of a flush."""
        suffixes = "|".join(re.escape(suffix) for suffix in {index.suffix for index in self._indexes.values()})
        return re.compile(rf"(?:{'|'.join(self.fields)})-\d{{6,}}(?:{suffixes}|\.json)")

    def _sweep(self, current: set[str]) -> None:
        """Delete the files of former flushes, and what a killed one left half-written; what was in the folder before
        the store was made stays."""
        sweep(self.folder)
        own = self._own_name()
        for path in self.folder.iterdir():
            if own.fullmatch(path.name) and path.name not in current | self._others:
                path.unlink()

    def close(self) -> None:
        self._indexes.clear()
        self._release()


def _there(path: Path) -> Path:
    """The libraries behind indexes have errors of their own for a file that is not there."""
    if not path.exists():
        raise FileNotFoundError(2, "missing", str(path))
    return path


def _sum(path: Path) -> int:
    """Of a file, for damage: a stranger can write another as well."""
    found = 0
    with open(path, "rb") as file:
        while block := file.read(BLOCK):
            found = zlib.crc32(block, found)
    return found


def _check_sums(folder: Path, entry: dict[str, Any]) -> None:
    """Refuse files that were changed since they were written; stores that linmap wrote before have no sums."""
    for part in PARTS if "sums" in entry else ():
        path = _there(inside(folder, entry[part]))
        refuse_special(path)
        if path.is_dir() or _sum(path) != entry["sums"].get(part):
            raise DataError(f"{path} was changed since it was written; fill a new store.")


def read_header(folder: Path) -> dict[str, Any] | None:
    """`store.json`, if there is one, and the first flush has come to its end.

    Raises
    ------
    ArtifactError
        If it is damaged or of a newer format.
    """
    path = folder / "store.json"
    if not path.is_file():
        return None
    try:
        header = load_json(path)
        if isinstance(header, dict) and type(header.get("format")) is int and header["format"] > FORMAT:
            raise ArtifactError(
                f"{path} has format {header['format']}, this linmap reads up to {FORMAT}; upgrade linmap."
            )
        if isinstance(header, dict) and header.get("generation") == 0:
            typed(Begun, header, "it")
            return None  # nothing is in it yet
        typed(Header, header, "it")
        for name, entry in header["fields"].items():
            typed(Entry, entry, f"fields: {name}")
            inside(folder, entry["index"])
            inside(folder, entry["ids"])
        return header
    except (DataError, ArgumentTypeError) as error:
        raise ArtifactError(f"{path} does not describe a store ({error}); fill a new one.") from None
