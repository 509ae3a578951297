"""One reader of time: from a column or an index, in whatever form, to an axis and the notation that it came in."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import pandas as pd

from linmap.data.schema import made
from linmap.data.timeseries import numbers, steps, text
from linmap.data.timeseries.notation import Dates, Durations, Notation, Periods, Text, Years
from linmap.errors import ArgumentTypeError, DataError


@dataclass(frozen=True)
class Clock:
    """What was understood of a table's times: it travels with a model, and settles what a later table leaves open."""

    step: steps.Step
    """From one row to the next."""
    reading: str = ""
    """`Notation.reading`."""
    words: str = ""
    """The axis in words: from when to when, how often, and how it was read."""
    timed: bool = True
    """The table has times; otherwise its rows are counted."""

    def to_json(self) -> dict[str, object]:
        return {"step": steps.written(self.step), "reading": self.reading, "words": self.words, "timed": self.timed}

    @classmethod
    def from_json(cls, kept: dict[str, Any]) -> Clock:
        if not isinstance(kept.get("step"), str | int | float):
            raise ArgumentTypeError(f"clock: step is {kept.get('step')!r}")
        return made(cls, kept | {"step": steps.read(kept["step"])}, "clock")


def read_times(
    column: pd.Series | pd.Index,
    name: str,
    *,
    order: str = "",
    like: Clock | None = None,
    axis: Callable[[pd.Index], pd.Index] = lambda times: times,
) -> numbers.Reading:
    """The times of a column, and the notation that they came in.

    Parameters
    ----------
    column
        Timestamps, dates, periods, time deltas, numbers or text.
    name
        Of the column, for messages.
    order
        `"dmy"` or `"mdy"` where the caller knows.
    like
        Of the model that the times are for; it settles what they leave open.
    axis
        The rows of `column` that stand for the time axis: in a panel each time counts once.

    Raises
    ------
    DataError
        If a row holds no time, or the day cannot be told from the month.
    """
    column = pd.Series(column).reset_index(drop=True)
    if isinstance(column.dtype, pd.CategoricalDtype):
        column = column.astype(column.cat.categories.dtype)
    missing = np.flatnonzero(column.isna())
    if len(missing):
        raise DataError(f"column {name!r}, row {missing[0]}: there is no time; fill it in, or drop the row.")
    found = _readings(column, name)
    if order:
        kept = [one for one in found if _order(one) in ("", order)]
        if not kept:
            wanted, other = ("dayfirst", "day") if order == "dmy" else ("monthfirst", "month")
            raise DataError(f"column {name!r} cannot be read {other} first; leave {wanted}=True out.")
        found = kept
    return found[0] if len(found) == 1 else _choose(found, column, name, like, axis)


def _readings(column: pd.Series, name: str) -> Sequence[numbers.Reading]:
    kind = column.dtype
    if isinstance(kind, pd.PeriodDtype):
        start = pd.DatetimeIndex(column.dt.start_time, name=column.name)
        return [(start, Periods(frequency=str(kind)[len("period[") : -1]))]
    if pd.api.types.is_datetime64_any_dtype(kind):
        return [(pd.DatetimeIndex(column, name=column.name), Notation())]
    if pd.api.types.is_timedelta64_dtype(kind):
        unit = pd.TimedeltaIndex(column).unit
        return [(pd.Index(column.to_numpy().astype(np.int64), name=column.name), Durations(unit=unit))]
    if pd.api.types.is_bool_dtype(kind) or pd.api.types.is_complex_dtype(kind):
        raise DataError(f"column {name!r} holds {kind} values, which are no times.")
    if pd.api.types.is_numeric_dtype(kind):
        return number_readings(column, name)
    first = column.iloc[0]
    if isinstance(first, pd.Period):
        return _readings(pd.Series(pd.PeriodIndex(column), name=column.name), name)
    if isinstance(first, datetime.date):  # and datetimes, which are dates too
        return [_moments(column, name)]
    if not isinstance(first, str):
        raise DataError(f"column {name!r}, row 0: {str(first)!r:.80} is not a timestamp.")
    return text.readings(column, name)


def number_readings(column: pd.Series, name: str) -> list[numbers.Reading]:
    """What a column of numbers may mean; see `numbers.readings`."""
    return list(numbers.readings(*_whole(column, name), column.name))


