"""OLinear from the command line's side: fit and apply on files, and what goes wrong."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from linmap.data.timeseries import TimeSeries, load_time_series
from linmap.errors import ArtifactError, DataError, UsageError
from linmap.recipes.job import FitJob, FittedJob
from linmap.recipes.olinear.apply import apply
from linmap.recipes.olinear.fit import fit
from linmap.recipes.olinear.flags import Apply, Fit
from linmap.sequence.olinear import OLinearForecaster
from recipes.olinear.small import SMALL

TINY = Fit(**SMALL)


def job(artifact: Path, data: Path | None, out: Path) -> FittedJob:
    return FittedJob(data=data, out=out, artifact=artifact)


@pytest.fixture
def artifact(table: Path, tmp_path: Path) -> Path:
    summary = fit(TINY, FitJob(table, tmp_path / "run"))
    assert summary["variates"] == 2
    assert summary["horizon"] == 6
    return tmp_path / "run"


def test_fit_then_apply_writes_the_forecast_and_its_picture(artifact: Path, table: Path, tmp_path: Path) -> None:
    apply(Apply(), job(artifact, table, tmp_path / "forecast.csv"))
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
    apply(Apply(), job(artifact, tmp_path / "long.csv", tmp_path / "out.parquet"))
    forecast = pd.read_parquet(tmp_path / "out.parquet")
    assert forecast.columns.to_list() == ["unique_id", "ds", "OLinear"]
    apply(Apply(), job(artifact, table, tmp_path / "out.csv"))
    expected = pd.read_csv(tmp_path / "out.csv")
    np.testing.assert_allclose(forecast["OLinear"], np.concatenate([expected["a"], expected["b"]]))


@pytest.mark.parametrize("name", [None, "when"])
def test_times_in_the_index_of_a_parquet_file_stay_with_the_forecast(
    artifact: Path, table: Path, tmp_path: Path, name: str | None
) -> None:
    indexed = pd.read_csv(table, parse_dates=["date"], index_col="date").rename_axis(name)
    indexed.to_parquet(tmp_path / "indexed.parquet")
    apply(Apply(), job(artifact, tmp_path / "indexed.parquet", tmp_path / "out.csv"))
    forecast = pd.read_csv(tmp_path / "out.csv", parse_dates=[0])
    assert forecast.columns.to_list() == [name or "ds", "a", "b"]
    assert forecast[name or "ds"].to_list() == list(pd.date_range("2024-09-17", periods=6))


@pytest.fixture
def calibrated(table: Path, tmp_path: Path) -> Path:
    first = pd.read_csv(table)[:200]
    first.to_csv(tmp_path / "first.csv", index=False)
    summary = fit(replace(TINY, calibration=0.2), FitJob(tmp_path / "first.csv", tmp_path / "calibrated"))
    assert summary["calibration_windows"] == 35
    return tmp_path / "calibrated"


def test_apply_writes_intervals(calibrated: Path, table: Path, tmp_path: Path) -> None:
    apply(Apply(level=(80, 90)), job(calibrated, table, tmp_path / "forecast.csv"))
    forecast = pd.read_csv(tmp_path / "forecast.csv")
    assert forecast.columns.to_list()[3:] == [
        f"{v}-{side}-{one}" for one in (80, 90) for side in ("lo", "hi") for v in "ab"
    ]
    assert np.less(forecast["a-lo-90"], forecast["a"]).all()
    assert "90 % interval" in (tmp_path / "forecast.svg").read_text()
    recalibrated = Apply(level=(80,), recalibrate=60)
    apply(recalibrated, job(calibrated, table, tmp_path / "again.csv"))
    assert not np.allclose(pd.read_csv(tmp_path / "again.csv")["a-hi-80"], forecast["a-hi-80"])


@pytest.mark.parametrize("refit", [0, 3])
def test_apply_looks_back(calibrated: Path, table: Path, tmp_path: Path, refit: int) -> None:
    settings = Apply(backtest=5, step_size=9, refit=refit, level=(80,))
    summary = apply(settings, job(calibrated, table, tmp_path / "past.csv"))
    assert (summary["origins"], summary["fits"]) == (5, 2 if refit else 0)
    past, errors = pd.read_csv(tmp_path / "past.csv"), pd.read_csv(tmp_path / "past-by-step.csv")
    assert len(past) == 2 * 5 * 6
    assert errors["step"].to_list() == [1, 2, 3, 4, 5, 6]
    assert summary["MAE"] == pytest.approx(errors["MAE"].mean(), abs=1e-4)
    inside = past["y"].between(past["OLinear-lo-80"], past["OLinear-hi-80"])
    assert summary["coverage-80"] == pytest.approx(inside.mean(), abs=1e-4)
    assert "Mean absolute error by step" in (tmp_path / "past.svg").read_text()


def test_an_interrupted_fit_goes_on(table: Path, tmp_path: Path) -> None:
    whole = fit(TINY, FitJob(table, tmp_path / "whole"))
    one_epoch = Fit(**vars(TINY) | {"epochs": 1})
    fit(one_epoch, FitJob(table, tmp_path / "part"))
    resumed = fit(TINY, FitJob(table, tmp_path / "part", resume=True))
    assert resumed["validation_loss"] == whole["validation_loss"]


def test_wrong_use_is_explained(artifact: Path, table: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"forecast is written as \.csv or \.parquet"):
        apply(Apply(), job(artifact, table, tmp_path / "out.xlsx"))
    with pytest.raises(ArtifactError, match="not a saved run"):
        apply(Apply(), job(tmp_path, table, tmp_path / "out.csv"))
    with pytest.raises(DataError, match="expected the 2 variates 'a', 'b', got 7"):
        apply(Apply(dataset="ili"), job(artifact, None, tmp_path / "out.csv"))
    with pytest.raises(UsageError, match="belong to --backtest"):
        apply(Apply(refit=2), job(artifact, table, tmp_path / "out.csv"))
    with pytest.raises(UsageError, match="give --refit too"):
        apply(Apply(backtest=2, input_size=50), job(artifact, table, tmp_path / "out.csv"))
    with pytest.raises(UsageError, match="--backtest must not be negative, got -1"):
        apply(Apply(backtest=-1), job(artifact, table, tmp_path / "out.csv"))
    with pytest.raises(ValueError, match="set calibration to a share of the rows"):
        apply(Apply(level=(80,)), job(artifact, table, tmp_path / "out.csv"))
    with pytest.raises(DataError, match="has seen rows until 2024-09-16"):
        apply(Apply(backtest=2), job(artifact, table, tmp_path / "out.csv"))
    assert not (tmp_path / "out.csv").exists()
    holes = pd.read_csv(table)
    holes.loc[3, "a"] = np.nan
    holes.to_csv(tmp_path / "holes.csv", index=False)
    with pytest.raises(DataError, match=r"missing or infinite values in 'a' \(1\); choose nan_policy='ffill'"):
        fit(TINY, FitJob(tmp_path / "holes.csv", tmp_path / "other"))
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
    with pytest.raises(DataError, match="separated by semicolons"):
        fit(TINY, FitJob(german, tmp_path / "run"))
    said = {"separator": ";", "decimal": ","}
    summary = fit(replace(TINY, **said), FitJob(german, tmp_path / "run"))
    assert summary["time"] == "2024-01-01 to 2024-09-16, daily, day first"
    assert "time: 2024-01-01 to 2024-09-16, daily, day first" in capsys.readouterr().err
    forecasts = []
    for name, settings in (("told", Apply(**said)), ("known", Apply())):
        out = tmp_path / f"{name}.csv"
        summary = apply(settings, job(tmp_path / "run", german, out))
        assert summary["time"] == "2024-01-01 to 2024-09-16, daily, day first"
        forecasts.append(pd.read_csv(out))
    assert forecasts[0]["date"].to_list()[:2] == ["17.09.2024", "18.09.2024"]
    pd.testing.assert_frame_equal(*forecasts)
    apply(Apply(), job(tmp_path / "run", table, tmp_path / "plain.csv"))  # one with commas
    figures = [frame[["a", "b"]].to_numpy() for frame in (forecasts[0], pd.read_csv(tmp_path / "plain.csv"))]
    np.testing.assert_allclose(*figures, rtol=1e-6)


def test_what_the_fit_was_told_is_known_when_it_is_applied(table: Path, tmp_path: Path) -> None:
    wide = pd.read_csv(table).drop(index=[100, 101])
    panel = wide.melt("date", var_name="item", value_name="sold").rename(columns={"date": "when"}).assign(price=1.0)
    panel.to_csv(tmp_path / "panel.csv", index=False)
    told = replace(TINY, id_column="item", time_column="when", drop=("price",), fill_gaps=True, nan_policy="ffill")
    summary = fit(told, FitJob(tmp_path / "panel.csv", tmp_path / "run"))
    assert summary["time"] == "2024-01-01 to 2024-09-16, daily, 2 missing rows filled in"
    apply(Apply(), job(tmp_path / "run", tmp_path / "panel.csv", tmp_path / "out.csv"))
    assert pd.read_csv(tmp_path / "out.csv").columns.to_list() == ["item", "when", "OLinear"]
    wide.to_csv(tmp_path / "wide.csv", index=False)  # a table of another layout, and what it is told wins
    wide_job = job(tmp_path / "run", tmp_path / "wide.csv", tmp_path / "out.csv")
    apply(Apply(), wide_job)
    assert pd.read_csv(tmp_path / "out.csv").columns.to_list() == ["date", "a", "b"]
    with pytest.raises(DataError, match="expected the 2 variates"):
        apply(Apply(drop=("b",)), wide_job)
    with pytest.raises(DataError, match="drop='c': there is no such column"):
        apply(Apply(drop=("c",)), wide_job)


@pytest.mark.parametrize("calibration", [0.0, 0.2])
def test_a_fit_is_set_beside_repeating_in_the_units_of_the_data(
    table: Path, tmp_path: Path, calibration: float
) -> None:
    summary = fit(replace(TINY, calibration=calibration), FitJob(table, tmp_path / "run"))
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

    monkeypatch.setattr("linmap.recipes.olinear.apply.draw_forecast", broken)
    summary = apply(Apply(), job(artifact, table, tmp_path / "out.csv"))
    assert (tmp_path / "out.csv").exists()
    assert "picture" not in summary
    assert summary["notes"] == ["out.svg was not drawn: no canvas."]


def test_a_table_of_another_step_is_refused(artifact: Path, table: Path, tmp_path: Path) -> None:
    hourly = rewritten(table, lambda t: t.assign(date=pd.date_range("2024-01-01", periods=len(t), freq="h")))
    with pytest.raises(DataError, match="time axis that is daily, that of this table is hourly"):
        apply(Apply(), job(artifact, hourly, tmp_path / "out.csv"))
