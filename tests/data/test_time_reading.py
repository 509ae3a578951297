"""How times are read and written: every usual form, what leaves a choice open, and what is no time."""

import contextlib
import datetime
import math
from typing import Any, cast

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from linmap.data.timeseries import Clock, TimeSeries
from linmap.errors import DataError

AHEAD = 3


def series_of(times: Any, name: str = "date", **options: Any) -> TimeSeries:
    column = times if isinstance(times, pd.Index | np.ndarray | pd.Categorical) else list(times)
    return TimeSeries.from_frame(
        pd.DataFrame({name: column, "y": np.arange(float(len(column)))}),
        **options,
    )


def ahead(series: TimeSeries, steps: int = AHEAD) -> pd.Series:
    """The times that follow, as the table would write them."""
    zeros = np.zeros((steps, len(series.variates)))
    return pd.Series(series.frame(zeros, series.future(steps)).iloc[:, 0])


# -- text --------------------------------------------------------------------------------------------------------------

DATES = "%Y-%m-%d", "%Y/%m/%d", "%d.%m.%Y", "%d/%m/%Y", "%m/%d/%Y", "%d-%m-%Y", "%d/%m/%y", "%d.%m.%y", "%y-%m-%d"
OTHER_DATES = "%d-%b-%y", "%d %B %Y", "%b %d, %Y", "%a, %d %b %Y", "%Y%m%d", "%G-W%V-%u"
MONTHS = "%Y-%m", "%m/%Y", "%b-%y", "%B %Y", "%YM%m", "%Y%m"
HOURS = "%Y-%m-%d %H:%M", "%Y-%m-%dT%H:%M:%SZ", "%Y%m%dT%H%M", "%d/%m/%Y %I:%M %p"
OTHER_TIMES = {
    "%d.%m.%Y %H:%M": "15min",
    "%m/%d/%Y %H:%M:%S": "30s",
    "%Y-%m-%d %H:%M:%S.%f": "250ms",
    "%G-W%V": "W-MON",
}
FORMS = dict.fromkeys(DATES + OTHER_DATES, "D") | dict.fromkeys(MONTHS, "MS") | dict.fromkeys(HOURS, "h") | OTHER_TIMES


@settings(max_examples=25, deadline=None)
@given(
    form=st.sampled_from(sorted(FORMS)),
    start=st.datetimes(datetime.datetime(1971, 1, 1), datetime.datetime(2060, 1, 1)),
    rows=st.integers(40, 90),
)
def test_text_is_read_and_continued_as_it_is_written(form: str, start: datetime.datetime, rows: int) -> None:
    start = start.replace(hour=0, minute=0, second=0, microsecond=0)
    if FORMS[form] in ("h", "15min", "30s", "250ms"):
        start = start.replace(day=max(start.day, 13))  # few days: any of the first twelve may be a month
    time = pd.date_range(start, periods=rows + AHEAD, freq=FORMS[form])
    text = [moment.strftime(form) for moment in time]
    series = series_of(text[:rows])
    assert [str(moment)[:19] for moment in series.time] == [str(moment)[:19] for moment in time[:rows]]
    assert ahead(series).to_list() == text[rows:]


@settings(max_examples=25, deadline=None)
@given(year=st.integers(1700, 2199), rows=st.integers(4, 40), before=st.booleans())
def test_quarters_are_read_and_continued(year: int, rows: int, before: bool) -> None:
    text = [f"Q{i % 4 + 1} {year + i // 4}" if before else f"{year + i // 4}Q{i % 4 + 1}" for i in range(rows + AHEAD)]
    series = series_of(text[:rows])
    assert pd.DatetimeIndex(series.time).month[1] == 4
    assert ahead(series).to_list() == text[rows:]


def test_digits_without_zeros_stay_without() -> None:
    time = pd.date_range("2020-01-01", periods=43)
    text = [f"{day.month}/{day.day}/{day.year}" for day in time]
    assert ahead(series_of(text[:40])).to_list() == text[40:]


