"""What people see says all that machines get."""

import io
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from linmap.cli.printing import PIPE_WIDTH, print_comparison, print_paths, print_summary, print_tour, stdout_console
from linmap.experiment.result import Check, Failure, Metric, Result, Row

names = st.from_regex(r"[a-z]{1,6}", fullmatch=True)
scalars = st.integers(0, 999) | st.from_regex(r"[a-z\[\]/]{1,8}", fullmatch=True)
summaries = st.recursive(
    st.dictionaries(names, scalars, min_size=1, max_size=3),
    lambda inner: st.dictionaries(
        names, scalars | inner | st.lists(inner, min_size=1, max_size=2), min_size=1, max_size=3
    ),
    max_leaves=6,
)


def shown(show, *content, width: int = PIPE_WIDTH) -> str:
    text = io.StringIO()
    show(Console(file=text, width=width), *content)
    return text.getvalue()


def leaves(value) -> list[str]:
    if isinstance(value, dict):
        return [leaf for name, item in value.items() for leaf in [name, *leaves(item)]]
    return [leaf for item in value for leaf in leaves(item)] if isinstance(value, list) else [str(value)]


@given(summaries)
def test_a_summary_shows_every_name_and_value_however_deep(summary):
    words = shown(print_summary, "title", summary).split()
    assert words[0] == "title"
    assert all(leaf in words for leaf in leaves(summary))


def test_flat_records_are_one_table():
    text = shown(
        print_summary,
        "t",
        {"because": [{"path": "a.b", "share": 0.25}, {"path": "d", "share": 0.5625}, {"path": "c", "note": "n"}]},
    )
    assert [line.split() for line in text.splitlines()[1:]] == [
        ["because"],
        ["path", "share", "note"],
        ["a.b", "0.2500", "—"],
        ["d", "0.5625", "—"],
        ["c", "—", "n"],
    ]


def result(text: str) -> Result:
    error = f"MSE{text}"
    rows = [
        Row(f"s{text}", "system", {error: [1.0, 2.0]}),
        Row("b", "baseline", {error: [2.0]}, parameters=1500),
        Row("x", "ablation", {error: [1.75]}),
    ]
    checks = [Check(f"yes{text}", True, "1 < 2", "never said"), Check("no", False, "2 > 1", f"take {text}")]
    return Result(
        "olinear", f"task{text}", [Metric(error)], rows, f"shows{text}", f"limits{text}", checks, verdict=f"take{text}"
    )


@pytest.mark.parametrize("text", ["", " [bold]markup[/]", " [/]"])
def test_a_comparison_shows_every_method_and_check_as_written(text):
    lines = [line.rstrip() for line in shown(print_comparison, result(text)).splitlines()]
    assert lines[0] == f"task{text}"
    assert re.split(r"\s{2,}", lines[2])[:2] == ["method", f"MSE{text} ↓"]
    assert re.split(r"\s{2,}", lines[3]) == [f"s{text}", "1.5000 ± 0.7071", "—"]
    assert re.split(r"\s{2,}", lines[4]) == ["b", "2.0000", "1.50 k"]
    assert lines.index(f"take{text}") < lines.index(f"✓ yes{text} 1 < 2")
    assert "✗ no 2 > 1" in lines
    assert lines[-2:] == [f"Shows  shows{text}", f"Limits limits{text}"]


def test_a_tour_shows_one_line_for_each_system():
    text = shown(print_tour, [result(""), Failure("mbat", "KeyError: x", "linmap compare mbat", seconds=2.0)])
    lines = [re.split(r"\s{2,}", line.strip()) for line in text.splitlines()]
    assert lines[1] == [
        "olinear",
        "MSE ↓",
        "1.5000 ± 0.7071",
        "2.0000 b",
        "25.0 % lower (2 runs against 1; chance unknown)",
        "1 of 2",
        "—",
    ]
    assert lines[2] == ["mbat", "failed", "2.00 s"]
    assert lines[4] == ["olinear take"]


def test_a_path_is_never_broken_across_lines():
    path = "a" * 200
    assert path in shown(lambda console, path: print_paths(console, report=path, none=None), path, width=40)


def test_a_pipe_gets_tables_in_full(capsys):
    console = stdout_console()
    assert console.width == PIPE_WIDTH
    console.print("x")
    assert capsys.readouterr().out == "x\n"


def test_sentences_in_a_list_stand_one_a_line():
    notes = [
        "the accuracy is over 48 of 60 samples: rest is unknown",
        "the picture is not drawn: no class is in common",
    ]
    text = shown(print_summary, "t", {"notes": notes, "left_out": ["EOG", "STI"]})
    lines = [line.strip() for line in text.splitlines()]
    assert f"notes     {notes[0]}" in lines
    assert notes[1] in lines
    assert "left out  EOG, STI" in lines
