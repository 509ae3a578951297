"""What the forecasts must not depend on: the unit, the offset, and the state of global generators."""

import threading
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from linmap.data.timeseries import TimeSeries
from linmap.errors import DataError
from linmap.sequence.olinear import (
    OLinear,
    OLinearForecaster,
    OrthoTrans,
    OrthoTransWrapper,
    temporal_correlation,
    variate_correlation,
)
from typed import of_class, other

ROWS = np.stack([np.sin(np.arange(90) / 3), np.cos(np.arange(90) / 5) + 0.1 * np.sin(np.arange(90))], 1)


def forecaster(**changes: Any) -> OLinearForecaster:
    small: dict[str, Any] = {"lookback": 6, "d_model": 8, "embed": 2, "layers": 1, "epochs": 2, "lr": 5e-3}
    return OLinearForecaster(3, **small | changes)


def forecast(rows: np.ndarray, **changes: object) -> np.ndarray:
    return np.asarray(forecaster(**changes).fit(rows).predict(rows))


# -- units and offsets -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("basis", ["pearson", "official"])
def test_powers_of_two_change_no_bit_of_a_forecast(basis: str) -> None:
    expected = forecast(ROWS, basis=basis)
    for power in (-40, -3, 40):
        np.testing.assert_array_equal(forecast(ROWS * 2.0**power, basis=basis), expected * 2.0**power)


@settings(max_examples=3, deadline=None)
@given(exponent=st.floats(-12, 12), ratio=st.floats(0, 8))
def test_units_and_offsets_change_no_forecast(exponent: float, ratio: float) -> None:
    a, b = 10.0**exponent, 10.0 ** (exponent + ratio)
    np.testing.assert_allclose((forecast(a * ROWS + b) - b) / a, forecast(ROWS), atol=2e-3)


def test_a_series_on_a_large_offset_is_no_constant() -> None:
    wave = ROWS[:, :1]
    for offset, deviation in ((6_378_137, 2.0), (1e7, 1.0), (52.0, 1e-5), (1e9, 500.0)):
        fitted = forecaster().fit(offset + deviation * wave)
        assert fitted.scale_[0] == pytest.approx(deviation * wave[:72].std(), rel=1e-5)
        np.testing.assert_allclose(
            temporal_correlation(offset + deviation * wave, 6), temporal_correlation(wave, 6), atol=1e-4
        )


@given(power=st.integers(-200, 200))
def test_correlations_are_free_of_the_unit(power: int) -> None:
    np.testing.assert_array_equal(temporal_correlation(ROWS * 2.0**power, 6), temporal_correlation(ROWS, 6))
    np.testing.assert_array_equal(variate_correlation(ROWS * 2.0**power), variate_correlation(ROWS))


# -- global state ------------------------------------------------------------------------------------------------------


def numpys_state() -> np.ndarray:
    return of_class(dict, np.random.get_state(legacy=False))["state"]["key"].copy()  # noqa: NPY002


def test_a_fit_neither_reads_nor_moves_global_generators() -> None:
    torch.manual_seed(5)
    np.random.seed(5)  # noqa: NPY002
    before = torch.random.get_rng_state().clone(), numpys_state()
    first = forecast(ROWS, dropout=0.3)
    assert torch.equal(torch.random.get_rng_state(), before[0])
    np.testing.assert_array_equal(numpys_state(), before[1])
    torch.manual_seed(99)
    np.testing.assert_array_equal(forecast(ROWS, dropout=0.3), first)
    assert not np.array_equal(forecast(ROWS, dropout=0.3, random_state=1), first)