def test_midnights_may_lack_their_time_and_may_be_called_24() -> None:
    time = pd.date_range("2020-01-31", periods=51, freq="h")
    bare = [str(moment).removesuffix(" 00:00:00") for moment in time]
    assert list(series_of(bare[:48]).time) == list(time[:48])
    assert ahead(series_of(bare[:50]), 1).to_list() == bare[50:]
    german = [moment.strftime("%d.%m.%Y %H:%M").removesuffix(" 00:00") for moment in time]
    assert list(series_of(german).time) == list(time)
    ends = [f"2020-02-28 {hour:02d}:00" for hour in range(1, 25)] + [f"2020-02-29 {hour:02d}:00" for hour in (1, 2)]
    assert list(series_of(ends).time) == list(pd.date_range("2020-02-28 01:00", periods=26, freq="h"))


# -- day and month -----------------------------------------------------------------------------------------------------


def test_the_data_tell_day_from_month() -> None:
    firsts = [f"01/{month:02d}/2020" for month in range(1, 13)]
    assert list(series_of(firsts).time)[1] == pd.Timestamp("2020-02-01")  # twelve months, not twelve days of January
    assert list(series_of([f"{month:02d}/01/2020" for month in range(1, 13)]).time)[1] == pd.Timestamp("2020-02-01")
    german = [day.strftime("%d.%m.%Y") for day in pd.date_range("2020-01-01", periods=12)]
    assert list(series_of(german).time)[1] == pd.Timestamp("2020-01-02")  # points are never month first
    assert "day first" in series_of(firsts).describe()


def test_what_stays_open_is_refused_until_it_is_said() -> None:
    text = [f"05/{month:02d}/2020" for month in range(1, 10)]  # the fifth of each month, or nine days of May
    with pytest.raises(DataError, match=r"does not tell the day from the month; .*dayfirst=True or monthfirst=True"):
        series_of(text)
    assert ahead(series_of(text, dayfirst=True), 1).to_list() == ["05/10/2020"]
    assert series_of(text, dayfirst=True).future(1)[0] == pd.Timestamp("2020-10-05")
    assert series_of(text, monthfirst=True).future(1)[0] == pd.Timestamp("2020-05-10")
    clock = series_of([f"05/{month:02d}/{year}" for year in (2020, 2021) for month in range(1, 13)]).clock
    assert list(series_of(text, like=clock).time)[1] == pd.Timestamp("2020-02-05")  # as the model's table was
    with pytest.raises(DataError, match="cannot be read day first; leave dayfirst=True out"):
        series_of([day.strftime("%m/%d/%Y") for day in pd.date_range("2020-01-01", periods=40)], dayfirst=True)
    with pytest.raises(ValueError, match="exclude each other"):
        series_of(text, dayfirst=True, monthfirst=True)


# -- numbers -----------------------------------------------------------------------------------------------------------


@given(
    form=st.sampled_from(["%Y%m", "%Y%m%d", "%Y%m%d%H", "%Y%m%d%H%M", "%y%m%d"]),
    start=st.dates(datetime.date(2010, 1, 1), datetime.date(2040, 1, 1)),
    dtype=st.sampled_from([np.int64, np.float64, np.uint64]),
)
def test_dates_in_digits_are_a_calendar(form: str, start: datetime.date, dtype: type) -> None:
    freq = {"m": "MS", "d": "D", "H": "h", "M": "15min"}[form[-1]]
    time = pd.date_range(start, periods=60 + AHEAD, freq=freq)
    numbers = np.array([int(moment.strftime(form)) for moment in time]).astype(dtype)
    series = series_of(numbers[:60])
    assert list(series.time) == list(time[:60])
    np.testing.assert_array_equal(ahead(series), numbers[60:])
    assert ahead(series).dtype == dtype


