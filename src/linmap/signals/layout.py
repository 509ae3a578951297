"""Epochs as estimators take them, and what a fitted one expects of the epochs that it meets later."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Self

import numpy as np
from jaxtyping import Float64

from linmap.data.arrays import array_of
from linmap.data.epochs import Epochs
from linmap.data.mne_epochs import is_mne_epochs
from linmap.data.schema import made, require
from linmap.errors import ArgumentError

Array = Float64[np.ndarray, "epochs channels times"]
OTHER_UNIT = 100.0  # times beyond the sizes seen in fit, from where epochs are taken to be in another unit
RATES = 1e-3  # relative difference of sampling rates that counts as none


def read_epochs(X: Any) -> Epochs:
    """Epochs from what an estimator is given.

    Parameters
    ----------
    X
        (epochs, channels, times) as an array or nested lists; `linmap.data.epochs.Epochs`; or MNE's `Epochs`, of which
        `Epochs.from_mne` takes the good EEG channels in microvolts.

    Raises
    ------
    ValueError
        If X has another shape, is empty, or holds no real numbers or something that is not finite.
    """
    X = _joined(X)
    if is_mne_epochs(X):
        X = Epochs.from_mne(X)
    if isinstance(X, Epochs):
        array = _checked(X.X)
        return X if array is X.X else replace(X, X=array)
    return Epochs(_checked(X.get_data() if hasattr(X, "get_data") else X), None, None, ())


def check_epochs(X: Any) -> Array:
    """The numbers of `read_epochs` alone."""
    return read_epochs(X).X


def labelled(X: Any, y: Any, beside: Any = None) -> tuple[Epochs, Any, Any]:
    """Epochs, their classes, and what else there is for each of them, such as groups.

    Where y is None the classes are the event codes of MNE's `Epochs`, or what `linmap.data.epochs.Epochs` brings. Where
    MNE rejects epochs only now that their data are read, y and `beside` lose the entries of these.

    Raises
    ------
    ValueError
        If y is None and X brings none.
    """
    X = _joined(X)
    before = np.array(X.selection) if is_mne_epochs(X) else None
    epochs = read_epochs(X)
    if before is not None and len(before) > len(epochs):
        kept = np.isin(before, X.selection)
        y, beside = (
            values if values is None or len(values) != len(kept) else np.asarray(values)[kept] for values in (y, beside)
        )
    if y is None:
        y = epochs.y if before is None else epochs.codes
        if y is None:
            raise ArgumentError("y is missing: give the class of each epoch (only MNE Epochs bring event codes).")
    return epochs, y, beside


def _joined(X: Any) -> Any:
    """MNE's `Epochs` again where scikit-learn has cut them into a list of single ones, as its splits do."""
    if not (isinstance(X, list | tuple) and X and all(map(is_mne_epochs, X))):
        return X
    import mne

    return mne.concatenate_epochs([epochs.copy() for epochs in X], verbose="ERROR")


def _checked(array: Any) -> Array:
    try:
        array = array_of(array)
    except ValueError:
        raise ArgumentError("X: expected (epochs, channels, times), got lists of unequal lengths.") from None
    if array.ndim != 3:
        raise ArgumentError(
            f"X: expected (epochs, channels, times), got shape {array.shape}; one epoch is X[None], and "
            "continuous data must be cut into epochs."
        )
    if 0 in array.shape:
        raise ArgumentError(f"X: expected at least one epoch, channel and sample, got shape {array.shape}.")
    array = real_numbers(array)
    if not np.isfinite(array).all():
        epoch, channel = np.argwhere(~np.isfinite(array).all(-1))[0].tolist()
        raise ArgumentError(
            f"X: epoch {epoch}, channel {channel} holds NaN or infinite values; drop the epoch or "
            "interpolate the channel."
        )
    return array


def check_matrices(X: Any) -> Float64[np.ndarray, "n size size"]:
    """Symmetric matrices as float64.

    Raises
    ------
    ValueError
        If X has another shape, or holds no real numbers or something that is not finite.
    """
    array = array_of(X)
    if array.ndim != 3 or 0 in array.shape or array.shape[1] != array.shape[2]:
        raise ArgumentError(f"X must hold matrices (n, c, c), got shape {array.shape}.")
    array = real_numbers(array)
    if not np.isfinite(array).all():
        i = int(np.argmin(np.isfinite(array).all((1, 2))))
        raise ArgumentError(f"X must hold finite real numbers; matrix {i} does not: drop or repair it.")
    return array


def real_numbers(array: np.ndarray) -> Float64[np.ndarray, ...]:
    """As float64, objects too where they are numbers; ValueError where they are not, or are complex."""
    try:
        if array.dtype.kind in "biufO":
            return np.asarray(array, np.float64)
    except (TypeError, ValueError):
        pass
    raise ArgumentError(f"X must hold real numbers, got dtype {array.dtype}.")


