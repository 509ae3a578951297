"""The estimator: tables in, tables out, nothing learned from rows it must not see."""

import inspect
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, TimeSeriesSplit
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from linmap.data.timeseries import Split, TimeSeries
from linmap.errors import ArtifactError, DataError
from linmap.sequence.olinear import (
    NormLin,
    OLinear_C,
    OLinearForecaster,
    OrthoTrans,
    backtest,
    basis,
    variate_correlation,
)
from linmap.sequence.olinear.forecaster import READING
from linmap.sequence.olinear.model import Block
from typed import cloned, of_class

small = partial(
    OLinearForecaster,
    h=7,
    d_model=16,
    embed=2,
    layers=1,
    dropout=0.0,
    epochs=3,
    lr=5e-3,
    lookback=14,
)


def wide(rows: int = 160) -> pd.DataFrame:
    day = np.arange(rows)
    noise = np.random.default_rng(0).standard_normal((rows, 2)) * 0.1
    values = np.stack([np.sin(2 * np.pi * day / 7), 50 + 10 * np.cos(2 * np.pi * day / 7)], 1) + noise * [1, 10]
    return pd.DataFrame(
        {"date": pd.date_range("2024-01-01", periods=rows, freq="D"), "a": values[:, 0], "b": values[:, 1]}
    )


def frame(table: object) -> pd.DataFrame:
    """Rows or columns of a table, which pandas declares as perhaps a series."""
    return of_class(pd.DataFrame, table)


def long(table: pd.DataFrame) -> pd.DataFrame:
    melted = table.rename(columns={"date": "ds"}).melt("ds", var_name="unique_id", value_name="y")
    return frame(melted[["unique_id", "ds", "y"]])


@pytest.fixture(scope="module")
def fitted() -> OLinearForecaster:
    return small().fit(wide())


def test_it_continues_waves_in_their_units_and_times() -> None:
    table = wide(300)
    forecaster = small(epochs=8).fit(frame(table[:-7]))
    forecast = forecaster.predict(frame(table[:-7]))
    assert isinstance(forecast, pd.DataFrame)
    assert forecast.columns.to_list() == ["date", "a", "b"]
    assert forecast["date"].to_list() == table.tail(7)["date"].to_list()
    error = np.abs(forecast[["a", "b"]].to_numpy() - table.tail(7)[["a", "b"]].to_numpy()).mean(0)
    assert np.all(error < 0.5 * np.asarray(table[["a", "b"]].std()))


def test_long_tables_give_the_same_forecast(fitted: OLinearForecaster) -> None:
    forecast = small().fit(long(wide())).predict(long(wide()))
    assert isinstance(forecast, pd.DataFrame)
    assert forecast.columns.to_list() == ["unique_id", "ds", "OLinear"]
    expected = fitted.predict(wide())
    assert isinstance(expected, pd.DataFrame)
    np.testing.assert_allclose(forecast.pivot(index="ds", columns="unique_id", values="OLinear"), expected[["a", "b"]])
    assert forecast["ds"].to_list() == [*expected["date"]] * 2


def test_arrays_give_arrays(fitted: OLinearForecaster) -> None:
    X = wide()[["a", "b"]].to_numpy()
    forecast = small().fit(X).predict(X)
    assert isinstance(forecast, np.ndarray)
    expected = fitted.predict(wide())
    assert isinstance(expected, pd.DataFrame)
    np.testing.assert_allclose(forecast, expected[["a", "b"]])


def test_only_the_last_rows_count_and_columns_go_by_name(fitted: OLinearForecaster) -> None:
    expected = fitted.predict(wide())
    pd.testing.assert_frame_equal(fitted.predict(wide().tail(14)), expected)
    swapped = fitted.predict(frame(wide()[["date", "b", "a"]]))
    pd.testing.assert_frame_equal(swapped, expected)