@given(
    start=st.dates(datetime.date(2010, 1, 1), datetime.date(2040, 1, 1)),
    dtype=st.sampled_from([np.int64, np.float64, np.uint64]),
)
def test_weeks_in_digits_go_on_in_the_next_year(start: datetime.date, dtype: type) -> None:
    time = pd.date_range(start, periods=60 + AHEAD, freq="W-MON")
    weeks = time.isocalendar()
    numbers = (weeks["year"] * 100 + weeks["week"]).to_numpy(np.int64).astype(dtype)
    series = series_of(numbers[:60])
    assert list(series.time) == list(time[:60])
    np.testing.assert_array_equal(ahead(series), numbers[60:])
    assert ahead(series).dtype == dtype


def test_weeks_of_one_year_are_weeks_where_they_are_called_so() -> None:
    assert ahead(series_of(np.arange(202030, 202053), "week")).to_list() == [202053, 202101, 202102]
    assert ahead(series_of(np.arange(202030, 202053), "ds")).to_list() == [202053, 202054, 202055]


@pytest.mark.parametrize("form", ["%d%m%Y", "%m%d%Y"])
def test_dates_in_digits_may_begin_with_the_day_or_the_month(form: str) -> None:
    days = pd.date_range("2018-01-05", periods=60 + AHEAD)
    numbers = days.strftime(form).astype(np.int64)
    series = series_of(numbers[:60].to_numpy())
    assert list(series.time) == list(days[:60])
    assert ahead(series).to_list() == numbers[60:].to_list()


@given(
    unit=st.sampled_from(["s", "ms", "us", "ns"]),
    start=st.integers(400_000_000, 4_000_000_000),
    freq=st.sampled_from(["h", "D", "MS", "15min", "s"]),
)
def test_unix_time_is_a_calendar(unit: str, start: int, freq: str) -> None:
    time = pd.date_range(pd.Timestamp(start, unit="s"), periods=40 + AHEAD, freq=freq).as_unit(cast("Any", unit))
    series = series_of(time.asi8[:40], "timestamp")
    assert list(series.time) == list(time[:40])
    np.testing.assert_array_equal(ahead(series), time.asi8[40:])


@given(
    start=st.integers(-3000, 3000),
    step=st.sampled_from([0.01, 0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 1 / 12]),
    rows=st.integers(5, 200),
)
def test_other_numbers_are_a_plain_axis(start: int, step: float, rows: int) -> None:
    numbers = np.round(start + step * np.arange(rows + AHEAD), 6)
    series = series_of(numbers[:rows], "time")
    np.testing.assert_allclose(ahead(series), numbers[rows:], rtol=0, atol=2e-6)
    assert "1970" not in str(series.time[0]) or start == 1970


def test_years_are_years() -> None:
    for dtype in (np.int64, np.float64, np.int16):
        series = series_of(np.arange(1871, 1971).astype(dtype), "year")
        assert ahead(series).to_list() == [1971, 1972, 1973]
        assert ahead(series).dtype == dtype
        assert series.describe() == "1871 to 1970, yearly"


def test_unsigned_numbers_that_go_back_are_refused() -> None:
    for dtype in (np.uint8, np.uint32, np.uint64):
        with pytest.raises(DataError, match="goes back behind"):
            series_of(np.array([5, 4, 3, 2, 1], dtype), "time")


# -- types of pandas and Python ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("frequency", ["M", "Q", "Q-MAR", "Y", "W-SUN", "D", "h"])
def test_periods_come_back_as_periods(frequency: str) -> None:
    periods = pd.period_range("2020-01-06", periods=20, freq=frequency)
    assert ahead(series_of(periods[:17])).to_list() == list(periods[17:])
    indexed = TimeSeries.from_frame(pd.DataFrame({"y": np.arange(17.0)}, index=periods[:17]))
    assert list(indexed.frame(np.zeros((3, 1)), indexed.future(3)).index) == list(periods[17:])


