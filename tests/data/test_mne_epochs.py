"""MNE's Epochs from Python and from a file: the same channels, unit, names and labels."""

import gzip
import struct
from pathlib import Path
from typing import Any, Literal, cast

import mne
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from linmap.data.epochs import Epochs, load_epochs
from linmap.errors import DataError

rng = np.random.default_rng(0)
N, TIMES = 6, 40
EVENTS = np.column_stack([50 * np.arange(N), np.zeros(N, int), np.arange(N) % 2 + 1])


def recording(kinds: tuple[str, ...], bads: tuple[str, ...] = (), **options) -> mne.EpochsArray:
    names = [f"{kind.upper()} {i}" for i, kind in enumerate(kinds)]
    info = mne.create_info(names, 100.0, cast("Any", list(kinds)))
    info["bads"] = list(bads)
    return mne.EpochsArray(
        1e-6 * rng.standard_normal((N, len(kinds), TIMES)),
        info,
        EVENTS,
        event_id={"left": 1, "right": 2},
        verbose="error",
        **options,
    )


@given(st.lists(st.sampled_from(["eeg", "eog", "stim", "ecg", "misc"]), min_size=1, max_size=6), st.data())
def test_x_and_names_are_the_good_eeg_channels_in_microvolts(kinds: list[str], data: st.DataObject) -> None:
    epochs = recording(("eeg", *kinds))
    epochs.info["bads"] = data.draw(st.lists(st.sampled_from(epochs.ch_names[1:]), unique=True))
    taken = Epochs.from_mne(epochs)
    expected = [name for name in epochs.ch_names if name.startswith("EEG") and name not in epochs.info["bads"]]
    assert taken.ch_names == tuple(expected)
    np.testing.assert_array_equal(taken.X, 1e6 * epochs.get_data(picks=cast("Any", expected), copy=False))
    assert {name.rpartition(" (")[0] for name in taken.left_out} == set(epochs.ch_names) - set(expected)


@pytest.mark.parametrize("proj", [True, False, "delayed"])
def test_a_projection_is_applied_in_a_file_where_it_was_in_the_object(
    proj: bool | Literal["delayed"], tmp_path: Path
) -> None:
    raw = mne.io.RawArray(1e-5 * rng.standard_normal((4, 2000)), mne.create_info(4, 100.0, "eeg"), verbose="error")
    raw.set_eeg_reference("average", projection=True, verbose="error")
    epochs = mne.Epochs(
        raw, EVENTS + np.array([100, 0, 0]), tmin=0, tmax=0.4, baseline=None, proj=proj, verbose="error"
    )
    epochs.save(tmp_path / "my-epo.fif", fmt="double", verbose="error")
    there = load_epochs(tmp_path / "my-epo.fif")
    np.testing.assert_allclose(there.X, Epochs.from_mne(epochs).X, rtol=0, atol=1e-9)
    assert (np.abs(there.X.mean(1)).max() < 1e-9) == (proj is True)


def test_a_file_and_the_object_it_was_saved_from_are_one(tmp_path: Path) -> None:
    metadata = pd.DataFrame({"session": list("aabbcc"), "group": [1, 1, 2, 2, 3, 3]})
    epochs = recording(("eeg", "eeg", "stim"), ("EEG 1",), metadata=metadata)
    epochs.save(tmp_path / "my-epo.fif", fmt="double", verbose="error")
    here, there = Epochs.from_mne(epochs), load_epochs(tmp_path / "my-epo.fif")
    np.testing.assert_allclose(there.X, here.X, rtol=1e-12)
    assert here.ch_names == there.ch_names == ("EEG 0",)
    assert there.left_out == ("EEG 1 (bad)", "STIM 2 (stim)")
    assert there.labels().tolist() == ["left", "right"] * 3
    assert np.asarray(there.codes).tolist() == [1, 2] * 3
    assert np.asarray(there.known("session")).tolist() == list("aabbcc")
    assert np.asarray(there.take([0, 3]).codes).tolist() == [1, 2]


@pytest.mark.parametrize(
    ("kinds", "taken", "unit"),
    [
        (("mag", "mag", "stim"), 2, 1.0),
        (("emg", "stim"), 1, 1e6),
        (("misc", "misc"), 2, 1.0),
        (("seeg", "eog"), 1, 1e6),
    ],
)
def test_where_there_is_no_eeg_other_signals_are_taken(kinds: tuple[str, ...], taken: int, unit: float) -> None:
    epochs = recording(kinds)
    found = Epochs.from_mne(epochs)
    assert found.ch_names == tuple(epochs.ch_names[:taken])
    np.testing.assert_array_equal(found.X, unit * epochs.get_data(copy=False)[:, :taken])


