"""Times that are written as text: which form they have, and what they mean in each order that it leaves open."""

from __future__ import annotations

import calendar
import re
from dataclasses import replace

import numpy as np
import pandas as pd

from linmap.data.timeseries import numbers
from linmap.data.timeseries.notation import Text
from linmap.errors import DataError

CLOCK = (
    r"(?:(?:[T,]|\s)\s*(?P<hour>\d{1,2})(?::?(?P<minute>\d{2})(?::?(?P<second>\d{2})(?:[.,](?P<fraction>\d{1,9}))?)?)?"
    r"(?:\s*(?P<half>[AaPp]\.?[Mm]\.?))?\s*(?P<zone>Z|UTC|GMT|[+-]\d{2}(?::?\d{2})?)?)?"
)
YEAR = r"(?P<year>\d{4}|\d{2})"
NAME = r"(?P<monthname>[A-Za-z]{3,9})\.?"
WEEKDAY = r"(?:(?P<dayname>[A-Za-z]{3,9}),?\s+)?"
FORMS = [
    r"(?P<year>\d{4})(?P<sep>[-/. ])(?P<month>\d{1,2})(?P=sep)(?P<day>\d{1,2})" + CLOCK,
    r"(?P<year>\d{4})(?P<month>\d{2})(?P<day>\d{2})" + CLOCK,
    r"(?P<year>\d{4})(?:[-/. ]|[-/ ]?[Mm])(?P<month>\d{1,2})",
    r"(?P<month>\d{1,2})[-/. ](?P<year>\d{4})",
    r"(?P<year>\d{4})[-/ .:]?[Qq](?P<quarter>[1-4])",
    rf"[Qq](?P<quarter>[1-4])[-/ .']?{YEAR}",
    rf"(?P<quarter>[1-4])[Qq][-/ .']?{YEAR}",
    r"(?P<year>\d{4})[- ]?[Ww](?P<week>\d{1,2})(?:-?(?P<weekday>[1-7]))?",
    r"(?P<one>\d{1,2})(?P<sep>[-/. ])(?P<two>\d{1,2})(?P=sep)(?P<three>\d{4}|\d{2})" + CLOCK,
    rf"{WEEKDAY}(?P<day>\d{{1,2}})[-/. ]*{NAME}[-/., ]*{YEAR}" + CLOCK,
    rf"{WEEKDAY}{NAME}[-/. ]*(?P<day>\d{{1,2}})(?:,\s*|[-/. ]+)(?P<year>\d{{4}})" + CLOCK,
    rf"{NAME}[-/.,' ]*{YEAR}",
    rf"(?P<year>\d{{4}})[-/. ]*{NAME}(?:[-/. ]*(?P<day>\d{{1,2}}))?",
]
ORDERS = {"dmy": ("day", "month", "year"), "mdy": ("month", "day", "year"), "ymd": ("year", "month", "day")}
MONTH_NAMES = {
    name.lower(): month
    for names in (calendar.month_abbr, calendar.month_name)
    for month, name in enumerate(names)
    if name
} | {"sept": 9}
ZONE = r"(Z|UTC|GMT|[+-]\d{2}(?::?\d{2})?)$"
CODES = {
    "year": "%Y",
    "month": "%m",
    "day": "%d",
    "hour": "%H",
    "minute": "%M",
    "second": "%S",
    "fraction": "%f",
}
BLOCK = 1_000  # texts that the slow way reads at once
CLOCK_ALONE = re.compile(r"\d{1,2}:\d{2}(:\d{2}([.,]\d+)?)?\s*([AaPp]\.?[Mm]\.?)?")
WORD_AND_YEAR = re.compile(r"[^\W\d_]{3,}.*\d\d|\d\d.*[^\W\d_]{3,}")
PIVOT = 69  # two digits from here on are of the last century, as POSIX has it


def is_clock_alone(cell: object) -> bool:
    """Whether a cell is a time of day without a date."""
    return isinstance(cell, str) and CLOCK_ALONE.fullmatch(cell.strip().replace(".", ":")) is not None


def looks_like_time(text: str) -> bool:
    """Whether one text has a form of dates."""
    text = text.strip()
    if CLOCK_ALONE.fullmatch(text) or any(re.fullmatch(form, text) for form in FORMS if "monthname" not in form):
        return True
    matches = (re.fullmatch(form, text) for form in FORMS if "monthname" in form)
    return any(match["monthname"].lower() in MONTH_NAMES for match in matches if match)


