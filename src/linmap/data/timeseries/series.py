"""`TimeSeries`: several series on one regular time axis, and the checks that a table passes on its way there."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from numbers import Number
from typing import Literal, Self, get_args

import numpy as np
import pandas as pd
from jaxtyping import Float, Float64

from linmap.data.arrays import array_of
from linmap.data.door import GIB, LIMIT, most_bytes
from linmap.data.timeseries import steps
from linmap.data.timeseries.clock import Clock, describe, read_times
from linmap.data.timeseries.layout import Layout, arrange, as_names, some
from linmap.data.timeseries.notation import Notation
from linmap.errors import ArgumentError, ArgumentTypeError, DataError

NanPolicy = Literal["ffill", "zero"]
THOUSANDS = re.compile(r"[+-]?[1-9]\d{0,2}(,\d{3})+(\.\d+)?")
DECIMAL_COMMA = re.compile(r"[+-]?\d+,\d+")
POINTED_THOUSANDS = re.compile(r"[+-]?[1-9]\d{0,2}((\.\d{3})+,\d+|(\.\d{3}){2,})")


@dataclass(frozen=True)
class TimeSeries:
    """Several series on one regular time axis."""

    values: Float64[np.ndarray, "rows variates"]
    """Finite numbers, time downwards."""
    time: pd.DatetimeIndex | pd.Index
    """When each row was observed: timestamps where the table has a calendar, else numbers."""
    step: pd.offsets.BaseOffset | int | float
    """From one row to the next."""
    variates: tuple[str, ...]
    """A name for each column."""
    time_name: str | None = None
    """The time column's name; None where the time is the index, or the table has none."""
    long: bool = False
    """The table was long: one row for each variate and time."""
    notation: Notation = field(default_factory=Notation)
    """How the table writes its times."""
    labels: pd.Index | None = None
    """The names of the variates in the type that they came in; text when None."""
    id_name: str = "unique_id"
    """Of a long table: the column that tells series apart."""
    index_names: tuple[str, ...] = ()
    """Of a long table: columns that were levels of its index."""
    timed: bool = False
    """The table has times; otherwise its rows are counted."""
    notes: tuple[str, ...] = ()
    """What was left out or filled in, in words."""

    @classmethod
    def from_frame(
        cls,
        table: pd.DataFrame | pd.Series | np.ndarray,
        nan_policy: NanPolicy | str | None = None,
        *,
        time_column: str | None = None,
        id_column: str | None = None,
        drop: Sequence[str] | str = (),
        dayfirst: bool = False,
        monthfirst: bool = False,
        fill_gaps: bool = False,
        like: Clock | None = None,
    ) -> Self:
        """Check a table and bring it into this form.

        Parameters
        ----------
        table
            Wide: one numeric column per variate, and the time as a column (`ds`, `date`, `time`, `timestamp`,
            `datetime`; a column of dates; `year`; a first column of calendar numbers) or as the index; without either,
            rows are counted. Long, a panel: `unique_id`, `ds` and `y` alone, for nothing here uses exogenous ones, as
            columns or as an index of two levels. Or an array (rows, variates). Times may be timestamps, periods, dates,
            text, or numbers such as 2020, 202001, 20200131 and Unix time; plain numbers are an axis as they are.
        nan_policy
            What to do about missing and infinite values: `"ffill"` repeats the last value, `"zero"` writes zeros, None
            refuses them.
        time_column, id_column
            Columns that hold the time, and the name of the series in a long table, where others than the usual do.
        drop
            Columns to leave out.
        dayfirst, monthfirst
            How to read 01/02/2020; by default the other rows decide, or the table is refused.
        fill_gaps
            Put rows with missing values where times are missing, as many as memory has room for (`LINMAP_MAX_GIB`);
            `nan_policy` then says what these values are.
        like
            The clock of the model that the table is for: it settles the step of few rows, and what they leave open.

        Raises
        ------
        DataError
            If a column is not numeric; if times cannot be read, repeat, go back or leave the regular step (the message
            names the first such row, counted from 0); if values are missing and no policy says what to do.
        """
        if nan_policy is not None and nan_policy not in get_args(NanPolicy):
            raise ArgumentError(f"nan_policy must be 'ffill', 'zero' or None, got {nan_policy!r}.")
        if dayfirst and monthfirst:
            raise ArgumentError("dayfirst=True and monthfirst=True exclude each other; give one.")
        table = _as_frame(table)
        if table.empty:
            raise DataError(
                f"the table has {len(table)} rows and {table.shape[1]} columns; there is nothing to forecast."
            )
        layout = arrange(table, time_column, id_column, as_names(drop), fill_gaps)
        layout = replace(layout, values=_numeric(layout.values))
        order = "dmy" if dayfirst else "mdy" if monthfirst else ""
        timed = layout.time is not None and not _only_counts(layout)
        if layout.ids is None:
            time, notation = _times(layout, order, like)
            values, notes = layout.values.set_axis(time, axis=0), layout.notes
            steps.require_forward(time, ", or name the column that tells its series apart (id_column=...)")
        else:
            values, notation = _wide_from_long(layout, order, like)
            notes = layout.notes
        if fill_gaps:
            values, notes = _without_gaps(values, notes, like)
        step = _step(values.index, like, timed)
        filled = _filled(values.astype(np.float64), nan_policy)
        labels = values.columns
        return cls(
            np.ascontiguousarray(filled),
            values.index,
            step,
            _names(labels),
            layout.time_name,
            layout.ids is not None,
            notation,
            labels,
            "unique_id" if layout.ids is None else str(layout.ids.name),
            layout.index_names,
            timed,
            notes,
        )

    def __len__(self) -> int:
        return len(self.values)

    @property
    def clock(self) -> Clock:
        """What was understood of the times, to keep with a model."""
        return Clock(self.step, self.notation.reading, self.describe(), self.timed)

    def describe(self) -> str:
        """The axis in words: from when to when, how often, how it was read, and what was left out."""
        return describe(self.time, self.step, self.notation, self.timed, self.notes)

    def select(self, variates: tuple[str, ...]) -> Self:
        """The same series in the order of `variates`.

        Raises
        ------
        DataError
            If the names are not the same.
        """
        if self.variates == variates:
            return self
        if set(self.variates) != set(variates) or len(self.variates) != len(variates):
            raise DataError(
                f"expected the {len(variates)} variates {some(variates)}, got {len(self.variates)}: "
                f"{some(self.variates)}; bring the columns that the forecaster was fitted on."
            )
        order = [self.variates.index(name) for name in variates]
        labels = None if self.labels is None else self.labels[order]
        return replace(self, values=self.values[:, order], variates=variates, labels=labels)

    def under(self, clock: Clock | None) -> Self:
        """The same series with the step of a model's clock, which must be its own.

        Raises
        ------
        DataError
            If both have times, and other steps.
        """
        if clock is None:
            return self
        if steps.follows(self.time, clock.step):
            return replace(self, step=clock.step)
        calendars = isinstance(self.step, pd.offsets.BaseOffset), isinstance(clock.step, pd.offsets.BaseOffset)
        comparable = self.timed and clock.timed and calendars[0] == calendars[1]  # numbers may count anything
        if comparable and not steps.same_step(self.step, clock.step):
            raise DataError(
                f"the model was fitted on a time axis that is {steps.every(clock.step)}, that of this table is "
                f"{steps.every(self.step)}; resample the table, or fit a model on tables like it."
            )
        return self

    def rows(self, start: int, stop: int) -> Self:
        """A span of rows."""
        return replace(self, values=self.values[start:stop], time=self.time[start:stop])

    def moment(self, row: int) -> pd.Timestamp | int | float:
        """The time of one row."""
        time = self.time[row]
        return time if isinstance(time, pd.Timestamp) else time.item()

    def future(self, steps_ahead: int) -> pd.Index:
        """The times of the `steps_ahead` rows that follow the last one."""
        return steps.after(self.time, self.step, steps_ahead)

    def frame(
        self, values: Float[np.ndarray, "rows variates"] | None = None, time: pd.Index | None = None, column: str = "y"
    ) -> pd.DataFrame:
        """The table, or other values of its variates at other times, in the layout and notation that it came in.

        `column` names the values of a long table.
        """
        values, time = (self.values if values is None else values), (self.time if time is None else time)
        written = self.notation.write(time)
        labels = pd.Index(list(self.variates)) if self.labels is None else self.labels
        if not self.long:
            wide = pd.DataFrame(values, columns=labels.set_names([None] * labels.nlevels), index=written)
            if self.time_name is None:
                return wide
            wide.insert(0, self.time_name, written)
            return wide.reset_index(drop=True)
        table = pd.DataFrame(
            {
                self.id_name: labels.repeat(len(time)),
                str(self.time_name): written.take(np.tile(np.arange(len(time)), len(labels))),
                column: np.asarray(values).T.ravel(),
            }
        )
        return table.set_index(list(self.index_names)) if self.index_names else table


