"""Labelled series of any length: NumPy archives, folders of CSV files, `.ts` files, and data sets known by name."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd

from linmap.data import find, require_content
from linmap.data.arrays import read_as_they_are, read_npz
from linmap.data.compressed import open_bytes, suffix_of, with_compressed
from linmap.data.door import SEPARATORS, files_inside, read_text, understood
from linmap.errors import ArgumentError, DataError

Part = Literal["train", "test"]
Archive = Literal["ACSF1", "OSULeaf", "BasicMotions", "JapaneseVowels", "GunPoint"]
Dataset = Literal[
    "mnist-small", "mnist", "mnist-784", "digits", "ACSF1", "OSULeaf", "BasicMotions", "JapaneseVowels", "GunPoint"
]
LABELS = "labels.csv"
FIRST_LINE = 2**16  # bytes of it that are looked at for the separators
TRAINING_DIGITS = 1400
MNIST_POOL = {"mnist-small": 2, "mnist": 2, "mnist-784": 1}


@dataclass(frozen=True)
class LabelledSeries:
    """Series of shape (length, channels) and, where they are known, their labels."""

    series: list[np.ndarray]
    """In the precision that they were read in, for a large offset needs it; lengths may differ, channels not."""
    labels: np.ndarray | None
    """Classes (integers or text) or targets (floats)."""
    names: list[str]
    """Of the files, or numbers."""
    channel_names: tuple[str, ...] | None = None
    """Of the columns; None where files have no header, or other names than the first."""

    def __len__(self) -> int:
        return len(self.series)

    @property
    def channels(self) -> int:
        return self.series[0].shape[1]

    @property
    def lengths(self) -> np.ndarray:
        return np.array([len(series) for series in self.series])

    def require_labels(self) -> np.ndarray:
        """The labels; DataError where there are none."""
        if self.labels is None:
            raise DataError(
                "these series have no labels; an archive needs an array y, a folder one subfolder per "
                f"label or a file {LABELS} with columns file and label."
            )
        return self.labels

    @property
    def fractional(self) -> bool:
        """Whether the labels are numbers of which some have a fraction; 1.0 and 2.0 are classes."""
        labels = self.require_labels()
        return labels.dtype.kind == "f" and bool((labels != np.floor(labels)).any())

    def hold_out(self, share: float, seed: int) -> tuple[LabelledSeries, LabelledSeries | None]:
        """All but a share of the series, and that share (None where it is none); classes keep their proportions."""
        labels = self.require_labels()
        count = round(share * len(self))
        if count == 0:
            return self, None
        if count == len(self):
            raise DataError(f"there are {len(self)} series, too few to hold out {share:.0%}; lower held_out={share:g}.")
        random = np.random.default_rng(seed).permutation(len(self))
        if not self.fractional:  # every class in turn, so that a share is one of each
            of_class = labels[random]
            turn = np.empty(len(self))
            for label in np.unique(of_class):
                rows = np.flatnonzero(of_class == label)
                turn[rows] = (np.arange(len(rows)) + 0.5) / len(rows)
            random = random[np.argsort(turn, kind="stable")]
        return self.take(np.sort(random[count:])), self.take(np.sort(random[:count]))

    def take(self, indices: Sequence[int] | np.ndarray) -> LabelledSeries:
        """Those series alone, in that order."""
        labels = None if self.labels is None else self.labels[np.asarray(indices)]
        names = [self.names[i] for i in indices]
        return LabelledSeries([self.series[i] for i in indices], labels, names, self.channel_names)

    def in_order(self, channel_names: tuple[str, ...] | None) -> LabelledSeries:
        """The channels by these names, or by their place where they or those of the series have none.

        Raises
        ------
        DataError
            If some of the names are there and others are not.
        """
        here = self.channel_names
        if here is None or channel_names is None or here == channel_names or not set(here) & set(channel_names):
            return self
        if set(here) != set(channel_names):
            raise DataError(
                f"these series have the channels {', '.join(here)}, expected are {', '.join(channel_names)}; bring "
                "these, and leave out others with drop=..."
            )
        places = [here.index(name) for name in channel_names]
        series = [one[:, places] for one in self.series]
        return LabelledSeries(series, self.labels, self.names, channel_names)


def load_series(source: Path | str, part: Part = "train", drop: Sequence[str] = ()) -> LabelledSeries:
    """Series from a file or folder, or one part of a data set known by name.

    Parameters
    ----------
    source
        An `.npz` archive: `X` (n, length, channels) or (n, length), with `lengths` where shorter series are padded on
        the right; or `X` (sum of lengths, channels) with `lengths`, one series after the other; labels in `y`.
        A folder of CSV files, one series each (a row per step, a column per channel, a header or none): labels from
        subfolders, or from `labels.csv` with columns file and label. One `.csv` file: one series without a label. CSV
        files may be compressed (`.csv.gz`, `.bz2`, `.xz`, `.zst`). Their first column is left out where it is pandas'
        unnamed index. Channels with a name go by it, not by their place.
        A `.ts` file of the UCR/UEA archive. Or one of `Dataset`.
    part
        Of a data set known by name.
    drop
        Columns of CSV files to leave out, such as the time.

    Raises
    ------
    DataError
        If the file cannot be used; the message names the first offending place.
    FileNotFoundError, ModuleNotFoundError
        If a named data set is not installed.
    """
    if str(source) in get_args(Dataset):
        return named_series(str(source), part)
    path = Path(source)
    if path.is_dir():
        return read_folder(path, drop)
    if drop and suffix_of(path) != ".csv":
        raise DataError(f"{path}: only CSV files have columns to leave out; give no drop=...")
    if not path.exists():
        known = ", ".join(get_args(Dataset))
        raise DataError(f"{path}: there is no such file or folder, and it is not one of the data sets {known}.")
    if suffix_of(path) == ".csv":
        table = _read_csv(path, drop)
        return LabelledSeries([table.to_numpy()], None, [path.stem], _header([table]))
    match path.suffix.lower():
        case ".npz":
            return read_archive(path)
        case ".ts":
            return read_ts(path)
    raise DataError(f"{path}: series are read from .npz, .csv, .ts, or a folder of .csv files.")


# -- files -----------------------------------------------------------------------------------------------------------


def read_archive(path: Path | str) -> LabelledSeries:
    """An `.npz` archive with `X`, and optionally `lengths` and `y`; see `load_series`."""
    path = Path(path)
    require_content(path)
    arrays = read_npz(path, ("X",), ignore=("y",))
    X, lengths = arrays["X"], arrays.get("lengths")
    if X.dtype.kind == "c" or X.size == 0:
        raise DataError(f"{path}: X must hold real numbers, got {X.dtype} of shape {X.shape}.")
    series = _separate(X, lengths, path)
    labels = read_as_they_are(path, ("y",)).get("y")
    if labels is not None and (labels.shape != (len(series),) or labels.dtype.kind not in "biufU"):
        raise DataError(
            f"{path}: y must hold one number or text for each of {len(series)} series, got {labels.dtype} "
            f"of shape {labels.shape}."
        )
    if labels is not None and labels.dtype.kind == "f" and not np.isfinite(labels).all():
        raise DataError(f"{path}: y[{int(np.flatnonzero(~np.isfinite(labels))[0])}] is not a finite number.")
    return LabelledSeries(series, labels, [str(i) for i in range(len(series))])


def _separate(X: np.ndarray, lengths: np.ndarray | None, path: Path) -> list[np.ndarray]:
    """X as a list of (length, channels)."""
    if lengths is None:
        if X.ndim not in (2, 3):
            raise DataError(f"{path}: X must be (n, length, channels) or (n, length), got shape {X.shape}.")
        return list(_floating(X.reshape(*X.shape[:2], -1)))
    if lengths.ndim != 1 or lengths.dtype.kind not in "iu" or len(lengths) == 0 or lengths.min() < 1:
        raise DataError(
            f"{path}: lengths must be positive integers, one for each series, got {lengths.dtype} of "
            f"shape {lengths.shape}{f', smallest {lengths.min()}' if lengths.size else ''}."
        )
    X = _floating(X)
    if X.ndim == 3:
        if len(lengths) != len(X) or lengths.max() > X.shape[1]:
            raise DataError(f"{path}: {len(lengths)} lengths up to {lengths.max()} do not fit X of shape {X.shape}.")
        return [x[:length] for x, length in zip(X, lengths, strict=True)]
    if X.ndim != 2 or lengths.sum() != len(X):
        raise DataError(
            f"{path}: lengths add up to {lengths.sum()}, so X must be ({lengths.sum()}, channels) or "
            f"(n, length, channels), got shape {X.shape}."
        )
    return np.split(X, np.cumsum(lengths)[:-1])


def _floating(X: np.ndarray) -> np.ndarray:
    return X if X.dtype.kind == "f" else X.astype(np.float64)


def read_folder(folder: Path | str, drop: Sequence[str] = ()) -> LabelledSeries:
    """A folder of CSV files, one series each, in the order of their names; see `load_series`."""
    folder = Path(folder)
    files = [path for path in files_inside(folder, with_compressed((".csv",)), below=True) if path != folder / LABELS]
    if not files:
        raise DataError(f"{folder} holds no .csv file; write one series a file, a row per step.")
    tables = [_read_csv(path, drop) for path in files]
    first = tables[0].columns
    for path, table in zip(files, tables, strict=True):
        if len(table.columns) != len(first):
            raise DataError(
                f"{path} has {len(table.columns)} channels, {files[0]} has {len(first)}; all series need the same."
            )
    # another order of the same names is the same channels
    series = [table.reindex(columns=first) if set(table.columns) == set(first) else table for table in tables]
    names = [path.relative_to(folder).as_posix() for path in files]
    labels = _folder_labels(folder, names)
    return LabelledSeries([table.to_numpy() for table in series], labels, names, _header(series))


def _header(tables: list[pd.DataFrame]) -> tuple[str, ...] | None:
    """The names of channels that all tables have; those without a header have numbers."""
    names = tables[0].columns
    named = all(isinstance(name, str) for name in names) and all(table.columns.equals(names) for table in tables)
    return tuple(names) if named else None


def _folder_labels(folder: Path, names: list[str]) -> np.ndarray | None:
    if (folder / LABELS).exists():
        known = _label_table(folder / LABELS)
        if missing := [name for name in names if pd.isna(known.get(name, np.nan))]:
            raise DataError(f"{folder / LABELS} has no label for {missing[0]}.")
        found = np.array([known[name] for name in names])
        return found if found.dtype.kind in "biuf" else found.astype(str)
    if all("/" in name for name in names):
        return np.array([name.split("/")[0] for name in names])
    if any("/" in name for name in names):
        raise DataError(f"{folder} holds series both in subfolders and beside them; move each below its label.")
    return None


def _label_table(path: Path) -> dict[str, Any]:
    """The labels by file. Among labels that are text, NA and None are text too."""
    require_content(path)
    with understood(path, "a table of files and labels"):
        table, written = pd.read_csv(path, dtype={"file": str}), pd.read_csv(path, dtype=str, keep_default_na=False)
    if not {"file", "label"} <= set(table.columns):
        raise DataError(f"{path} needs the columns file and label, got {', '.join(table.columns)}{_hint(path)}.")
    if len(repeated := table.loc[table.duplicated("file"), "file"]):
        raise DataError(f"{path} names {repeated.iloc[0]} twice.")
    labels = table["label"]
    if labels.dtype.kind not in "biuf":
        labels = written["label"].where(written["label"].str.strip() != "")
    return dict(zip(written["file"], labels, strict=True))


def _read_csv(path: Path, drop: Sequence[str] = ()) -> pd.DataFrame:
    """One series in float64, a column a channel; a first row that is not numeric is a header."""
    require_content(path)
    with understood(path, "a table of numbers", f"write a row per step{_hint(path)}"):
        with open_bytes(path) as file:
            first = pd.read_csv(file, header=None, nrows=1, dtype=str)
        header = None if np.isfinite(_numbers(first)).all() else 0
        with open_bytes(path) as file:
            table = pd.read_csv(file, header=header)
    if header == 0 and pd.isna(first.iloc[0, 0]) and table.shape[1] > 1:
        index = table.iloc[:, 0].to_numpy()
        table = table.iloc[:, 1:] if np.array_equal(index, np.arange(len(table))) else table
    names = [str(name) for name in table.columns]
    for name in drop:
        if header is None or name not in names:
            raise DataError(f"{path} has no column {name!r} to leave out; there are {', '.join(names)}.")
    table = table.iloc[:, [place for place, name in enumerate(names) if name not in drop]]
    values = _numbers(table)
    if values.size == 0:
        raise DataError(f"{path} has no {'rows' if len(table) == 0 else 'columns beside those left out'}.")
    bad = np.argwhere(~np.isfinite(values))
    if len(bad):
        row, column = bad[0].tolist()
        way = _hint(path)
        if not way and header == 0 and not np.isfinite(values[:, column]).any():
            way = f"; to leave the whole column out, give drop='{table.columns[column]}'"
        cell = table.iloc[row, column]
        raise DataError(f"{path}: step {row}, column {column + 1}: '{cell!s:.40}' is no finite number{way}.")
    return pd.DataFrame(values, columns=table.columns)


def _hint(path: Path) -> str:
    """What a table that is not read looks like, where that can be seen in its first line."""
    with open_bytes(path) as file:
        line = file.readline(FIRST_LINE).decode(errors="replace")
    separator = next((sign for sign in SEPARATORS if sign in line), None)
    if separator is None:
        return ""
    return f"; its cells are separated by {SEPARATORS[separator]}: write it with commas, and with points in the numbers"


def _numbers(table: pd.DataFrame) -> np.ndarray:
    """The cells as float64, NaN where one is no number."""
    return table.apply(pd.to_numeric, errors="coerce").to_numpy(np.float64)


def read_ts(path: Path | str) -> LabelledSeries:
    """A `.ts` file: channels separated by ':', steps by ',', the label last."""
    path = Path(path)
    require_content(path)
    labelled, series, labels = False, [], []
    for number, line in _lines(path):
        if line.startswith("@"):
            words = line.lower().split()
            labelled |= words[0] in ("@classlabel", "@targetlabel") and words[1:2] == ["true"]
            continue
        *channels, label = line.split(":") if labelled else [*line.split(":"), ""]
        try:
            series.append(np.array([channel.split(",") for channel in channels], np.float64).T.copy())
        except ValueError:
            raise DataError(
                f"{path}, line {number}: every channel needs equally many numbers separated by ','; time "
                "stamps and missing values are not read."
            ) from None
        if not series[-1].size:
            raise DataError(f"{path}, line {number}: there are no values; expected numbers separated by ','.")
        if not np.isfinite(series[-1]).all() or series[-1].shape[1] != series[0].shape[1]:
            raise DataError(f"{path}, line {number}: the series has missing values or another number of channels.")
        labels.append(label)
    if not series:
        raise DataError(f"{path} holds no series.")
    return LabelledSeries(series, _typed(labels) if labelled else None, [str(i) for i in range(len(series))])


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    try:
        text = read_text(path, errors="replace")
    except FileNotFoundError:
        raise DataError(f"{path}: there is no such file.") from None
    for number, line in enumerate(text.splitlines(), start=1):
        if line.strip() and not line.startswith("#"):
            yield number, line.strip()


def _typed(labels: list[str]) -> np.ndarray:
    """Integers, else numbers, else text."""
    for kind in (int, float):
        try:
            return np.array([kind(label) for label in labels])
        except ValueError:
            continue
    return np.array(labels)


# -- data sets known by name -----------------------------------------------------------------------------------------


def whole_series(name: str) -> LabelledSeries:
    """Both parts of a data set known by name, the training part first."""
    train, test = named_series(name), named_series(name, "test")
    labels = np.concatenate([train.require_labels(), test.require_labels()])
    series = train.series + test.series
    return LabelledSeries(series, labels, [str(i) for i in range(len(series))])


def named_series(name: str, part: Part = "train") -> LabelledSeries:
    """One part of a data set known by name.

    `mnist-small` (2,500 training and 500 test images inside the package), `mnist` (10,000 and 2,000) and `mnist-784`
    are images pixel by pixel, the first two averaged over 2 x 2 pixels to 196 steps; `digits` are scikit-learn's 8 x 8
    digits; the others ship with aeon.

    Raises
    ------
    ValueError
        If there is no such data set or part.
    """
    if part not in get_args(Part):
        raise ArgumentError(f"part must be 'train' or 'test', got {part!r}.")
    if name in MNIST_POOL:
        return _mnist(name, part)
    if name == "digits":
        from sklearn.datasets import load_digits

        images, labels = map(np.asarray, load_digits(return_X_y=True))
        rows = slice(0, TRAINING_DIGITS) if part == "train" else slice(TRAINING_DIGITS, None)
        return _numbered(images[rows, :, None] / 16, labels[rows])
    if name in get_args(Archive):
        return read_ts(_aeon_file(name, part))
    raise ArgumentError(f"there is no data set {name!r}; there are {', '.join(get_args(Dataset))}.")


def _mnist(name: str, part: Part) -> LabelledSeries:
    file = "mnist_3k.npz" if name == "mnist-small" else "mnist_12k.npz"
    path = find(f"mnist/{file}", "the embedded 'mnist-small' is.")
    arrays = read_npz(path, (f"x_{part}", f"y_{part}"))
    images, side = arrays[f"x_{part}"] / 255, MNIST_POOL[name]
    n, height, width = images.shape
    pooled = images.reshape(n, height // side, side, width // side, side).mean((2, 4))
    return _numbered(pooled.reshape(n, -1, 1), arrays[f"y_{part}"].astype(np.int64))


def _numbered(X: np.ndarray, labels: np.ndarray) -> LabelledSeries:
    return LabelledSeries(list(X.astype(np.float32)), labels, [str(i) for i in range(len(X))])


def _aeon_file(name: str, part: Part) -> Path:
    """A file of the aeon package, which need not be imported for it."""
    package = importlib.util.find_spec("aeon")
    if package is None or not package.submodule_search_locations:
        raise ModuleNotFoundError(f"{name} ships with aeon: pip install 'linmap[sequence]'.", name="aeon")
    path = Path(package.submodule_search_locations[0]) / "datasets" / "data" / name / f"{name}_{part.upper()}.ts"
    if not path.exists():
        raise FileNotFoundError(f"this aeon does not ship {path.name}; pip install -U aeon, or choose 'mnist-small'.")
    return path


def real_signal(name: Literal["ecg", "nino"]) -> np.ndarray:
    """A real signal of PyWavelets: 1,024 samples of an electrocardiogram, or 264 of the sea surface temperature.

    Raises
    ------
    ModuleNotFoundError
        If PyWavelets is not installed.
    ValueError
        If there is no such signal.
    """
    if name not in ("ecg", "nino"):
        raise ArgumentError(f"there is no signal {name!r}; there are ecg and nino.")
    try:
        import pywt.data
    except ModuleNotFoundError:
        raise ModuleNotFoundError("this signal ships with PyWavelets: pip install 'linmap[sequence]'.", name="pywt")  # noqa: B904
    values = pywt.data.ecg() if name == "ecg" else pywt.data.nino()[1]
    return np.asarray(values, np.float64)