def test_scaler_bases_and_correlation_see_the_training_rows_alone() -> None:
    table, split = wide(), Split(100, 140, 160)
    changed = table.copy()
    changed.loc[100:, ["a", "b"]] = changed.loc[100:, ["b", "a"]].to_numpy() ** 2
    one, two = (small(mixing="correlation", epochs=1).fit(part, split=split) for part in (table, changed))
    rows = table[["a", "b"]].to_numpy()[:100]
    np.testing.assert_allclose(one.mean_, rows.mean(0))
    np.testing.assert_allclose(one.scale_, rows.std(0))
    assert isinstance(one.model_, OLinear_C)
    torch.testing.assert_close(one.model_.Q_in, torch.from_numpy(OrthoTrans(14).fit(rows).Q_).float())
    torch.testing.assert_close(one.model_.Q_out, torch.from_numpy(OrthoTrans(7).fit(rows).Q_).float())
    C = torch.from_numpy(variate_correlation(rows)).softmax(-1).float()
    torch.testing.assert_close(of_class(Block, one.model_.blocks[0]).mixing.matrix(), C)
    for name, tensor in one.model_.state_dict().items():
        torch.testing.assert_close(two.model_.state_dict()[name], tensor)  # one epoch: validation chooses nothing


def test_fixed_bases_can_be_chosen() -> None:
    forecaster = small(basis="dct")
    model = forecaster.build(wide()[["a", "b"]].to_numpy())
    torch.testing.assert_close(model.Q_in, torch.from_numpy(basis("dct", 14)).float())


def test_what_is_saved_forecasts_the_same(fitted: OLinearForecaster, tmp_path) -> None:
    fitted.save(tmp_path)
    loaded = OLinearForecaster.load(tmp_path)
    assert loaded.get_params() == fitted.get_params()
    pd.testing.assert_frame_equal(loaded.predict(wide()), fitted.predict(wide()))
    assert {file.name for file in tmp_path.iterdir()} == {"config.json", "model.safetensors"}
    with pytest.raises(ArtifactError, match="not a saved run"):
        OLinearForecaster.load(tmp_path / "elsewhere")


def test_equal_seeds_give_equal_forecasts(fitted: OLinearForecaster) -> None:
    again = cloned(fitted).fit(wide())
    pd.testing.assert_frame_equal(again.predict(wide()), fitted.predict(wide()))


def test_scikit_learn_manners() -> None:
    X = wide()[["a", "b"]].to_numpy()
    forecaster = small(epochs=1)
    with pytest.raises(NotFittedError):
        forecaster.predict(X)
    search = GridSearchCV(forecaster, {"lookback": [7, 14]}, cv=TimeSeriesSplit(2)).fit(X)
    assert search.best_params_["lookback"] in (7, 14)
    assert np.all(search.cv_results_["mean_test_score"] < 0)
    assert make_pipeline(StandardScaler(), forecaster).fit(X).predict(X).shape == (7, 2)


def test_score_is_minus_the_standardised_squared_error(fitted: OLinearForecaster) -> None:
    table = wide(40)
    errors = []
    for end in range(14, len(table) - 6):
        forecast = fitted.predict(frame(table[:end]))
        truth = frame(table[end : end + 7])
        gap = forecast[["a", "b"]].to_numpy() - truth[["a", "b"]].to_numpy()
        errors.append((gap / fitted.scale_) ** 2)
    assert fitted.score(table) == pytest.approx(-np.mean(errors), rel=1e-4)


# -- what cannot be used -----------------------------------------------------------------------------------------------


def test_missing_values_need_a_policy(fitted: OLinearForecaster) -> None:
    holes = wide()
    holes.loc[[20, 150], "a"] = [np.nan, np.inf]
    with pytest.raises(DataError, match=r"missing or infinite values in 'a' \(2\)"):
        cloned(fitted).fit(holes)
    with pytest.raises(DataError, match=r"'a' \(1\)"):
        fitted.predict(holes.tail(14))
    filled = cloned(fitted).set_params(nan_policy="ffill").fit(holes).predict(holes)
    assert np.isfinite(filled[["a", "b"]]).all(axis=None)


def test_wrong_tables_at_predict_say_what_is_expected(fitted: OLinearForecaster) -> None:
    with pytest.raises(DataError, match="needs the last 14 rows, the table has 13"):
        fitted.predict(wide().head(13))
    with pytest.raises(DataError, match="expected the 2 variates 'a', 'b', got 1: 'a'"):
        fitted.predict(frame(wide()[["date", "a"]]))
    with pytest.raises(DataError, match="expected the 2 variates 'a', 'b', got 3: 'a', 'b', 'c'"):
        fitted.predict(wide().assign(c=1.0))


