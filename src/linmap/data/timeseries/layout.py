"""Which columns of a table are the time, the name of a series, and the values."""

from __future__ import annotations

import datetime
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from linmap.data.timeseries import clock, numbers, steps, text
from linmap.errors import DataError

TIME_COLUMNS = ("ds", "date", "time", "timestamp", "datetime")
YEAR_COLUMNS = ("year", "yr")
CALENDAR_COLUMNS = (*YEAR_COLUMNS, "quarter", "month", "week", "day", "hour", "minute")
COUNTING_COLUMNS = (
    *("period", "yearmonth", "epoch", "unix", "t", "step", "elapsed"),
    *("years", "quarters", "months", "weeks", "days", "hours", "minutes", "second", "seconds", "milliseconds"),
    *("sec", "secs", "ms", "timestep", "time_step"),
)
UNITS = (
    r"s|secs?|seconds?|ms|milliseconds?|[uµ]s|ns|min|mins|minutes?|h|hrs?|hours?|d|days?|y|years?|utc|gmt|unix|local"
)
UNNAMED = ("", "unnamed: 0", "index", "level_0", "rownames", "row", "obs")
NUMBERS = ("id", "no", "no.", "nr", "nr.", "rowid", "row_id", "rownum", "rn")  # of the rows, where they count up by 1
LONG_COLUMNS = ("unique_id", "ds", "y")
YEARS = (1500, 2200)  # that a first column of any name may hold


@dataclass(frozen=True)
class Layout:
    """The parts of a table."""

    time: pd.Series | pd.Index | None
    """None where rows are counted from 0."""
    time_name: str | None
    """Of the time column; None where the time is the index or rows are counted."""
    values: pd.DataFrame
    """Wide: a column for each series. Long: one column."""
    ids: pd.Series | None = None
    """Of each row of a long table."""
    index_names: tuple[str, ...] = ()
    """Columns that were levels of the index, and go back there."""
    notes: tuple[str, ...] = ()
    """What was left out, in words."""


def arrange(
    table: pd.DataFrame,
    time_column: str | None = None,
    id_column: str | None = None,
    drop: Sequence[str] = (),
    fill_gaps: bool = False,
) -> Layout:
    """Find the parts of a table; the arguments are those of `TimeSeries.from_frame`.

    Raises
    ------
    DataError
        If a column occurs twice or is not there, two look like the time, or a panel lacks a part.
    """
    names = [str(name) for name in table.columns]
    refuse_repeated(names)
    own = [str(name) for name in table.index.names if name is not None]
    for option, wanted in (("time_column", time_column), ("id_column", id_column), *(("drop", one) for one in drop)):
        if wanted is not None and wanted not in (names if option == "drop" else [*names, *own]):
            raise DataError(f"{option}={wanted!r}: there is no such column; there are {some([*own, *names])}.")
    table = table.drop(columns=[_label(table, one) for one in drop])
    if isinstance(table.index, pd.MultiIndex):
        table, levels, id_column, time_column = _levels_as_columns(table, id_column, time_column)
        return _long(table, id_column, time_column, levels, given=True)
    identifier = id_column if id_column is not None else LONG_COLUMNS[0]
    levels = _level_of_panel(table, identifier, time_column)
    table = table.reset_index(names=list(levels)) if levels else table
    if _label(table, identifier) is not None:
        return _long(table, identifier, time_column, levels, given=id_column is not None)
    return _wide(table, time_column, fill_gaps)


def as_names(names: Sequence[str] | str) -> tuple[str, ...]:
    """Several names, or one alone."""
    return (names,) if isinstance(names, str) else tuple(names)


def some(names: Sequence[object]) -> str:
    """The first few names."""
    return ", ".join(repr(str(name)) for name in names[:8]) + (", ..." if len(names) > 8 else "")


