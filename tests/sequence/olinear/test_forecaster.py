"""The estimator: tables in, tables out, nothing learned from rows it must not see."""

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, TimeSeriesSplit
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from linmap.data.timeseries import Split, TimeSeries
from linmap.errors import ArtifactError, DataError
from linmap.sequence.olinear import OLinear_C, OLinearForecaster, OrthoTrans, basis, variate_correlation

SMALL = {"d_model": 16, "embed": 2, "layers": 1, "dropout": 0.0, "epochs": 3, "lr": 5e-3, "lookback": 14}


def wide(rows: int = 160) -> pd.DataFrame:
    day = np.arange(rows)
    noise = np.random.default_rng(0).standard_normal((rows, 2)) * 0.1
    values = np.stack([np.sin(2 * np.pi * day / 7), 50 + 10 * np.cos(2 * np.pi * day / 7)], 1) + noise * [1, 10]
    return pd.DataFrame(
        {"date": pd.date_range("2024-01-01", periods=rows, freq="D"), "a": values[:, 0], "b": values[:, 1]}
    )


def long(table: pd.DataFrame) -> pd.DataFrame:
    melted = table.rename(columns={"date": "ds"}).melt("ds", var_name="unique_id", value_name="y")
    return melted[["unique_id", "ds", "y"]]


@pytest.fixture(scope="module")
def fitted() -> OLinearForecaster:
    return OLinearForecaster(7, **SMALL).fit(wide())  # pyright: ignore


def test_it_continues_waves_in_their_units_and_times() -> None:
    table = wide(300)
    forecaster = OLinearForecaster(7, **SMALL | {"epochs": 8}).fit(table[:-7])  # pyright: ignore
    forecast = forecaster.predict(table[:-7])
    assert isinstance(forecast, pd.DataFrame)
    assert forecast.columns.to_list() == ["date", "a", "b"]
    assert forecast["date"].to_list() == table["date"][-7:].to_list()
    error = np.abs(forecast[["a", "b"]].to_numpy() - table[["a", "b"]][-7:].to_numpy()).mean(0)
    assert np.all(error < 0.5 * table[["a", "b"]].std().to_numpy())


def test_long_tables_give_the_same_forecast(fitted: OLinearForecaster) -> None:
    forecast = OLinearForecaster(7, **SMALL).fit(long(wide())).predict(long(wide()))  # pyright: ignore
    assert isinstance(forecast, pd.DataFrame)
    assert forecast.columns.to_list() == ["unique_id", "ds", "OLinear"]
    expected = fitted.predict(wide())
    assert isinstance(expected, pd.DataFrame)
    np.testing.assert_allclose(forecast.pivot(index="ds", columns="unique_id", values="OLinear"), expected[["a", "b"]])
    assert forecast["ds"].to_list() == [*expected["date"]] * 2


def test_arrays_give_arrays(fitted: OLinearForecaster) -> None:
    X = wide()[["a", "b"]].to_numpy()
    forecast = OLinearForecaster(7, **SMALL).fit(X).predict(X)  # pyright: ignore
    assert isinstance(forecast, np.ndarray)
    expected = fitted.predict(wide())
    assert isinstance(expected, pd.DataFrame)
    np.testing.assert_allclose(forecast, expected[["a", "b"]])


def test_only_the_last_rows_count_and_columns_go_by_name(fitted: OLinearForecaster) -> None:
    expected = fitted.predict(wide())
    pd.testing.assert_frame_equal(fitted.predict(wide()[-14:]), expected)  # pyright: ignore
    swapped = fitted.predict(wide()[["date", "b", "a"]])
    pd.testing.assert_frame_equal(swapped, expected)  # pyright: ignore


def test_scaler_bases_and_correlation_see_the_training_rows_alone() -> None:
    table, split = wide(), Split(100, 140, 160)
    changed = table.copy()
    changed.loc[100:, ["a", "b"]] = changed.loc[100:, ["b", "a"]].to_numpy() ** 2
    options = SMALL | {"mixing": "correlation", "epochs": 1}
    one, two = (OLinearForecaster(7, **options).fit(part, split=split) for part in (table, changed))  # pyright: ignore
    rows = table[["a", "b"]].to_numpy()[:100]
    np.testing.assert_allclose(one.mean_, rows.mean(0))
    np.testing.assert_allclose(one.scale_, rows.std(0))
    assert isinstance(one.model_, OLinear_C)
    torch.testing.assert_close(one.model_.Q_in, torch.from_numpy(OrthoTrans(14).fit(rows).Q_).float())
    torch.testing.assert_close(one.model_.Q_out, torch.from_numpy(OrthoTrans(7).fit(rows).Q_).float())
    C = torch.from_numpy(variate_correlation(rows)).softmax(-1).float()
    torch.testing.assert_close(one.model_.blocks[0].mixing.matrix(), C)  # pyright: ignore
    for name, tensor in one.model_.state_dict().items():
        torch.testing.assert_close(two.model_.state_dict()[name], tensor)  # one epoch: validation chooses nothing


