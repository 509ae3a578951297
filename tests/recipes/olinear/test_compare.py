"""`linmap compare olinear`: what it measures, on any table alike."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from linmap.cli import main
from linmap.errors import DataError
from linmap.experiment import Result
from linmap.recipes.derived import parameters
from linmap.recipes.job import CompareJob
from linmap.recipes.olinear.compare import compare
from linmap.recipes.olinear.flags import FORECASTER, Compare
from recipes.olinear.small import SMALL

COMPARED = Compare(**SMALL, baseline_epochs=2)
NAMES = ["OLinear", "repeat last", "last season", "DLinear", "NLinear", "RLinear", "RLinear, weighted L1"]


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("compared")


@pytest.fixture(scope="module")
def result(kept_table: Path, out: Path) -> Result:
    return compare(COMPARED, CompareJob(data=kept_table, out=out))


@pytest.fixture
def one_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    """The linear baselines have nothing to choose."""
    monkeypatch.setattr("linmap.recipes.olinear.methods.RATES", (5e-3,))


def test_compare_measures_every_method_on_the_same_windows(result: Result, kept_table: Path, out: Path) -> None:
    assert [row.name for row in result.rows] == NAMES
    assert [row.kind for row in result.rows].count("baseline") == 6
    values = {row.name: row.mean("MSE") for row in result.rows}
    frame = pd.read_csv(kept_table)[["a", "b"]].to_numpy()
    mean, scale = frame[:182].mean(0), frame[:182].std(0)
    z = (frame - mean) / scale
    last = [np.mean((z[i : i + 6] - z[i - 1]) ** 2) for i in range(208, 255)]
    season = [np.mean((z[i : i + 6] - z[i - 7 : i - 1]) ** 2) for i in range(208, 255)]
    assert values["repeat last"] == pytest.approx(np.mean(last), rel=1e-5)
    assert values["last season"] == pytest.approx(np.mean(season), rel=1e-5)
    assert values["OLinear"] < values["repeat last"]
    assert result.rows[1].parameters == 0
    blocks = [np.sum(part) * 7 / 47 for part in np.array_split(last, 7)]
    assert result.rows[1].values["MSE"] == pytest.approx(blocks, rel=1e-5)
    for picture in result.pictures:
        assert "OLinear" in (out / picture.file).read_text()
    units = result.tables[0]
    assert units.columns == ["series", *NAMES]
    absolute = np.mean([np.abs(frame[i : i + 6] - frame[i - 1]).mean(0) for i in range(208, 255)], 0)
    assert [row[2] for row in units.rows[:2]] == pytest.approx(absolute.tolist(), rel=1e-3)
    assert result.verdict.startswith(("Take ", "No difference between OLinear and "))
    assert "of 7 blocks of test windows" in result.verdict


def test_checks_report_what_was_measured(result: Result) -> None:
    values = {row.name: row.mean("MSE") for row in result.rows}
    passed = {check.statement.rsplit("than ")[-1]: check.passed for check in result.checks}
    assert passed == {name: values["OLinear"] < values[name] for name in NAMES[1:]}


@pytest.mark.slow  # tests/experiment has it for every comparison
def test_what_is_done_is_not_done_again_unless_it_has_changed(
    one_rate: None, table: Path, tmp_path: Path, capsys
) -> None:
    runs, epoch = tmp_path / "compare" / "runs", SMALL | {"epochs": 1}
    job, again = (CompareJob(data=table, out=tmp_path / "compare", resume=resume) for resume in (False, True))
    first = compare(Compare(**epoch, baseline_epochs=1), job)
    kept = {path.name for path in runs.glob("*.json")}
    second = compare(Compare(**epoch, baseline_epochs=1), again)
    assert [row.values for row in second.rows] == [row.values for row in first.rows]
    assert {path.name for path in runs.glob("*.json")} == kept
    compare(Compare(**epoch | {"d_model": 12}, baseline_epochs=1), again)
    assert {path.name.partition("-seed")[0] for path in runs.glob("*.json") if path.name not in kept} == {"my-OLinear"}
    assert "d_model was 8, now 12" in capsys.readouterr().err
    pd.read_csv(table).assign(a=lambda t: t.a * 2).to_csv(table, index=False)
    compare(Compare(**epoch, baseline_epochs=1), again)
    assert "fingerprint has other content" in capsys.readouterr().err


def test_embedded_data_go_the_same_way(one_rate: None, tmp_path: Path) -> None:
    from linmap import data

    ili = data.find("olinear/national_illness.csv", "It is part of linmap.")
    settings = Compare(dataset="ili", **SMALL | {"epochs": 1}, baseline_epochs=1)
    results = [
        compare(settings, CompareJob(data=source, out=tmp_path / str(i))) for i, source in enumerate((None, ili))
    ]
    assert [row.values for row in results[0].rows] == [row.values for row in results[1].rows]
    assert results[0].task.startswith("ILI: the next 6 steps of 7 series")


def test_a_table_without_times_still_gets_its_answer(one_rate: None, table: Path, tmp_path: Path) -> None:
    frame = pd.read_csv(table).drop(columns="date")
    frame.iloc[:90].to_csv(tmp_path / "few.csv", index=False)
    words = ["--horizon", "12", "--lookback", "12", "--d-model", "4", "--embed", "1", "--epochs", "1"]
    out = ["--baseline-epochs", "1", "--seeds", "2", "--out", str(tmp_path / "out")]
    with pytest.raises(DataError, match="too few for one window"):
        compare(Compare(horizon=12, lookback=12), CompareJob(data=tmp_path / "few.csv", out=tmp_path / "out"))
    frame.iloc[:130].to_csv(tmp_path / "few.csv", index=False)
    assert main(["compare", "olinear", "--data", str(tmp_path / "few.csv"), *words, *out]) == 0
    result = Result.load(tmp_path / "out")
    assert "last season" not in [row.name for row in result.rows]
    assert len(result.rows[0].values["MSE"]) == 2
    assert "of 2 seeds" in result.verdict or "of 2 blocks" in result.verdict
    assert "no usual season" in result.limits


def test_the_estimator_is_that_of_the_literature() -> None:
    paper = {p.name: p.default for p in parameters(FORECASTER)}
    assert (paper["d_model"], paper["embed"], paper["layers"], paper["lr"], paper["dropout"]) == (512, 16, 2, 5e-4, 0.2)
    assert (paper["epochs"], paper["patience"], paper["schedule"], paper["batch_size"]) == (30, 8, "halving", 32)
    assert (Compare().horizon, Compare().lookback, Compare().alpha) == (96, 96, 0.5)


def test_a_picture_that_cannot_be_drawn_leaves_the_answer(
    result: Result, kept_table: Path, out: Path, monkeypatch
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("no canvas")

    monkeypatch.setattr("linmap.recipes.olinear.pictures.draw_errors", broken)
    again = compare(COMPARED, CompareJob(data=kept_table, out=out, resume=True))
    assert [row.values for row in again.rows] == [row.values for row in result.rows]
    assert [picture.file for picture in again.pictures] == ["forecasts.svg"]
    assert "error-by-step.svg was not drawn: no canvas." in again.limits


@pytest.mark.slow
def test_the_quick_comparison_is_below_the_linear_baselines(tmp_path: Path) -> None:
    result = compare(Compare(), CompareJob(out=tmp_path))
    assert all(check.passed for check in result.checks)