def refuse_repeated(names: Sequence[str], where: str = "") -> None:
    """Refuse columns of one name.

    Parameters
    ----------
    names
        Of the columns.
    where
        What the message begins with, such as the file and a colon.

    Raises
    ------
    DataError
        With the name.
    """
    twice = [name for position, name in enumerate(names) if name in names[:position]]
    if twice:
        raise DataError(f"{where}column {twice[0]!r} occurs twice; give every column a name of its own.")


def _label(table: pd.DataFrame, name: str) -> object:
    """The label of the column that is called so, whatever its type; None if there is none."""
    return next((label for label in table.columns if str(label) == name), None)


# -- long ------------------------------------------------------------------------------------------------------------


def _levels_as_columns(
    table: pd.DataFrame, id_column: str | None, time_column: str | None
) -> tuple[pd.DataFrame, tuple[str, ...], str, str]:
    """A panel whose index holds the name of the series and the time: both as columns."""
    index = table.index
    if index.nlevels != 2:
        raise DataError(
            f"the index has {index.nlevels} levels, a panel has two: the name of the series and the time; join the "
            "names into one level."
        )
    first_is_time = _is_time(index.get_level_values(0)) or _called(index.names[0]) in TIME_COLUMNS
    if time_column is not None or id_column is not None:
        first_is_time = str(index.names[0]) == time_column or str(index.names[1]) == id_column
    usual = ("ds", "unique_id") if first_is_time else ("unique_id", "ds")
    levels = tuple(other if own is None else str(own) for own, other in zip(index.names, usual, strict=True))
    time, identifier = levels if first_is_time else levels[::-1]
    return table.reset_index(names=list(levels)), levels, identifier, time


def _level_of_panel(table: pd.DataFrame, identifier: str, time_column: str | None) -> tuple[str, ...]:
    """The name that the index of a panel gets as a column: it holds the ids, or the times beside a column of ids."""
    index = table.index
    if str(index.name) == identifier:
        return (identifier,)
    timed = any(_called(name) in TIME_COLUMNS for name in table.columns)
    if _label(table, identifier) is not None and not timed and _typed_as_time(index):
        return ("ds" if index.name is None else str(index.name),)
    return (str(index.name),) if time_column is not None and str(index.name) == time_column else ()


def _long(
    table: pd.DataFrame, identifier: str, time_column: str | None, levels: tuple[str, ...], given: bool
) -> Layout:
    names = [str(name) for name in table.columns]
    time_name = time_column or next((name for name in names if _called(name) in TIME_COLUMNS), None)
    others = [name for name in names if name not in (identifier, time_name)]
    value = "y" if "y" in others else others[0] if given and len(others) == 1 else None
    lacking = ([] if time_name else ["ds"]) + ([] if value else ["y"])
    if lacking:
        raise DataError(
            f"a panel needs the columns {identifier}, {time_name or 'ds'} and y; {' and '.join(map(repr, lacking))} "
            f"{'is' if len(lacking) == 1 else 'are'} missing, there are {some(names)}; rename a column"
            + (", or name it with time_column=..." if not time_name else ", or leave all others out with drop=...")
        )
    further = [name for name in others if name != value]
    if further:
        raise DataError(
            f"a long table holds {identifier}, {time_name}, {value} alone; got also {some(further)}: "
            "exogenous columns are not used, leave them out with drop=..."
        )
    ids = pd.Series(table[_label(table, identifier)])
    missing = np.flatnonzero(ids.isna())
    if len(missing):
        raise DataError(f"column {identifier!r}, row {missing[0]}: the name of the series is missing; fill it in.")
    time = pd.Series(table[_label(table, str(time_name))])
    return Layout(time, time_name, pd.DataFrame(table[[_label(table, str(value))]]), ids, levels)


# -- wide ------------------------------------------------------------------------------------------------------------


