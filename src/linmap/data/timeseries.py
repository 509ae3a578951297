"""Time series from files and data frames, checked: tables wide or long, gaps, splits, windows."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, Self, get_args

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Float64
from torch import Tensor
from torch.utils.data import Dataset

from linmap import data
from linmap.errors import DataError

NanPolicy = Literal["ffill", "zero"]
TIME_COLUMNS = ("ds", "date", "time", "timestamp", "datetime")
LONG_COLUMNS = ("unique_id", "ds", "y")
EMBEDDED = {"etth1": "ETTh1.csv", "ili": "national_illness.csv"}
ETT_HOUR_SPLIT = (8640, 2880, 2880)  # 12, 4 and 4 months of 30 days


@dataclass(frozen=True)
class TimeSeries:
    """Several series on one regular time axis."""

    values: Float64[np.ndarray, "rows variates"]
    """Finite numbers, time downwards."""
    time: pd.DatetimeIndex | pd.Index
    """When each row was observed: timestamps, or integers where the table has none."""
    step: pd.offsets.BaseOffset | int
    """From one row to the next."""
    variates: tuple[str, ...]
    """A name for each column."""
    time_name: str | None = None
    """The time column's name; None where the table has none."""
    long: bool = False
    """The table was long: one row for each variate and time."""

    @classmethod
    def from_frame(cls, table: pd.DataFrame | np.ndarray, nan_policy: NanPolicy | str | None = None) -> Self:
        """Check a table and bring it into this form.

        Parameters
        ----------
        table
            Wide: one numeric column per variate, and a time column (`ds`, `date`, `time`, `timestamp`, `datetime`, or
            a first column of dates) or a `DatetimeIndex`; without either, rows are counted. Long, a panel: columns
            `unique_id`, `ds` and `y` alone, for nothing here uses exogenous ones. Or an array (rows, variates).
        nan_policy
            What to do about missing and infinite values: `"ffill"` repeats the last value, `"zero"` writes zeros, None
            refuses them.

        Raises
        ------
        DataError
            If a column is not numeric; if timestamps cannot be read, repeat, go back or leave the regular step (the
            message names the first such row, counted from 0); if values are missing and no policy says what to do.
        """
        if nan_policy is not None and nan_policy not in get_args(NanPolicy):
            raise ValueError(f"nan_policy must be 'ffill', 'zero' or None, got {nan_policy!r}.")
        if not isinstance(table, pd.DataFrame):
            table = pd.DataFrame(np.asarray(table).reshape(len(table), -1))
        if table.empty:
            raise DataError(
                f"the table has {len(table)} rows and {table.shape[1]} columns; there is nothing to forecast."
            )
        long = set(LONG_COLUMNS) <= set(table.columns)
        time_name, time, values = _wide_from_long(table) if long else _time_and_values(table)
        step = _regular_step(time)
        _require_numeric(values)
        filled = _filled(values.astype(np.float64), nan_policy)
        return cls(
            np.ascontiguousarray(filled), time, step, tuple(str(name) for name in values.columns), time_name, long=long
        )

    def __len__(self) -> int:
        return len(self.values)

    def select(self, variates: tuple[str, ...]) -> Self:
        """The same series in the order of `variates`.

        Raises
        ------
        DataError
            If the names are not the same.
        """
        if self.variates == variates:
            return self
        if set(self.variates) != set(variates) or len(self.variates) != len(variates):
            raise DataError(
                f"expected the {len(variates)} variates {_some(variates)}, got {len(self.variates)}: "
                f"{_some(self.variates)}; bring the columns that the forecaster was fitted on."
            )
        return replace(self, values=self.values[:, [self.variates.index(name) for name in variates]], variates=variates)

    def future(self, steps: int) -> pd.Index:
        """The times of the `steps` rows that follow the last one."""
        if isinstance(self.step, int):
            last = int(self.time[-1])  # pyright: ignore[reportArgumentType]
            return pd.RangeIndex(last + self.step, last + self.step * (steps + 1), self.step, name=self.time.name)
        return pd.date_range(self.time[-1], periods=steps + 1, freq=self.step, name=self.time.name)[1:]

    def frame(
        self, values: Float[np.ndarray, "rows variates"] | None = None, time: pd.Index | None = None, column: str = "y"
    ) -> pd.DataFrame:
        """The table, or other values of its variates at other times, in the layout that it came in.

        `column` names the values of a long table.
        """
        values, time = (self.values if values is None else values), (self.time if time is None else time)
        wide = pd.DataFrame(values, columns=list(self.variates), index=time)
        if self.long:
            named = wide.rename_axis(index="ds", columns="unique_id")
            return named.T.stack().rename(column).reset_index()  # pyright: ignore
        if self.time_name is None:
            return wide
        wide.insert(0, self.time_name, wide.index)
        return wide.reset_index(drop=True)


