"""EEG epochs: NumPy archives, MNE files, and two real data sets (MAMEM SSVEP, EEG Motor Movement/Imagery)."""

from __future__ import annotations

import glob
import struct
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from jaxtyping import Float64, Int, Shaped

from linmap.data import EMBEDDED, find, require_content
from linmap.data.arrays import held_names, read_as_they_are, read_npz
from linmap.data.compressed import is_compressed, measure, open_bytes
from linmap.data.door import understood
from linmap.data.labels import missing, one_for_each
from linmap.data.mne_epochs import parts_of
from linmap.errors import ArgumentError, DataError

Task = Literal["imagery", "hands-feet", "executed"]
MAMEM_SUBJECTS = tuple(range(11))
EMBEDDED_SUBJECTS = (0, 2, 5, 8)
TRAIN, VALIDATION, TEST = (0, 1, 2), 3, 4  # sessions of MAMEM, the official split
_MAMEM, _MAMEM_EMBEDDED = "eeg/mamem_ssvep.npz", "mamem_4subjects.npz"
DIRECTORY, COUNTED_POINTS = 101, 36  # a kind and a type of tags in FIF
DAMAGED = "the file is damaged, write it again"
_AS_THEY_ARE = ("X", "ch_names", "y", "session", "group")


@dataclass(frozen=True)
class Epochs:
    """Epochs of EEG, in microvolts where the file says what its units are; MNE's always do."""

    X: Float64[np.ndarray, "epochs channels times"]
    y: Shaped[np.ndarray, " epochs"] | None
    """Classes, numbers or text; None where they are not known."""
    sfreq: float | None
    """Samples a second."""
    ch_names: tuple[str, ...]
    session: Shaped[np.ndarray, " epochs"] | None = None
    group: Shaped[np.ndarray, " epochs"] | None = None
    """Epochs of one group, such as the pieces of one trial, must stay on one side of a split."""
    name: str = ""
    codes: Int[np.ndarray, " epochs"] | None = None
    """Event codes, where the epochs are MNE's."""
    left_out: tuple[str, ...] = ()
    """Channels of the source that are not in X, each with the reason in brackets."""

    @classmethod
    def from_mne(cls, epochs: Any, name: str = "MNE's Epochs") -> Epochs:
        """MNE's `Epochs` as arrays, the same whether they were read from a file or made in Python.

        The EEG channels that are not marked as bad, in microvolts; classes are the names of the events, `session` and
        `group` columns of the metadata. See `linmap.data.mne_epochs.parts_of` for other channels.

        Raises
        ------
        DataError
            If no channel or no epoch is left.
        """
        parts = parts_of(epochs, name)
        X, y, codes, sfreq, channels, left_out, session, group = parts
        return cls(X, y, sfreq, channels, session, group, name, codes, left_out)

    def __len__(self) -> int:
        return len(self.X)

    def take(self, rows: np.ndarray | Sequence[int] | slice) -> Epochs:
        """Those epochs alone, in that order; `rows` may also be a mask."""
        rows = rows if isinstance(rows, slice) else np.asarray(rows)
        labels = {name: getattr(self, name) for name in ("y", "session", "group", "codes")}
        taken = {name: None if label is None else label[rows] for name, label in labels.items()}
        return replace(self, X=self.X[rows], **taken)

    def labels(self) -> np.ndarray:
        """The classes; DataError where there are none."""
        if self.y is None:
            raise DataError(
                f"{self.name or 'the epochs'}: there are no classes; an archive needs an array y, an MNE "
                "file needs event ids."
            )
        return self.y

    def incomplete(self, column: Literal["session", "group"]) -> bool:
        """Whether there are sessions or groups, but not for every epoch."""
        values = getattr(self, column)
        return values is not None and bool(missing(values).any())

    def known(self, column: Literal["session", "group"]) -> np.ndarray | None:
        """The sessions or groups, None where the file has none; DataError where it has them for some epochs only."""
        values = getattr(self, column)
        if self.incomplete(column):
            raise DataError(
                f"{self.name}: {column} is missing for epoch {int(missing(values).argmax())}; fill it in, "
                "or leave the column out."
            )
        return values

    def filtered(self, low: float, high: float) -> Epochs:
        """Each epoch without its mean, through a zero-phase Butterworth band-pass of order 4 (frequencies in Hz).

        Better where the continuous recording is there: band-pass that, and cut the epochs afterwards, for here the
        edges of every epoch ring.

        Raises
        ------
        DataError
            If the sampling rate is not known, the band does not lie below its half, or epochs are too short.
        """
        from scipy.signal import butter, sosfiltfilt

        if self.sfreq is None:
            raise DataError(f"{self.name}: a band-pass needs the sampling rate; save it as sfreq.")
        if not 0 < low < high < self.sfreq / 2:
            raise DataError(f"the band {low:g}-{high:g} Hz must lie between 0 and half of sfreq = {self.sfreq:g} Hz.")
        centred = self.X - self.X.mean(-1, keepdims=True)
        try:
            X = sosfiltfilt(butter(4, (low, high), "bandpass", fs=self.sfreq, output="sos"), centred)
        except ValueError as error:
            raise DataError(f"epochs of {self.X.shape[-1]} samples are too short to filter ({error}).") from None
        return replace(self, X=np.ascontiguousarray(X))


