"""OLinear from the command line's side: fit, apply, compare on files, and what goes wrong."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from linmap.data.timeseries import TimeSeries, load_time_series
from linmap.errors import ArtifactError, DataError, UsageError
from linmap.experiment.result import Result
from linmap.recipes import olinear
from linmap.recipes.job import ApplyJob, CompareJob, FitJob
from linmap.recipes.olinear import PRESETS, ApplySettings, Comparison, Settings
from linmap.sequence.olinear import OLinearForecaster

TINY = Settings(horizon=6, lookback=12, d_model=8, embed=2, layers=1, epochs=2, lr=5e-3)
COMPARED = Comparison(**vars(TINY), baseline_epochs=2)


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


@pytest.mark.parametrize("name", [None, "when"])
def test_times_in_the_index_of_a_parquet_file_stay_with_the_forecast(
    artifact: Path, table: Path, tmp_path: Path, name: str | None
) -> None:
    indexed = pd.read_csv(table, parse_dates=["date"], index_col="date").rename_axis(name)
    indexed.to_parquet(tmp_path / "indexed.parquet")
    olinear.apply(ApplySettings(), ApplyJob(artifact, tmp_path / "indexed.parquet", tmp_path / "out.csv"))
    forecast = pd.read_csv(tmp_path / "out.csv", parse_dates=[0])
    assert forecast.columns.to_list() == [name or "ds", "a", "b"]
    assert forecast[name or "ds"].to_list() == list(pd.date_range("2024-09-17", periods=6))


@pytest.fixture
def calibrated(table: Path, tmp_path: Path) -> Path:
    first = pd.read_csv(table)[:200]
    first.to_csv(tmp_path / "first.csv", index=False)
    summary = olinear.fit(replace(TINY, calibration=0.2), FitJob(tmp_path / "first.csv", tmp_path / "calibrated"))
    assert summary["calibration_windows"] == 35
    return tmp_path / "calibrated"


def test_apply_writes_intervals(calibrated: Path, table: Path, tmp_path: Path) -> None:
    olinear.apply(ApplySettings(level=(80, 90)), ApplyJob(calibrated, table, tmp_path / "forecast.csv"))
    forecast = pd.read_csv(tmp_path / "forecast.csv")
    assert forecast.columns.to_list()[3:] == [
        f"{v}-{side}-{one}" for one in (80, 90) for side in ("lo", "hi") for v in "ab"
    ]
    assert (forecast["a-lo-90"] < forecast["a"]).all()
    assert "90 % interval" in (tmp_path / "forecast.svg").read_text()
    recalibrated = ApplySettings(level=(80,), recalibrate=60)
    olinear.apply(recalibrated, ApplyJob(calibrated, table, tmp_path / "again.csv"))
    assert not np.allclose(pd.read_csv(tmp_path / "again.csv")["a-hi-80"], forecast["a-hi-80"])


@pytest.mark.parametrize("refit", [0, 3])
def test_apply_looks_back(calibrated: Path, table: Path, tmp_path: Path, refit: int) -> None:
    settings = ApplySettings(backtest=5, step_size=9, refit=refit, level=(80,))
    summary = olinear.apply(settings, ApplyJob(calibrated, table, tmp_path / "past.csv"))
    assert (summary["origins"], summary["fits"]) == (5, 2 if refit else 0)
    past, errors = pd.read_csv(tmp_path / "past.csv"), pd.read_csv(tmp_path / "past-by-step.csv")
    assert len(past) == 2 * 5 * 6
    assert errors["step"].to_list() == [1, 2, 3, 4, 5, 6]
    assert summary["MAE"] == pytest.approx(errors["MAE"].mean(), abs=1e-4)
    inside = past["y"].between(past["OLinear-lo-80"], past["OLinear-hi-80"])
    assert summary["coverage-80"] == pytest.approx(inside.mean(), abs=1e-4)
    assert "Mean absolute error by step" in (tmp_path / "past.svg").read_text()


def test_an_interrupted_fit_goes_on(table: Path, tmp_path: Path) -> None:
    whole = olinear.fit(TINY, FitJob(table, tmp_path / "whole"))
    one_epoch = Settings(**vars(TINY) | {"epochs": 1})
    olinear.fit(one_epoch, FitJob(table, tmp_path / "part"))
    resumed = olinear.fit(TINY, FitJob(table, tmp_path / "part", resume=True))
    assert resumed["validation_loss"] == whole["validation_loss"]


def test_compare_measures_every_method_on_the_same_windows(table: Path, tmp_path: Path) -> None:
    job = CompareJob(data=table, out=tmp_path / "compare")
    result = olinear.compare(COMPARED, job)
    names = [row.name for row in result.rows]
    assert names == ["OLinear", "repeat last", "DLinear", "NLinear", "RLinear", "RLinear, weighted L1"]
    assert [row.kind for row in result.rows].count("baseline") == 5
    values = {row.name: row.mean("MSE") for row in result.rows}
    frame = pd.read_csv(table)[["a", "b"]].to_numpy()
    z = (frame - frame[:182].mean(0)) / frame[:182].std(0)
    last = [np.mean((z[i : i + 6] - z[i - 1]) ** 2) for i in range(208, 255)]
    assert values["repeat last"] == pytest.approx(np.mean(last), rel=1e-5)
    assert values["OLinear"] < values["repeat last"]
    assert result.rows[1].parameters == 0
    for picture in result.pictures:
        assert (tmp_path / "compare" / picture.file).stat().st_size > 1000
    result.save(tmp_path / "compare")
    assert Result.load(tmp_path / "compare").rows == result.rows
    again = olinear.compare(COMPARED, CompareJob(data=table, out=tmp_path / "compare", resume=True))
    assert [row.values for row in again.rows] == [row.values for row in result.rows]


def test_checks_report_what_was_measured(table: Path, tmp_path: Path) -> None:
    result = olinear.compare(COMPARED, CompareJob(data=table, out=tmp_path / "compare"))
    values = {row.name: row.mean("MSE") for row in result.rows}
    passed = {check.statement.rsplit("than ")[-1]: check.passed for check in result.checks}
    for name in ("DLinear", "RLinear", "RLinear, weighted L1"):
        assert passed[name] == (values["OLinear"] < values[name])


def test_further_comparisons_are_on_the_users_file(table: Path, tmp_path: Path) -> None:
    settings = replace(
        COMPARED, horizons=(3,), bases=("identity",), mixings=("prior",), hosts=("DLinear",), study_seeds=2
    )
    result = olinear.compare(settings, CompareJob(data=table, out=tmp_path / "compare"))
    tables = {found.title: found for found in result.tables}
    horizons = tables["my, MSE / MAE by horizon"]
    assert horizons.columns == ["method", "3", "6"]
    assert [row[0] for row in horizons.rows] == [row.name for row in result.rows]
    assert horizons.rows[0][2] == f"{result.rows[0].mean('MSE'):.4f} / {result.rows[0].mean('MAE'):.4f}"
    bases = tables["Bases: MSE and MAE"]
    assert [row[0] for row in bases.rows] == ["pearson", "pearson, one for each series", "identity"]
    assert len({row[1] for row in bases.rows}) == 3
    assert all("±" in str(row[1]) for row in bases.rows)
    assert [row[0] for row in tables["Mixing of series: MSE and MAE"].rows] == ["normlin", "prior"]
    hosts = tables["OrthoTrans and NormLin inside other forecasters"]
    assert [row[0] for row in hosts.rows] == ["DLinear", "DLinear + OrthoTrans"]
    assert "by basis, MSE lies between" in result.shows
    assert "analysis of variance p =" in result.shows


def test_intervals_are_measured_on_the_test_windows(table: Path, tmp_path: Path) -> None:
    result = olinear.compare(COMPARED, CompareJob(data=table, out=tmp_path / "compare"))
    found = next(found for found in result.tables if found.title == "Intervals on the test windows")
    assert [row[:2] for row in found.rows if row[1] == "window"] == [
        ["80 %", "window"],
        ["90 %", "window"],
        ["95 %", "window"],
    ]
    covered = [float(row[2]) for row in found.rows if row[1] == "constant"]
    assert covered == sorted(covered)
    assert covered[0] == pytest.approx(80, abs=12)  # 21 validation windows


def test_presets_are_those_of_the_literature() -> None:
    full = PRESETS["full"]
    assert (full.d_model, full.embed, full.layers, full.lr, full.dropout) == (512, 16, 2, 5e-4, 0.2)
    assert (full.epochs, full.patience, full.schedule, full.batch_size, full.alpha) == (30, 8, "halving", 32, 0.5)
    assert full.horizons == (192, 336, 720)
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
    with pytest.raises(UsageError, match="belong to --backtest"):
        olinear.apply(ApplySettings(refit=2), ApplyJob(artifact, table, tmp_path / "out.csv"))
    with pytest.raises(UsageError, match="give --refit too"):
        olinear.apply(ApplySettings(backtest=2, input_size=50), ApplyJob(artifact, table, tmp_path / "out.csv"))
    with pytest.raises(UsageError, match="--backtest must not be negative, got -1"):
        olinear.apply(ApplySettings(backtest=-1), ApplyJob(artifact, table, tmp_path / "out.csv"))
    with pytest.raises(ValueError, match="set calibration to a share of the rows"):
        olinear.apply(ApplySettings(level=(80,)), ApplyJob(artifact, table, tmp_path / "out.csv"))
    with pytest.raises(DataError, match="has seen rows until 2024-09-16"):
        olinear.apply(ApplySettings(backtest=2), ApplyJob(artifact, table, tmp_path / "out.csv"))
    assert not (tmp_path / "out.csv").exists()
    holes = pd.read_csv(table)
    holes.loc[3, "a"] = np.nan
    holes.to_csv(tmp_path / "holes.csv", index=False)
    with pytest.raises(DataError, match=r"missing or infinite values in 'a' \(1\); choose nan_policy='ffill'"):
        olinear.fit(TINY, FitJob(tmp_path / "holes.csv", tmp_path / "other"))
    assert not (tmp_path / "other" / "config.json").exists()


# -- what a table may be -----------------------------------------------------------------------------------------------


def rewritten(table: Path, change: Callable[[pd.DataFrame], pd.DataFrame], **csv: Any) -> Path:
    path = table.with_name("changed.csv")
    change(pd.read_csv(table)).to_csv(path, index=False, **csv)
    return path


def test_the_summary_says_what_was_understood(table: Path, tmp_path: Path, capsys) -> None:
    german = rewritten(
        table, lambda t: t.assign(date=pd.to_datetime(t.date).dt.strftime("%d.%m.%Y")), sep=";", decimal=","
    )
    with pytest.raises(DataError, match="parted by semicolons"):
        olinear.fit(TINY, FitJob(german, tmp_path / "run"))
    said = {"separator": ";", "decimal": ","}
    summary = olinear.fit(replace(TINY, **said), FitJob(german, tmp_path / "run"))
    assert summary["time"] == "2024-01-01 to 2024-09-16, daily, day first"
    assert "time: 2024-01-01 to 2024-09-16, daily, day first" in capsys.readouterr().err
    forecasts = []
    for name, settings in (("told", ApplySettings(**said)), ("known", ApplySettings())):
        out = tmp_path / f"{name}.csv"
        summary = olinear.apply(settings, ApplyJob(tmp_path / "run", german, out))
        assert summary["time"] == "2024-01-01 to 2024-09-16, daily, day first"
        forecasts.append(pd.read_csv(out))
    assert forecasts[0]["date"].to_list()[:2] == ["17.09.2024", "18.09.2024"]
    pd.testing.assert_frame_equal(*forecasts)
    olinear.apply(ApplySettings(), ApplyJob(tmp_path / "run", table, tmp_path / "plain.csv"))  # one with commas
    figures = [frame[["a", "b"]].to_numpy() for frame in (forecasts[0], pd.read_csv(tmp_path / "plain.csv"))]
    np.testing.assert_allclose(*figures, rtol=1e-6)


def test_what_the_fit_was_told_is_known_when_it_is_applied(table: Path, tmp_path: Path) -> None:
    wide = pd.read_csv(table).drop(index=[100, 101])
    panel = wide.melt("date", var_name="item", value_name="sold").rename(columns={"date": "when"}).assign(price=1.0)
    panel.to_csv(tmp_path / "panel.csv", index=False)
    told = replace(TINY, id_column="item", time_column="when", drop=("price",), fill_gaps=True, nan_policy="ffill")
    summary = olinear.fit(told, FitJob(tmp_path / "panel.csv", tmp_path / "run"))
    assert summary["time"] == "2024-01-01 to 2024-09-16, daily, 2 missing rows filled in"
    olinear.apply(ApplySettings(), ApplyJob(tmp_path / "run", tmp_path / "panel.csv", tmp_path / "out.csv"))
    assert pd.read_csv(tmp_path / "out.csv").columns.to_list() == ["item", "when", "OLinear"]
    wide.to_csv(tmp_path / "wide.csv", index=False)  # a table of another layout, and what it is told wins
    job = ApplyJob(tmp_path / "run", tmp_path / "wide.csv", tmp_path / "out.csv")
    olinear.apply(ApplySettings(), job)
    assert pd.read_csv(tmp_path / "out.csv").columns.to_list() == ["date", "a", "b"]
    with pytest.raises(DataError, match="expected the 2 variates"):
        olinear.apply(ApplySettings(drop=("b",)), job)
    with pytest.raises(DataError, match="drop='c': there is no such column"):
        olinear.apply(ApplySettings(drop=("c",)), job)


@pytest.mark.parametrize("calibration", [0.0, 0.2])
def test_a_fit_is_set_beside_repeating_in_the_units_of_the_data(
    table: Path, tmp_path: Path, calibration: float
) -> None:
    summary = olinear.fit(replace(TINY, calibration=calibration), FitJob(table, tmp_path / "run"))
    values = pd.read_csv(table)[["a", "b"]].to_numpy()
    first, last = (208, 260)  # validation, or the calibration rows behind it
    origins = range(first - 1, last - 6)
    repeat = np.mean([np.abs(values[o + 1 : o + 7] - values[o]) for o in origins], (0, 1))
    season = np.mean([np.abs(values[o + 1 : o + 7] - values[o - 6 : o]) for o in origins], (0, 1))
    fitted = OLinearForecaster.load(tmp_path / "run")
    own = np.mean([np.abs(values[o + 1 : o + 7] - fitted.forecast(series_until(table, o))[0]) for o in origins], (0, 1))
    rows = summary["mean_absolute_error"]
    for j, name in enumerate("ab"):
        assert rows[j]["series"] == name
        assert rows[j]["OLinear"] == pytest.approx(own[j], rel=2e-3)
        assert rows[j]["last value"] == pytest.approx(repeat[j], rel=2e-3)
        assert rows[j]["last season (7 rows)"] == pytest.approx(season[j], rel=2e-3)
    better = int((own < np.minimum(repeat, season)).sum())
    assert summary["better_than_repeating"] == f"in {better} of 2 series"
    assert ("which also chose the epoch" in summary["held_out"]) == (calibration == 0)
    assert summary["held_out"].startswith("47 forecasts in rows 2024-07-27")


def series_until(table: Path, row: int) -> TimeSeries:
    return load_time_series(table).rows(0, row + 1)


def test_pictures_that_cannot_be_drawn_leave_the_answer(
    artifact: Path, table: Path, tmp_path: Path, monkeypatch
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("no canvas")

    monkeypatch.setattr("linmap.recipes.olinear.files.draw_forecast", broken)
    monkeypatch.setattr("linmap.recipes.olinear.pictures.draw_errors", broken)
    summary = olinear.apply(ApplySettings(), ApplyJob(artifact, table, tmp_path / "out.csv"))
    assert (tmp_path / "out.csv").exists()
    assert "picture" not in summary
    assert summary["notes"] == ["out.svg was not drawn: no canvas."]
    result = olinear.compare(COMPARED, CompareJob(data=table, out=tmp_path / "compare"))
    assert len(result.pictures) == 3
    assert "error-by-step.svg was not drawn: no canvas." in result.limits


def test_a_table_of_another_step_is_refused(artifact: Path, table: Path, tmp_path: Path) -> None:
    hourly = rewritten(table, lambda t: t.assign(date=pd.date_range("2024-01-01", periods=len(t), freq="h")))
    with pytest.raises(DataError, match="time axis that is daily, that of this table is hourly"):
        olinear.apply(ApplySettings(), ApplyJob(artifact, hourly, tmp_path / "out.csv"))


@pytest.mark.slow
def test_the_quick_comparison_is_below_the_linear_baselines(tmp_path: Path) -> None:
    result = olinear.compare(PRESETS["quick"], CompareJob(out=tmp_path))
    assert all(check.passed for check in result.checks)
