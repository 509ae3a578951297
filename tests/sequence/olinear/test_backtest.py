"""Backtesting: what each origin saw, where its forecasts lie, and what the errors are."""

import re
from functools import partial

import numpy as np
import pandas as pd
import pytest

from linmap.errors import ArgumentError, DataError
from linmap.sequence.olinear import OLinearForecaster, backtest
from typed import cloned, of_class

small = partial(OLinearForecaster, 5, d_model=8, embed=2, layers=1, dropout=0.0, epochs=2, lr=5e-3, lookback=14)


def table(rows: int = 260) -> pd.DataFrame:
    day = np.arange(rows)
    noise = np.random.default_rng(0).standard_normal((rows, 2))
    values = np.stack([np.sin(2 * np.pi * day / 7), 50 + 10 * np.cos(2 * np.pi * day / 7)], 1) + noise * [0.1, 1]
    times = pd.date_range("2024-01-01", periods=rows, freq="D")
    return pd.DataFrame({"ds": times, "a": values[:, 0], "b": values[:, 1]})


def frame(table: object) -> pd.DataFrame:
    """Rows or columns of a table, which pandas declares as perhaps a series."""
    return of_class(pd.DataFrame, table)


@pytest.fixture(scope="module")
def fitted() -> OLinearForecaster:
    return small(calibration=0.2).fit(frame(table()[:200]))


def test_a_fixed_model_forecasts_from_each_origin_as_predict_does(fitted: OLinearForecaster) -> None:
    found = backtest(fitted, table(), n_windows=4, step_size=6, level=[80])
    assert found.cutoffs.tolist() == [236, 242, 248, 254]
    assert found.fits == 0
    for cutoff, forecast, width in zip(found.cutoffs, found.forecasts, found.widths[80], strict=True):
        expected = fitted.predict(frame(table()[: cutoff + 1]), level=[80])
        assert isinstance(expected, pd.DataFrame)
        np.testing.assert_allclose(forecast, expected[["a", "b"]])
        np.testing.assert_allclose(forecast + width, expected[["a-hi-80", "b-hi-80"]], rtol=1e-6)
    np.testing.assert_array_equal(found.actual[-1], table()[["a", "b"]].to_numpy()[-5:])


def test_no_forecast_depends_on_rows_behind_its_origin(fitted: OLinearForecaster) -> None:
    later = table()
    later.loc[250:, ["a", "b"]] *= 7
    before, after = (backtest(fitted, X, n_windows=2) for X in (table(), later))
    np.testing.assert_array_equal(before.forecasts[0], after.forecasts[0])  # its origin is row 249
    assert np.abs(before.forecasts[1] - after.forecasts[1]).max() > 0


def test_errors_count_standard_deviations_by_step(fitted: OLinearForecaster) -> None:
    found = backtest(fitted, table(), n_windows=6, level=[50, 80])
    errors = found.errors()
    assert errors["step"].to_list() == [1, 2, 3, 4, 5]
    error = (found.forecasts - found.actual) / fitted.scale_
    np.testing.assert_allclose(errors["MSE"], (error**2).mean((0, 2)))
    np.testing.assert_allclose(errors["MAE"], np.abs(error).mean((0, 2)))
    last = table()[["a", "b"]].to_numpy()[found.cutoffs][:, None]
    np.testing.assert_allclose(errors["naive MAE"], (np.abs(found.actual - last) / fitted.scale_).mean((0, 2)))
    inside = np.abs(found.forecasts - found.actual) <= found.widths[80]
    np.testing.assert_allclose(errors["coverage-80"], inside.mean((0, 2)))
    assert np.all(errors["width-50"] < errors["width-80"])


def test_the_long_frame_holds_every_forecast_once(fitted: OLinearForecaster) -> None:
    long = backtest(fitted, table(), n_windows=3, level=[80]).frame()
    assert long.columns.to_list() == ["unique_id", "ds", "cutoff", "y", "OLinear", "OLinear-lo-80", "OLinear-hi-80"]
    assert len(long) == 2 * 3 * 5
    truth = table().set_index("ds")
    places = zip(long["ds"], long["unique_id"], long["y"], strict=True)
    assert all(truth.loc[time, name] == y for time, name, y in places)
    assert np.all(long["ds"] > long["cutoff"])
    assert np.all(long["OLinear-lo-80"] < long["OLinear"])


@pytest.mark.parametrize(("input_size", "first"), [(None, 0), (100, 155)])
def test_refits_see_all_rows_so_far_or_a_window_that_moves(input_size: int | None, first: int) -> None:
    forecaster = small()
    found = backtest(forecaster, table(), n_windows=3, refit=2, input_size=input_size)
    assert found.fits == 2
    assert not hasattr(forecaster, "model_")
    again = cloned(forecaster).fit(frame(table()[first:255]))  # the third origin is row 254
    np.testing.assert_allclose(found.forecasts[2], again.predict(frame(table()[:255]))[["a", "b"]])
    earlier = cloned(forecaster).fit(frame(table()[max(first - 10, 0) : 245]))
    np.testing.assert_allclose(found.forecasts[1], earlier.predict(frame(table()[:250]))[["a", "b"]])
    np.testing.assert_allclose(found.scale, earlier.scale_)