@dataclass(frozen=True)
class Layout:
    """Channels, sampling rate and unit of the epochs that an estimator was fitted to."""

    n_channels: int
    ch_names: tuple[str, ...] | None = None
    """None where the channels have no names."""
    sfreq: float | None = None
    sizes: tuple[float, float, float] | None = None
    """Size of an epoch, the root of its mean variance: quantiles of .05, .5 and .95. None where they are not known."""

    @classmethod
    def of(cls, epochs: Epochs) -> Self:
        """That of epochs."""
        return cls(epochs.X.shape[1], channel_names(epochs.ch_names), epochs.sfreq, spread(epoch_sizes(epochs.X)))

    def matched(self, epochs: Epochs) -> Array:
        """The epochs with the channels, in the order and in the unit of the fit.

        Raises
        ------
        ValueError
            If a channel is missing, or the sampling rate is another one.

        Warns
        -----
        UserWarning
            If the epochs are in another unit, which is undone.
        """
        if epochs.sfreq and self.sfreq and abs(epochs.sfreq / self.sfreq - 1) > RATES:
            raise ArgumentError(
                f"X has {epochs.sfreq:g} Hz, and was fitted to {self.sfreq:g} Hz; lags are in samples, so "
                "resample the recording."
            )
        X = self.ordered(epochs)
        factor = unit_factor(epoch_sizes(X), self.sizes)
        return X if factor == 1 else X / factor

    def ordered(self, epochs: Epochs) -> Array:
        """The channels of the fit, in its order; by their place where either side has no names."""
        names = channel_names(epochs.ch_names)
        twice = repeated(epochs.ch_names)
        if twice is not None and self.ch_names is not None:
            raise ArgumentError(f"X has two channels called {twice}; give every channel a name of its own.")
        if names is not None and self.ch_names is not None:
            rows = _places(self.ch_names, names)
            return epochs.X if rows == list(range(epochs.X.shape[1])) else epochs.X[:, rows]
        if epochs.X.shape[1] != self.n_channels:
            raise ArgumentError(f"X: expected {self.n_channels} channels as in fit, got {epochs.X.shape[1]}.")
        return epochs.X

    def to_dict(self) -> dict[str, Any]:
        """For a saved run's configuration."""
        return asdict(self)

    @classmethod
    def kept(cls, config: Mapping[str, Any], n_channels: int) -> Self:
        """That of a saved run; names and rate that its caller noted as `ch_names` and `sfreq` count where the epochs
        had none."""
        kept = config.get("layout") or {"n_channels": n_channels}
        require(kept, dict[str, Any], "layout")
        values: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in kept.items()
        }
        names = channel_names(config.get("ch_names") or ())
        if values.get("ch_names") is None and names is not None and len(names) == n_channels:
            values["ch_names"] = names
        values["sfreq"] = values.get("sfreq") or config.get("sfreq")
        found = made(cls, values, "layout")
        if found.sizes is not None and not 0 < found.sizes[0] <= found.sizes[1] <= found.sizes[2] < np.inf:
            raise ArgumentError(f"layout: sizes are {found.sizes}, expected three positive numbers in order")
        return found


def channel_names(names: Sequence[str]) -> tuple[str, ...] | None:
    """None where the file had none, or they do not tell channels apart, so that these are only counted."""
    if not names or repeated(names) is not None or any(re.fullmatch(r"channel \d+", name) for name in names):
        return None
    return tuple(names)


def repeated(names: Sequence[str]) -> str | None:
    """A name that comes twice."""
    return next((name for place, name in enumerate(names) if name in names[:place]), None)


def _places(wanted: Sequence[str], names: Sequence[str]) -> list[int]:
    """Where the wanted channels are among `names`: by name, or else by name without case, blanks and dots."""

    def bare(name: str) -> str:
        return re.sub(r"[\s.]", "", name).casefold()

    exact = {name: i for i, name in enumerate(names)}
    loose = {bare(name): i for i, name in enumerate(names)}
    certain = len(loose) == len(names) and len({bare(name) for name in wanted}) == len(wanted)
    places = [exact.get(name, loose.get(bare(name)) if certain else None) for name in wanted]
    absent = [name for name, place in zip(wanted, places, strict=True) if place is None]
    if absent:
        raise ArgumentError(
            f"X lacks the channel{'s' * (len(absent) > 1)} {', '.join(absent)} of the fit (absent, or "
            f"marked as bad); it has {', '.join(names)}."
        )
    return [place for place in places if place is not None]


# -- units -----------------------------------------------------------------------------------------------------------


def epoch_sizes(X: Array) -> Float64[np.ndarray, " epochs"]:
    """The root of the mean variance of each epoch's channels."""
    return np.sqrt(X.var(-1).mean(-1))


def spread(sizes: Float64[np.ndarray, " n"]) -> tuple[float, float, float] | None:
    """Quantiles of .05, .5 and .95 of the sizes that are not zero."""
    sizes = sizes[sizes > 0]
    if not len(sizes):
        return None
    low, middle, high = np.quantile(sizes, (0.05, 0.5, 0.95), method="nearest")
    return float(low), float(middle), float(high)


def unit_factor(sizes: Float64[np.ndarray, " n"], seen: tuple[float, float, float] | None) -> float:
    """The power of a thousand by which samples are larger than those of the fit, as volts and microvolts differ.

    1 unless half of the samples lie more than a hundredfold beyond nearly all that the fit saw, which no recording does
    in its own unit.

    Warns
    -----
    UserWarning
        Where it is not 1.
    """
    now = spread(sizes)
    if now is None or seen is None:
        return 1.0
    low, median, high = seen
    beyond = now[1] / high if now[1] > high else now[1] / low if now[1] < low else 1.0
    power = round(np.clip((np.log10(now[1]) - np.log10(median)) / 3, -100, 100))  # a factor that float64 has
    if 1 / OTHER_UNIT < beyond < OTHER_UNIT or power == 0:
        return 1.0
    factor = 1000.0**power
    warnings.warn(
        f"X is about {now[1] / median:.1g} times as large as what was fitted, so it is taken to be in another unit, "
        f"such as volts for microvolts, and divided by {factor:g}; give both in one unit.",
        stacklevel=4,
    )
    return factor