def test_dates_durations_and_categories_come_back_as_such() -> None:
    days = [day.date() for day in pd.date_range("2020-02-20", periods=20)]
    assert ahead(series_of(days[:17])).to_list() == days[17:]
    spans = pd.timedelta_range("0s", periods=20, freq="15min")
    assert ahead(series_of(spans[:17], "time")).to_list() == list(spans[17:])
    text = [str(day) for day in days]
    assert ahead(series_of(pd.Categorical(text[:17]))).to_list() == text[17:]


def test_offsets_over_a_clock_change_are_read_in_utc() -> None:
    hours = pd.date_range("2022-10-28", periods=103, freq="h", tz="Europe/Amsterdam")
    series = series_of([str(hour) for hour in hours[:100]])
    assert list(series.time) == list(hours[:100].tz_convert("UTC"))
    assert ahead(series).to_list() == [str(hour) for hour in hours[100:].tz_convert("UTC")]
    assert "read in UTC" in series.describe()


def test_days_that_begin_at_local_midnight_stay_days() -> None:
    days = pd.date_range("2022-10-28", periods=13, freq="D", tz="Europe/Amsterdam")
    series = series_of([str(day) for day in days[:10]])
    assert list(series.time) == list(days[:10].tz_localize(None))
    assert "read as local time" in series.describe()
    zoned = series_of(days[:10])
    assert list(zoned.future(3)) == list(days[10:])


def test_months_that_begin_at_local_midnight_stay_months() -> None:
    months = pd.date_range("2022-01-01", periods=27, freq="MS", tz="Europe/Amsterdam")
    series = series_of([str(month) for month in months[:24]])
    assert list(series.time) == list(months[:24].tz_localize(None))
    assert list(series.future(3)) == list(months[24:].tz_localize(None))
    assert "monthly, month start" in series.describe()


# -- what is no time ---------------------------------------------------------------------------------------------------

REFUSED = {
    "clock alone": ([f"{hour:02d}:00" for hour in range(9)], "times of day without a date"),
    "no such day": (["2020-02-28", "2020-02-29", "2020-02-30"], "row 2: '2020-02-30' is not a timestamp"),
    "both orders": (["13/01/2020", "01/14/2020", "15/01/2020"], "row 1: '01/14/2020' is not a timestamp"),
    "months in German": (["Jan 2020", "Feb 2020", "Mrz 2020"], "row 2: 'Mrz 2020' is not.*read in English alone"),
    "months in French": (["janvier 2020", "février 2020", "mars 2020"], "row 0: 'janvier 2020' is not.*English alone"),
    "missing": ([1.0, np.nan, 3.0], "row 1: there is no time"),
    "offset missing": (
        ["2020-01-01 00:00+01:00", "2020-01-01 01:00", "2020-01-01 02:00+01:00"],
        "row 1 has no offset from UTC",
    ),
    "truth values": ([True, False, True], "holds bool values, which are no times"),
}


