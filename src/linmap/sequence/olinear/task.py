"""A forecasting task as the literature measures it, for OLinear and whatever it is compared with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from linmap.data.timeseries import Split, TimeSeries, Windows, literature_split
from linmap.data.timeseries.steps import season
from linmap.sequence.olinear.forecaster import OLinearForecaster


@dataclass(frozen=True)
class ForecastTask:
    """A table, split as the literature does and standardised by its training rows, and OLinear's parameters for it."""

    name: str
    series: TimeSeries
    split: Split
    values: torch.Tensor
    """Standardised, (rows, variates)."""
    scale: np.ndarray
    """Standard deviation of the training rows, by variate."""
    options: Mapping[str, Any]
    """Of `OLinearForecaster`: lookback, horizon h, and all else."""

    @classmethod
    def of(cls, name: str, series: TimeSeries, options: Mapping[str, Any]) -> ForecastTask:
        """The task on a table.

        Parameters
        ----------
        name
            Of the data: "ETTh1" and the like are split as their literature does.
        series
            The table.
        options
            Of `OLinearForecaster`.

        Raises
        ------
        ValueError
            If a part is too short for a window.
        """
        forecaster = OLinearForecaster(**options)
        split = literature_split(len(series), name)
        values = forecaster.standardise(series, split)
        task = cls(name, series, split, values, forecaster.scale_, options)
        for part in split.spans(task.lookback):
            task.windows(part)
        return task

    @property
    def horizon(self) -> int:
        """Steps to forecast."""
        return self.options["h"]

    @property
    def lookback(self) -> int:
        """Steps that a forecast is made from."""
        return self.options["lookback"]

    @property
    def training_rows(self) -> np.ndarray:
        """As they stand in the table."""
        return self.series.values[: self.split.train]

    @property
    def season(self) -> int | None:
        """Rows of the season that such times usually have, where a test window has as many rows before it."""
        rows = season(self.series.step) if self.series.timed else None
        return rows if rows is not None and rows <= self.split.validation else None

    def windows(self, part: str, seen: int | None = None) -> Windows:
        """Of "train", "validation" or "test"; `seen` rows are the input, the lookback when left out."""
        seen = self.lookback if seen is None else seen
        return Windows(self.values[self.split.spans(seen)[part]], seen, self.horizon)

    def examples(self, percentiles: Sequence[float]) -> list[tuple[int, int]]:
        """Positions of test windows and variates with these percentiles of the error of repeating the last value."""
        windows = self.windows("test")
        x, y = windows.__getitems__(list(range(len(windows))))
        order = (y - x[:, -1:]).square().mean(1).flatten().argsort()
        return [divmod(int(order[int(one / 100 * (len(order) - 1))]), x.shape[2]) for one in percentiles]