def test_too_short_tables_are_explained() -> None:
    with pytest.raises(DataError, match="the last 20% of 30 rows are 6, too few to validate forecasts of 7 steps"):
        small().fit(wide(30))
    with pytest.raises(ValueError, match="need at least 42 training rows to estimate a 40-step correlation, got 32"):
        small(lookback=40).fit(wide(40))
    with pytest.raises(DataError, match="18 rows are too few for one window of 14 input and 7 target rows"):
        small().fit(wide(36), split=Split(18, 36, 36))


def test_constant_variates_stay_in_the_model_with_a_warning() -> None:
    table = wide().assign(flat=3.3)
    with pytest.warns(UserWarning, match="left out of the correlation: flat"):
        forecaster = small().fit(table)
    forecast = forecaster.predict(table)
    np.testing.assert_allclose(forecast["flat"], 3.3, atol=0.2)
    with pytest.raises(ValueError, match="all 2 variates are constant"):
        small().fit(table.assign(a=1.0, b=2.0).drop(columns="flat"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"validation": 0.0}, r"validation must lie between 0 and 1, got 0\.0"),
        ({"lookback": 0}, "lookback=0 must be a whole number of steps, at least 1"),
        ({"h": 0}, "h=0 must be a whole number of steps"),
        ({"basis": "sine"}, "there is no basis 'sine'"),
        ({"mixing": "attention"}, "mixing must be 'normlin', 'correlation' or 'prior', got 'attention'"),
        ({"nan_policy": "mean"}, "nan_policy must be 'ffill', 'zero' or None, got 'mean'"),
    ],
)
def test_wrong_parameters_are_explained(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        small(**change).fit(wide())


def test_a_checked_series_is_taken_as_it_is(fitted: OLinearForecaster) -> None:
    series = TimeSeries.from_frame(wide())
    pd.testing.assert_frame_equal(fitted.predict(series), fitted.predict(wide()))


# -- intervals ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def calibrated() -> OLinearForecaster:
    return small(calibration=0.2).fit(wide(300))


def test_calibration_rows_are_kept_from_training_and_stopping(calibrated: OLinearForecaster) -> None:
    table = wide(300)
    changed = table.copy()
    changed.loc[240:, ["a", "b"]] *= 3
    assert calibrated.scores_ is not None
    assert calibrated.scores_.shape == (60 - 7 + 1, 7, 2)
    other = cloned(calibrated).fit(changed)
    for name, tensor in calibrated.model_.state_dict().items():
        torch.testing.assert_close(other.model_.state_dict()[name], tensor)
    assert other.scores_ is not None
    assert np.abs(other.scores_ - calibrated.scores_).max() > 0.1


def test_intervals_come_in_the_layout_of_the_table(calibrated: OLinearForecaster) -> None:
    table = wide(300)
    forecast = calibrated.predict(table, level=[80, 90])
    assert isinstance(forecast, pd.DataFrame)
    ends = [f"{variate}-{side}-{level}" for level in (80, 90) for side in ("lo", "hi") for variate in "ab"]
    assert forecast.columns.to_list() == ["date", "a", "b", *ends]
    assert np.all(forecast["a-lo-90"] <= forecast["a-lo-80"])
    assert np.all(forecast["a-lo-80"] < forecast["a"])
    np.testing.assert_allclose(forecast["b-hi-90"] - forecast["b"], forecast["b"] - forecast["b-lo-90"])
    as_long = calibrated.predict(long(table), level=[80])
    assert isinstance(as_long, pd.DataFrame)
    assert as_long.columns.to_list() == ["unique_id", "ds", "OLinear", "OLinear-lo-80", "OLinear-hi-80"]
    np.testing.assert_allclose(as_long["OLinear-hi-80"], np.concatenate([forecast["a-hi-80"], forecast["b-hi-80"]]))
    fitted = cloned(calibrated).fit(table[["a", "b"]].to_numpy())
    as_array = fitted.predict(table[["a", "b"]].to_numpy(), level=[80])
    assert isinstance(as_array, np.ndarray)
    np.testing.assert_allclose(as_array[:, 1], forecast[["b", "b-lo-80", "b-hi-80"]])


def test_intervals_cover_rows_that_nothing_has_seen() -> None:
    table = wide(1000)
    forecaster = small(calibration=0.4, epochs=2).fit(frame(table[:600]))
    errors = backtest(forecaster, table, n_windows=56, level=[80]).errors()
    assert np.mean(errors["coverage-80"]) == pytest.approx(0.8, abs=0.06)


def test_recalibration_uses_the_rows_that_it_is_given(calibrated: OLinearForecaster, tmp_path) -> None:
    wider = wide(400)
    wider.loc[300:, ["a", "b"]] += np.random.default_rng(1).standard_normal((100, 2)) * [1, 30]
    forecaster = cloned(calibrated).fit(wide(300))
    before = forecaster.predict(wide(300), level=[80])
    after = forecaster.calibrate(wider.tail(120)).predict(wide(300), level=[80])
    assert np.all((after["a-hi-80"] - after["a"]) > (before["a-hi-80"] - before["a"]))
    forecaster.save(tmp_path)
    loaded = OLinearForecaster.load(tmp_path)
    pd.testing.assert_frame_equal(loaded.predict(wide(300), level=[80]), after)
    assert loaded.seen_until_ == forecaster.seen_until_ == wider["date"].iloc[-1]


def test_intervals_without_calibration_are_refused(fitted: OLinearForecaster) -> None:
    with pytest.raises(ValueError, match=r"set calibration to a share of the rows, such as 0\.1, or call calibrate"):
        fitted.predict(wide(), level=[80])
    with pytest.raises(DataError, match="the last 2% of 300 rows are 6, too few to calibrate intervals of 7 steps"):
        small(calibration=0.02).fit(wide(300))
    with pytest.raises(ValueError, match=r"calibration must lie between 0 and 1 - validation = 0\.8, got 0\.9"):
        small(calibration=0.9).fit(wide(300))


# -- bases and mixings -------------------------------------------------------------------------------------------------


def test_every_variate_may_have_its_own_basis(tmp_path) -> None:
    table = wide()
    forecaster = small(chan_indep=True, epochs=1).fit(table)
    rows = table[["a", "b"]].to_numpy()[:128]
    for j in range(2):
        expected = torch.from_numpy(OrthoTrans(14).fit(rows[:, [j]]).Q_).float()
        torch.testing.assert_close(forecaster.model_.Q_in[j], expected)
    forecaster.save(tmp_path)
    again = OLinearForecaster.load(tmp_path).predict(table)
    pd.testing.assert_frame_equal(again, forecaster.predict(table))
    with pytest.raises(ValueError, match="chan_indep needs a basis that is found in the data"):
        small(chan_indep=True, epochs=1, basis="dct").fit(table)


def test_the_prior_of_normlin_is_the_softmax_of_the_correlation(tmp_path) -> None:
    forecaster = small(mixing="prior", epochs=1).fit(wide())
    mixing = of_class(NormLin, of_class(Block, forecaster.model_.blocks[0]).mixing)
    C = torch.from_numpy(variate_correlation(wide()[["a", "b"]].to_numpy()[:128])).softmax(-1).float()
    A = torch.nn.functional.softplus(mixing.weight) + C
    torch.testing.assert_close(mixing.matrix(), A / A.sum(1, keepdim=True))
    forecaster.save(tmp_path)
    again = OLinearForecaster.load(tmp_path).predict(wide())
    pd.testing.assert_frame_equal(again, forecaster.predict(wide()))


def test_exogenous_columns_are_refused() -> None:
    with pytest.raises(DataError, match="a long table holds unique_id, ds, y alone; got also 'price': exogenous"):
        small().fit(long(wide()).assign(price=1.0))


def test_tables_are_read_with_the_parameters_and_defaults_of_time_series() -> None:
    read = inspect.signature(TimeSeries.from_frame).parameters
    assert set(read) - {"table", "like"} == set(READING)
    defaults = OLinearForecaster(1).reading()
    assert defaults == {name: read[name].default for name in READING}
