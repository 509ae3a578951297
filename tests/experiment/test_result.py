"""Results: what is saved is what is read, and the best is never beaten."""

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from linmap.errors import ArtifactError
from linmap.experiment.result import Check, Failure, Metric, Picture, Result, Row, Table

text = st.text(max_size=8)
measured = st.lists(st.floats(), max_size=3)
metrics = st.tuples(text, st.sampled_from(["lower", "higher", "neither"]), text, st.integers(0, 6))
rows = st.tuples(
    text,
    st.sampled_from(["system", "baseline", "ablation"]),
    st.dictionaries(st.sampled_from(["a", "b"]), measured),
    st.none() | st.integers(0),
    st.none() | st.integers(0),
    st.none() | st.floats(0, 1e6),
    text,
)
results = st.fixed_dictionaries(
    {
        "system": text,
        "task": text,
        "shows": text,
        "limits": text,
        "seeds": st.lists(st.integers(0)),
        "seconds": st.none() | st.floats(0, 1e6),
        "settings": st.dictionaries(text, st.none() | st.integers() | text | st.lists(text)),
    }
)
parts = st.fixed_dictionaries(
    {
        "metrics": st.lists(metrics, max_size=3),
        "rows": st.lists(rows, max_size=4),
        "checks": st.lists(st.tuples(text, st.booleans(), text, text), max_size=2),
        "tables": st.lists(st.tuples(text, st.lists(text), st.lists(st.lists(text | st.integers())), text), max_size=2),
        "pictures": st.lists(st.tuples(text, text, text), max_size=2),
    }
)
KINDS = {"metrics": Metric, "rows": Row, "checks": Check, "tables": Table, "pictures": Picture}


def of_rows(*found: Row) -> Result:
    return Result("x", "", [Metric("a")], list(found), "", "")


@given(results, parts)
def test_what_is_saved_is_what_is_read(tmp_path_factory, plain, parts):
    found: dict[str, Any] = {name: [KINDS[name](*item) for item in items] for name, items in parts.items()}
    result = Result(**plain, **found)
    folder = tmp_path_factory.mktemp("result")
    path = result.save(folder)
    again = Result.load(folder)
    finite = [
        {name: [v if math.isfinite(v) else math.nan for v in values] for name, values in row.values.items()}
        for row in result.rows
    ]
    assert repr([row.values for row in again.rows]) == repr(finite)
    first = path.read_bytes()
    again.save(folder)
    assert path.read_bytes() == first
    assert (again.metrics, again.checks, again.tables, again.pictures) == (
        result.metrics,
        result.checks,
        result.tables,
        result.pictures,
    )
    assert (again.versions, again.machine, again.finished) == (result.versions, result.machine, result.finished)
    json.loads(first, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))


@given(st.lists(rows, max_size=5), st.sampled_from(["lower", "higher"]), st.sampled_from([None, "baseline"]))
def test_no_row_beats_the_best(found, better, kind):
    metric, found = Metric("a", better), [Row(*row) for row in found]
    best = of_rows(*found).best(metric, kind)
    sign = 1 if better == "lower" else -1
    rivals = [row for row in found if kind in (None, row.kind) and math.isfinite(row.mean("a"))]
    assert bool(best) == bool(rivals)
    assert all(sign * winner.mean("a") <= sign * rival.mean("a") for winner in best for rival in rivals)
    assert all(row in best for row in rivals if best and row.mean("a") == best[0].mean("a"))


def test_a_metric_without_a_better_side_has_no_best():
    row = Row("r", "system", {"a": [1.0], "b": [2.0]})
    result = Result("x", "", [Metric("a", "neither"), Metric("b", "higher")], [row], "", "")
    assert result.best(result.metrics[0]) == []
    headline = result.headline()
    assert headline is not None
    assert (headline.metric.name, headline.system, headline.baseline) == ("b", row, None)


def test_the_headline_is_the_system_beside_its_best_baseline():
    system = Row("s", "system", {"a": [2.0]})
    near, far = Row("n", "baseline", {"a": [3.0]}), Row("f", "baseline", {"a": [9.0]})
    ablation = Row("x", "ablation", {"a": [1.0]})
    assert of_rows(far, ablation, system, near).headline() == (Metric("a"), system, near)
    assert of_rows(far).headline() is None


def test_mean_and_sample_deviation_over_seeds():
    row = Row("r", "system", {"a": [1.0, 2.0, 6.0], "one": [4.0], "lost": [1.0, math.nan], "none": []})
    assert (row.mean("a"), row.std("a")) == (3.0, math.sqrt(7.0))
    assert (row.mean("one"), row.std("one")) == (4.0, None)
    assert all(math.isnan(row.mean(name)) for name in ("lost", "none", "absent"))
    assert all(row.std(name) is None for name in ("lost", "none", "absent"))


def test_results_of_earlier_versions_name_a_preset(tmp_path):
    for outcome, name in ((of_rows(Row("s", "system", {"a": [1.0]})), "result"), (Failure("x", "e", "c"), "failure")):
        outcome.save(tmp_path)
        path = tmp_path / f"{name}.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"preset": "full"}))
        assert type(outcome).load(tmp_path) == outcome


def test_a_failure_is_read_as_it_was_saved(tmp_path):
    failure = Failure("mbat", "RuntimeError: no", "linmap compare mbat", seconds=1.5)
    failure.save(tmp_path)
    assert Failure.load(tmp_path) == failure


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (None, "holds no result.json"),
        ("{", "cannot be read"),
        ("\udc80", "cannot be read"),
        ("[]", "names no format"),
        ('{"format": "1"}', "names no format"),
        ('{"format": 99}', "has format 99, this linmap reads up to 1"),
        ('{"format": 1}', "cannot be read"),
        ('{"format": 1, "metrics": [{"nom": 1}]}', "cannot be read"),
        ('{"format": 1, "metrics": [], "rows": [], "checks": [], "tables": [], "pictures": []}', "cannot be read"),
    ],
)
def test_what_is_no_result_is_refused_by_name(content, complaint, tmp_path):
    if content is not None:
        (tmp_path / "result.json").write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(ArtifactError, match=complaint) as caught:
        Result.load(tmp_path)
    assert str(tmp_path) in str(caught.value)