# -- checks ----------------------------------------------------------------------------------------------------------


def _as_frame(table: pd.DataFrame | pd.Series | np.ndarray) -> pd.DataFrame:
    if isinstance(table, pd.DataFrame):
        return table
    if isinstance(table, pd.Series):
        return table.to_frame("y" if table.name is None else table.name)
    if hasattr(table, "toarray"):
        raise ArgumentTypeError("sparse input is not supported: a table must be dense; call toarray first.")
    array = array_of(table)
    if np.iscomplexobj(array):
        raise DataError(f"Complex data not supported: got {array.dtype}; give real and imaginary parts as columns.")
    return pd.DataFrame(array.reshape(len(array), -1)).infer_objects()


def _only_counts(layout: Layout) -> bool:
    """Whether an unnamed index merely numbers the rows."""
    time = layout.time
    return isinstance(time, pd.Index) and time.name is None and pd.api.types.is_integer_dtype(time.dtype)


def _times(layout: Layout, order: str, like: Clock | None) -> tuple[pd.Index, Notation]:
    if layout.time is None:
        return pd.RangeIndex(len(layout.values)), Notation()
    name = layout.time_name or layout.time.name
    return read_times(layout.time, "the index" if name is None else str(name), order=order, like=like)


def _wide_from_long(layout: Layout, order: str, like: Clock | None) -> tuple[pd.DataFrame, Notation]:
    """One column per id, rows by time; times that one series lacks are missing values."""
    assert layout.time is not None  # arrange refuses a panel without times
    assert layout.ids is not None
    time, notation = read_times(
        layout.time, str(layout.time_name), order=order, like=like, axis=lambda times: times.unique().sort_values()
    )
    ids = layout.ids.to_numpy()
    _require_room(layout.ids.nunique(), time.nunique(), len(ids))
    table = pd.DataFrame({"id": ids, "time": pd.Series(time), "y": layout.values.iloc[:, 0].to_numpy()})
    repeated = np.flatnonzero(table.duplicated(["id", "time"]))
    if len(repeated):
        row = repeated[0]
        raise DataError(f"row {row}: series {str(ids[row])!r} has a second value at {time[row]}.")
    for name, series in table["time"].groupby(ids, sort=False):
        back = np.flatnonzero(series.to_numpy()[1:] < series.to_numpy()[:-1])
        if len(back):
            row = series.index[back[0] + 1]
            raise DataError(
                f"row {row}: series {str(name)!r} goes back to {series[row]}; sort the table by {layout.time_name}."
            )
    wide = pd.DataFrame(table.pivot(index="time", columns="id", values="y")).reindex(columns=pd.unique(ids))
    wide.columns = pd.Index(layout.ids.drop_duplicates())  # in their own type
    wide.index = pd.Index(wide.index, name=layout.time_name)
    return wide, notation