def load_epochs(path: Path | str) -> Epochs:
    """Epochs from a file.

    Parameters
    ----------
    path
        An MNE file (`*-epo.fif`), as `Epochs.from_mne` takes it. Or an `.npz` archive with `X` (epochs, channels,
        times) and, where known, `y` (epochs,), `sfreq`, `ch_names`, `session`, `group`; integers times `scale_uV`,
        where there is one, are microvolts.

    Raises
    ------
    DataError
        If the file cannot be used; the message names the first offending place.
    ModuleNotFoundError
        If an MNE file comes and MNE is not installed.
    """
    path = Path(path)
    if not path.exists():
        raise DataError(f"{path}: there is no such file.")
    if not path.name.endswith((".npz", ".fif", ".fif.gz")):
        raise DataError(
            f"{path}: epochs are read from .npz archives and MNE's -epo.fif files; cut a recording into "
            "epochs with mne.Epochs and save these."
        )
    require_content(path)
    return _read_archive(path) if path.suffix == ".npz" else _read_fif(path)


def _read_archive(path: Path) -> Epochs:
    arrays = read_npz(path, only=("scale_uV", "sfreq"))
    for name in {"scale_uV", "sfreq"} & arrays.keys():
        if arrays[name].size != 1:
            raise DataError(f"{path}: {name} must be one number, got shape {arrays[name].shape}.")
    if "X" not in (held := held_names(path)):
        raise DataError(f"{path} has no array 'X' of epochs; it holds {', '.join(held)}.")
    arrays |= read_as_they_are(path, _AS_THEY_ARE)
    X = arrays["X"]
    if X.ndim != 3 or X.size == 0 or X.dtype.kind not in "iuf":
        raise DataError(f"{path}: X must be numbers (epochs, channels, times), got {X.dtype} of shape {X.shape}.")
    X = X.astype(np.float64) * (float(arrays["scale_uV"].item()) if "scale_uV" in arrays else 1.0)
    names = arrays.get("ch_names")
    if names is not None:
        if names.shape != X.shape[1:2]:
            raise DataError(f"{path}: X has {X.shape[1]} channels, ch_names has shape {names.shape}.")
        names = one_for_each(names, X.shape[1], f"{path}: ch_names", "channels")
    given = {name: _per_epoch(arrays[name], len(X), name, path) for name in ("y", "session", "group") if name in arrays}
    y, session, group = (given.get(name) for name in ("y", "session", "group"))
    sfreq = float(arrays["sfreq"].item()) if "sfreq" in arrays else None
    if sfreq is not None and sfreq <= 0:
        raise DataError(f"{path}: sfreq must be more than 0 Hz, got {sfreq:g}; leave it out where it is not known.")
    if X.shape[1] == X.shape[2] > 1 and X.any() and np.array_equal(X, X.swapaxes(1, 2)):
        raise DataError(
            f"{path}: X holds symmetric matrices, as covariances are; expected epochs (epochs, channels, times). "
            "Covariance matrices are for gbwbn."
        )
    channels = _named(X.shape[1]) if names is None else tuple(map(str, names))
    return _checked(Epochs(X, y, sfreq, channels, session, group, path.stem), path)


def _per_epoch(array: np.ndarray, n: int, name: str, path: Path) -> np.ndarray:
    array = one_for_each(array, n, f"{path}: {name}", "epochs")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise DataError(f"{path}: {name}[{int(np.flatnonzero(~np.isfinite(array))[0])}] is not a finite number.")
    return array


def _read_fif(path: Path) -> Epochs:
    try:
        import mne
    except ModuleNotFoundError:
        raise ModuleNotFoundError("MNE files need MNE: pip install 'linmap[signals]'.", name="mne") from None
    if is_compressed(path):
        measure(path)
    with understood(path, "epochs of MNE", "cut a recording into epochs with mne.Epochs and save these"):
        name, _, ending = path.name.rpartition(".fif")
        for part in (path, *path.parent.glob(f"{glob.escape(name)}-[0-9]*.fif{ending}")):  # of what MNE has split
            _check_tags(part)
        epochs = mne.read_epochs(path, proj=False, verbose="error")  # projections stay applied or not, as saved
        found = Epochs.from_mne(epochs, str(path))
    return _checked(replace(found, name=path.stem), path)


