"""MNE's `Epochs`, from a file or from Python alike: which channels, in which unit, and what is known of each epoch."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float64, Int, Shaped

from linmap.data.labels import one_for_each
from linmap.errors import DataError

VOLTS = ("eeg", "ecog", "seeg", "dbs", "emg", "ecg", "eog", "bio")  # what MNE keeps in volts
KINDS = ("eeg", "data", "emg", "ecg", "eog", "misc")  # the first of which there is a channel; "data" as MNE has it


class Parts(NamedTuple):
    """What is taken from MNE's epochs."""

    X: Float64[np.ndarray, "epochs channels times"]
    """Microvolts where MNE has volts, else its unit."""
    names: Shaped[np.ndarray, " epochs"]
    """The name of each epoch's event."""
    codes: Int[np.ndarray, " epochs"]
    """The code of each epoch's event."""
    sfreq: float
    ch_names: tuple[str, ...]
    left_out: tuple[str, ...]
    """Channels that are not in X, and why, such as "O3 (bad)" or "STI 014 (stim)"."""
    session: Shaped[np.ndarray, " epochs"] | None
    group: Shaped[np.ndarray, " epochs"] | None


def is_mne_epochs(X: object) -> bool:
    """Whether X is an object of MNE with events, so that a program without MNE need not import it."""
    return all(hasattr(X, name) for name in ("get_data", "events", "event_id", "info", "selection", "drop_bad"))


def parts_of(epochs: Any, name: str) -> Parts:
    """Channels, unit, names and labels of MNE's epochs.

    EEG channels are taken, or where there is none the first of these of which there are any: other data channels (MEG,
    ECoG, sEEG, fNIRS, ...), EMG, ECG, EOG, unspecified ones. Channels marked as bad are left out. As whenever MNE reads
    data, epochs that its rejection drops are dropped from the object itself, so that its events are those of X.

    Raises
    ------
    DataError
        If no channel or no epoch is left, or `session` or `group` of the metadata are not as they should be.
    """
    epochs.drop_bad(verbose="error")
    if len(epochs.events) == 0:
        raise DataError(f"{name}: all epochs are rejected by their reject or flat criteria; loosen these.")
    picks, kinds = _picks(epochs, name)
    X = np.asarray(epochs.get_data(picks=picks, copy=False, verbose="error"), np.float64)
    unit = np.array([1e6 if kinds[i] in VOLTS else 1.0 for i in picks])
    named = {code: event for event, code in epochs.event_id.items()}
    codes = np.asarray(epochs.events[:, 2], np.int64)
    names = np.array([named.get(code, str(code)) for code in codes.tolist()])
    left_out = tuple(
        f"{channel} ({'bad' if channel in epochs.info['bads'] else kind})"
        for i, (channel, kind) in enumerate(zip(epochs.ch_names, kinds, strict=True))
        if i not in set(picks)
    )
    return Parts(
        X * unit[:, None],
        names,
        codes,
        float(epochs.info["sfreq"]),
        tuple(epochs.ch_names[i] for i in picks),
        left_out,
        _column(epochs, "session", name),
        _column(epochs, "group", name),
    )


def _picks(epochs: Any, name: str) -> tuple[list[int], list[str]]:
    """The channels to take, in their order, and the type of every channel."""
    kinds = epochs.get_channel_types()
    good = [i for i, channel in enumerate(epochs.ch_names) if channel not in epochs.info["bads"]]
    for wanted in KINDS:
        among = _data_kinds(epochs) if wanted == "data" else {wanted}
        if picks := [i for i in good if kinds[i] in among]:
            return picks, kinds
    raise DataError(
        f"{name}: no channel to take: they are {', '.join(sorted(set(kinds)))}, and "
        f"{len(kinds) - len(good)} of {len(kinds)} are marked as bad."
    )


def _data_kinds(epochs: Any) -> set[str]:
    """The channel types that MNE calls data; where there is none, it raises."""
    try:
        return set(epochs.get_channel_types(picks="data"))
    except ValueError:
        return set()


def _column(epochs: Any, column: str, name: str) -> np.ndarray | None:
    if epochs.metadata is None or column not in epochs.metadata:
        return None
    values = epochs.metadata[column].to_numpy()
    return one_for_each(values, len(epochs.events), f"{name}: {column} of the metadata", "epochs")