def _require_room(series: int, times: int, rows: int) -> None:
    """Refuse a panel whose table would take far more memory than its rows: few of its series share their times."""
    if series * times > 4 * rows and 24 * series * times > most_bytes():
        raise DataError(
            f"{series:,} series at {times:,} times make a table of {series * times:,} values, of which {rows:,} are "
            f"there, and which takes more than {most_bytes() / GIB:g} GiB; bring the series to common times, take "
            f"fewer of them, or allow more with {LIMIT}."
        )


def _without_gaps(
    values: pd.DataFrame, notes: tuple[str, ...], like: Clock | None
) -> tuple[pd.DataFrame, tuple[str, ...]]:
    whole = steps.completed(values.index, None if like is None else like.step, max(values.shape[1], 1))
    added = len(whole) - len(values)
    if not added:
        return values, notes
    return values.reindex(whole), (*notes, f"{added} missing row{'s' if added > 1 else ''} filled in")


def _step(time: pd.Index, like: Clock | None, timed: bool) -> steps.Step:
    """The step of the axis: the model's where every row keeps to it, for few rows show none."""
    if like is not None and steps.follows(time, like.step):
        return like.step
    if like is not None and not timed and len(time) < 3:
        return 1
    return steps.require_step(time)


def _names(labels: pd.Index) -> tuple[str, ...]:
    """The labels as text; whole numbers alike, whether they came as integers or as floats."""
    names = tuple(
        str(int(label)) if isinstance(label, float) and label.is_integer() else str(label) for label in labels
    )
    twice = next((name for position, name in enumerate(names) if name in names[:position]), None)
    if twice is not None:
        raise DataError(f"two series are called {twice!r}, one as text and one as a number; give them other names.")
    return names


