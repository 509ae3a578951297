"""A forecaster beside repeating, on rows that its fit held out."""

from pathlib import Path

import numpy as np
import pandas as pd

from linmap.data.timeseries import load_time_series
from linmap.sequence.olinear import OLinearForecaster, draw_forecast, held_out_errors


def test_the_last_season_of_hours_that_repeat_is_without_error_and_counts_the_rows_held_out(tmp_path: Path) -> None:
    hours = np.arange(480)
    table = pd.DataFrame({"date": pd.date_range("2024-01-01", periods=480, freq="h"), "a": np.sin(hours * np.pi / 12)})
    table.to_csv(tmp_path / "t.csv", index=False)
    forecaster = OLinearForecaster(h=4, lookback=24, d_model=8, embed=2, epochs=1, validation=0.2)
    series = load_time_series(tmp_path / "t.csv", **forecaster.reading())
    forecaster.fit(series)
    found = held_out_errors(forecaster, series)
    assert (found.last - found.first, found.chose) == (96, True)
    assert found.forecasts == 96 - 4 + 1
    season, last = found.errors["last season (24 rows)"], found.errors["last value"]
    np.testing.assert_allclose(season, 0, atol=1e-6)
    steps = hours[found.first : found.last, None][: found.forecasts] + np.arange(4)
    wave = np.sin(np.pi / 12 * np.array([steps[:, 0] - 1]).T) - np.sin(np.pi / 12 * steps)
    np.testing.assert_allclose(last[0] * forecaster.scale_[0], np.abs(wave).mean(), rtol=1e-4)
    assert draw_forecast(forecaster, series, (), tmp_path / "f.svg").read_text().startswith("<?xml")