def test_fits_in_threads_do_not_disturb_each_other() -> None:
    expected = {seed: forecast(ROWS, random_state=seed, dropout=0.3) for seed in (0, 1)}
    found: dict[int, np.ndarray] = {}
    threads = [
        threading.Thread(target=lambda seed=seed: found.update({seed: forecast(ROWS, random_state=seed, dropout=0.3)}))
        for seed in (0, 1)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for seed in (0, 1):
        np.testing.assert_array_equal(found[seed], expected[seed])


# -- the clock of a model ----------------------------------------------------------------------------------------------


def frame(table: object) -> pd.DataFrame:
    """Rows or columns of a table, which pandas declares as perhaps a series."""
    return of_class(pd.DataFrame, table)


def dated(frequency: str, rows: int = 90) -> pd.DataFrame:
    return pd.DataFrame({"ds": pd.date_range("2024-01-01", periods=rows, freq=frequency), "a": ROWS[:rows, 0]})


@pytest.mark.parametrize("lookback", [1, 2, 6])
@pytest.mark.parametrize("frequency", ["h", "B", "W-WED", "MS", "ME", "YE"])
def test_lookback_rows_are_enough(frequency: str, lookback: int, tmp_path) -> None:
    fitted = forecaster(lookback=lookback, epochs=1, basis="dct").fit(dated(frequency))
    fitted.save(tmp_path)
    whole = fitted.predict(dated(frequency))
    for one in (fitted, OLinearForecaster.load(tmp_path)):
        pd.testing.assert_frame_equal(one.predict(dated(frequency).tail(lookback)), whole)


def test_tables_of_another_step_are_refused() -> None:
    fitted = forecaster(epochs=1).fit(dated("h"))
    for frequency, words in (("D", "daily"), ("2h", "every 2 hours"), ("MS", "monthly")):
        for table in (dated(frequency), TimeSeries.from_frame(dated(frequency))):
            with pytest.raises(DataError, match=f"time axis that is hourly, that of this table is {words}"):
                fitted.predict(table)
    fitted.predict(dated("60min"))
    weekly = forecaster(epochs=1).fit(dated("W-SUN"))
    weekly.predict(dated("W-MON"))  # a week is a week


def test_rows_that_are_counted_fit_any_model() -> None:
    fitted = forecaster(epochs=1).fit(dated("h"))
    assert np.shape(fitted.predict(frame(dated("h")[["a"]]))) == (3, 1)
    pd.testing.assert_series_equal(
        of_class(pd.Series, forecaster(epochs=1).fit(frame(dated("h")[["a"]])).predict(dated("D"))["a"]),
        of_class(pd.Series, fitted.predict(dated("h"))["a"]),
    )


def test_what_was_understood_travels_with_the_model(tmp_path) -> None:
    table = dated("D").assign(ds=lambda t: t.ds.dt.strftime("%d/%m/%Y"))
    fitted = forecaster(epochs=1).fit(table)
    assert fitted.clock_ is not None
    assert fitted.clock_.words == "2024-01-01 to 2024-03-30, daily, day first"
    fitted.save(tmp_path)
    loaded = OLinearForecaster.load(tmp_path)
    assert loaded.clock_ == fitted.clock_
    few = loaded.predict(frame(table[31:37]))  # 01/02 to 06/02: alone, it could be the second of January to June
    assert few["ds"].to_list() == ["07/02/2024", "08/02/2024", "09/02/2024"]


# -- bases -------------------------------------------------------------------------------------------------------------


def test_float64_models_have_float64_bases() -> None:
    Q_in, Q_out = OrthoTrans(6).fit(ROWS).Q_, OrthoTrans(3).fit(ROWS).Q_
    wrapper = OrthoTransWrapper(torch.nn.Flatten(0), Q_in, Q_out)
    model = OLinear(2, 6, 3, d_model=4, embed=1, layers=1, Q_in=Q_in, Q_out=Q_out)
    for one in (wrapper, model, OrthoTransWrapper(torch.nn.Linear(6, 3).double(), Q_in, Q_out)):
        one = one.float().half().double() if one is model else one.double()
        np.testing.assert_array_equal(one.Q_in.numpy(), Q_in)
        np.testing.assert_array_equal(one.Q_out.numpy(), Q_out)
    loaded = OrthoTransWrapper(torch.nn.Flatten(0), np.eye(6), np.eye(3))
    loaded.load_state_dict(OrthoTransWrapper(torch.nn.Flatten(0), Q_in, Q_out).state_dict())
    np.testing.assert_allclose(loaded.double().Q_in.numpy(), Q_in, atol=1e-7)  # what was loaded, not what was built


def test_a_wrapper_of_a_float64_model_takes_float64_windows() -> None:
    class Tail(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gain = torch.nn.Parameter(torch.ones((), dtype=torch.float64))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.gain * x[:, -3:]

    x = torch.randn(2, 6, 2, dtype=torch.float64)
    assert OrthoTransWrapper(Tail(), np.eye(6), np.eye(3))(x).dtype == torch.float64


def test_orthotrans_refuses_what_no_basis_can_transform() -> None:
    fitted = OrthoTrans(6).fit(ROWS)
    with pytest.raises(ValueError, match="NaN or infinite"):
        fitted.transform(np.full((2, 6), np.nan))
    for x in (np.ones((2, 6), complex), torch.ones(2, 6, dtype=torch.complex64)):
        with pytest.raises(ValueError, match="Complex data not supported"):
            fitted.transform(other(x))
    with pytest.raises(ValueError, match="Complex data not supported"):
        OrthoTrans(6).fit(ROWS + 1j)