def _numeric(values: pd.DataFrame) -> pd.DataFrame:
    """The values, each column of a numeric type; decimals and other numbers that pandas holds as objects count."""
    held = [name for name, column in values.items() if column.dtype == object]
    objects = [name for name in held if all(isinstance(value, Number) for value in values[name].dropna())]
    if objects:
        values = values.copy()
        for name in objects:
            values[name] = pd.Series(pd.to_numeric(values[name], errors="coerce")).astype(np.float64)
    _require_numeric(values)
    return values


def _require_numeric(values: pd.DataFrame) -> None:
    if values.shape[1] == 0:
        raise DataError("the table has a time column and nothing else; there is no series to forecast.")
    for name, column in values.items():
        if pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_complex_dtype(column):
            continue
        unread = np.flatnonzero(pd.Series(pd.to_numeric(column, errors="coerce")).isna() & column.notna())
        found = str(column.iloc[unread[0]]) if len(unread) else ""
        texts = column.iloc[unread].astype(str).str.strip()
        if len(unread) and texts.str.fullmatch(THOUSANDS).all():
            raise DataError(
                f"column {str(name)!r}, row {unread[0]}: {found!r:.80} has a comma; if it parts thousands, write "
                f"{found.strip().replace(',', '')}; if it is the decimal point, read the file with decimal=','."
            )
        if POINTED_THOUSANDS.fullmatch(found.strip()):
            raise DataError(
                f"column {str(name)!r}, row {unread[0]}: {found!r:.80} has points between its thousands; write it "
                "without them, and read the file with decimal=',' where it has decimal commas."
            )
        if DECIMAL_COMMA.fullmatch(found.strip()):
            raise DataError(
                f"column {str(name)!r}, row {unread[0]}: {found!r:.80} has a decimal comma; write a point, or read the "
                "file with decimal=','."
            )
        where = f", row {unread[0]}: {found!r:.80} is not a number" if len(unread) else " is not numeric"
        raise DataError(
            f"column {str(name)!r}{where}; correct it, leave the column out with drop={str(name)!r}, or say that it is "
            f"the time with time_column={str(name)!r}."
        )


def _filled(values: pd.DataFrame, policy: str | None) -> pd.DataFrame:
    values = values.where(np.isfinite(values))
    if policy is not None:
        values = values.ffill() if policy == "ffill" else values.fillna(0.0)
    missing = values.isna().sum()
    if not missing.any():
        return values
    counts = ", ".join(f"{str(name)!r} ({count})" for name, count in missing.items() if count)
    if policy == "ffill":
        raise DataError(
            f"nothing to repeat before the first value of {counts}; drop these rows or use nan_policy='zero'."
        )
    raise DataError(
        f"missing or infinite values in {counts}; choose nan_policy='ffill' or nan_policy='zero', or clean the data."
    )
