"""Tables from files, and data sets known by name."""

from __future__ import annotations

import io
import itertools
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pandas as pd

from linmap import data
from linmap.data.compressed import open_bytes
from linmap.data.door import SEPARATORS, understood
from linmap.data.parquet import read_columns
from linmap.data.timeseries.layout import LONG_COLUMNS, TIME_COLUMNS, refuse_repeated
from linmap.data.timeseries.series import NanPolicy, TimeSeries
from linmap.data.timeseries.text import looks_like_time
from linmap.errors import DataError

EMBEDDED = {"etth1": "ETTh1.csv", "ili": "national_illness.csv"}
COMMA_NUMBER = re.compile(r"^\s*([+-]?\d+),(\d+)\s*$")
LINES = 100  # of a file, that are looked at before it is read


def read_table(
    path: Path | str, separator: str | None = None, decimal: str = ".", id_column: str | None = None
) -> pd.DataFrame:
    """A CSV (`.csv`, `.csv.gz`, `.tsv`, `.txt`) or Parquet (`.parquet`) file as a data frame.

    Parameters
    ----------
    path
        The file.
    separator
        Between the cells of a CSV file; a tab in a `.tsv` file and a comma in others when None.
    decimal
        The decimal point of a CSV file.
    id_column
        The column of a CSV file, besides `unique_id`, that holds names, which are kept as they are written: 007, NA.

    Raises
    ------
    DataError
        If the file does not exist, is empty, has other separators or no header, or cannot be read as what its name
        says.
    """
    path = Path(path)
    if not path.exists():
        raise DataError(f"there is no file {path}.")
    if path.suffix in (".zip", ".tar"):
        raise DataError(f"{path} is an archive of files; unpack it, and give the table in it.")
    data.require_file(path)
    sep = separator.replace("\\t", "\t") if separator is not None else "\t" if ".tsv" in path.suffixes else ","
    with understood(path, "a table"):
        if path.suffix == ".parquet":
            return read_columns(path).to_pandas()
        head = _head(path)
        if head and head[0].lstrip("\ufeff \t").startswith(("{", "[")):
            raise DataError(f"{path} holds JSON; a table is read from .csv, .tsv, .txt or .parquet.")
        comments = _comments(head, sep)
        _require_separator(path, sep, head[comments:])
        names = {name: _quoted for name in (LONG_COLUMNS[0], id_column) if name is not None}
        try:
            if comments < len(head):  # pandas calls the second column of a name another one
                header = pd.read_csv(io.StringIO("\n".join(head[comments:])), sep=sep, header=None, nrows=1, dtype=str)
                refuse_repeated(header.iloc[0].dropna().str.strip().tolist(), f"{path}: ")
            with open_bytes(path) as file:
                table = pd.read_csv(file, sep=sep, decimal=decimal, skiprows=comments, converters=names)
        except UnicodeDecodeError:
            raise DataError(
                f"{path} is no table: it is not text in UTF-8; write it as .csv in UTF-8 or .parquet."
            ) from None
    if isinstance(table.index, pd.MultiIndex):
        _refuse_ragged(path)
    if decimal == ",":
        _point_numbers(table, names)
    return _checked(path, table, names)


def _point_numbers(table: pd.DataFrame, names: Iterable[str]) -> None:
    """Write decimal commas as points where pandas left a column as text, so that what is no number is told apart."""
    for name in table.columns.difference(list(names)):
        if not pd.api.types.is_numeric_dtype(table[name]):
            table[name] = table[name].map(_pointed)


def _pointed(cell: Any) -> Any:
    return COMMA_NUMBER.sub(r"\1.\2", cell) if isinstance(cell, str) else cell


def _checked(path: Path, table: pd.DataFrame, names: Iterable[str]) -> pd.DataFrame:
    """What pandas made of a CSV file, where its header is one."""
    first = table.index.dtype != np.int64 and not isinstance(table.index, pd.RangeIndex)
    if first and any(str(label).lower() in TIME_COLUMNS for label in table.columns):
        _refuse_ragged(path)  # pandas takes the first of too many cells as the index, which only R writes so
    head = str(table.columns[0]) if len(table.columns) else ""
    if looks_like_time(head) and len(table) and looks_like_time(str(table.iloc[0, 0])):
        raise DataError(
            f"{path} has no header, for its first row holds {head!r}; write the names of the columns above it."
        )
    for name in names:
        if name in table:
            table[name] = _names(pd.Series(table[name]))
    return table


def _refuse_ragged(path: Path) -> NoReturn:
    raise DataError(f"{path}: its rows have more cells than its header has names; give every column a name.")


def _quoted(cell: str) -> str:
    """So that pandas does not take NA for a missing name."""
    return f"'{cell.strip()}'"


def _names(column: pd.Series) -> pd.Series:
    """Quoted names as they are written: numbers only where all are written as numbers are; none where there is none."""
    column = column.str[1:-1]
    for kind in (int, float):
        try:
            numbers = column.map(kind)
        except ValueError:
            continue
        if (numbers.map(str) == column).all() and np.isfinite(numbers).all():
            return numbers
    return column.where(column != "", None)


def _head(path: Path) -> list[str]:
    """The first lines of a CSV file."""
    with open_bytes(path) as file:
        lines = (line.decode("utf-8", "replace") for line in itertools.islice(file, LINES))
        return [line for line in lines if line.strip()]


def _comments(head: list[str], sep: str) -> int:
    """Lines above the header that begin with # and have not its cells."""
    count = sum(1 for _ in itertools.takewhile(lambda line: line.startswith("#"), head))
    while count and count < len(head) and head[count - 1].count(sep) >= max(head[count].count(sep), 1):
        count -= 1  # the header itself begins with #
    return count if count < len(head) else 0


def _require_separator(path: Path, sep: str, head: list[str]) -> None:
    if not head or sep in head[0]:
        return
    seen = next((one for one in SEPARATORS if one != sep and one in head[0]), None)
    if seen is not None:
        _refuse_separator(path, seen)


def _refuse_separator(path: Path, seen: str) -> None:
    written = "\\t" if seen == "\t" else seen
    raise DataError(
        f"{path}: its cells are separated by {SEPARATORS[seen]} ('{written}'); read it with separator='{written}', and "
        "decimal=',' where it has decimal commas."
    )


def load_table(
    source: Path | str, separator: str | None = None, decimal: str = ".", id_column: str | None = None
) -> pd.DataFrame:
    """A file, or an embedded data set by its name, as a data frame; see `load_time_series`."""
    path = Path(source)
    if path.exists() or str(source).lower() not in EMBEDDED:
        return read_table(path, separator, decimal, id_column)
    return read_table(data.find(f"olinear/{EMBEDDED[str(source).lower()]}", "It is part of linmap; install it again."))


def load_time_series(
    source: Path | str,
    nan_policy: NanPolicy | str | None = None,
    *,
    separator: str | None = None,
    decimal: str = ".",
    **reading: Any,
) -> TimeSeries:
    """Read a file, or an embedded data set by its name.

    Parameters
    ----------
    source
        Path of a CSV or Parquet file; `"etth1"` (7 series of an electricity transformer, hourly) or `"ili"` (7 series
        of influenza-like illness in the USA, weekly).
    nan_policy, **reading
        As in `TimeSeries.from_frame`.
    separator, decimal
        As in `read_table`.

    Raises
    ------
    DataError
        If the file cannot be used; see `read_table` and `TimeSeries.from_frame`.
    """
    table = load_table(source, separator, decimal, reading.get("id_column"))
    return TimeSeries.from_frame(table, nan_policy, **reading)