def readings(column: pd.Series, name: object) -> list[numbers.Reading]:
    """What a column of text may mean: one reading, or one for each order of day, month and year that all rows allow.

    Raises
    ------
    DataError
        If a row has no form of the first row; the message names it.
    """
    codes, kinds = pd.factorize(column.astype(str).str.strip())
    text, first = pd.Series(kinds), str(kinds[0])  # each once: in a panel, times come again and again
    if text.str.fullmatch(r"[1-9]\d{0,17}").all():
        found = numbers.readings(text.astype(np.int64).to_numpy()[codes], np.dtype(np.int64), column.name)
        return [(index, Text(inner=notation)) for index, notation in found]
    if CLOCK_ALONE.fullmatch(first):
        raise DataError(
            f"column {name!r} holds times of day without a date ({first!r}); put date and time into one column."
        )
    worst = 0
    for form in FORMS:
        if re.fullmatch(form, first):
            found, unread = _in_each_order(text, form, name)
            if found:
                return [(index.take(codes).rename(column.name), notation) for index, notation in found]
            worst = max(worst, unread)
    row = int(np.flatnonzero(codes == worst)[0])
    like = f" (row 0 holds {first!r:.80})" if row else ""
    cell = str(column.iloc[row])
    how = (
        "; names of months are read in English alone: write numbers, as 2024-03-01"
        if WORD_AND_YEAR.search(cell)
        else ""
    )
    raise DataError(f"column {name!r}, row {row}: {cell!r:.80} is not a timestamp{like}{how}.")


def _in_each_order(text: pd.Series, form: str, name: object) -> tuple[list[numbers.Reading], int]:
    """The readings of one form in all orders that fit, and the first row that fits none."""
    lengths = text.str.len()
    sample = re.fullmatch(form, str(text[lengths.idxmax()]))  # the longest, for midnights may lack their time
    if sample is None:
        return [], int(lengths.idxmax())
    orders = [""]
    if "one" in sample.re.groupindex:
        orders = ["dmy", "mdy"] if len(sample["three"]) == 4 else ["dmy", "mdy", "ymd"]
    found, unread = [], 0
    for order in orders:
        names: dict[str, str] = dict(zip(("one", "two", "three"), ORDERS[order], strict=True)) if order else {}
        moments = _parsed(text, form, sample, names)
        bad = np.flatnonzero(np.isnat(moments))
        if len(bad):
            unread = max(unread, int(bad[0]))
            continue
        zones = text.str.extract(ZONE)[0] if sample.groupdict().get("zone") else None
        index, note = _zoned(pd.DatetimeIndex(moments), zones, name)
        shortest = re.fullmatch(form, str(text[lengths.idxmin()]))
        notation = replace(_notation(sample, shortest, names), order=order, note=note)
        found.append((index, notation if index.tz is not None else _without_zone(notation)))
    return found, unread


def _parsed(text: pd.Series, form: str, sample: re.Match, names: dict[str, str]) -> np.ndarray:
    """datetime64[us], local; NaT where a text is no time. Texts like the sample take pandas' fast way."""
    moments = np.full(len(text), np.datetime64("NaT", "us"))
    pattern = _pattern(sample, names)
    if pattern is not None:
        moments = pd.to_datetime(text, format=pattern, errors="coerce").to_numpy().astype("datetime64[us]")
    left = np.flatnonzero(np.isnat(moments))
    for start in range(0, len(left), BLOCK):  # a block at a time: a wrong order of day and month shows in the first
        block = left[start : start + BLOCK]
        moments[block] = _moments(text.iloc[block].str.extract(f"^(?:{form})$").rename(columns=names))
        if np.isnat(moments[block]).any():
            break
    return moments


def _pattern(sample: re.Match, names: dict[str, str]) -> str | None:
    """The sample as `strptime` has it; None where that has no code for a part."""
    pieces, end = [], 0
    for name, start, stop in _spans(sample, names):
        code = "%y" if name == "year" and stop - start == 2 else CODES.get(name)
        if code is None:
            return None
        pieces += [sample.string[end:start].replace("%", "%%"), code]
        end = stop
    return "".join([*pieces, sample.string[end:].replace("%", "%%")])


def _spans(sample: re.Match, names: dict[str, str]) -> list[tuple[str, int, int]]:
    """The parts of a text, each under its own name, in their order."""
    parts = [name for name, part in sample.groupdict().items() if part is not None and name != "sep"]
    return sorted(((names.get(name, name), *sample.span(name)) for name in parts), key=lambda span: span[1])


