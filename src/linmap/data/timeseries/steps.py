"""The step from one row to the next: found, compared, counted on, and said in words."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pandas as pd
from pandas.tseries.frequencies import to_offset

from linmap.data.door import GIB, LIMIT, most_bytes
from linmap.errors import ArgumentError, DataError

Step = pd.offsets.BaseOffset | int | float
ROUNDED = 0.1  # share of the step that written numbers may lie off an even spacing: decimal years have few digits
UNITS = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
ON_THE_WAY = 8
"""Columns of memory that filling gaps takes beside those of the table."""
LONGEST = 2.0**62
"""Up to where whole numbers are counted."""
MONTHS = (
    dict.fromkeys(("MS", "ME", "BMS", "BME", "WOM", "LWOM"), 1)
    | dict.fromkeys(("QS", "QE", "BQS", "BQE"), 3)
    | dict.fromkeys(("HYS", "HYE", "BHYS", "BHYE"), 6)
    | dict.fromkeys(("YS", "YE", "BYS", "BYE"), 12)
)
ANCHORS = {
    "MS": "month start",
    "ME": "month end",
    "BMS": "first working day",
    "BME": "last working day",
    "QS": "quarter start",
    "QE": "quarter end",
    "YS": "year start",
    "YE": "year end",
}
DAYS = {
    day[:3].upper(): day
    for day in ("Mondays", "Tuesdays", "Wednesdays", "Thursdays", "Fridays", "Saturdays", "Sundays")
}
SECONDS = {"day": 86_400, "hour": 3_600, "minute": 60, "second": 1}
SEASONS = {3_600: 24, 86_400: 7, 604_800: 52}  # rows: hours of a day, days of a week, weeks of a year


def step_of(time: pd.Index) -> Step | None:
    """The step of an axis that goes forward evenly, by the clock or by the calendar; None where it does not.

    At least three rows show a step. Numbers that are whole must be evenly spaced exactly, others up to the digits that
    they were written with.
    """
    if len(time) < 3:
        return None
    if isinstance(time, pd.DatetimeIndex):
        if (np.diff(time.asi8) <= 0).any():
            return None
        calendar = pd.DatetimeIndex(time, freq="infer").freq  # may miss rows: all Fridays, not one of each month
        return calendar if calendar is not None and follows(time, calendar) else _same_day(time)
    numbers = _numbers(time)
    if np.issubdtype(numbers.dtype, np.integer):
        steps = np.diff(numbers)
        return int(steps[0]) if steps[0] > 0 and (steps == steps[0]).all() else None
    step = _even(numbers, len(numbers) - 1)
    return step if step > 0 and np.abs(_off_the_line(numbers, step)).max() <= ROUNDED * step else None


def _even(numbers: np.ndarray, steps: int) -> float:
    """One of so many steps from the first number to the last; 1/n where their digits allow it, as in decimal years."""
    step = float(numbers[-1] - numbers[0]) / steps
    parts = round(1 / step) if 1e-12 < step < 1 else 0
    last_digit = 10.0 ** -_decimals(numbers)
    return 1 / parts if parts and abs(step - 1 / parts) * steps <= 1.01 * last_digit else step


def _off_the_line(numbers: np.ndarray, step: float) -> np.ndarray:
    with np.errstate(over="ignore", invalid="ignore"):  # of numbers near the largest there is
        off = (numbers - numbers[0]) - step * np.arange(len(numbers))
        return off - off.mean()


def _same_day(time: pd.DatetimeIndex) -> pd.DateOffset | None:
    """Months apart on one day of the month, or on the last one of months that have no such day."""
    day = int(time.day.to_numpy().max())
    months = np.diff(time.year * 12 + time.month)
    even = (time.day == np.minimum(day, time.days_in_month)).all() and (months == months[0]).all() and months[0] > 0
    clock = (time.hour, time.minute, time.second, time.microsecond, time.nanosecond)
    return _monthly(int(months[0]), day) if even and all((part == part[0]).all() for part in clock) else None


def _monthly(months: int, day: int) -> pd.DateOffset:
    """So many months on; `day` brings back the 30th behind a February."""
    return pd.DateOffset(months=months) if day <= 28 else pd.DateOffset(months=months, day=day)


def _numbers(time: pd.Index) -> np.ndarray:
    """The axis as int64 where it is whole, so that unsigned numbers can go back, else as float64."""
    values = time.asi8 if isinstance(time, pd.DatetimeIndex) else time.to_numpy()
    return values.astype(np.int64 if np.issubdtype(values.dtype, np.integer) else np.float64)


def follows(time: pd.Index, step: Step) -> bool:
    """Whether every row is one such step behind the row before; any number of rows can tell."""
    if isinstance(time, pd.DatetimeIndex):
        if not isinstance(step, pd.offsets.BaseOffset):
            return False
        try:
            grid = _walked(step, time[0], rows=len(time))
        except (ValueError, OverflowError):  # it leaves what dates can be
            return False
        if not isinstance(step, pd.offsets.Tick):  # either of the two hours that a clock shows twice
            grid, time = grid.tz_localize(None), time.tz_localize(None)
        return bool(len(grid) == len(time) and (grid == time).all())
    if isinstance(step, pd.offsets.BaseOffset):
        return False
    numbers = _numbers(time)
    whole = isinstance(step, int) and np.issubdtype(numbers.dtype, np.integer)
    return bool(np.abs(_off_the_line(numbers, step)).max() <= (0 if whole else ROUNDED * step))


def require_forward(time: pd.Index, hint: str = "") -> None:
    """Refuse times that repeat or go back; rows are counted from 0."""
    steps = np.diff(_numbers(time))
    backward = np.flatnonzero(steps <= 0)
    if len(backward):
        row = int(backward[0]) + 1
        what = "repeats the timestamp" if steps[row - 1] == 0 else "goes back behind the timestamp"
        raise DataError(
            f"row {row} ({time[row]}) {what} of row {row - 1} ({time[row - 1]}); sort and deduplicate{hint}."
        )


def require_step(time: pd.Index) -> Step:
    """The step of a forward axis.

    Raises
    ------
    DataError
        If there are fewer than 3 rows, or a row leaves the regular step; the message names the first such row.
    """
    if len(time) < 3:
        raise DataError(f"a time axis needs at least 3 rows to show its step, got {len(time)}.")
    found = step_of(time)
    if found is not None:
        return found
    steps = np.diff(_numbers(time))
    kinds, counts = np.unique(steps, return_counts=True)
    usual = kinds[counts.argmax()]
    uneven = steps != usual if np.issubdtype(steps.dtype, np.integer) else np.abs(steps - usual) > ROUNDED * usual
    row = int(np.flatnonzero(uneven)[0]) + 1 if uneven.any() else 1
    lag, step = (
        str(pd.Timedelta(int(one), unit=time.unit)) if isinstance(time, pd.DatetimeIndex) else f"{one:.6g}"
        for one in (steps[row - 1], usual)
    )
    raise DataError(
        f"row {row} ({time[row]}) follows row {row - 1} ({time[row - 1]}) by {lag}, elsewhere the step is {step}; "
        "fill the gap with fill_gaps=True, or resample to a regular step."
    )


def completed(time: pd.Index, step: Step | None = None, columns: int = 1) -> pd.Index:
    """The axis with the rows that it lacks: the sparsest regular grid from the first time to the last that holds all.

    Parameters
    ----------
    time
        What there is.
    step
        Of the model that the table is for.
    columns
        Of the table, which bound the rows that memory has room for.

    Raises
    ------
    DataError
        If no grid holds all times, or one would have more rows than a table may.
    """
    if step_of(time) is not None or len(time) < 2:
        return time
    numbers = _numbers(time)
    usual = _usual(numbers)
    rows, most = (float(numbers[-1]) - float(numbers[0])) / float(usual), most_bytes() / (8 * (columns + ON_THE_WAY))
    if not isinstance(time, pd.DatetimeIndex):
        even: Any = f"{usual:.6g}" if isinstance(usual, float) else usual
        grids = [grid] if rows < most and step_of(grid := pd.Index(_between(numbers, usual))) is not None else []
    else:
        even = pd.Timedelta(usual, unit=time.unit)
        offsets: list[Any] = [step] if isinstance(step, pd.offsets.BaseOffset) and _few(time, step, most) else []
        offsets += [even] if rows < most else []
        offsets += ["B"] if even <= pd.Timedelta(days=7) else _by_months(time)
        grids = [grid for one in offsets if (grid := _grid(time, one)) is not None]
    whole = [grid for grid in grids if len(grid) >= 3 and time.isin(grid).all()]
    if whole:
        return min(whole, key=len).rename(time.name)
    if rows < most:
        said = f"no regular step reaches all times, the usual one is {even}; resample to a regular step"
    else:
        said = (
            f"from {time[0]} to {time[-1]} in steps of {even} there are {rows:.3g} rows, which take more than "
            f"{most_bytes() / GIB:g} GiB; resample to a coarser step, or allow more with {LIMIT}"
        )
    raise DataError(f"the gaps cannot be filled: {said}.")


def _by_months(time: pd.DatetimeIndex) -> list[Any]:
    """The steps of as many months as go into every gap, on each day that the first time may stand for."""
    months = max(int(np.gcd.reduce(np.diff(time.year * 12 + time.month))), 1)
    days, weekday = time.day.to_numpy(), int(time.day_of_week.to_numpy()[0])
    week = min((int(days[0]) - 1) // 7, 3)
    return [
        *(f"{months}{day}" for day in ("MS", "ME", "BMS", "BME")),
        _monthly(months, int(days.max())),
        pd.offsets.WeekOfMonth(months, week=week, weekday=weekday),
        pd.offsets.LastWeekOfMonth(months, weekday=weekday),
    ]


def _usual(numbers: np.ndarray) -> int | float:
    """The step that most rows make; the middle one of its like where the last digits of each are its own."""
    steps = np.diff(numbers)
    sizes = steps if np.issubdtype(steps.dtype, np.integer) else np.rint(steps / steps.min())
    _, kind, counts = np.unique(sizes, return_inverse=True, return_counts=True)
    alike = np.sort(steps[kind == counts.argmax()])
    return alike[(len(alike) - 1) // 2].item()


def _between(numbers: np.ndarray, usual: int | float) -> np.ndarray:
    """The numbers as they are, and on the line through them those that lack; uneven where there is no such line."""
    places = np.concatenate([[0], np.cumsum(_steps(np.diff(numbers), usual))])
    if isinstance(usual, int):
        line = numbers[0] + usual * np.arange(places[-1] + 1)
    else:
        line = _even(numbers, int(places[-1])) * np.arange(places[-1] + 1)
        line += numbers[0] + (numbers - numbers[0] - line[places]).mean()
        line = np.round(line, _decimals(numbers))
    line[places] = numbers
    return line


def _steps(gaps: np.ndarray, usual: int | float) -> np.ndarray:
    """How many steps each gap is; what a step is, the shorter gaps tell before the longer ones are counted.

    One step alone is known by its few digits: by 0.08, a gap of ten years of months (0.0833) has five too many.
    """
    count = np.maximum(np.rint(gaps / usual), 1)
    longest, reach = count.max(), 1
    while isinstance(usual, float) and reach < longest:
        told = count <= reach
        usual = float(gaps[told].sum() / count[told].sum()) if told.any() else usual
        count = np.maximum(np.rint(gaps / usual), 1)
        reach *= 2
    return count.astype(np.int64)


def _walked(step: Any, first: Any, last: Any = None, rows: int | None = None) -> pd.DatetimeIndex:
    """From a first timestamp on, to a last one or for so many rows.

    Days and longer steps keep to the clock of their zone: where it shows a time twice, the earlier one is taken, and
    where it leaves one out, that at which it goes on.
    """
    try:
        return pd.date_range(first, last, periods=rows, freq=step)
    except ValueError:
        if first.tz is None or isinstance(step, pd.Timedelta | pd.offsets.Tick):
            raise
        ends = (None if one is None else one.tz_localize(None) for one in (first, last))
        local = pd.date_range(*ends, periods=rows, freq=step)
        return local.tz_localize(first.tz, ambiguous=np.ones(len(local), bool), nonexistent="shift_forward")


def _grid(time: pd.DatetimeIndex, step: Any) -> pd.DatetimeIndex | None:
    """From the first time to the last in such steps; None where one of them leaves what dates can be."""
    try:
        return _walked(step, time[0], time[-1]).as_unit(time.unit)
    except (ValueError, OverflowError):
        return None


def _few(time: pd.DatetimeIndex, step: Any, most: float) -> bool:
    """Whether a step makes fewer rows of the axis than so many; steps of the calendar are days or longer."""
    if not isinstance(step, pd.offsets.Tick):
        return True
    seconds = (float(time.asi8[-1]) - float(time.asi8[0])) / UNITS[time.unit]
    return seconds < most * counted(step)[1]


def after(time: pd.Index, step: Step, rows: int) -> pd.Index:
    """The times of the `rows` rows that follow the last one."""
    if isinstance(step, pd.offsets.BaseOffset):
        try:
            return _walked(step, time[-1], rows=rows + 1)[1:].rename(time.name)
        except (ValueError, OverflowError):
            raise DataError(
                f"{rows} rows after {time[-1]} cannot be dated: they lie behind the last time that there can be "
                f"({time.dtype}); forecast fewer steps, or bring times of a coarser unit."
            ) from None
    numbers = _numbers(time)
    if isinstance(step, int) and np.issubdtype(numbers.dtype, np.integer):
        last = int(numbers[-1])
        return pd.RangeIndex(last + step, last + step * (rows + 1), step, name=time.name)
    start = (numbers - step * np.arange(len(numbers))).mean()  # not the last number, which may be rounded
    ahead = start + step * np.arange(len(numbers), len(numbers) + rows)
    return pd.Index(np.round(ahead, _decimals(numbers)), name=time.name)


def _decimals(numbers: np.ndarray) -> int:
    """Digits after the point that write these numbers; more than float64 has where none do."""
    return next((d for d in range(12) if np.abs(np.round(numbers, d) - numbers).max() <= 1e-13), 15)


# -- in words, and on paper ------------------------------------------------------------------------------------------


def counted(step: Step) -> tuple[str, float]:
    """A step as a unit and how many of it: two steps are of one kind where these agree, whatever day they fall on."""
    if not isinstance(step, pd.offsets.BaseOffset):
        return "numbers", float(step)
    name = str(written(step))
    if name.startswith("months="):
        return "months", float(name.removeprefix("months=").partition(",")[0])
    match = re.fullmatch(r"(-?\d*)([A-Za-z]+)(?:-.*)?", name)
    assert match is not None  # pandas writes a count and a name
    prefix, n = match[2], float(match[1] or 1)
    if prefix in MONTHS:
        return "months", n * MONTHS[prefix]
    if prefix == "W":
        return "seconds", n * 604_800
    if prefix == "D":
        return "seconds", n * 86_400
    if isinstance(step, pd.offsets.Tick):
        return "seconds", pd.Timedelta(step).total_seconds()
    return {"B": "working days", "bh": "working hours"}.get(prefix, prefix), n


def same_step(one: Step, other: Step) -> bool:
    (unit, n), (other_unit, m) = counted(one), counted(other)
    return unit == other_unit and bool(np.isclose(n, m, rtol=0.02 if unit == "numbers" else 1e-9, atol=0))


def every(step: Step) -> str:
    """How often, in words: `monthly`, `every 15 minutes`."""
    unit, n = counted(step)
    if unit == "numbers":
        return f"in steps of {n:.6g}"
    if unit == "months":
        known = {1: "monthly", 3: "quarterly", 6: "half-yearly", 12: "yearly"}
        return known.get(int(n)) or (f"every {n:g} months" if n % 12 else f"every {n / 12:g} years")
    if unit != "seconds":
        return f"every {unit.removesuffix('s')}" if n == 1 else f"every {n:g} {unit}"
    if n in (3_600, 86_400, 604_800):
        return {3_600: "hourly", 86_400: "daily", 604_800: "weekly"}[int(n)]
    name, length = next(((name, s) for name, s in SECONDS.items() if n % s == 0), ("second", 1))
    return f"every {name}" if n == length else f"every {n / length:g} {name}s"


def anchor(step: Step, time: pd.Index) -> str:
    """On which day, in words; empty where it needs no saying."""
    if not isinstance(step, pd.offsets.BaseOffset):
        return ""
    name = str(written(step)).lstrip("0123456789")
    if name.startswith("months=") and isinstance(time, pd.DatetimeIndex):
        return f"on day {time.day.max()}"
    prefix, _, day = name.partition("-")
    return f"on {DAYS[day]}" if prefix == "W" and day in DAYS else ANCHORS.get(prefix, "")


def season(step: Step | None) -> int | None:
    """Rows of the season that such a step usually has: a day of hours, a week of days, a year of weeks or months."""
    if step is None:
        return None
    unit, n = counted(step)
    if unit == "months":
        return int(12 / n) if n < 12 and 12 % n == 0 else None
    if unit == "working days":
        return 5 if n == 1 else None
    if unit == "seconds":
        return SEASONS.get(int(n)) or (int(86_400 / n) if n < 86_400 and 86_400 % n == 0 else None)
    return None


def written(step: Step) -> str | int | float:
    """A step as JSON holds it."""
    if not isinstance(step, pd.offsets.BaseOffset):
        return step
    parts = step.kwds if type(step) is pd.DateOffset else {}
    if "months" not in parts:
        return step.freqstr
    return f"months={parts['months']}" + (f",day={parts['day']}" if "day" in parts else "")


def read(step: str | float) -> Step:
    """What `written` wrote.

    Raises
    ------
    ArgumentError
        If it is no step forward.
    """
    if isinstance(step, str) and step.startswith("months="):
        months, _, day = step.removeprefix("months=").partition(",day=")
        found = _monthly(int(months), int(day or 1))
    else:
        found = to_offset(step) if isinstance(step, str) else step
    if not 0 < counted(found)[1] < LONGEST:
        raise ArgumentError(f"step is {step!r}, which leads not from a row to the next")
    return found