def _whole(column: pd.Series, name: str) -> tuple[np.ndarray, np.dtype]:
    """Numbers as int64 where they are whole, and the type that they came in."""
    dtype = column.to_numpy().dtype
    values = column.to_numpy(np.float64 if pd.api.types.is_float_dtype(column.dtype) else None)
    infinite = np.flatnonzero(~np.isfinite(values.astype(np.float64)))
    if len(infinite):
        raise DataError(f"column {name!r}, row {infinite[0]}: {values[infinite[0]]} is not a timestamp.")
    if values.dtype.kind == "f" and (np.abs(values) < 2**53).all() and (values == np.round(values)).all():
        return values.astype(np.int64), dtype
    return values.astype(np.float64 if values.dtype.kind == "f" else np.int64), dtype


def _moments(column: pd.Series, name: str) -> numbers.Reading:
    """Objects of `datetime`."""
    dates = not any(isinstance(moment, datetime.datetime) for moment in column)
    zones = {getattr(moment, "tzinfo", None) for moment in column}
    try:
        index = pd.DatetimeIndex(pd.to_datetime(column, utc=len(zones) > 1), name=column.name)
    except (ValueError, TypeError) as error:
        raise DataError(f"column {name!r} holds something that is not a timestamp: {error}.") from error
    return index, Dates() if dates else Notation()


# -- which of several readings ---------------------------------------------------------------------------------------


def _order(reading: numbers.Reading) -> str:
    notation = reading[1]
    return notation.order if isinstance(notation, Text) else ""


def _choose(
    found: Sequence[numbers.Reading],
    column: pd.Series,
    name: str,
    like: Clock | None,
    axis: Callable[[pd.Index], pd.Index],
) -> numbers.Reading:
    """The reading of the model, else the only regular one, else the first of numbers; refused where days and months
    stay open."""
    if like is not None:
        same = [one for one in found if one[1].reading == like.reading]
        if len(same) == 1:
            return same[0]
    regular = [(one, step) for one in found if (step := _step(axis(one[0]), like)) is not None]
    if not all(_order(one) for one in found):  # numbers: the most telling reading comes first
        return regular[0][0] if regular else found[0]
    if len(regular) == 1:
        return regular[0][0]
    open_ones = [one for one, _ in regular] or list(found)
    dotted = [one for one in open_ones if _order(one) == "dmy" and "." in column.iloc[0].split(" ")[0]]
    monthly = [one for one, step in regular if steps.counted(step)[0] == "months"]
    firsts = [one for one in monthly if isinstance(one[0], pd.DatetimeIndex) and (one[0].day == 1).all()]
    for settled in (dotted, firsts):
        if len(settled) == 1:
            return settled[0]
    raise DataError(
        f"column {name!r}: {column.iloc[0]!r} to {column.iloc[-1]!r} does not tell the day from the month; say which "
        "comes first with dayfirst=True or monthfirst=True."
    )


def _step(time: pd.Index, like: Clock | None) -> steps.Step | None:
    if like is not None and steps.follows(time, like.step):
        return like.step
    return steps.step_of(time)


def describe(time: pd.Index, step: steps.Step, notation: Notation, timed: bool, notes: Sequence[str] = ()) -> str:
    """The axis in words: `2015-01 to 2024-12, monthly, month start`."""
    if not timed:
        return ", ".join([f"rows {time[0]} to {time[-1]}, counted", *notes])
    unit, n = steps.counted(step)
    often = steps.every(step)
    if isinstance(time, pd.DatetimeIndex):
        zone = f"zone {time.tz}" if time.tz is not None and "UTC" not in notation.words else ""
        first, last = (_short(cast("pd.Timestamp", moment), unit, n) for moment in (time[0], time[-1]))
        parts = [f"{first} to {last}", often, steps.anchor(step, time), zone]
    elif isinstance(notation, Years):
        often = "yearly" if n == 1 else f"every {n:g} years"
        parts = [f"{int(time[0])} to {int(time[-1])}", often]
    else:
        written = notation.write(time[[0, -1]])
        often = f"every {pd.Timedelta(n, unit=notation.unit)}" if isinstance(notation, Durations) else often
        parts = [f"{written[0]} to {written[1]}", often]
    return ", ".join(filter(None, [*parts, notation.words, *notes]))


def _short(moment: pd.Timestamp, unit: str, n: float) -> str:
    """No more of a time than its step needs."""
    if unit == "months" and moment == moment.normalize():
        return str(moment.year) if n % 12 == 0 else f"{moment.year}-{moment.month:02d}"
    if moment == moment.normalize() and (unit != "seconds" or n % 86_400 == 0):
        return moment.strftime("%Y-%m-%d")
    form = "%Y-%m-%d %H:%M" if unit != "seconds" or n % 60 == 0 else "%Y-%m-%d %H:%M:%S"
    return moment.strftime(form)
