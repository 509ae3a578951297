"""`OLinearForecaster`: OLinear for data frames, with scikit-learn's interface."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, NotRequired, Self, TypedDict, get_args, overload

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float32, Float64
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from linmap import artifacts
from linmap.data.scaling import Standardiser
from linmap.data.schema import check_parameters, typed
from linmap.data.timeseries import Clock, NanPolicy, Split, TimeSeries, Windows
from linmap.data.timeseries.layout import as_names
from linmap.errors import ArgumentError, DataError
from linmap.sequence.olinear.bases import basis
from linmap.sequence.olinear.conformal import (
    ScoreScale,
    calibration_scores,
    check_scale,
    conformal_quantile,
    window_scale,
)
from linmap.sequence.olinear.correlation import Correlation, variate_correlation
from linmap.sequence.olinear.fitting import for_inference, forecast_errors, train_forecaster
from linmap.sequence.olinear.model import LossKind, OLinear, OLinear_C, weighted_loss
from linmap.sequence.olinear.orthotrans import OrthoTrans
from linmap.training import TrainingConfig
from linmap.training.randomness import private

SYSTEM = "olinear"
COLUMN = "OLinear"  # of a long forecast
Basis = Literal[
    "pearson", "official", "identity", "dct", "fft", "haar", "db4", "legendre", "chebyshev", "laguerre", "random"
]
Mixing = Literal["normlin", "correlation", "prior"]
DECIDING = ("basis", "chan_indep", "mixing", "dropout", "alpha", "loss")
"""Parameters that a checkpoint does not tell by the shape of its weights or by the settings of its training."""
READING = ("nan_policy", "time_column", "id_column", "drop", "dayfirst", "monthfirst", "fill_gaps")
"""Parameters that say how tables are read; see `TimeSeries.from_frame`."""
Time = pd.Timestamp | int | float
Schedule = Literal["constant", "halving", "type3", "cosine", "linear"]


class Saved(TypedDict):
    """What `OLinearForecaster.save` says beside the weights."""

    parameters: dict[str, Any]
    variates: list[str]
    seen_until: NotRequired[str | int | float | None]
    clock: NotRequired[dict[str, Any] | None]


class OLinearForecaster(BaseEstimator):
    """Forecast all series of a table `h` steps ahead.

    Tables are wide data frames (one column per variate, a time column or a `DatetimeIndex`), long ones (`unique_id`,
    `ds`, `y`) or arrays (rows, variates); see `linmap.data.timeseries.TimeSeries.from_frame`. The scaler, the bases Q
    and the correlation C see the training rows only: those before the last `validation` share, which decides when the
    training stops.

    Parameters
    ----------
    h
        Steps to forecast.
    lookback
        Steps that a forecast is made from.
    d_model
        Width of the model.
    d_ff
        Width of the layers inside a block and of the head; that of the model when left out.
    embed
        Scaled copies of each series.
    layers
        Blocks of the model.
    dropout
        Share of entries that training drops.
    basis
        Change of basis along time: pearson (OrthoTrans) and official (as the authors compute it) are found in the
        training rows, the others are fixed.
    chan_indep
        A basis for each series, from its own correlation; for pearson and official.
    mixing
        How series mix: a learned matrix (normlin), their fixed correlation (correlation: OLinear-C, for hundreds of
        series), or the sum of both (prior).
    alpha
        The loss weighs step k = 1, 2, ... by k^-alpha.
    loss
        Absolute errors (l1), squared ones (l2) or their sum (l1l2), on standardised values.
    epochs
        Passes over the training windows.
    patience
        Epochs without improvement on the validation windows after which training ends.
    lr
        Learning rate before the schedule.
    schedule
        Of the learning rate, by epoch.
    batch_size
        Windows of one step.
    validation
        Share of the last rows that is held out to choose the epoch.
    calibration
        Share of the last rows, behind those for validation, that is held out to calibrate intervals; 0 for none.
    interval_scale
        Intervals widen with the deviation of the window that is forecast from (window), or do not (constant).
    nan_policy
        Missing values: repeat the last one (ffill) or write zeros (zero); refused when left out.
    time_column
        The column that holds the time, where it is called neither ds, date, time, timestamp nor datetime.
    id_column
        The column that names the series of a panel, where it is not called unique_id.
    drop
        Columns to leave out.
    dayfirst
        Read 01/02/2020 as the first of February; the other rows decide when left out.
    monthfirst
        Read 01/02/2020 as the second of January.
    fill_gaps
        Put rows where times are missing, with what is written for missing values.
    random_state
        Seed of every random draw; the global generators are left alone.

    Attributes
    ----------
    model_
        The trained `OLinear` (or `OLinear_C`), on the CPU.
    n_features_in_
        Columns of the table, the time among them.
    variates_, mean_, scale_
        Names, and the training rows' mean and standard deviation (see `linmap.data.scaling.Standardiser`).
    clock_
        What was understood of the table's times; later tables need the same step.
    history_
        `TrainingHistory`; None in a loaded forecaster.
    scores_
        What the intervals are made from, (windows, h, variates), on standardised values; None before calibration.
    seen_until_
        The last time that `fit` or `calibrate` has seen; None where rows are counted.

    Examples
    --------
    >>> import pandas as pd
    >>> table = pd.DataFrame({"ds": pd.date_range("2024", periods=90, freq="D"), "sales": [7.0, 8, 9] * 30})
    >>> forecaster = OLinearForecaster(h=3, lookback=6, d_model=8, embed=2, layers=1, epochs=1)
    >>> forecaster.fit(table).predict(table).columns.to_list()
    ['ds', 'sales']
    """

    def __init__(
        self,
        h: int,
        lookback: int = 96,
        *,
        d_model: int = 512,
        d_ff: int | None = None,
        embed: int = 16,
        layers: int = 2,
        dropout: float | int = 0.2,
        basis: Basis | str = "pearson",
        chan_indep: bool = False,
        mixing: Mixing | str = "normlin",
        alpha: float | int = 0.5,
        loss: LossKind | str = "l1",
        epochs: int = 30,
        patience: int | None = 8,
        lr: float = 5e-4,
        schedule: Schedule = "halving",
        batch_size: int = 32,
        validation: float = 0.2,
        calibration: float | int = 0.0,
        interval_scale: ScoreScale | str = "window",
        nan_policy: NanPolicy | str | None = None,
        time_column: str | None = None,
        id_column: str | None = None,
        drop: Sequence[str] | str = (),
        dayfirst: bool = False,
        monthfirst: bool = False,
        fill_gaps: bool = False,
        random_state: int = 0,
    ) -> None:
        self.h = h
        self.lookback = lookback
        self.d_model = d_model
        self.d_ff = d_ff
        self.embed = embed
        self.layers = layers
        self.dropout = dropout
        self.basis = basis
        self.chan_indep = chan_indep
        self.mixing = mixing
        self.alpha = alpha
        self.loss = loss
        self.epochs = epochs
        self.patience = patience
        self.lr = lr
        self.schedule: Schedule = schedule
        self.batch_size = batch_size
        self.validation = validation
        self.calibration = calibration
        self.interval_scale = interval_scale
        self.nan_policy = nan_policy
        self.time_column = time_column
        self.id_column = id_column
        self.drop = drop
        self.dayfirst = dayfirst
        self.monthfirst = monthfirst
        self.fill_gaps = fill_gaps
        self.random_state = random_state

    def fit(
        self,
        X: pd.DataFrame | np.ndarray | TimeSeries,
        y: object = None,
        *,
        split: Split | None = None,
        checkpoints: Path | str | None = None,
        resume: bool = False,
    ) -> Self:
        """Fit scaler and bases to the training rows, then train the model.

        Parameters
        ----------
        X
            The table.
        y
            Not used.
        split
            Rows for training and validation; by default the last `validation` share validates, or the last before those
            that calibrate.
        checkpoints, resume
            Folder for checkpoints, and whether to continue from the one there.

        Raises
        ------
        DataError
            If the table cannot be used, or has too few rows.
        ValueError
            If a parameter is out of its range.
        """
        check_scale(self.interval_scale)
        self._check_lengths()
        series = self.read(X)
        self.n_features_in_ = X.shape[1] if isinstance(X, pd.DataFrame) else len(series.variates)
        rows = len(series)
        split, calibrates = (self.split_of(rows), self.calibration > 0) if split is None else (split, False)
        spans = split.spans(self.lookback)
        values = self.standardise(series, split)
        self.model_ = self.build(series.values[spans["train"]])
        training, validation = (Windows(values[spans[part]], self.lookback, self.h) for part in ("train", "validation"))
        self.history_ = train_forecaster(
            self.model_,
            training,
            validation,
            self.training_config(),
            loss=partial(weighted_loss, alpha=self.alpha, kind=self.loss),
            checkpoints=checkpoints,
            resume=resume,
            description="OLinear",
            seed_globally=False,
            settings={name: getattr(self, name) for name in DECIDING},
        )
        self.scores_, self.seen_until_, self.clock_ = None, None, series.clock
        self._has_seen(series, split.validation)
        if calibrates:
            self._calibrate(series, values[spans["test"]], split.test)
        return self

    def calibrate(self, X: pd.DataFrame | np.ndarray | TimeSeries) -> Self:
        """Make the intervals of `predict` from the errors on these rows, which must not be those of the fit.

        Call it again when new rows have come: intervals are as good as their rows are recent.

        Raises
        ------
        DataError
            If X has fewer than `lookback + h` rows, or other variates than the fitted table.
        """
        check_is_fitted(self, "model_")
        check_scale(self.interval_scale)
        series = self.known(self.read(X, self.clock_))
        return self._calibrate(series, self.standardised(series), len(series))

    @overload
    def predict(self, X: np.ndarray, level: Sequence[float | int] | None = None) -> np.ndarray: ...

    @overload
    def predict(self, X: pd.DataFrame | TimeSeries, level: Sequence[float | int] | None = None) -> pd.DataFrame: ...

    def predict(
        self, X: pd.DataFrame | np.ndarray | TimeSeries, level: Sequence[float | int] | None = None
    ) -> pd.DataFrame | np.ndarray:
        """The `h` rows that follow the last row of X, in its layout and units, and intervals around them.

        A wide table gives a wide one with the future times; a long one gives `unique_id`, `ds` and `OLinear`; an array
        (rows, variates) gives an array (h, variates).

        Parameters
        ----------
        X
            The table; its last `lookback` rows count.
        level
            In percent, e.g. `[80, 95]`. For each, columns `a-lo-80`, `a-hi-80` follow those of a wide table for every
            variate a, and `OLinear-lo-80`, `OLinear-hi-80` those of a long one; an array becomes
            (h, variates, 1 + 2 levels): forecast, lower and upper ends.

        Raises
        ------
        DataError
            If X has fewer than `lookback` rows or other variates than the fitted table.
        ValueError
            If intervals are asked for and nothing is calibrated, or a level cannot be reached.
        """
        check_is_fitted(self, "model_")
        series = self.known(self.read(X, self.clock_))
        forecast, widths = self.forecast(series, level or ())
        ends = {
            f"{side}-{one:g}": forecast + sign * width
            for one, width in widths.items()
            for side, sign in (("lo", -1), ("hi", 1))
        }
        if isinstance(X, np.ndarray):
            return np.stack([forecast, *ends.values()], axis=-1) if ends else forecast
        time = series.future(self.h)
        table = series.frame(forecast, time, column=COLUMN)
        for name, values in ends.items():
            if series.long:
                table[f"{COLUMN}-{name}"] = series.frame(values, time)["y"]
            else:
                table[[f"{variate}-{name}" for variate in series.variates]] = values
        return table

    def forecast(
        self, series: TimeSeries, level: Sequence[float | int] = ()
    ) -> tuple[Float64[np.ndarray, "h variates"], dict[float | int, Float64[np.ndarray, "h variates"]]]:
        """The forecast after the last row, and for each level the half width of its intervals, in the series' units."""
        check_is_fitted(self, "model_")
        values = self.standardised(self.known(series))
        if len(values) < self.lookback:
            raise DataError(f"a forecast needs the last {self.lookback} rows, the table has {len(values)}.")
        window = values[None, -self.lookback :]
        with torch.inference_mode():
            standardised = for_inference(self.model_)(window)[0].double().numpy()
        widths = {}
        for one in level:
            if self.scores_ is None:
                raise ArgumentError(
                    "intervals need rows that the fit did not see: set calibration to a share of the rows, such as "
                    "0.1, or call calibrate with such rows."
                )
            quantile = conformal_quantile(self.scores_, one) * window_scale(window, self.interval_scale)[0].numpy()
            widths[one] = quantile.astype(np.float64) * self.scale_
        return self._scaler.restore(standardised), widths

    def score(self, X: pd.DataFrame | np.ndarray | TimeSeries, y: object = None) -> float:
        """Minus the mean squared error of all forecasts inside X, on the scale of the standardised variates."""
        check_is_fitted(self, "model_")
        windows = Windows(self.standardised(self.known(self.read(X, self.clock_))), self.lookback, self.h)
        return -forecast_errors(self.model_, windows).mse

    def save(self, folder: Path | str) -> None:
        """Write parameters, scaler, bases and weights into `folder`."""
        check_is_fitted(self, "model_")
        seen = str(self.seen_until_) if isinstance(self.seen_until_, pd.Timestamp) else self.seen_until_
        config = {
            "parameters": self.get_params() | {"drop": list(as_names(self.drop))},
            "variates": list(self.variates_),
            "seen_until": seen,
            "clock": None if self.clock_ is None else self.clock_.to_json(),
        }
        scaler = {"scaler.mean": torch.from_numpy(self.mean_), "scaler.scale": torch.from_numpy(self.scale_)}
        model = {f"model.{name}": tensor for name, tensor in self.model_.state_dict().items()}
        scores = {} if self.scores_ is None else {"scores": torch.from_numpy(self.scores_)}
        artifacts.save(folder, SYSTEM, config, scaler | model | scores, seed=self.random_state)

    @classmethod
    def load(cls, folder: Path | str) -> Self:
        """Read what `save` wrote.

        Raises
        ------
        ArtifactError
            If the folder holds no run of OLinear.
        """
        config, tensors = artifacts.load(folder, SYSTEM)
        with artifacts.reading(folder):
            typed(Saved, config, "config")
            check_parameters(cls, config["parameters"])
            new = cls(**config["parameters"])
            new.drop = tuple(new.drop)
            new.clock_ = Clock.from_json(config["clock"]) if config.get("clock") else None
            new.variates_, new.history_ = tuple(config["variates"]), None
            seen = config.get("seen_until")
            new.seen_until_ = pd.Timestamp(seen) if isinstance(seen, str) else seen
            new.scores_ = tensors.pop("scores").numpy() if "scores" in tensors else None
            scaler = Standardiser.take(tensors)
            new.mean_, new.scale_ = scaler.mean, scaler.scale
            state = {name.removeprefix("model."): tensor for name, tensor in tensors.items()}
            with private(new.random_state):
                new.model_ = new._network(state["Q_in"], state["Q_out"], np.eye(len(new.variates_)))
            new.model_.load_state_dict(state)
            new.model_.eval()
        return new

    def reading(self) -> dict[str, Any]:
        """The parameters that say how tables are read."""
        return {name: getattr(self, name) for name in READING}

    def read(self, X: pd.DataFrame | np.ndarray | TimeSeries, like: Clock | None = None, **said: Any) -> TimeSeries:
        """A table as series.

        Parameters
        ----------
        X
            The table.
        like
            The clock of the fit: it settles what a later table leaves open, which may also have another layout, so that
            columns that the fit was told of are only looked for where they are.
        **said
            Of `TimeSeries.from_frame`, in the place of the forecaster's own parameters.
        """
        if isinstance(X, TimeSeries):
            return X
        told = self.reading()
        if like is not None and isinstance(X, pd.DataFrame):
            there = {str(name) for name in (*X.columns, *X.index.names)}
            told |= {name: None for name in ("time_column", "id_column") if told[name] not in there}
            told["drop"] = tuple(name for name in as_names(self.drop) if name in there)
        return TimeSeries.from_frame(X, **told | said, like=like)

    def known(self, series: TimeSeries) -> TimeSeries:
        """The series in the order of the fit, if they are those of the fit and have its step.

        Raises
        ------
        DataError
            If they are not, or have not.
        """
        check_is_fitted(self, "model_")
        return series.select(self.variates_).under(self.clock_)

    # -- parts ---------------------------------------------------------------------------------------------------------

    def standardise(self, series: TimeSeries, split: Split) -> Float32[Tensor, "rows variates"]:
        """Fit the scaler to the training rows and return all rows on its scale."""
        scaler = Standardiser.fit(series.values[: split.train])
        self.variates_, self.mean_, self.scale_ = series.variates, scaler.mean, scaler.scale
        return self.standardised(series)

    def build(self, rows: Float64[np.ndarray, "rows variates"]) -> OLinear:
        """The untrained model for raw training rows: bases, correlation, and weights drawn with `random_state`."""
        rows = Standardiser.fit(rows).standardise(rows)  # free of the unit, whatever is asked of the basis
        lengths = (self.lookback, self.h)
        if self.basis in get_args(Correlation):
            table = pd.DataFrame(rows, columns=list(getattr(self, "variates_", range(rows.shape[1]))))
            Q_in, Q_out = (OrthoTrans(t, self.basis, self.chan_indep).fit(table).Q_ for t in lengths)
        elif self.chan_indep:
            raise ArgumentError(
                f"chan_indep needs a basis that is found in the data, 'pearson' or 'official'; {self.basis!r} is the "
                "same for all variates."
            )
        else:
            Q_in, Q_out = (basis(self.basis, t, seed=self.random_state) for t in lengths)
        with private(self.random_state):
            return self._network(Q_in, Q_out, variate_correlation(rows))

    def training_config(self) -> TrainingConfig:
        return TrainingConfig(
            epochs=self.epochs,
            patience=self.patience,
            lr=self.lr,
            schedule=self.schedule,
            batch_size=self.batch_size,
            seed=self.random_state,
        )

    def _network(self, Q_in: np.ndarray | Tensor, Q_out: np.ndarray | Tensor, C: np.ndarray) -> OLinear:
        options = {name: getattr(self, name) for name in ("d_model", "d_ff", "embed", "layers", "dropout")}
        sizes = (len(C), self.lookback, self.h)
        if self.mixing not in get_args(Mixing):
            raise ArgumentError(f"mixing must be 'normlin', 'correlation' or 'prior', got {self.mixing!r}.")
        if self.mixing == "correlation":
            return OLinear_C(*sizes, C, Q_in=Q_in, Q_out=Q_out, **options).float()
        prior = torch.from_numpy(C).softmax(-1) if self.mixing == "prior" else None
        return OLinear(*sizes, Q_in=Q_in, Q_out=Q_out, prior=prior, **options).float()

    def _calibrate(self, series: TimeSeries, values: Float32[Tensor, "rows variates"], rows: int) -> Self:
        self.scores_ = calibration_scores(self.model_, Windows(values, self.lookback, self.h), self.interval_scale)
        self._has_seen(series, rows)
        return self

    def _has_seen(self, series: TimeSeries, rows: int) -> None:
        if not series.timed:
            return
        last, seen = series.moment(rows - 1), self.seen_until_
        self.seen_until_ = last if seen is None else max(*comparable_times(seen, last))

    def split_of(self, rows: int) -> Split:
        """Which of so many rows train, validate and calibrate."""
        if not 0 < self.validation < 1:
            raise ArgumentError(f"validation must lie between 0 and 1, got {self.validation}.")
        if not 0 <= self.calibration < 1 - self.validation:
            raise ArgumentError(
                f"calibration must lie between 0 and 1 - validation = {1 - self.validation:g}, got {self.calibration}."
            )
        calibration, held_out = int(rows * self.calibration), int(rows * self.validation)
        if held_out < self.h:
            raise DataError(
                f"the last {self.validation:.0%} of {rows} rows are {held_out}, too few to validate forecasts of "
                f"{self.h} steps; lower h={self.h}, raise validation={self.validation:g}, or bring more rows."
            )
        if self.calibration > 0 and calibration < self.h:
            raise DataError(
                f"the last {self.calibration:.0%} of {rows} rows are {calibration}, too few to calibrate intervals of "
                f"{self.h} steps; lower h={self.h}, raise calibration={self.calibration:g}, or bring more rows."
            )
        return Split(rows - calibration - held_out, rows - calibration, rows)

    def _check_lengths(self) -> None:
        for name in ("h", "lookback"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
                raise ArgumentError(f"{name}={value} must be a whole number of steps, at least 1.")

    def standardised(self, series: TimeSeries) -> Float32[Tensor, "rows variates"]:
        """The rows on the scale of the training rows."""
        return torch.from_numpy(self._scaler.standardise(series.select(self.variates_).values)).float()

    @property
    def _scaler(self) -> Standardiser:
        return Standardiser(self.mean_, self.scale_)


def comparable_times(seen: Time, other: Time) -> tuple[Time, Time]:
    """Both times, if they can be ordered.

    Raises
    ------
    DataError
        If one is a calendar time and the other a number, or one has a time zone and the other has none.
    """
    if isinstance(seen, pd.Timestamp) != isinstance(other, pd.Timestamp):
        raise DataError(f"the model has seen times until {seen}, this table has {other}; write times the same way.")
    zones = getattr(seen, "tzinfo", None), getattr(other, "tzinfo", None)  # numbers have none
    if (zones[0] is None) != (zones[1] is None):
        with_zone, without = ("this table", "the model's") if zones[0] is None else ("the model", "this table's")
        raise DataError(
            f"the times of {with_zone} have a time zone and {without} have none ({seen} and {other}), so that it is "
            "open which are later; give both a zone, or neither."
        )
    return seen, other
