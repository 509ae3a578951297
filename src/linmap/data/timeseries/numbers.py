"""Times that are written as numbers: dates in digits, Unix time, years, or a plain axis."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd

from linmap.data.timeseries.notation import Digits, Notation, Unix, Weeks, Years

Reading = tuple[pd.Index, Notation]
YEARS = (1000, 2999)
FORMS = {14: ("%Y%m%d%H%M%S",), 12: ("%Y%m%d%H%M",), 10: ("%Y%m%d%H",), 8: ("%Y%m%d",), 6: ("%Y%m", "%y%m%d")}
DAY_OR_MONTH_FIRST = ("%d%m%Y", "%m%d%Y")
CALENDAR = (1700, 2200)  # years that dates in digits have; others are numbers that happen to look like dates
UNIX = {"s": (1e8, 4.2e9), "ms": (1e11, 4.2e12), "us": (1e14, 4.2e15), "ns": (1e17, 4.2e18)}  # 1973 to 2103


def readings(numbers: np.ndarray, dtype: np.dtype, name: object) -> Iterator[Reading]:
    """What a column of numbers may mean, the most telling first and the plain axis last.

    Parameters
    ----------
    numbers
        Finite; whole ones as int64.
    dtype
        Of the column, in which the times of a forecast come back.
    name
        Of the column.
    """
    whole = np.issubdtype(numbers.dtype, np.integer)
    low, high = numbers.min(), numbers.max()
    if whole and low > 0:
        if "week" in str(name).lower():
            yield from _weeks(numbers, dtype, name)
        width = len(str(high))
        for form in FORMS.get(width, ()) if len(str(low)) == width else ():
            dates = _dates(numbers, form)
            if dates is not None:
                yield pd.DatetimeIndex(dates, name=name), Digits(dtype, form)
        yield from _weeks(numbers, dtype, name)
        yield from _day_or_month_first(numbers, dtype, name)
        for unit, (least, most) in UNIX.items():
            if least <= low and high <= most:
                moments = numbers.astype(f"datetime64[{unit}]")
                yield pd.DatetimeIndex(moments, name=name), Unix(dtype, unit)
    years = whole and YEARS[0] <= low and high <= YEARS[1]
    yield pd.Index(numbers, name=name), Years(dtype) if years else Notation(dtype)


def _dates(numbers: np.ndarray, form: str) -> pd.DatetimeIndex | None:
    """The numbers as dates in digits; None where one is no date."""
    dates = pd.to_datetime(pd.Series(numbers.astype(str)), format=form, errors="coerce")
    if dates.isna().any() or not dates.dt.year.between(*CALENDAR).all():
        return None
    return pd.DatetimeIndex(dates)


def _weeks(numbers: np.ndarray, dtype: np.dtype, name: object) -> Iterator[Reading]:
    """Numbers as ISO weeks, such as 202052, where they go on in another year or are called so."""
    years = numbers // 100
    if not ((years >= CALENDAR[0]) & (years <= CALENDAR[1])).all():
        return
    if years[0] == years[-1] and "week" not in str(name).lower():
        return
    text = pd.Series(numbers.astype(str)).str.replace(r"(\d{4})(\d{2})", r"\1-\2-1", regex=True)
    mondays = pd.to_datetime(text, format="%G-%V-%u", errors="coerce")
    if not mondays.isna().any():
        yield pd.DatetimeIndex(mondays, name=name), Weeks(dtype)


def _day_or_month_first(numbers: np.ndarray, dtype: np.dtype, name: object) -> Iterator[Reading]:
    """Numbers as 31012020 or 1312020 where only the day, or only the month, can stand first."""
    text = pd.Series(numbers.astype(str)).str.zfill(8)
    if (text.str.len() != 8).any() or numbers.min() < 10**6:
        return
    found = [(pd.to_datetime(text, format=form, errors="coerce"), form) for form in DAY_OR_MONTH_FIRST]
    dated = [(dates, form) for dates, form in found if dates.dt.year.between(*CALENDAR).all()]
    if len(dated) == 1:
        yield pd.DatetimeIndex(dated[0][0], name=name), Digits(dtype, dated[0][1])


def is_calendar(notation: Notation, years: bool = True) -> bool:
    """Whether numbers were found to be dates or, where these count, years."""
    return isinstance(notation, Digits | Weeks | Unix) or (years and isinstance(notation, Years))
