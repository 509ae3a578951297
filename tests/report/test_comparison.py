"""The table of a comparison: all that was measured, the best marked, no empty budget columns."""

import math
import re
from dataclasses import dataclass, replace
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from linmap.experiment import conclude
from linmap.experiment.result import Check, Metric, Result, Row, Table
from linmap.experiment.verdict import verdict
from linmap.report.comparison import Comparison, Further, Summary, statements

Side = Literal["lower", "higher", "neither"]
KINDS = st.sampled_from(["system", "baseline", "ablation"])
rows = st.lists(
    st.tuples(
        st.text(max_size=5),
        KINDS,
        st.fixed_dictionaries({"a": st.lists(st.floats(-10, 10), min_size=1, max_size=2)}),
        st.none() | st.integers(0, 10),
        st.none(),
        st.none() | st.floats(0, 10),
    ),
    min_size=1,
    max_size=5,
)


def result(found: list[Row], better: Side = "lower", checks: list[Check] | None = None) -> Result:
    return Result("x", "", [Metric("a", better, "ms")], found, "", "", checks or [])


@dataclass(frozen=True)
class Flags:
    """Of no system."""


@given(rows)
def test_every_line_has_a_cell_for_every_column(found):
    found = [Row(*row) for row in found]
    table = Comparison.of(result(found))
    assert [line.name for line in table.lines] == [row.name for row in found]
    assert all(len(line.cells) == len(table.columns) for line in table.lines)
    budgets = [column.name for column in table.columns[1:]]
    measured = {"Parameters": "parameters", "FLOPs": "flops", "Time": "seconds"}
    assert budgets == [n for n, field in measured.items() if any(getattr(row, field) is not None for row in found)]


@given(rows)
def test_exactly_the_best_means_are_marked(found):
    found = [Row(*row) for row in found]
    table = Comparison.of(result(found))
    least = min(row.mean("a") for row in found)
    assert [line.cells[0].best for line in table.lines] == [row.mean("a") == least for row in found]
    assert not any(cell.best for line in table.lines for cell in line.cells[1:])


@pytest.mark.parametrize(
    ("ours", "theirs", "more", "certain"),
    [
        ([0.1, 0.12, 0.11], [0.9, 0.91, 0.92], [0.8, 0.8, 0.85], True),
        ([0.1, 0.12, 0.11], [0.9, 0.91, 0.92], [0.1, 0.13, 0.11], False),  # within chance of one of them
        ([0.1], [0.9], [0.9], False),  # one run tells nothing
        ([0.1, 0.12, 0.11], [0.9, 0.91], [0.8, 0.8, 0.85], False),  # no pairs
        ([0.1, 0.1], [0.1, 0.1], [0.8, 0.8], False),  # a tie
    ],
)
def test_the_best_value_has_a_colour_only_beyond_chance_of_every_other(ours, theirs, more, certain):
    rows = [Row("s", "system", {"a": ours}), Row("b", "baseline", {"a": theirs}), Row("v", "ablation", {"a": more})]
    rows.append(Row("r", "reference", {"a": [0.0] * len(ours)}))
    lines = Comparison.of(result(rows)).lines
    assert [line.cells[0].certain for line in lines] == [certain, False, False, False]
    assert lines[0].cells[0].best


def test_checks_have_a_colour_only_beyond_chance():
    def colour(*checks: tuple[bool, bool]) -> str:
        return Summary.of(result([], checks=[Check("", passed, "", "", sure) for passed, sure in checks])).checks_colour

    assert colour((True, True), (True, True)) == "good"
    assert colour((True, True), (True, False)) == ""
    assert colour((False, False), (True, True)) == ""
    assert colour((False, True), (True, False)) == "bad"


def test_columns_say_which_side_is_better():
    columns = [Comparison.of(result([], better)).columns[0] for better in ("lower", "higher", "neither")]
    assert [(c.name, c.arrow, c.words) for c in columns] == [
        ("a (ms)", "↓", "lower is better"),
        ("a (ms)", "↑", "higher is better"),
        ("a (ms)", "", ""),
    ]


@pytest.mark.parametrize(
    ("better", "system", "baseline", "difference", "ahead"),
    [
        ("lower", 0.9, 1.0, "10.0 % lower", True),
        ("higher", 0.9, 1.0, "10.0 % lower", False),
        ("lower", 1.25, 1.0, "25.0 % higher", False),
        ("higher", 1.25, 1.0, "25.0 % higher", True),
        ("higher", 30.0, 4.0, "7.5 times", True),
        ("lower", -1.1, -1.0, "10.0 % lower", True),
        ("lower", 0.5, 0.0, "higher", False),
        ("lower", 1.0, 1.0, "the same", None),
    ],
)
def test_the_summary_says_how_far_the_system_is_from_the_best_baseline(better, system, baseline, difference, ahead):
    found = [Row("s", "system", {"a": [system]}), Row("b", "baseline", {"a": [baseline]})]
    checks = [Check("one", True, "", ""), Check("two", False, "", "")]
    summary = Summary.of(result(found, better, checks))
    assert (summary.difference, summary.ahead, summary.baseline_name) == (difference, ahead, "b")
    assert (summary.passed, summary.checks) == (1, 2)
    assert summary.certainty == "one run; chance unknown"


