"""How a fit does beside what costs nothing, in the data's units: repeating the last value, and the last season."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from jaxtyping import Float64, Int

from linmap.data.timeseries import TimeSeries
from linmap.data.timeseries.steps import season
from linmap.sequence.olinear import OLinearForecaster
from linmap.sequence.olinear.fitting import EVALUATION_BATCH, for_inference

NAMED = 8  # series that are listed; all count in the last line


def beside_naive(forecaster: OLinearForecaster, series: TimeSeries) -> dict[str, Any]:
    """Mean absolute errors of all forecasts inside the rows that the fit held out, for its summary.

    They are those that calibrate the intervals or, without any, those that chose the epoch: then OLinear's error is a
    little flattered, and the summary says so.
    """
    split, h = forecaster.split_of(len(series)), forecaster.h
    first, last = (split.validation, split.test) if split.test > split.validation else (split.train, split.validation)
    origins = np.arange(first - 1, last - h)  # numbers of the last row that each forecast sees
    origins = origins[origins >= forecaster.lookback - 1]
    truth = _ahead(series, origins, h)
    errors = {
        "OLinear": _mean_error(_forecasts(forecaster, series, origins), truth),
        "last value": _mean_error(series.values[origins][:, None], truth),
    }
    rows = season(series.step) if series.timed else None
    if rows is not None and rows <= first:
        steps = np.arange(1, h + 1)
        source = origins[:, None] + steps - rows * np.ceil(steps / rows).astype(int)
        errors[f"last season ({rows} rows)"] = _mean_error(series.values[source], truth)
    by_series = [
        {"series": name, **{kind: _rounded(error[j]) for kind, error in errors.items()}}
        for j, name in enumerate(series.variates[:NAMED])
    ]
    if len(series.variates) > 1:
        means = {kind: _rounded(float((error / forecaster.scale_).mean())) for kind, error in errors.items()}
        by_series.append({"series": "all, in standard deviations", **means})
    ahead = int((errors["OLinear"] < np.min([e for kind, e in errors.items() if kind != "OLinear"], 0)).sum())
    written = series.notation.write(series.time[[first, last - 1]])
    chose = "" if split.test > split.validation else ", which also chose the epoch"
    return {
        "held_out": f"{len(origins)} forecasts in rows {written[0]} to {written[1]}{chose}",
        "better_than_repeating": f"in {ahead} of {len(series.variates)} series",
        "mean_absolute_error": by_series,
    }


def _ahead(series: TimeSeries, origins: Int[np.ndarray, " B"], h: int) -> Float64[np.ndarray, "B h N"]:
    return series.values[origins[:, None] + np.arange(1, h + 1)]


@torch.inference_mode()
def _forecasts(
    forecaster: OLinearForecaster, series: TimeSeries, origins: Int[np.ndarray, " B"]
) -> Float64[np.ndarray, "B h N"]:
    model, values = for_inference(forecaster.model_), forecaster.standardised(series)
    windows = values.unfold(0, forecaster.lookback, 1).mT  # (first row, lookback, variate), a view
    firsts = torch.from_numpy(origins) - forecaster.lookback + 1
    found = torch.cat([model(windows[part]) for part in firsts.split(EVALUATION_BATCH)])
    return found.double().numpy() * forecaster.scale_ + forecaster.mean_


def _mean_error(forecasts: np.ndarray, truth: Float64[np.ndarray, "B h N"]) -> Float64[np.ndarray, " N"]:
    return np.abs(forecasts - truth).mean((0, 1))


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")