def _wide(table: pd.DataFrame, time_column: str | None, fill_gaps: bool) -> Layout:
    label = _named_time(table) if time_column is None else _label(table, time_column)
    index = table.index
    if label is None and (time_column is not None or _is_time_axis(index)):
        values, notes = _without_counter(table)
        return Layout(index, None, values, notes=notes)
    label = _time_by_its_values(table, fill_gaps) if label is None else label
    if label is None:
        values, notes = _without_counter(table)
        rows = index if _continues(index) else None
        return Layout(rows, None, values, notes=notes)
    time, rest = pd.Series(table[label]), table.drop(columns=[label])
    _refuse_panel(str(label), time, rest)
    values, notes = _without_counter(rest)
    return Layout(time, str(label), values, notes=notes)


def _named_time(table: pd.DataFrame) -> object:
    """The column whose name says that it is the time."""
    named = [label for label in table.columns if _called(label) in TIME_COLUMNS]
    rivals = [
        label for label in table.columns if _called(label) in YEAR_COLUMNS and _is_regular(pd.Series(table[label]))
    ]
    clocks = [label for label in named if _called(label) == "time" and text.is_clock_alone(table[label].iloc[0])]
    if clocks and len(named) == 2:
        day = next(label for label in named if label not in clocks)
        raise DataError(
            f"columns {str(day)!r} and {str(clocks[-1])!r} hold the date and the time of day apart; put them into one "
            "column."
        )
    if named and len(named + rivals) > 1:
        _refuse_several(named + rivals)
    return named[0] if named else None


def _refuse_several(labels: Sequence[object]) -> None:
    first, *others = (str(label) for label in labels)
    raise DataError(
        f"columns {', '.join(repr(str(label)) for label in labels)} all look like the time; keep one of them: "
        f"time_column={first!r}, and leave out the rest with drop={others[0]!r}."
    )


def _time_by_its_values(table: pd.DataFrame, fill_gaps: bool) -> object:
    """A column of dates wherever it stands, or one of numbers that is first and is, or is called, a time.

    One that is called a time may have gaps where they are to be filled.
    """
    dated = [label for label in table.columns if _is_time(pd.Series(table[label]))]
    if len(dated) > 1:
        _refuse_several(dated)
    if dated:
        return dated[0]
    years = [label for label in table.columns if _called(label) in YEAR_COLUMNS]
    for label in dict.fromkeys([*years, table.columns[0]]):
        column, name = pd.Series(table[label]), _called(label)
        if not pd.api.types.is_numeric_dtype(column) or pd.api.types.is_bool_dtype(column):
            continue
        if _is_regular(column) and (name in (*CALENDAR_COLUMNS, *COUNTING_COLUMNS, *UNNAMED) or _is_calendar(column)):
            return label
        forward = bool((column.diff().iloc[1:] > 0).all())
        if fill_gaps and forward and name in (*CALENDAR_COLUMNS, *COUNTING_COLUMNS):
            return label
        if name in CALENDAR_COLUMNS:
            _refuse_panel(str(label), column, table.drop(columns=[label]))
            raise DataError(
                f"column {str(label)!r} looks like the time, but does not go forward by a regular step; "
                f"{'fill its gaps with fill_gaps=True, ' if forward else ''}put the whole time into one column and "
                f"name it with time_column=..., or leave the column out with drop={str(label)!r}."
            )
    return None


def _refuse_panel(name: str, time: pd.Series, rest: pd.DataFrame) -> None:
    """Times that repeat beside a column of text are a panel in which nothing says what tells the series apart."""
    texts = [label for label, column in rest.items() if not pd.api.types.is_numeric_dtype(column)]
    if texts and time.duplicated().any():
        raise DataError(
            f"times repeat in column {name!r} and column {str(texts[0])!r} is text, so this is a panel; name the "
            f"column that tells its series apart with id_column={str(texts[0])!r}."
        )