@pytest.mark.parametrize(
    ("system", "baseline", "ahead", "certainty"),
    [
        ([1.0, 1.2, 0.9], [1.1, 1.0, 1.1], None, "within chance in 3 runs"),
        ([1.0, 2.0, 3.0], [1.1, 2.12, 3.09], True, "beyond chance in 3 runs"),  # pair by pair, whatever the spread
        ([1.0, 1.0], [2.0, 2.0], True, "the same in all 2 runs"),
        ([2.0, 2.1, 2.05], [1.0], False, "3 runs against 1; chance unknown"),
    ],
)
def test_a_difference_within_chance_is_no_win_and_says_so(system, baseline, ahead, certainty):
    summary = Summary.of(result([Row("s", "system", {"a": system}), Row("b", "baseline", {"a": baseline})]))
    assert (summary.ahead, summary.certainty) == (ahead, certainty)


def test_what_one_run_shows_has_no_colour():
    one = Summary.of(result([Row("s", "system", {"a": [1.0]}), Row("b", "baseline", {"a": [2.0]})]))
    assert (one.ahead, one.colour) == (True, "")
    three = Summary.of(result([Row("s", "system", {"a": [1.0] * 3}), Row("b", "baseline", {"a": [2.0] * 3})]))
    assert (three.ahead, three.colour) == (True, "good")


values = st.lists(st.floats(0, 1), min_size=3, max_size=3)


@given(values, values, st.sampled_from(["MBAT mixed (default)", "SALT, ratio 0.1", "a (b (c)) d"]))
def test_a_verdict_leads_with_what_to_take_and_loses_no_figure(ours, theirs, name):
    rows = [Row(name, "system", {"a": ours}), Row("other (old)", "baseline", {"a": theirs})]
    text = verdict(rows, Metric("a"))
    first, *others = statements(f"{text} Keep 0.5: another one.")
    assert "interval" not in first.lead
    assert name in first.lead or "other (old)" in first.lead
    assert [(said.lead, said.figures) for said in others][-1] == ("Keep 0.5: another one.", "")
    words = re.findall(r"[\w.+-]*\w", text)
    kept = " ".join(f"{said.lead} {said.figures}" for said in (first, *others))
    assert set(words) <= set(re.findall(r"[\w.+-]*\w", f"{kept} a"))


@given(st.lists(st.tuples(st.sampled_from(["system", "baseline", "ablation"]), st.floats(0, 1)), max_size=30))
def test_few_lines_stand_before_the_details_and_the_best_is_among_them(found):
    rows = [Row(str(i), kind, {"a": [value]}) for i, (kind, value) in enumerate(found)]
    table = Comparison.of(result([Row("first", "system", {"a": [0.5]}), *rows]))
    chosen = table.chosen(6)
    assert len(chosen) <= 6
    assert chosen == [line for line in table.lines if line in chosen]
    assert "ablation" not in {line.kind for line in chosen}
    if sum(kind == "system" for kind, _ in found) < 6:
        assert {line.name for line in table.lines if line.kind == "system"} <= {line.name for line in chosen}


def test_folds_that_share_training_samples_are_less_sure():
    found = [Row("s", "system", {"a": [1.0, 1.2, 1.1]}), Row("b", "baseline", {"a": [1.3, 1.35, 1.45]})]
    assert Summary.of(result(found)).ahead is True
    assert Summary.of(replace(result(found), overlap=0.5)).ahead is None


def test_a_summary_without_a_baseline_or_a_figure_claims_nothing():
    alone = Summary.of(result([Row("s", "system", {"a": [1.0]})]))
    assert (alone.system, alone.baseline, alone.difference, alone.ahead) == ("1.0000", "—", "", None)
    lost = Summary.of(result([Row("s", "system", {"a": [math.nan]})]))
    assert (lost.system, lost.baseline, lost.ahead) == ("—", "—", None)


cells = st.text(max_size=3) | st.integers(0, 99) | st.floats(-10, 10)


@given(st.lists(st.text(max_size=3), max_size=3), st.lists(st.lists(cells, max_size=4), max_size=3))
def test_a_further_table_is_rectangular_whatever_came(columns, found):
    table = Further.of(Table("t", columns, found))
    assert {len(row) for row in table.rows} <= {len(table.columns)}
    assert len(table.rows) == (len(found) if table.columns else 0)
    assert len(table.figures) == len(table.columns)
    for row, texts in zip(found, table.rows, strict=bool(table.columns)):
        assert [text == "—" for text in texts[len(row) :]] == [True] * (len(texts) - len(row))
    for i, figure in enumerate(table.figures):
        assert figure == (i > 0 and found != [] and not any(isinstance(row[i], str) for row in found if i < len(row)))


def test_the_summary_counts_the_same_chances_as_the_verdict():
    """Seeds that agree say nothing where the verdict is about the draw of the test images."""
    rows = [Row("s", "system", {"a": [0.50, 0.51, 0.52]}), Row("b", "baseline", {"a": [0.60, 0.62, 0.62]})]
    pairs = {"s": [0.1, 0.9, 0.2, 0.8], "b": [0.8, 0.3, 0.9, 0.4]}
    fields = {"task": "", "shows": "", "limits": "", "seeds": [0, 1, 2]}
    by_images = conclude("s", rows, [Metric("a")], Flags(), over="images", pairs=pairs, **fields)
    summary = Summary.of(by_images)
    assert (summary.ahead, summary.certainty) == (None, "within chance in 4 images")
    assert "beyond chance" in by_images.verdict
    assert "of 4 images" in by_images.verdict
    by_seeds = Summary.of(conclude("s", rows, [Metric("a")], Flags(), **fields))
    assert (by_seeds.ahead, by_seeds.certainty) == (True, "beyond chance in 3 seeds")
