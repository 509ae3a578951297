"""Forecast your own table: `python examples/olinear.py my.csv [horizon]`; without a file, the weekly ILI data."""

import sys
from pathlib import Path

from linmap.data.timeseries import load_time_series
from linmap.sequence.olinear import OLinearForecaster, backtest

source = sys.argv[1] if len(sys.argv) > 1 else "ili"
horizon = int(sys.argv[2]) if len(sys.argv) > 2 else 12

series = load_time_series(source, nan_policy="ffill")
forecaster = OLinearForecaster(
    horizon, lookback=3 * horizon, d_model=64, embed=4, epochs=10, lr=1e-3, validation=0.15, calibration=0.15
)

past = backtest(forecaster, series, n_windows=6, level=[80]).errors()  # as if 6 horizons ago; fitted to what was known
print("by step, in standard deviations, and beside repeating the last value:")
print(past[["step", "MAE", "naive MAE", "coverage-80"]].to_string(index=False, float_format="{:.2f}".format))

forecaster.fit(series)
forecast = forecaster.predict(series, level=[80])
print(f"{len(series.variates)} series, best epoch {forecaster.history_.best_epoch}; the next {horizon} rows:")
print(forecast.to_string(index=False, float_format="{:.4g}".format))

forecast.to_csv("forecast.csv", index=False)
forecaster.save(Path("run"))
print("left in this folder: forecast.csv and run/, the model, which OLinearForecaster.load reads")
