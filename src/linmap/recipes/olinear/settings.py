"""The flags of OLinear's three verbs, and what `compare` does in each preset."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from linmap.data.timeseries import NanPolicy
from linmap.sequence.olinear import OLinearForecaster
from linmap.sequence.olinear.conformal import ScoreScale
from linmap.sequence.olinear.forecaster import Basis, Mixing, Schedule

Dataset = Literal["etth1", "ili"]
Host = Literal["DLinear", "iTransformer", "PatchTST"]


@dataclass(frozen=True, kw_only=True)
class Reading:
    """Flags that say how a table is read."""

    separator: str | None = None
    """What parts the cells of a CSV file; a comma, or a tab in a .tsv file, when left out."""
    decimal: str = "."
    """The decimal point of a CSV file."""
    time_column: str | None = None
    """The column that holds the time, where it is called neither ds, date, time, timestamp nor datetime."""
    id_column: str | None = None
    """The column that tells the series of a panel apart, where it is not called unique_id."""
    drop: tuple[str, ...] = ()
    """Columns to leave out."""
    dayfirst: bool = False
    """Read 01/02/2020 as the first of February; the other rows decide when left out."""
    monthfirst: bool = False
    """Read 01/02/2020 as the second of January."""
    fill_gaps: bool = False
    """Put rows where times are missing; --nan-policy says with which values."""

    def file(self) -> dict[str, Any]:
        """How the file is read."""
        return {"separator": self.separator, "decimal": self.decimal}

    def table(self) -> dict[str, Any]:
        """How the table in it is read: what was said."""
        names = ("time_column", "id_column", "drop", "dayfirst", "monthfirst", "fill_gaps")
        return {name: getattr(self, name) for name in names if getattr(self, name)}


@dataclass(frozen=True)
class Settings(Reading):
    """Flags of `linmap fit olinear`; the defaults are the paper's for ETTh1."""

    ONLY_FOR: ClassVar = {"fit": ("validation", "calibration")}

    dataset: Dataset = "etth1"
    """Embedded data that stands in for --data: etth1 (hourly, 7 series) or ili (weekly, 7 series)."""
    horizon: int = 96
    """Steps to forecast."""
    lookback: int = 96
    """Steps that a forecast is made from."""
    d_model: int = 512
    """Width of the model."""
    embed: int = 16
    """Scaled copies of each series."""
    layers: int = 2
    """Blocks of the model."""
    dropout: float = 0.2
    """Share of entries that training drops."""
    basis: Basis = "pearson"
    """Change of basis along time: pearson and official are fitted to the training rows."""
    chan_indep: bool = False
    """A basis for each series, from its own correlation."""
    mixing: Mixing = "normlin"
    """How series mix: a learned matrix, their fixed correlation (for hundreds of series), or their sum (prior)."""
    alpha: float = 0.5
    """The loss weighs step k = 1, 2, ... by k^-alpha."""
    epochs: int = 30
    """Passes over the training windows."""
    patience: int = 8
    """Epochs without improvement on the validation windows after which training ends."""
    lr: float = 5e-4
    """Learning rate before the schedule."""
    schedule: Schedule = "halving"
    """Of the learning rate, by epoch."""
    batch_size: int = 32
    """Windows of one step."""
    validation: float = 0.2
    """Share of the last rows that is held out to stop the training."""
    calibration: float = 0.0
    """Share of the last rows, behind those, that is held out for the intervals of `apply --level`."""
    interval_scale: ScoreScale = "window"
    """Intervals widen with the deviation of the window (window), or do not (constant)."""
    nan_policy: NanPolicy | None = None
    """Missing values: repeat the last one (ffill), write zeros (zero), or refuse them."""

    def forecaster(self, seed: int, **changes: Any) -> OLinearForecaster:
        """The estimator with these settings, or with some of them changed."""
        names = ("lookback", "d_model", "embed", "layers", "dropout", "basis", "chan_indep", "mixing", "alpha",
                 "epochs", "patience", "lr", "schedule", "batch_size", "validation", "calibration", "interval_scale",
                 "nan_policy")  # fmt: skip
        options: dict[str, Any] = {name: getattr(self, name) for name in names} | self.table() | changes
        return OLinearForecaster(self.horizon, random_state=seed, **options)


@dataclass(frozen=True)
class Comparison(Settings):
    """Flags of `linmap compare olinear`: those of `fit`, and what is compared beside the main task."""

    baseline_epochs: int = 6
    """Passes of the linear baselines."""
    seeds: int = 1
    """Seeds of every method of the main task."""
    horizons: tuple[int, ...] = ()
    """Further horizons, each a task of its own."""
    ili: Literal["none", "one", "all"] = "none"
    """Tasks on the embedded ILI data where there is no --data: none, 24 weeks from 36, or all eight of the paper."""
    bases: tuple[Basis, ...] = ()
    """Bases to compare, on your file or, without one, in a small model; the paper's come with them."""
    mixings: tuple[Mixing, ...] = ()
    """Ways to mix the series to compare with NormLin, likewise."""
    hosts: tuple[Host, ...] = ()
    """Forecasters to put OrthoTrans and NormLin into, likewise."""
    study_data: tuple[Dataset, ...] = ("ili", "etth1")
    """Embedded data of these three comparisons where there is no --data."""
    study_seeds: int = 3
    """Seeds of every method of these three comparisons."""


@dataclass(frozen=True)
class ApplySettings(Reading):
    """Flags of `linmap apply`; a table is read as that of the fit was, where nothing else is said."""

    dataset: Dataset = "etth1"
    """Embedded data that stands in for --data."""
    level: tuple[float, ...] = ()
    """Add intervals of these levels in percent, e.g. 80 95; needs a run with --calibration, or --recalibrate."""
    recalibrate: int = 0
    """Make the intervals from the last rows of the file, this many, instead of those that `fit` kept."""
    backtest: int = 0
    """Instead of the future, forecast from this many origins in the past, and compare with what came."""
    step_size: int = 0
    """`--backtest`: rows from one origin to the next; 0 for the horizon."""
    refit: int = 0
    """`--backtest`: fit anew at every so many origins, on the rows so far; 0 keeps the model as it is."""
    input_size: int = 0
    """`--backtest --refit`: fit to this many rows before the origin; 0 for all."""


SMALL: dict[str, Any] = {"d_model": 128, "embed": 8}

PRESETS = {
    "quick": Comparison(**SMALL, epochs=4, ili="one"),
    "full": Comparison(
        horizons=(192, 336, 720),
        ili="all",
        bases=("identity", "dct", "fft", "haar", "db4", "legendre", "chebyshev", "laguerre", "random"),
        mixings=("correlation", "prior"),
        hosts=("DLinear", "iTransformer", "PatchTST"),
    ),
}