def _check_tags(path: Path) -> None:
    """Refuse a file whose tags lead back to one of them, or count points that they do not hold: MNE would not end.

    A tag has a head of 16 bytes: kind, type, size of its data, and where the next one begins (0: behind the data; below
    0: nowhere). A directory holds such heads with the places of the tags, which MNE follows instead.
    """
    position, seen, directory = 0, set[int](), 0
    with open_bytes(path, whole=False) as file:
        while position >= 0 and position not in seen:
            seen.add(position)
            if (head := _tag(file, position, path)) is None:
                break
            kind, size, following = head
            if kind == DIRECTORY and not directory:
                directory = int.from_bytes(file.read(4), "big", signed=True)
            position = following or position + 16 + size
        else:
            if position >= 0:
                raise DataError(f"{path}: its tags lead in a circle, at byte {position}; {DAMAGED}.")
        if directory > 0 and (head := _tag(file, directory, path)) is not None:
            entries = file.read(max(head[1], 0))
            for (place,) in struct.iter_unpack(">12xi", entries[: len(entries) // 16 * 16]):
                if place > 0 and place not in seen:
                    _tag(file, place, path)


def _tag(file: Any, position: int, path: Path) -> tuple[int, int, int] | None:
    """Kind, size and following place of a tag, with the file at its data; None where there is none."""
    file.seek(position)
    if len(head := file.read(16)) < 16:
        return None
    kind, of, size, following = struct.unpack(">iIii", head)
    if of == COUNTED_POINTS and size > 0:
        start = file.read(12).ljust(12, b"\0")  # two numbers, and how many points of 12 bytes there are
        if 12 * (1 + struct.unpack(">8xi", start)[0]) > size:
            raise DataError(f"{path}: its tag at byte {position} counts more points than it holds; {DAMAGED}.")
        file.seek(position + 16)
    return kind, size, following


def _checked(epochs: Epochs, path: Path) -> Epochs:
    bad = np.argwhere(~np.isfinite(epochs.X).all(-1))
    if len(bad):
        raise DataError(
            f"{path}: epoch {bad[0, 0]}, channel index {bad[0, 1]} ({epochs.ch_names[bad[0, 1]]}) holds "
            "NaN or infinite values; drop the epoch or interpolate the channel."
        )
    return epochs


def _named(channels: int) -> tuple[str, ...]:
    return tuple(f"channel {i + 1}" for i in range(channels))


# -- data sets -------------------------------------------------------------------------------------------------------


def mamem(subject: int) -> Epochs:
    """One subject of MAMEM's SSVEP data set II: 500 epochs of 1 s, 8 occipital channels, 125 Hz, 5 frequencies.

    Five sessions of 25 trials of four epochs each: `session` and `group` (the trial). Oikonomou et al. 2016
    (arXiv 1602.00904), PhysioNet mssvepdb 1.0.0, ODC-By 1.0.

    Parameters
    ----------
    subject
        0 to 10; 0, 2, 5 and 8 come with the package.

    Raises
    ------
    ValueError
        If there is no such subject.
    FileNotFoundError
        If it is in none of the places where `linmap.data.find` looks.
    """
    if subject not in MAMEM_SUBJECTS:
        raise ArgumentError(f"subject must be 0 to 10, got {subject!r}.")
    if subject in EMBEDDED_SUBJECTS:
        path, row = EMBEDDED / _MAMEM_EMBEDDED, EMBEDDED_SUBJECTS.index(subject)
    else:
        path, row = find(_MAMEM, "subjects 0, 2, 5 and 8 are."), subject
    arrays = read_npz(path, ("X", "scale_uV", "y", "sfreq"))
    X = arrays["X"][row] * float(arrays["scale_uV"][row])
    index = np.arange(len(X))
    y, sfreq, name = arrays["y"][row].astype(np.int64), float(arrays["sfreq"]), f"MAMEM subject {subject + 1}"
    return Epochs(X, y, sfreq, _named(X.shape[1]), session=index // 100, group=index // 4, name=name)


def available_mamem() -> tuple[int, ...]:
    """The subjects of MAMEM that `mamem` can read here."""
    try:
        find(_MAMEM, "")
    except FileNotFoundError:
        return EMBEDDED_SUBJECTS
    return MAMEM_SUBJECTS


def eegmmidb(task: Task = "imagery") -> Epochs:
    """Subject S001 of the EEG Motor Movement/Imagery data set: 45 epochs of 4 s, 21 channels, 160 Hz, 8 to 35 Hz.

    `session` is the recording (three of 15 epochs). Schalk et al. 2004, PhysioNet eegmmidb 1.0.0, ODC-By 1.0.

    Parameters
    ----------
    task
        "imagery" and "executed": left (0) or right (1) fist; "hands-feet": both fists (0) or both feet (1), imagined.

    Raises
    ------
    ValueError
        If there is no such task.
    FileNotFoundError
        If the file is in none of the places where `linmap.data.find` looks.
    """
    if task not in get_args(Task):
        raise ArgumentError(f"task must be one of {', '.join(get_args(Task))}, got {task!r}.")
    path = find("eeg/eegmmidb_s001.npz", "MAMEM's subjects 0, 2, 5 and 8 are.")
    arrays = read_npz(path, ("X", "scale_uV", "y", "task", "run"), ignore=("ch_names",))
    names = tuple(map(str, read_as_they_are(path, ("ch_names",))["ch_names"]))
    rows = arrays["task"] == get_args(Task).index(task)
    X = arrays["X"][rows] * float(arrays["scale_uV"])
    y, run = (arrays[name][rows].astype(np.int64) for name in ("y", "run"))
    return Epochs(X, y, 160.0, names, session=run, name=f"PhysioNet S001, {task}")