def test_fixed_bases_can_be_chosen() -> None:
    forecaster = OLinearForecaster(7, **SMALL | {"basis": "dct"})  # pyright: ignore
    model = forecaster.build(wide()[["a", "b"]].to_numpy())
    torch.testing.assert_close(model.Q_in, torch.from_numpy(basis("dct", 14)).float())


def test_what_is_saved_forecasts_the_same(fitted: OLinearForecaster, tmp_path) -> None:
    fitted.save(tmp_path)
    loaded = OLinearForecaster.load(tmp_path)
    assert loaded.get_params() == fitted.get_params()
    pd.testing.assert_frame_equal(loaded.predict(wide()), fitted.predict(wide()))  # pyright: ignore
    assert {file.name for file in tmp_path.iterdir()} == {"config.json", "model.safetensors"}
    with pytest.raises(ArtifactError, match="not a saved run"):
        OLinearForecaster.load(tmp_path / "elsewhere")


def test_equal_seeds_give_equal_forecasts(fitted: OLinearForecaster) -> None:
    again = clone(fitted).fit(wide())
    pd.testing.assert_frame_equal(again.predict(wide()), fitted.predict(wide()))  # pyright: ignore


def test_scikit_learn_manners() -> None:
    X = wide()[["a", "b"]].to_numpy()
    forecaster = OLinearForecaster(7, **SMALL | {"epochs": 1})  # pyright: ignore
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
        forecast = fitted.predict(table[:end])
        truth = table[end : end + 7]
        errors.append(((forecast[["a", "b"]].to_numpy() - truth[["a", "b"]].to_numpy()) / fitted.scale_) ** 2)  # pyright: ignore
    assert fitted.score(table) == pytest.approx(-np.mean(errors), rel=1e-4)


# -- what cannot be used -----------------------------------------------------------------------------------------------


def test_missing_values_need_a_policy(fitted: OLinearForecaster) -> None:
    holes = wide()
    holes.loc[[20, 150], "a"] = [np.nan, np.inf]
    with pytest.raises(DataError, match=r"missing or infinite values in 'a' \(2\)"):
        clone(fitted).fit(holes)
    with pytest.raises(DataError, match=r"'a' \(1\)"):
        fitted.predict(holes[-14:])
    filled = clone(fitted).set_params(nan_policy="ffill").fit(holes).predict(holes)
    assert np.isfinite(filled[["a", "b"]]).all(axis=None)  # pyright: ignore


def test_wrong_tables_at_predict_say_what_is_expected(fitted: OLinearForecaster) -> None:
    with pytest.raises(DataError, match="needs the last 14 rows, the table has 13"):
        fitted.predict(wide()[:13])
    with pytest.raises(DataError, match="expected the 2 variates 'a', 'b', got 1: 'a'"):
        fitted.predict(wide()[["date", "a"]])
    with pytest.raises(DataError, match="expected the 2 variates 'a', 'b', got 3: 'a', 'b', 'c'"):
        fitted.predict(wide().assign(c=1.0))


def test_too_short_tables_are_explained() -> None:
    with pytest.raises(DataError, match="the last 20% of 30 rows are 6, too few to validate forecasts of 7 steps"):
        OLinearForecaster(7, **SMALL).fit(wide(30))  # pyright: ignore
    with pytest.raises(ValueError, match="need at least 42 training rows to estimate a 40-step correlation, got 32"):
        OLinearForecaster(7, **SMALL | {"lookback": 40}).fit(wide(40))  # pyright: ignore
    with pytest.raises(DataError, match="18 rows are too few for one window of 14 input and 7 target rows"):
        OLinearForecaster(7, **SMALL).fit(wide(36), split=Split(18, 36, 36))  # pyright: ignore


def test_constant_variates_stay_in_the_model_with_a_warning() -> None:
    table = wide().assign(flat=3.3)
    with pytest.warns(UserWarning, match="left out of the correlation: flat"):
        forecaster = OLinearForecaster(7, **SMALL).fit(table)  # pyright: ignore
    forecast = forecaster.predict(table)
    np.testing.assert_allclose(forecast["flat"], 3.3, atol=0.2)  # pyright: ignore
    with pytest.raises(ValueError, match="all 2 variates are constant"):
        OLinearForecaster(7, **SMALL).fit(table.assign(a=1.0, b=2.0).drop(columns="flat"))  # pyright: ignore


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"validation": 0.0}, r"validation must lie between 0 and 1, got 0\.0"),
        ({"basis": "sine"}, "there is no basis 'sine'"),
        ({"mixing": "attention"}, "mixing must be 'normlin' or 'correlation', got 'attention'"),
        ({"nan_policy": "mean"}, "nan_policy must be 'ffill', 'zero' or None, got 'mean'"),
    ],
)
def test_wrong_parameters_are_explained(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        OLinearForecaster(7, **SMALL | change).fit(wide())  # pyright: ignore


def test_a_checked_series_is_taken_as_it_is(fitted: OLinearForecaster) -> None:
    series = TimeSeries.from_frame(wide())
    pd.testing.assert_frame_equal(fitted.predict(series), fitted.predict(wide()))  # pyright: ignore
