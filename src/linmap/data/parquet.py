"""Parquet files: opened, and their rows as JSON values.

What JSON lacks becomes what it has: dates, times and UUIDs are texts (ISO 8601), durations are seconds, decimals are
numbers, bytes are texts in base64, and maps are objects whose keys are texts.
"""

from __future__ import annotations

import base64
import datetime
import decimal
import json
import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from linmap.data import require_content
from linmap.data.door import most_bytes, too_large, understood
from linmap.errors import DataError

TIMES = 8
"""What unpacks to no more than so many times its file is no surprise."""


def open_parquet(path: Path) -> Any:
    """A `pyarrow.parquet.ParquetFile`.

    Raises
    ------
    DataError
        If pyarrow is not installed, the file is empty or not Parquet, has two columns of one name, or unpacks to far
        more than it has and `linmap.data.door.most_bytes`.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ModuleNotFoundError:
        raise DataError(f"reading {path} needs pyarrow: pip install 'linmap[retrieve]'.") from None
    require_content(path)
    with understood(path, "a Parquet file"):
        file = pyarrow.parquet.ParquetFile(path)
        _require_names(path, file.schema_arrow)
        groups = (file.metadata.row_group(i).total_byte_size for i in range(file.metadata.num_row_groups))
        require_proportion(path, max(groups, default=0), "a group of its rows")
    return file


def require_proportion(path: Path, size: int, what: str) -> None:
    """Refuse what takes more than `linmap.data.door.most_bytes` and `TIMES` the file.

    Raises
    ------
    DataError
        If it does.
    """
    if size > max(most_bytes(), TIMES * path.stat().st_size):
        raise too_large(path, f"{what} unpacks to more than")


def read_columns(path: Path) -> Any:
    """All of a file as a `pyarrow.Table`; errors as of `open_parquet`."""
    with open_parquet(path) as file, understood(path, "a Parquet file"):
        values = file.metadata.num_rows * file.metadata.num_columns
        require_proportion(path, 8 * values, "its table")
        return file.read()


def read_parquet(path: Path, groups: Sequence[int] | None = None) -> Iterator[Any]:
    """The rows of some row groups, or of all; pandas' index is left out where it has no name."""
    with open_parquet(path) as file:
        kept = [name for name in file.schema_arrow.names if name not in _unnamed_index(file.schema_arrow)]
        for batch in batches_of(path, file, 1024, groups, kept):
            with understood(path, "a Parquet file"):
                try:
                    rows = batch.to_pylist(maps_as_pydicts="strict")
                except KeyError as error:
                    raise DataError(f"{path}: a map holds one key twice ({error}); keep one of the two.") from None
            yield from (_json(row, path) for row in rows)


def batches_of(
    path: Path, file: Any, rows: int, groups: Sequence[int] | None = None, columns: Sequence[str] | None = None
) -> Iterator[Any]:
    """Record batches of an open file, of at most so many rows.

    Raises
    ------
    DataError
        If one is damaged.
    """
    with understood(path, "a Parquet file"):
        found = file.iter_batches(batch_size=rows, row_groups=groups, columns=columns)
    while True:
        with understood(path, "a Parquet file"):
            batch = next(found, None)
        if batch is None:
            return
        yield batch


def _require_names(path: Path, fields: Any) -> None:
    """A column, or a field of a struct, that has the name of another would hide it."""
    from pyarrow import types

    fields = list(fields)
    name, count = Counter(field.name for field in fields).most_common(1)[0] if fields else ("", 0)
    if count > 1:
        raise DataError(f"{path} has {count} columns called {name!r}; rename all but one of them.")
    for field in fields:
        kind = field.type
        while types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
            kind = kind.value_type
        if types.is_struct(kind):
            _require_names(path, [kind.field(i) for i in range(kind.num_fields)])


def _unnamed_index(schema: Any) -> list[str]:
    """Columns in which pandas keeps the labels of rows, where nobody has named them."""
    try:
        written = json.loads((schema.metadata or {}).get(b"pandas", b"{}"))
        return _unnamed(written)
    except (ValueError, TypeError, AttributeError, KeyError, RecursionError):
        return []  # whatever it is, pandas has not written it


def _unnamed(written: dict[str, Any]) -> list[str]:
    return [
        column["field_name"]
        for column in written.get("columns", ())
        if column.get("name") is None and column.get("field_name") in written.get("index_columns", ())
    ]


def _json(value: Any, path: Path) -> Any:
    """A value in what JSON has; the schema bounds the depth, and so the recursion."""
    match value:
        case dict():
            return {_key(key): _json(item, path) for key, item in value.items()}
        case list() | tuple():
            return [_json(item, path) for item in value]
        case None | bool() | int() | float() | str():
            return value
        case datetime.date() | datetime.time():
            return value.isoformat()
        case datetime.timedelta():
            return value.total_seconds()
        case decimal.Decimal():
            exponent: Any = value.as_tuple().exponent  # a number, for columns hold neither NaN nor infinities
            return int(value) if exponent >= 0 else float(value)
        case bytes():
            return base64.b64encode(value).decode()
        case uuid.UUID():
            return str(value)
    raise DataError(f"{path} holds a {type(value).__name__}, which JSON has not; leave its column out.")


def _key(key: Any) -> str:
    """Keys of maps may be numbers and dates, those of objects are texts."""
    if isinstance(key, str):
        return key
    written = _json(key, Path())
    return written if isinstance(written, str) else json.dumps(written)