def _moments(parts: pd.DataFrame) -> np.ndarray:
    """datetime64[us], local; NaT where there is no such day or hour."""

    def number(name: str, otherwise: int) -> np.ndarray:
        if name not in parts:
            return np.full(len(parts), otherwise)
        return pd.Series(pd.to_numeric(parts[name])).fillna(otherwise).to_numpy(np.int64)

    year = number("year", 1970)
    short = parts["year"].str.len().to_numpy() == 2
    year = np.where(short, year + np.where(year < PIVOT, 2000, 1900), year)
    month = number("month", 1)
    if "monthname" in parts:
        month = parts["monthname"].str.lower().map(MONTH_NAMES).fillna(0).to_numpy(np.int64)
    if "quarter" in parts:
        month = 3 * number("quarter", 1) - 2
    day = number("day", 1)
    start = ((year - 1970) * 12 + month - 1).astype("datetime64[M]")
    dates = start.astype("datetime64[D]") + (day - 1)
    valid = (
        parts["year"].notna().to_numpy()
        & (month >= 1)
        & (month <= 12)
        & (day >= 1)
        & (dates.astype("datetime64[M]") == start)
    )
    if "week" in parts:
        dates, in_year = _of_week(year, number("week", 1), number("weekday", 1))
        valid &= in_year
    hour, minute, second = number("hour", 0), number("minute", 0), number("second", 0)
    if "half" in parts:
        half = parts["half"].str.upper().str[0]
        valid &= half.isna().to_numpy() | ((hour >= 1) & (hour <= 12))
        hour = np.where(half.isna(), hour, hour % 12 + 12 * (half == "P"))
    valid &= (minute < 60) & (second < 60) & ((hour < 24) | ((hour == 24) & (minute == 0) & (second == 0)))
    seconds = (hour * 60 + minute) * 60 + second
    moments = dates.astype("datetime64[us]") + seconds.astype("timedelta64[s]")
    if "fraction" in parts:
        digits = parts["fraction"].fillna("0").str.ljust(6, "0").str[:6]
        moments = moments + digits.astype(np.int64).to_numpy().astype("timedelta64[us]")
    return np.where(valid, moments, np.datetime64("NaT"))


def _of_week(year: np.ndarray, week: np.ndarray, weekday: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Days of ISO weeks; the first week of a year holds January 4th."""
    fourth = (year - 1970).astype("datetime64[Y]").astype("datetime64[D]") + 3
    monday = fourth - (fourth.astype(np.int64) + 3) % 7
    thursday = monday + 7 * (week - 1) + 3
    valid = (week >= 1) & (thursday.astype("datetime64[Y]").astype(np.int64) + 1970 == year)
    return monday + 7 * (week - 1) + weekday - 1, valid


def _zoned(local: pd.DatetimeIndex, zones: pd.Series | None, name: object) -> tuple[pd.DatetimeIndex, str]:
    """Local times in their zone: one offset is kept, several are read in UTC, or as the clock on the wall shows them
    where that is regular and UTC is not (days and months that begin at local midnight)."""
    from linmap.data.timeseries.steps import step_of

    if zones is None or zones.isna().all():
        return local, ""
    if zones.isna().any():
        row = int(np.flatnonzero(zones.isna())[0])
        raise DataError(f"column {name!r}, row {row} has no offset from UTC, others have; write all times alike.")
    kinds = zones.unique()
    minutes = zones.map({kind: _minutes(kind) for kind in kinds}).to_numpy(np.int64)
    utc = pd.DatetimeIndex(local.to_numpy() - minutes.astype("timedelta64[m]"), tz="UTC", name=local.name)
    if (minutes == minutes[0]).all():
        hour, minute = divmod(abs(minutes[0]), 60)
        sign = "-" if minutes[0] < 0 else "+"
        return utc.tz_convert(f"{sign}{hour:02d}:{minute:02d}" if minutes[0] else "UTC"), ""
    if step_of(local) is not None and (step_of(utc) is None or _one_time_of_day(local) > _one_time_of_day(utc)):
        return local, "offsets from UTC change, read as local time"
    return utc, "offsets from UTC change, read in UTC"


def _one_time_of_day(time: pd.DatetimeIndex) -> bool:
    return len((time - time.normalize()).unique()) == 1


def _minutes(zone: str) -> int:
    if zone in ("Z", "UTC", "GMT"):
        return 0
    digits = zone[1:].replace(":", "")
    minutes = int(digits[:2]) * 60 + int(digits[2:] or 0)
    return -minutes if zone[0] == "-" else minutes


def _notation(sample: re.Match, shortest: re.Match | None, names: dict[str, str]) -> Text:
    """How such texts are written; the shortest one tells whether one digit has a zero before it."""
    numeric = [
        match.group(name)
        for match in (sample, shortest)
        if match is not None
        for name in ("month", "day", "hour", "week", "one", "two")
        if match.groupdict().get(name)
    ]
    padded = all(len(part) == 2 for part in numeric)
    return Text(sample=sample.string, parts=tuple(_spans(sample, names)), padded=padded)


def _without_zone(notation: Text) -> Text:
    """The same text without its offset from UTC, for times that are read as local ones."""
    start = next((start for name, start, _ in notation.parts if name == "zone"), len(notation.sample))
    parts = tuple(part for part in notation.parts if part[0] != "zone")
    return replace(notation, sample=notation.sample[:start].rstrip(), parts=parts)
