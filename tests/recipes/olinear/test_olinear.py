"""OLinear from the command line's side: fit, apply, compare on files, and what goes wrong."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from linmap.errors import ArtifactError, DataError, UsageError
from linmap.recipes import olinear
from linmap.recipes.job import ApplyJob, CompareJob, FitJob
from linmap.recipes.olinear import PRESETS, ApplySettings, Settings
from linmap.recipes.result import Result

TINY = Settings(horizon=6, lookback=12, d_model=8, embed=2, layers=1, epochs=2, baseline_epochs=2, lr=5e-3)


@pytest.fixture
def table(tmp_path: Path) -> Path:
    day = np.arange(260)
    values = np.sin(2 * np.pi * day[:, None] / [6, 12]) + np.random.default_rng(0).normal(0, 0.05, (260, 2))
    frame = pd.DataFrame({"date": pd.date_range("2024-01-01", periods=260), "a": values[:, 0], "b": 10 + values[:, 1]})
    frame.to_csv(tmp_path / "my.csv", index=False)
    return tmp_path / "my.csv"


@pytest.fixture
def artifact(table: Path, tmp_path: Path) -> Path:
    summary = olinear.fit(TINY, FitJob(table, tmp_path / "run"))
    assert summary["variates"] == 2
    assert summary["horizon"] == 6
    return tmp_path / "run"


def test_fit_then_apply_writes_the_forecast_and_its_picture(artifact: Path, table: Path, tmp_path: Path) -> None:
    olinear.apply(ApplySettings(), ApplyJob(artifact, table, tmp_path / "forecast.csv"))
    forecast = pd.read_csv(tmp_path / "forecast.csv", parse_dates=["date"])
    assert forecast.columns.to_list() == ["date", "a", "b"]
    assert forecast["date"].to_list() == list(pd.date_range("2024-09-17", periods=6))
    assert forecast["b"].between(8, 12).all()
    svg = (tmp_path / "forecast.svg").read_text()
    assert "Forecast of the next 6 steps" in svg


def test_long_tables_and_parquet(artifact: Path, table: Path, tmp_path: Path) -> None:
    wide = pd.read_csv(table)
    long = wide.rename(columns={"date": "ds"}).melt("ds", var_name="unique_id", value_name="y")
    long.to_csv(tmp_path / "long.csv", index=False)
    olinear.apply(ApplySettings(), ApplyJob(artifact, tmp_path / "long.csv", tmp_path / "out.parquet"))
    forecast = pd.read_parquet(tmp_path / "out.parquet")
    assert forecast.columns.to_list() == ["unique_id", "ds", "OLinear"]
    olinear.apply(ApplySettings(), ApplyJob(artifact, table, tmp_path / "out.csv"))
    expected = pd.read_csv(tmp_path / "out.csv")
    np.testing.assert_allclose(forecast["OLinear"], np.concatenate([expected["a"], expected["b"]]))


def test_an_interrupted_fit_goes_on(table: Path, tmp_path: Path) -> None:
    whole = olinear.fit(TINY, FitJob(table, tmp_path / "whole"))
    one_epoch = Settings(**vars(TINY) | {"epochs": 1})
    olinear.fit(one_epoch, FitJob(table, tmp_path / "part"))
    resumed = olinear.fit(TINY, FitJob(table, tmp_path / "part", resume=True))
    assert resumed["validation_loss"] == whole["validation_loss"]


def test_compare_measures_every_method_on_the_same_windows(table: Path, tmp_path: Path) -> None:
    job = CompareJob(data=table, out=tmp_path / "compare")
    result = olinear.compare(TINY, job)
    names = [row.name for row in result.rows]
    assert names == [
        "OLinear", "repeat last", "DLinear", "NLinear", "RLinear", "RLinear, weighted L1", "OLinear, identity Q",
    ]  # fmt: skip
    assert [row.kind for row in result.rows].count("baseline") == 5
    values = {row.name: row.mean("MSE") for row in result.rows}
    frame = pd.read_csv(table)[["a", "b"]].to_numpy()
    z = (frame - frame[:182].mean(0)) / frame[:182].std(0)
    last = [np.mean((z[i : i + 6] - z[i - 1]) ** 2) for i in range(208, 255)]
    assert values["repeat last"] == pytest.approx(np.mean(last), rel=1e-5)
    assert values["OLinear"] < values["repeat last"]
    assert values["OLinear"] != values["OLinear, identity Q"]
    assert result.rows[1].parameters == 0
    for picture in result.pictures:
        assert (tmp_path / "compare" / picture.file).stat().st_size > 1000
    result.save(tmp_path / "compare")
    assert Result.load(tmp_path / "compare").rows == result.rows
    again = olinear.compare(TINY, CompareJob(data=table, out=tmp_path / "compare", resume=True))
    assert [row.values for row in again.rows] == [row.values for row in result.rows]


def test_checks_report_what_was_measured(table: Path, tmp_path: Path) -> None:
    result = olinear.compare(TINY, CompareJob(data=table, out=tmp_path / "compare"))
    values = {row.name: row.mean("MSE") for row in result.rows}
    passed = {check.statement.rsplit("than ")[-1]: check.passed for check in result.checks}
    for name in ("DLinear", "RLinear", "RLinear, weighted L1"):
        assert passed[name] == (values["OLinear"] < values[name])


def test_presets_are_those_of_the_literature() -> None:
    full = PRESETS["full"]
    assert (full.d_model, full.embed, full.layers, full.lr, full.dropout) == (512, 16, 2, 5e-4, 0.2)
    assert (full.epochs, full.patience, full.schedule, full.batch_size, full.alpha) == (30, 8, "halving", 32, 0.5)
    assert {PRESETS[name].horizon for name in PRESETS} == {PRESETS[name].lookback for name in PRESETS} == {96}


def test_wrong_use_is_explained(artifact: Path, table: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="needs a fitted run"):
        olinear.apply(ApplySettings(), ApplyJob(None, table, tmp_path / "out.csv"))
    with pytest.raises(UsageError, match=r"forecast is written as \.csv or \.parquet"):
        olinear.apply(ApplySettings(), ApplyJob(artifact, table, tmp_path / "out.xlsx"))
    with pytest.raises(ArtifactError, match="not a saved run"):
        olinear.apply(ApplySettings(), ApplyJob(tmp_path, table, tmp_path / "out.csv"))
    with pytest.raises(DataError, match="expected the 2 variates 'a', 'b', got 7"):
        olinear.apply(ApplySettings("ili"), ApplyJob(artifact, None, tmp_path / "out.csv"))
    holes = pd.read_csv(table)
    holes.loc[3, "a"] = np.nan
    holes.to_csv(tmp_path / "holes.csv", index=False)
    with pytest.raises(DataError, match=r"missing or infinite values in 'a' \(1\); choose nan_policy"):
        olinear.fit(TINY, FitJob(tmp_path / "holes.csv", tmp_path / "other"))
    assert not (tmp_path / "other" / "config.json").exists()


@pytest.mark.slow
def test_the_quick_comparison_is_below_the_linear_baselines(tmp_path: Path) -> None:
    result = olinear.compare(PRESETS["quick"], CompareJob(out=tmp_path))
    assert all(check.passed for check in result.checks)