def test_a_model_that_is_not_fitted_is_fitted_once_before_the_first_origin() -> None:
    forecaster = small()
    found = backtest(forecaster, table(), n_windows=3)
    assert found.fits == 1
    once = cloned(forecaster).fit(frame(table()[:245]))
    np.testing.assert_allclose(found.forecasts[2], once.predict(frame(table()[:255]))[["a", "b"]])


def test_rows_that_the_model_has_seen_are_refused(fitted: OLinearForecaster, tmp_path) -> None:
    fitted.save(tmp_path)
    for forecaster in (fitted, OLinearForecaster.load(tmp_path)):
        with pytest.raises(DataError, match=r"until 2024-07-18.*60 of.*need 65: take n_windows=12"):
            backtest(forecaster, table(), n_windows=13)
        assert len(backtest(forecaster, table(), n_windows=12).cutoffs) == 12  # the first right after these rows


@pytest.mark.parametrize("step", [1, 5, 7])
@pytest.mark.parametrize("rows", [200, 203, 205, 206, 211, 260])
def test_what_the_message_of_seen_rows_advises_works(fitted: OLinearForecaster, rows: int, step: int) -> None:
    def ask(rows: int, n_windows: int) -> None:
        assert len(backtest(fitted, table(rows), n_windows=n_windows, step_size=step).cutoffs) == n_windows

    with pytest.raises(DataError, match=rf"{rows - 200} of the {rows} rows are later") as raised:
        ask(rows, (rows - 200) // step + 2)
    if found := re.search(r"n_windows=(\d+)", str(raised.value)):
        ask(rows, int(found[1]))
        with pytest.raises(DataError, match="has seen rows"):
            ask(rows, int(found[1]) + 1)
    else:
        lacking = re.search(r"bring (\d+) or more", str(raised.value))
        assert lacking is not None
        ask(rows + int(lacking[1]), 1)
        with pytest.raises(DataError, match="has seen rows"):
            ask(rows + int(lacking[1]) - 1, 1)


@pytest.mark.parametrize("step", [1, 7])
@pytest.mark.parametrize("rows", [150, 151, 155, 156, 157, 158])
def test_what_the_message_of_too_many_origins_advises_works(rows: int, step: int) -> None:
    model = small(epochs=1, lookback=140)
    with pytest.raises(DataError, match="before the first") as raised:
        backtest(model, table(rows), n_windows=100, step_size=step)
    found = re.search(r"at most n_windows=(\d+)", str(raised.value))
    assert found is not None
    with pytest.raises(DataError, match="before the first"):
        backtest(model, table(rows), n_windows=int(found[1]) + 1, step_size=step)
    with pytest.raises(
        (DataError, ArgumentError), match="rows"
    ) as raised:  # too few to train on, which is another matter
        backtest(model, table(rows), n_windows=int(found[1]), step_size=step)
    assert "before the first" not in str(raised.value)


def test_times_may_have_a_zone() -> None:
    zoned = table(80).assign(ds=table(80)["ds"].dt.tz_localize("Europe/Madrid").dt.tz_convert("UTC"))
    forecaster = small().fit(frame(zoned[:70]))
    assert backtest(forecaster, zoned, n_windows=1).cutoffs.tolist() == [74]
    with pytest.raises(DataError, match="has seen rows until"):
        backtest(forecaster, zoned, n_windows=3)


def test_zones_on_one_side_alone_are_refused() -> None:
    naive, zoned = table(80), table(80).assign(ds=table(80)["ds"].dt.tz_localize("UTC"))
    for seen, later, words in ((naive, zoned, "this table have a time zone"), (zoned, naive, "model have a time zone")):
        forecaster = small().fit(frame(seen[:60]))
        with pytest.raises(DataError, match=words):
            backtest(forecaster, later, n_windows=1)
        with pytest.raises(DataError, match=words):
            forecaster.calibrate(later)
        assert len(forecaster.predict(later)) == 5


def test_years_and_other_numbers_are_times_too(fitted: OLinearForecaster) -> None:
    years = table(80).assign(ds=range(1900, 1980)).rename(columns={"ds": "year"})
    forecaster = small().fit(frame(years[:70]))
    with pytest.raises(DataError, match="has seen rows until 1969"):
        backtest(forecaster, years, n_windows=3)
    found = backtest(forecaster, years, n_windows=1).frame()
    assert found["ds"].to_list() == [*range(1975, 1980)] * 2


def test_ids_and_times_come_back_in_their_type() -> None:
    wide = table()[:80].assign(ds=lambda t: t.ds.dt.strftime("%d/%m/%Y"))
    panel = wide.rename(columns={"a": 3, "b": 1}).melt("ds", var_name="unique_id", value_name="y")
    panel["unique_id"] = panel["unique_id"].astype("int64")
    found = backtest(small(), panel, n_windows=2).frame()
    assert found["unique_id"].dtype == "int64"
    assert found["ds"].iloc[-1] == wide["ds"].iloc[-1]


def test_wrong_arguments_are_explained(fitted: OLinearForecaster) -> None:
    with pytest.raises(ValueError, match="n_windows must be at least 1, got 0"):
        backtest(fitted, table(), n_windows=0)
    with pytest.raises(ValueError, match="refit must be at least 0, got -1"):
        backtest(fitted, table(), refit=-1)
    with pytest.raises(DataError, match="leave 5 of 260 rows before the first, each needs 14"):
        backtest(cloned(fitted), table(), n_windows=51)
    with pytest.raises(ValueError, match="set calibration to a share of the rows"):
        backtest(small(), table(), n_windows=2, level=[80])
