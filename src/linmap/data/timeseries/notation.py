"""How a table writes its times, so that those of a forecast come back written the same way."""

from __future__ import annotations

import calendar
import re
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

NANOSECONDS = {"s": 10**9, "ms": 10**6, "us": 10**3, "ns": 1}


@dataclass(frozen=True)
class Notation:
    """Times as pandas holds them: timestamps, or plain numbers of the given type."""

    dtype: np.dtype | None = None
    """Of numbers."""

    @property
    def reading(self) -> str:
        """Which of several possible readings this is, for tables that leave it open; empty where there is one."""
        return ""

    @property
    def words(self) -> str:
        """What a reader should know about it; empty where nothing can be mistaken."""
        return ""

    def write(self, time: pd.Index) -> pd.Index:
        """The times in this notation."""
        return time if self.dtype is None else _of_type(time, self.dtype)


@dataclass(frozen=True)
class Years(Notation):
    """Years as numbers."""


@dataclass(frozen=True)
class Digits(Notation):
    """Dates as one number, such as 202001 or 20200131."""

    form: str = "%Y%m%d"
    """As `strftime` has it."""

    @property
    def reading(self) -> str:
        return self.form

    @property
    def words(self) -> str:
        return f"written as {re.sub('%(.)', _digits_of, self.form)}"

    def write(self, time: pd.Index) -> pd.Index:
        assert isinstance(time, pd.DatetimeIndex)
        return _of_type(time.strftime(self.form).astype(np.int64), self.dtype, time.name)


@dataclass(frozen=True)
class Weeks(Notation):
    """ISO weeks as one number, such as 202052."""

    @property
    def reading(self) -> str:
        return "yyyyww"

    @property
    def words(self) -> str:
        return "written as yyyyww"

    def write(self, time: pd.Index) -> pd.Index:
        assert isinstance(time, pd.DatetimeIndex)
        days = time.isocalendar()
        return _of_type((days["year"] * 100 + days["week"]).to_numpy(np.int64), self.dtype, time.name)


def _digits_of(code: re.Match) -> str:
    return {"Y": "yyyy", "y": "yy", "m": "mm", "d": "dd", "H": "HH", "M": "MM", "S": "SS"}[code[1]]


@dataclass(frozen=True)
class Unix(Notation):
    """Seconds (or thousandths, millionths, ...) since 1970."""

    unit: str = "s"

    @property
    def reading(self) -> str:
        return f"unix {self.unit}"

    @property
    def words(self) -> str:
        return f"Unix time in {self.unit}, read in UTC"

    def write(self, time: pd.Index) -> pd.Index:
        assert isinstance(time, pd.DatetimeIndex)
        return _of_type(time.as_unit("ns").asi8 // NANOSECONDS[self.unit], self.dtype, time.name)


@dataclass(frozen=True)
class Periods(Notation):
    """pandas' periods."""

    frequency: str = "D"

    def write(self, time: pd.Index) -> pd.Index:
        assert isinstance(time, pd.DatetimeIndex)
        return time.to_period(self.frequency)


@dataclass(frozen=True)
class Dates(Notation):
    """Objects of `datetime.date`."""

    def write(self, time: pd.Index) -> pd.Index:
        return pd.Index([moment.date() for moment in time], dtype=object, name=time.name)


@dataclass(frozen=True)
class Durations(Notation):
    """pandas' time deltas, counted in a unit."""

    unit: str = "ns"

    def write(self, time: pd.Index) -> pd.Index:
        return pd.TimedeltaIndex(time.to_numpy().astype(f"timedelta64[{self.unit}]"), name=time.name)


@dataclass(frozen=True)
class Text(Notation):
    """Text like a sample, each part in its place."""

    sample: str = ""
    parts: tuple[tuple[str, int, int], ...] = ()
    """Name, start and end of each part of the sample, in their order."""
    padded: bool = True
    """Numbers of one digit have a zero before them."""
    order: str = ""
    """`dmy`, `mdy` or `ymd` where numbers alone do not tell the day from the month."""
    note: str = ""
    inner: Notation | None = None
    """Of digits that are read as a number."""

    @property
    def reading(self) -> str:
        return self.order if self.inner is None else self.inner.reading

    @property
    def words(self) -> str:
        order = {"dmy": "day first", "mdy": "month first", "ymd": "year first"}.get(self.order, "")
        return ", ".join(filter(None, (order, self.note, self.inner.words if self.inner else "")))

    def write(self, time: pd.Index) -> pd.Index:
        if self.inner is not None:
            return pd.Index([str(number) for number in self.inner.write(time)], dtype=object, name=time.name)
        return pd.Index([self._text(moment) for moment in time], dtype=object, name=time.name)

    def _text(self, moment: Any) -> str:
        twelve = any(name == "half" for name, _, _ in self.parts)
        by_week = any(name == "week" for name, _, _ in self.parts)
        pieces, end = [], 0
        for name, start, stop in self.parts:
            part = self.sample[start:stop]
            pieces += [self.sample[end:start], self._part(name, part, moment, twelve, by_week)]
            end = stop
        return "".join([*pieces, self.sample[end:]])

    def _part(self, name: str, part: str, moment: Any, twelve: bool, by_week: bool) -> str:
        match name:
            case "year":
                year = moment.isocalendar().year if by_week else moment.year
                return f"{year % 100:02d}" if len(part) == 2 else f"{year:04d}"
            case "monthname":
                return _like(part, calendar.month_abbr[moment.month], calendar.month_name[moment.month])
            case "dayname":
                return _like(part, calendar.day_abbr[moment.weekday()], calendar.day_name[moment.weekday()])
            case "minute" | "second":
                return f"{getattr(moment, name):02d}"
            case "fraction":
                return f"{moment.microsecond:06d}{moment.nanosecond:03d}"[: len(part)]
            case "half":
                half = "AM" if moment.hour < 12 else "PM"
                half = half if "." not in part else f"{half[0]}.M."
                return half.lower() if part.islower() else half
            case "zone":
                return _zone(part, moment)
        number = {
            "quarter": (moment.month - 1) // 3 + 1,
            "weekday": moment.isoweekday(),
            "month": moment.month,
            "day": moment.day,
            "hour": (moment.hour - 1) % 12 + 1 if twelve else moment.hour,
        }
        value = moment.isocalendar().week if name == "week" else number[name]
        return f"{value:02d}" if self.padded and name not in ("quarter", "weekday") else str(value)


def _like(part: str, short: str, long: str) -> str:
    """A name as long as the sample's, in its capitals."""
    name = short if len(part) == 3 else long
    return name.upper() if part.isupper() else name.lower() if part.islower() else name


def _zone(part: str, moment: Any) -> str:
    offset = moment.utcoffset()
    if part in ("Z", "UTC", "GMT") and not offset:
        return part
    minutes = int(offset.total_seconds()) // 60
    colon = "" if re.fullmatch(r"[+-]\d{4}", part) else ":"
    return f"{'-' if minutes < 0 else '+'}{abs(minutes) // 60:02d}{colon}{abs(minutes) % 60:02d}"


def _of_type(values: Any, dtype: np.dtype | None, name: object = None) -> pd.Index:
    """Numbers in the type that came, or in the next wider one where they do not fit."""
    index = pd.Index(values, name=getattr(values, "name", name))
    if dtype is None or index.dtype == dtype:
        return index
    cast = index.to_numpy().astype(dtype)
    return pd.Index(cast, name=index.name) if (cast == index.to_numpy()).all() else index