def _without_counter(table: pd.DataFrame) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """The table without an unnamed first column that numbers its rows, as pandas and R write their index."""
    table, notes = _without_nothing(table)
    first = table.columns[0] if table.shape[1] > 1 else None
    name = str(first).strip().lower()
    column = pd.Series(table[first]) if first is not None else pd.Series(dtype=float)
    if not pd.api.types.is_integer_dtype(column) or column.isna().any():
        return table, notes
    steps_up = np.diff(column.to_numpy(np.int64))
    counts = bool((steps_up == 1).all()) and len(steps_up) > 1
    if not (name in UNNAMED and (steps_up > 0).all()) and not (name in NUMBERS and counts):
        return table, (*notes, f"{str(first)!r} counts up by 1 and is forecast as a series") if counts else notes
    return table.drop(columns=[first]), (*notes, f"left out {str(first)!r}, which numbers the rows")


def _without_nothing(table: pd.DataFrame) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """The table without columns that have neither a name nor a value, as commas at the ends of lines make them."""
    empty = [
        name
        for name in table.columns
        if re.fullmatch(r"(Unnamed: \d+)?", str(name)) and bool(np.all(table[name].isna()))
    ]
    return table.drop(columns=empty), tuple(f"left out {str(name)!r}, which is empty" for name in empty)


def _called(label: object) -> str:
    """The name of a column without its unit: "Time (s)", "time [ms]" and "time_s" are a time."""
    name = re.sub(rf"(?<=\w)\s*[(\[]({UNITS})[)\]]$", "", str(label).strip().lower())
    return re.sub(r"^(t|time)_(s|sec|seconds|ms|us|ns)$", r"\1", name)


# -- what looks like a time ------------------------------------------------------------------------------------------


def _typed_as_time(values: pd.Series | pd.Index) -> bool:
    kind = values.dtype
    timed = pd.api.types.is_datetime64_any_dtype(kind) or pd.api.types.is_timedelta64_dtype(kind)
    return timed or isinstance(kind, pd.PeriodDtype)


def _is_time(values: pd.Series | pd.Index) -> bool:
    """Whether values that are no plain numbers are times, as the first one shows."""
    if isinstance(values.dtype, pd.CategoricalDtype):
        values = values.astype(values.dtype.categories.dtype)
    if _typed_as_time(values) or pd.api.types.is_numeric_dtype(values.dtype) or not len(values):
        return _typed_as_time(values)
    first = values.iloc[0] if isinstance(values, pd.Series) else values[0]
    if isinstance(first, datetime.date | pd.Period):
        return True
    return isinstance(first, str) and text.looks_like_time(first)


def _is_regular(column: pd.Series | pd.Index) -> bool:
    """Whether numbers go forward evenly, in any of the ways to read them."""
    return bool(_regular_readings(column))


def _is_calendar(column: pd.Series) -> bool:
    """Whether numbers that go forward evenly are dates in digits, Unix time or years."""
    years = bool(column.between(*YEARS).all())
    return any(numbers.is_calendar(notation, years) for _, notation in _regular_readings(column))


def _regular_readings(column: pd.Series | pd.Index) -> list[numbers.Reading]:
    column = pd.Series(column)
    if not pd.api.types.is_numeric_dtype(column) or pd.api.types.is_complex_dtype(column) or column.isna().any():
        return []
    if pd.api.types.is_bool_dtype(column) or not np.isfinite(column.to_numpy(np.float64)).all():
        return []
    return [found for found in clock.number_readings(column, "") if steps.step_of(found[0]) is not None]


def _is_time_axis(index: pd.Index) -> bool:
    """Whether an index is a time: by its type, by its name, or as text."""
    if _is_time(index):
        return True
    name = None if index.name is None else _called(index.name)
    if name is None or not pd.api.types.is_numeric_dtype(index.dtype):
        return False
    return name in (*TIME_COLUMNS, *CALENDAR_COLUMNS) or _is_regular(index)


def _continues(index: pd.Index) -> bool:
    """Whether an unnamed index numbers the rows, from wherever it starts."""
    return pd.api.types.is_integer_dtype(index.dtype) and _is_regular(index)
