"""A folder of Qdrant's local mode, whose points are pickles: opened so that no pickle of a stranger runs anything."""

from __future__ import annotations

import io
import pickle
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path
from typing import Any
from urllib.parse import quote

from linmap.data.door import inside, load_json, read_bytes, refuse_special, understood
from linmap.errors import ArgumentTypeError, ArtifactError, DataError
from linmap.locks import BusyError

META, COLLECTIONS, POINTS = "meta.json", "collection", "storage.sqlite"  # Qdrant's names
OWN = {"points", "sqlite_autoindex_points_1"}
"""All that Qdrant's files of SQLite hold; a view or a trigger of a stranger would compute."""
SEVERAL = bytes.fromhex("d9d505f920a163d7")
"""The end of a journal of SQLite that names another file, which would be read, and removed."""
_careful: ContextVar[bool] = ContextVar("linmap_careful", default=False)


class Points(pickle.Unpickler):
    """What takes Qdrant's own records out of a pickle, and nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        from pydantic import BaseModel
        from qdrant_client.http.models import models

        found = getattr(models, name, None) if module == models.__name__ else None
        if isinstance(found, type) and issubclass(found, BaseModel):
            return found
        raise pickle.UnpicklingError(f"a point refers to {module}.{name}, which is no part of one")


class Careful:
    """What stands for `pickle` in Qdrant's local mode: careful while linmap opens a folder, and as ever otherwise."""

    def __getattr__(self, name: str) -> Any:
        return getattr(pickle, name)

    def loads(self, data: bytes) -> Any:
        return Points(io.BytesIO(data)).load() if _careful.get() else pickle.loads(data)


def open_folder(place: str) -> Any:
    """The client of a folder, which is made where it is not there.

    Raises
    ------
    BusyError
        If another program has it open.
    ArtifactError
        If what is there is not Qdrant's.
    """
    from qdrant_client import QdrantClient

    folder = Path(place).absolute()  # `:memory:` is a folder as others are
    _check(folder)
    with understood(place, "a folder of Qdrant", "fill a new store"), _carefully():
        try:
            return QdrantClient(path=str(folder))
        except RuntimeError as error:
            if "already accessed" not in str(error):
                raise
            raise BusyError(f"{place} cannot be opened: {str(error).splitlines()[0]}") from None


def _check(folder: Path) -> None:
    """Refuse collections that lie elsewhere, and files that hold more than points."""
    if not (folder / META).exists():
        return
    try:
        said = load_json(folder / META)
        collections = said["collections"] if isinstance(said, dict) else None
        if not isinstance(collections, dict):
            raise DataError(f"{folder / META} lists no collections.")
        for name in collections:
            points = inside(folder / COLLECTIONS, name) / POINTS
            refuse_special(points)
            if points.exists():
                _check_points(points)
    except (DataError, KeyError, ArgumentTypeError) as error:
        raise ArtifactError(f"{folder} is no folder of Qdrant ({error}); fill a new store.") from None


def _check_points(path: Path) -> None:
    journal = path.with_name(f"{path.name}-journal")  # of a program that was killed: SQLite takes it back
    with suppress(FileNotFoundError):  # that of another program which is at work comes and goes
        if read_bytes(journal).endswith(SEVERAL):
            raise DataError(f"{journal} names another file.")
    with (
        understood(path, "points of Qdrant", "fill a new store"),
        closing(sqlite3.connect(f"file:{quote(str(path))}?mode=rw", uri=True)) as points,
    ):
        found = points.execute("SELECT type, name FROM sqlite_master").fetchall()
        columns = points.execute("PRAGMA table_xinfo(points)").fetchall()
    if not {name for _, name in found} <= OWN or ("view", "points") in found or any(column[6] for column in columns):
        raise DataError(f"{path} holds other things than points.")


@contextmanager
def _carefully() -> Iterator[None]:
    from qdrant_client.local import persistence

    if not isinstance(persistence.pickle, Careful):
        persistence.pickle = Careful()  # type: ignore[assignment]
    before = _careful.set(True)
    try:
        yield
    finally:
        _careful.reset(before)