def read_table(path: Path | str) -> pd.DataFrame:
    """A CSV (`.csv`, `.csv.gz`, `.tsv`, `.txt`) or Parquet (`.parquet`) file as a data frame.

    Raises
    ------
    DataError
        If the file does not exist, is empty, or cannot be read as what its name says.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"there is no file {path}.")
    try:
        if path.suffix == ".parquet":
            return pd.read_parquet(path)
        return pd.read_csv(path, sep="\t" if ".tsv" in path.suffixes else ",")
    except ImportError:
        raise DataError(f"{path} is Parquet, which needs pyarrow: pip install 'linmap[retrieve]'.") from None
    except (ValueError, OSError) as error:  # pandas and pyarrow report bad files so
        raise DataError(f"{path} cannot be read as a table: {error}") from error


def load_time_series(source: Path | str, nan_policy: NanPolicy | str | None = None) -> TimeSeries:
    """Read a file, or an embedded data set by its name.

    Parameters
    ----------
    source
        Path of a CSV or Parquet file; `"etth1"` (7 series of an electricity transformer, hourly) or `"ili"` (7 series
        of influenza-like illness in the USA, weekly).
    nan_policy
        As in `TimeSeries.from_frame`.

    Raises
    ------
    DataError
        If the file cannot be used; see `read_table` and `TimeSeries.from_frame`.
    """
    path = Path(source)
    if not path.exists() and str(source).lower() in EMBEDDED:
        path = data.find(f"olinear/{EMBEDDED[str(source).lower()]}", "It is part of linmap; install it again.")
    return TimeSeries.from_frame(read_table(path), nan_policy)


def _some(names: tuple[str, ...]) -> str:
    return ", ".join(map(repr, names[:8])) + (", ..." if len(names) > 8 else "")


# -- checks ----------------------------------------------------------------------------------------------------------


def _time_and_values(table: pd.DataFrame) -> tuple[str | None, pd.Index, pd.DataFrame]:
    """The time column of a wide table, and the rest."""
    named = [column for column in table.columns if str(column).lower() in TIME_COLUMNS]
    first = table.columns[0]
    if not named and not isinstance(table.index, pd.DatetimeIndex) and _looks_like_time(pd.Series(table[first])):
        named = [first]
    if not named:
        time = table.index if isinstance(table.index, pd.DatetimeIndex) else pd.RangeIndex(len(table))
        return None, time, table
    if len(named) > 1:
        raise DataError(f"columns {', '.join(map(repr, named))} all look like the time; keep one of them.")
    return str(named[0]), _times(pd.Series(table[named[0]]), str(named[0])), table.drop(columns=named)


def _looks_like_time(column: pd.Series) -> bool:
    if pd.api.types.is_numeric_dtype(column):
        return False
    return bool(pd.notna(pd.to_datetime(column.iloc[:1], errors="coerce", format="mixed")).all())


def _times(column: pd.Series, name: str) -> pd.Index:
    """Timestamps, or the integers that stand for them."""
    if pd.api.types.is_integer_dtype(column):
        return pd.Index(column)
    try:
        parsed = pd.to_datetime(column, errors="coerce")
    except (ValueError, TypeError) as error:
        raise DataError(f"column {name!r} cannot be read as timestamps: {error}") from error
    unread = np.flatnonzero(parsed.isna())
    if len(unread):
        raise DataError(f"column {name!r}, row {unread[0]}: {column.iloc[unread[0]]!r} is not a timestamp.")
    return pd.DatetimeIndex(parsed)


def _wide_from_long(table: pd.DataFrame) -> tuple[str, pd.Index, pd.DataFrame]:
    """One column per `unique_id`, rows by `ds`; times that one series lacks are missing values."""
    further = [column for column in table.columns if column not in LONG_COLUMNS]
    if further:
        raise DataError(
            f"a long table holds {', '.join(LONG_COLUMNS)} alone; got also {_some(tuple(map(str, further)))}: "
            "exogenous columns are not used, drop them."
        )
    _require_numeric(pd.DataFrame(table["y"]))
    table = table.assign(ds=_times(pd.Series(table["ds"]), "ds"))
    repeated = np.flatnonzero(table.duplicated(["unique_id", "ds"]))
    if len(repeated):
        row = table.iloc[repeated[0]]
        raise DataError(f"row {repeated[0]}: series {row['unique_id']!r} has a second value at {row['ds']}.")
    times = pd.Series(table["ds"].to_numpy(), index=pd.RangeIndex(len(table)))  # by row number
    for name, series in times.groupby(table["unique_id"].to_numpy(), sort=False):
        back = np.flatnonzero(series.to_numpy()[1:] < series.to_numpy()[:-1])
        if len(back):
            row = series.index[back[0] + 1]
            raise DataError(f"row {row}: series {name!r} goes back to {series[row]}; sort the table by ds.")
    wide = table.pivot(index="ds", columns="unique_id", values="y")
    return "ds", wide.index, pd.DataFrame(wide[list(table["unique_id"].unique())])


def _regular_step(time: pd.Index) -> pd.offsets.BaseOffset | int:
    """The step of a time axis that only goes forward and never changes its step."""
    if len(time) < 3:
        raise DataError(f"a time axis needs at least 3 rows to show its step, got {len(time)}.")
    ticks = time.asi8 if isinstance(time, pd.DatetimeIndex) else time.to_numpy()
    steps = np.diff(ticks)
    backward = np.flatnonzero(steps <= 0)
    if len(backward):
        row = int(backward[0]) + 1
        what = "repeats the timestamp" if steps[row - 1] == 0 else "goes back behind the timestamp"
        raise DataError(f"row {row} ({time[row]}) {what} of row {row - 1} ({time[row - 1]}); sort and deduplicate.")
    if isinstance(time, pd.DatetimeIndex) and (calendar := pd.DatetimeIndex(time, freq="infer").freq) is not None:
        return calendar  # months and working days have unequal lengths
    found, counts = np.unique(steps, return_counts=True)
    usual = int(found[counts.argmax()])
    step = pd.Timedelta(usual, unit=time.unit) if isinstance(time, pd.DatetimeIndex) else usual
    irregular = np.flatnonzero(steps != usual)
    if len(irregular):
        row = int(irregular[0]) + 1
        raise DataError(
            f"row {row} ({time[row]}) follows row {row - 1} ({time[row - 1]}) by {time[row] - time[row - 1]}, "
            f"elsewhere the step is {step}; fill the gap or resample to a regular step."
        )
    return step if isinstance(step, int) else pd.tseries.frequencies.to_offset(step)  # pyright: ignore


def _require_numeric(values: pd.DataFrame) -> None:
    if values.shape[1] == 0:
        raise DataError("the table has a time column and nothing else; there is no series to forecast.")
    for name, column in values.items():
        if pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_complex_dtype(column):
            continue
        unread = np.flatnonzero(pd.Series(pd.to_numeric(column, errors="coerce")).isna() & column.notna())
        where = f", row {unread[0]}: {column.iloc[unread[0]]!r} is not a number" if len(unread) else " is not numeric"
        raise DataError(f"column {name!r}{where}; drop the column, correct it, or name the time column 'date'.")


def _filled(values: pd.DataFrame, policy: str | None) -> pd.DataFrame:
    values = values.where(np.isfinite(values))
    if policy is not None:
        values = values.ffill() if policy == "ffill" else values.fillna(0.0)
    missing = values.isna().sum()
    if not missing.any():
        return values
    counts = ", ".join(f"{name!r} ({count})" for name, count in missing.items() if count)
    if policy == "ffill":
        raise DataError(
            f"nothing to repeat before the first value of {counts}; drop these rows or use nan_policy='zero'."
        )
    raise DataError(f"missing or infinite values in {counts}; choose nan_policy 'ffill' or 'zero', or clean the data.")


# -- splits and windows ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Split:
    """Consecutive rows for training, validation and test: [0, train), [train, validation), [validation, test)."""

    train: int
    validation: int
    test: int

    def spans(self, seq_len: int) -> dict[str, slice]:
        """The rows of each part with the `seq_len` rows before it that its first window looks back to."""
        return {
            "train": slice(0, self.train),
            "validation": slice(max(self.train - seq_len, 0), self.validation),
            "test": slice(max(self.validation - seq_len, 0), self.test),
        }


def literature_split(rows: int, name: str = "") -> Split:
    """The split that the long-horizon literature uses.

    ETTh1 and ETTh2, by their name: rows [0, 8640), [8640, 11520), [11520, 14400). Others: 70 % for training
    (rounded down), the last 20 % (rounded down) for test, the rest between them for validation.
    """
    if name.lower().startswith("etth") and rows >= sum(ETT_HOUR_SPLIT):
        train, validation, test = np.cumsum(ETT_HOUR_SPLIT).tolist()
        return Split(train, validation, test)
    return Split(int(rows * 0.7), rows - int(rows * 0.2), rows)


class Windows(Dataset):
    """All windows of `seq_len` input rows followed by `pred_len` target rows; several are read at once.

    Parameters
    ----------
    values
        Time downwards, (rows, variates).
    seq_len, pred_len
        Rows of the input and of the target.

    Raises
    ------
    DataError
        If there are too few rows for one window.
    """

    def __init__(self, values: Float[Tensor, "rows variates"], seq_len: int, pred_len: int) -> None:
        if len(values) < seq_len + pred_len:
            raise DataError(
                f"{len(values)} rows are too few for one window of {seq_len} input and {pred_len} target rows; "
                "shorten the window or the horizon, or bring more rows."
            )
        self.seq_len = seq_len
        self._windows = values.unfold(0, seq_len + pred_len, 1).mT  # a view: (windows, rows, variates)

    def __len__(self) -> int:
        return len(self._windows)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        window = self._windows[index]
        return window[: self.seq_len], window[self.seq_len :]

    def __getitems__(self, indices: list[int]) -> tuple[Tensor, Tensor]:
        window = self._windows[torch.as_tensor(indices)]
        return window[:, : self.seq_len], window[:, self.seq_len :]
