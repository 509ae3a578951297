"""Figures for readers: rounded as stated, and never a number that was not measured."""

import math
import re

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from linmap.experiment.result import Metric, Row
from linmap.report.numbers import aligned, any_value, count, duration, mean_and_spread, number

UNITS = {"ms": 1e-3, "s": 1.0, "min": 60.0, "h": 3600.0}
PREFIXES = {"": 1.0, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15}


def read(text: str) -> float:
    return float(text.replace("−", "-").replace(",", ""))


@given(st.floats(-1e9, 1e9), st.integers(0, 8))
def test_a_number_is_within_half_a_unit_of_its_last_digit(value, digits):
    text = number(value, digits)
    assert abs(read(text) - value) <= 0.5000001 * 10.0**-digits + 1e-9 * abs(value)
    assert len(text.partition(".")[2]) == digits
    assert "-" not in text


@given(st.integers(-(10**17), 10**17))
def test_a_count_keeps_three_significant_digits(value):
    text, _, prefix = count(value).partition(" ")
    assert math.isclose(read(text) * PREFIXES[prefix], value, rel_tol=5.01e-3, abs_tol=1e-9)
    assert abs(read(text)) < 1000


@given(st.floats(0, 1e6))
def test_a_duration_is_right_to_half_a_percent_or_half_a_minute_of_hours(seconds):
    parts = re.findall(r"([\d.e+-]+) (\w+)", duration(seconds))
    total = sum(float(value) * UNITS[unit] for value, unit in parts)
    tolerance = 60 if "h" in duration(seconds) else max(0.5 if seconds > 99 else 0, 5.1e-3 * seconds)
    assert abs(total - seconds) <= tolerance + 1e-9


@pytest.mark.parametrize("text", [number, count, duration, any_value])
@pytest.mark.parametrize("value", [None, math.nan])
def test_what_was_not_measured_is_a_dash(text, value):
    assert text(value) == "—"


@given(st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=4))
def test_the_spread_is_shown_with_more_than_one_seed(values):
    assume(len(set(values)) == len(values))
    row = Row("r", "system", {"a": values})
    text = mean_and_spread(row, Metric("a", digits=2))
    assert text.startswith(number(row.mean("a"), 2))
    assert (" ± " in text) == (len(values) > 1)


def test_examples():
    assert (count(4_518_944), count(999), count(999_600), count(0)) == ("4.52 M", "999", "1.00 M", "0")
    assert (duration(0.0123), duration(12.34), duration(150), duration(3720)) == (
        "12.3 ms",
        "12.3 s",
        "2 min 30 s",
        "1 h 2 min",
    )
    assert (any_value(1.4), any_value(23456.7), any_value(1234.0), any_value(2e-6)) == (
        "1.4",
        "23,457",
        "1234",
        "2e−06",
    )
    assert (any_value("x"), any_value(12345), any_value(-0.12345), any_value(True)) == (
        "x",
        "12,345",
        "−0.1235",
        "True",
    )


@given(st.lists(st.none() | st.integers(0, 9) | st.floats(-1e3, 1e3) | st.just("text"), max_size=5))
def test_a_column_has_the_same_digits_throughout_and_loses_none(values):
    texts = aligned(values)
    places = [
        len(t.partition(".")[2]) for v, t in zip(values, texts, strict=True) if isinstance(v, float) and "e" not in t
    ]
    assert len(set(places)) <= 1
    for value, text in zip(values, texts, strict=True):
        assert len(text) >= len(any_value(value))
        if isinstance(value, float) and "e" not in text:
            assert abs(read(text) - value) <= 5.1e-4 * abs(value) + 1e-12
        else:
            assert text == any_value(value)


def test_a_column_of_floats_lines_up():
    assert aligned([1.4, 2.786, 10.01, "n"]) == ["1.400", "2.786", "10.010", "n"]