@pytest.mark.parametrize(("times", "message"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_told_is_refused(times: list, message: str) -> None:
    with pytest.raises(DataError, match=message):
        series_of(times)


# -- steps -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("frequency", "words"),
    [
        ("MS", "2015-01 to 2024-12, monthly, month start"),
        ("ME", "2015-01 to 2024-12, monthly, month end"),
        ("D", "2015-01-01 to 2015-04-30, daily"),
        ("W-SUN", "2015-01-04 to 2017-04-16, weekly, on Sundays"),
        ("15min", "2015-01-01 00:00 to 2015-01-02 05:45, every 15 minutes"),
        ("B", "2015-01-01 to 2015-06-17, every working day"),
        ("QS", "2015-01 to 2044-10, quarterly, quarter start"),
        ("YS", "2015 to 2134, yearly, year start"),
    ],
)
def test_an_axis_says_what_it_is(frequency: str, words: str) -> None:
    assert series_of(pd.date_range("2015-01-01", periods=120, freq=frequency)).describe() == words


@pytest.mark.parametrize("frequency", ["h", "D", "B", "W-WED", "MS", "ME", "QE", "YS", "90min", "mid-month"])
def test_a_known_step_needs_no_rows_to_show_it(frequency: str) -> None:
    offset = pd.DateOffset(months=1) if frequency == "mid-month" else frequency
    start = "2020-01-15" if frequency == "mid-month" else "2020-01-01"
    time = pd.date_range(start, periods=30, freq=offset)
    clock = Clock.from_json(series_of(time).clock.to_json())
    for rows in (1, 2, 3, 5):
        series = series_of(time[10 : 10 + rows], like=clock)
        assert list(series.future(4)) == list(time[10 + rows : 14 + rows])


@settings(max_examples=40, deadline=None)
@given(day=st.integers(2, 30), month=st.integers(1, 12), months=st.sampled_from([1, 2, 3, 6]), rows=st.integers(5, 20))
def test_months_go_on_by_their_day_where_they_have_it(day: int, month: int, months: int, rows: int) -> None:
    first = pd.Timestamp(2020, 1, day) + pd.DateOffset(months=month)
    days = [pd.Timestamp(2020, 1, day) + pd.DateOffset(months=month + months * i) for i in range(rows + 4)]
    assume(first.day == day or any(one.day == day for one in days[:rows]))
    assume(not all(one.is_month_end for one in days[:rows]))  # which goes on by month ends
    series = series_of(days[:rows])
    assert list(series.future(4)) == days[rows:]
    clock = Clock.from_json(series.clock.to_json())
    assert list(series_of(days[1:3], like=clock).future(2)) == days[3:5]


@example(months=[3, 5, 7], days=[30, 30, 30])  # a Sunday among them: two months apart, and no last working days
@example(months=[0, 1, 3], days=[19, 16, 20])  # third Fridays, one of which is missing
@settings(max_examples=100, deadline=None)
@given(
    months=st.lists(st.integers(0, 40), min_size=3, max_size=6, unique=True).map(sorted),
    days=st.lists(st.sampled_from([1, 2, 3, 15, 16, 20, 28, 29, 30, 31]), min_size=6, max_size=6),
)
def test_a_step_that_is_found_leads_to_every_row(months: list[int], days: list[int]) -> None:
    first = pd.Timestamp("2018-01-01")
    starts = [first + pd.DateOffset(months=month) for month in months]
    times = [one.replace(day=int(min(day, one.days_in_month))) for one, day in zip(starts, days, strict=False)]
    try:
        series = series_of(times)
    except DataError:
        return
    assert list(series.rows(0, 1).future(len(times) - 1)) == times[1:]


@settings(max_examples=40, deadline=None)
@given(
    zone=st.sampled_from(["Europe/Berlin", "America/St_Johns", "Australia/Lord_Howe", "America/Sao_Paulo"]),
    start=st.datetimes(datetime.datetime(2014, 1, 1), datetime.datetime(2018, 1, 1)),
    hour=st.sampled_from([0, 1.5, 2, 2.5, 3]),
    frequency=st.sampled_from(["D", "2D", "W-SUN", "B", "MS"]),
)
def test_days_keep_to_the_clock_of_their_zone(zone: str, start: datetime.datetime, hour: float, frequency: str) -> None:
    """Over hours that the clock shows twice or leaves out, as it was fitted on or as it is forecast."""
    local = pd.date_range(start.date(), periods=100, freq=frequency) + pd.Timedelta(hours=hour)
    time = local.tz_localize(zone, ambiguous=np.ones(100, bool), nonexistent="shift_forward")
    assume((time.tz_localize(None) == local)[:90].all())  # what was moved by a clock is no even axis
    series = series_of(time[:90])
    assert list(series.future(10)) == list(time[90:])
    late = local.tz_localize(zone, ambiguous=np.zeros(100, bool), nonexistent="shift_forward")
    assert series_of(late[:90]).step == series.step


@settings(max_examples=25, deadline=None)
@given(
    frequency=st.sampled_from(
        ["h", "D", "B", "MS", "ME", "W-WED", "QE", "YE", "2BME", "30th", "WOM-3FRI", "2LWOM-FRI"]
    ),
    missing=st.sets(st.integers(2, 57), min_size=1, max_size=4),
)
def test_gaps_are_filled_on_request(frequency: str, missing: set[int]) -> None:
    offset = pd.DateOffset(months=2, day=30) if frequency == "30th" else frequency
    time = pd.date_range("2020-01-30" if frequency == "30th" else "2020-01-01", periods=60, freq=offset)
    kept = time.delete(sorted(missing))
    with pytest.raises(DataError, match="fill_gaps=True"):
        series_of(kept)
    with pytest.raises(DataError, match="nan_policy='ffill'"):
        series_of(kept, fill_gaps=True)
    series = series_of(kept, fill_gaps=True, nan_policy="ffill")
    assert list(series.time) == list(time)
    assert f"{len(missing)} missing row" in series.describe()


@given(
    start=st.integers(-2000, 2000),
    parts=st.sampled_from([1, 3, 4, 10, 12, 52]),
    digits=st.integers(3, 12),
    missing=st.sets(st.integers(1, 22), min_size=1, max_size=7),
)
def test_gaps_of_decimal_numbers_are_filled_with_what_would_stand_there(
    start: int, parts: int, digits: int, missing: set[int]
) -> None:
    """Also where no two steps are alike in their last digit."""
    times = [round(start + row / parts, digits) for row in range(24)]
    kept = [time for row, time in enumerate(times) if row not in missing]
    series = series_of(kept, fill_gaps=True, nan_policy="zero")
    assert set(kept) <= set(series.time)
    np.testing.assert_allclose(series.time.to_numpy(np.float64), times, rtol=0, atol=1.01 * 10.0**-digits)


@example(parts=12, more=0, gap=60, missing=0.0, seed=0)
@given(
    parts=st.sampled_from([4, 12, 24, 60, 365]),
    more=st.integers(0, 1),
    gap=st.integers(2, 100),
    missing=st.floats(0, 0.4),
    seed=st.integers(0, 99),
)
def test_long_gaps_between_numbers_of_few_digits_are_filled_with_the_rows_that_lack(
    parts: int, more: int, gap: int, missing: float, seed: int
) -> None:
    """A single step is known by its few digits; only many tell how often it fits into a long gap."""
    digits = math.ceil(math.log10(5 * parts)) + more  # half of the last one is a tenth of a step at most
    times = np.round(1950 + np.arange(600) / parts, digits)
    kept = np.random.default_rng(seed).random(600) >= missing
    kept[[0, 1, -1]] = True
    kept[250 : 250 + gap] = False
    series = series_of(times[kept], fill_gaps=True, nan_policy="zero")
    np.testing.assert_allclose(series.time.to_numpy(np.float64), times, rtol=0, atol=1.01 * 10.0**-digits)


@pytest.mark.parametrize("parts", [1, 4])
@pytest.mark.parametrize("name", ["year", "yr", "t", "step", "period", "Seconds", "t_ms", "Time (s)"])
@given(missing=st.sets(st.integers(2, 37), min_size=1, max_size=7))
def test_a_column_that_is_called_a_time_is_one_with_its_gaps_too(name: str, parts: int, missing: set[int]) -> None:
    whole = 1950 + np.arange(40) / parts if parts > 1 else np.arange(1950, 1990)
    kept = np.delete(whole, sorted(missing))
    series = series_of(kept, name, fill_gaps=True, nan_policy="zero")
    assert series.variates == ("y",)
    assert list(series.time) == list(series_of(whole, name).time)
    if name == "year":
        with pytest.raises(DataError, match="fill its gaps with fill_gaps=True"):
            series_of(kept, name)


@pytest.mark.parametrize("name", ["seconds", "Days", "t_s", "time_ms", "time [ms]", "Time (s)", " t (min)"])
@given(first=st.integers(-5, 5), parts=st.sampled_from([1, 4, 250, 256]), rows=st.integers(3, 30))
def test_a_time_with_its_unit_is_the_time(name: str, first: int, parts: int, rows: int) -> None:
    times = first + np.arange(rows) / parts if parts > 1 else np.arange(first, first + rows)
    series = series_of(times, name)
    assert series.variates == ("y",)
    assert series.time_name == name
    assert list(series.time) == list(times)


@pytest.mark.parametrize(
    "name", ["temperature (C)", "t_min", "t_max", "seconds lost", "(s)", "time (rank)", "index (2015)"]
)
def test_a_measure_with_its_unit_is_none(name: str) -> None:
    assert series_of(np.arange(9) / 4, name).variates == (name, "y")


def test_gaps_of_whole_numbers_are_filled_to_the_last_digit() -> None:
    first = 2**55 + 1  # beyond what decimals can tell apart, and no date
    series = series_of([first + 3 * row for row in range(9) if row != 4], fill_gaps=True, nan_policy="zero")
    assert series.time.tolist() == [first + 3 * row for row in range(9)]


# -- the ends of what can be told --------------------------------------------------------------------------------------

ENDS = st.one_of(st.integers(-(2**63), 2**63 - 1), st.floats(allow_nan=False, allow_infinity=False))


@example(times=[0, 1.1984620899082105e308], near=False)  # half a step more is infinite
@example(times=[0, -1.1984620899082105e308], near=False)  # and its distance from the first
@given(times=st.lists(ENDS, min_size=2, max_size=6, unique=True), near=st.booleans())
def test_numbers_of_any_size_are_read_continued_and_filled_or_refused(times: list[float], near: bool) -> None:
    times = [times[0] + i * 10.0 ** (i % 3) for i in range(len(times))] if near else sorted(times)
    with contextlib.suppress(DataError):
        ahead(series_of(times))
    with contextlib.suppress(DataError):
        series_of(times, fill_gaps=True, nan_policy="zero")


@given(
    last=st.sampled_from(["2262-04-11", "9999-12-31", "1677-09-22"]),
    unit=st.sampled_from(["s", "ms", "us", "ns"]),
    frequency=st.sampled_from(["D", "h", "ME", "MS", "B", "W-MON", "7D", "YE", "QS"]),
    steps=st.integers(1, 40),
)
def test_times_up_to_the_last_one_are_continued_and_filled_or_refused(
    last: str, unit: str, frequency: str, steps: int
) -> None:
    moment = pd.Timestamp(last)
    if unit == "ns" and last == "9999-12-31":
        return
    time = pd.date_range(end=moment.as_unit("us"), periods=6, freq=frequency).as_unit("us")
    if unit == "ns" and time.asi8[0] < -(2**63) // 1000 + 1:
        return
    time = time.as_unit(cast(Any, unit))
    with contextlib.suppress(DataError):
        series_of(time.delete(3), fill_gaps=True, nan_policy="zero")
    series = series_of(time)
    after = None
    with contextlib.suppress(DataError):
        after = series.future(steps)
    assert len(after) == steps if after is not None else unit == "ns"


def test_gaps_and_panels_that_memory_has_no_room_for_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LINMAP_MAX_GIB", "0.001")  # a megabyte
    for times, even in (
        ([0, 1, 2, 10**4, 10**5], 1),
        (pd.to_datetime([0, 1, 2, 10**4, 10**5], unit="s"), "0 days 00:00:01"),
    ):
        assert len(series_of(times[:4], fill_gaps=True, nan_policy="zero")) == 10**4 + 1
        with pytest.raises(DataError, match=f"in steps of {even} there are 1e.05 rows, which take more than"):
            series_of(times, fill_gaps=True, nan_policy="zero")
    count = int((0.001 * 2**30 / 24) ** 0.5)
    for more in (-1, 1):
        n = count + more
        panel = pd.DataFrame({"unique_id": [f"a{i}" for i in range(n)], "ds": range(n), "y": range(n)})
        if more < 0:
            assert len(TimeSeries.from_frame(panel, "zero")) == n
        else:
            with pytest.raises(DataError, match=r"series at .* times make a table of .* values"):
                TimeSeries.from_frame(panel, "zero")