def test_epochs_that_are_rejected_on_reading_leave_no_labels_behind() -> None:
    info = mne.create_info(2, 100.0, "eeg")
    data = 1e-6 * rng.standard_normal((2, 50 * N + TIMES))
    data[0, 105] = 1.0  # in epoch 2
    raw = mne.io.RawArray(data, info, verbose="error")
    epochs = mne.Epochs(
        raw, EVENTS, tmin=0, tmax=0.3, baseline=None, reject={"eeg": 1e-3}, preload=False, verbose="error"
    )
    taken = Epochs.from_mne(epochs)
    assert len(taken) == len(taken.labels()) == len(epochs.events) == N - 1
    assert np.asarray(taken.codes).tolist() == [1, 2, 2, 1, 2]


def test_what_metadata_lacks_is_asked_for_where_it_is_needed() -> None:
    metadata = pd.DataFrame({"session": ["a"] * 3 + [None] * 3, "group": [0.0, 1.0, np.nan, 1.0, 2.0, 2.0]})
    epochs = Epochs.from_mne(recording(("eeg",), metadata=metadata))
    columns: tuple[tuple[Literal["session", "group"], int], ...] = (("session", 3), ("group", 2))
    for column, first in columns:
        assert epochs.incomplete(column)
        with pytest.raises(DataError, match=f"{column} is missing for epoch {first}"):
            epochs.known(column)


def test_without_a_channel_the_types_are_named() -> None:
    with pytest.raises(DataError, match="no channel to take: they are eeg, stim, and 1 of 2 are marked as bad"):
        Epochs.from_mne(recording(("eeg", "stim"), ("EEG 0",)))


def saved(folders: pytest.TempPathFactory, ending: str) -> tuple[Path, Any, bytearray]:
    """A file of two channels, what opens it, and its bytes."""
    path = folders.mktemp("fif") / f"a-epo{ending}"
    recording(("eeg", "eeg")).save(path, verbose="error")
    opened = gzip.open if ending.endswith(".gz") else open
    with opened(path, "rb") as file:
        return path, opened, bytearray(file.read())


@pytest.mark.parametrize("ending", [".fif", ".fif.gz"])
@pytest.mark.parametrize("hidden", [False, True])
@given(count=st.integers(2, 2**31 - 1), at=st.integers(0, 99))
def test_a_tag_that_counts_more_points_than_it_holds_is_refused_at_once(
    tmp_path_factory: pytest.TempPathFactory, ending: str, hidden: bool, count: int, at: int
) -> None:
    """In the chain of tags, or behind its end, where only the directory leads."""
    path, opened, content = saved(tmp_path_factory, ending)
    points = struct.pack(">iIii", 213, 36, 24, 0) + struct.pack(">iii", 1, 2, count) + bytes(12)
    if hidden:
        place = len(content)
        heads = [struct.pack(">iIii", 213, 36, 24, place)] * (at + 1)
        content += points + struct.pack(">iIii", 102, 32, 16 * len(heads), -1) + b"".join(heads)
        struct.pack_into(">i", content, 36 + 16, place + len(points))
    else:
        content[56:56] = points  # behind the identity of the file and the place of its directory
        struct.pack_into(">i", content, 36 + 16, -1)
    with opened(path, "wb") as file:
        file.write(content)
    with pytest.raises(DataError, match="counts more points than it holds"):
        load_epochs(path)


@pytest.mark.parametrize("ending", [".fif", ".fif.gz"])
@pytest.mark.parametrize("damaged", [False, True])
@given(data=st.data())
def test_a_file_whose_tags_lead_in_a_circle_is_refused_at_once(
    tmp_path_factory: pytest.TempPathFactory, ending: str, damaged: bool, data: st.DataObject
) -> None:
    path, opened, content = saved(tmp_path_factory, ending)
    tags, position = [], 0
    while position < len(content):
        tags.append(position)
        _, _, size, following = struct.unpack_from(">iIii", content, position)
        position = following or position + 16 + size
        if following < 0:
            break
    assert len(tags) > 20
    at = data.draw(st.integers(3, len(tags) - 1))
    back = data.draw(st.integers(1, at))
    if damaged:
        struct.pack_into(">i", content, tags[at] + 12, tags[back])
        with opened(path, "wb") as file:
            file.write(content)
        with pytest.raises(DataError, match="in a circle"):
            load_epochs(path)
    else:
        assert load_epochs(path).X.shape == (N, 2, TIMES)
