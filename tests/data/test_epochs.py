"""Epochs from archives, from MNE's files, and the data sets."""

from pathlib import Path

import mne
import numpy as np
import pytest

from linmap.data.epochs import EMBEDDED_SUBJECTS, available_mamem, eegmmidb, load_epochs, mamem
from linmap.errors import DataError

rng = np.random.default_rng(0)


def test_an_archive_and_an_mne_file_hold_the_same_epochs(tmp_path: Path) -> None:
    X, y = rng.standard_normal((6, 3, 50)), np.array(["left", "right"] * 3)
    np.savez(tmp_path / "e.npz", X=X, y=y, sfreq=100.0, ch_names=["C3", "Cz", "C4"], session=np.arange(6) // 3)
    events = np.column_stack([np.arange(6), np.zeros(6, int), (y == "right") + 1])
    info = mne.create_info(["C3", "Cz", "C4"], 100.0, "eeg")
    saved = mne.EpochsArray(X * 1e-6, info, events, event_id={"left": 1, "right": 2}, verbose="error")
    saved.save(tmp_path / "e-epo.fif", fmt="double", verbose="error")
    archive, fif = load_epochs(tmp_path / "e.npz"), load_epochs(tmp_path / "e-epo.fif")
    np.testing.assert_allclose(fif.X, archive.X, rtol=1e-9)
    assert fif.ch_names == archive.ch_names == ("C3", "Cz", "C4")
    assert (fif.labels() == archive.labels()).all()
    assert fif.sfreq == archive.sfreq == 100
    assert archive.session is not None
    assert archive.session.tolist() == [0, 0, 0, 1, 1, 1]


def test_integers_are_scaled_to_microvolts(tmp_path: Path) -> None:
    np.savez(tmp_path / "e.npz", X=np.full((2, 1, 4), 10, np.int16), scale_uV=np.float32(0.5))
    epochs = load_epochs(tmp_path / "e.npz")
    assert (epochs.X == 5).all()
    assert epochs.y is None
    with pytest.raises(DataError, match="no classes"):
        epochs.labels()


def test_a_band_pass_keeps_its_band() -> None:
    epochs = mamem(0)
    spectrum = np.abs(np.fft.rfft(epochs.filtered(4, 35).X)) ** 2
    frequency = np.fft.rfftfreq(125, 1 / 125)
    inside = (frequency > 6) & (frequency < 30)
    assert spectrum[..., frequency > 45].sum() < 0.01 * spectrum[..., inside].sum()
    assert np.abs(epochs.filtered(4, 35).X.mean(-1)).max() < np.abs(epochs.X.mean(-1)).max()
    with pytest.raises(DataError, match="half of sfreq = 125 Hz"):
        epochs.filtered(4, 90)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"X": np.zeros((3, 4))}, "must be"),
        ({"x": np.zeros((3, 4, 5))}, "no array 'X' of epochs; it holds x"),
        ({"X": np.zeros((3, 4, 5)), "y": np.zeros(2)}, "y must hold one number or text for each of 3 epochs"),
        ({"X": np.zeros((3, 4, 5)), "ch_names": ["a"]}, "4 channels"),
        ({"X": np.where(np.arange(60).reshape(3, 4, 5) == 27, np.nan, 0)}, r"channel index 1 \(channel 2\) holds NaN"),
        ({"X": np.zeros((1, 1, 2)), "sfreq": 0}, "sfreq must be more than 0 Hz, got 0"),
        ({"X": np.zeros((1, 1, 2)), "sfreq": -125.0}, "sfreq must be more than 0 Hz, got -125"),
        ({"X": np.zeros((1, 1, 2)), "y": np.array([None])}, "Python objects"),
    ],
)
def test_bad_archives_are_explained(arrays: dict, message: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "e.npz", **arrays)
    with pytest.raises(DataError, match=message):
        load_epochs(tmp_path / "e.npz")


def test_missing_and_unknown_files_are_explained(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        load_epochs(tmp_path / "nothing.npz")
    (tmp_path / "e.csv").touch()
    with pytest.raises(DataError, match="are read from"):
        load_epochs(tmp_path / "e.csv")
    (tmp_path / "e-epo.fif").write_bytes(b"no")
    with pytest.raises(DataError, match="as epochs of MNE"):
        load_epochs(tmp_path / "e-epo.fif")


def test_the_embedded_subjects_are_those_of_the_whole_file() -> None:
    first = mamem(EMBEDDED_SUBJECTS[0])
    assert first.X.shape == (500, 8, 125)
    assert np.bincount(first.labels()).tolist() == [100, 100, 120, 100, 80]
    assert first.session is not None
    assert np.bincount(first.session).tolist() == [100] * 5
    assert set(EMBEDDED_SUBJECTS) <= set(available_mamem())
    if len(available_mamem()) == 11:
        from linmap.data import find

        with np.load(find("eeg/mamem_ssvep.npz", "")) as whole:
            np.testing.assert_array_equal(mamem(8).X, whole["X"][8] * float(whole["scale_uV"][8]))
        executed = eegmmidb("executed")
        assert executed.X.shape == (45, 21, 640)
        assert executed.take(np.arange(3)).X.shape == (3, 21, 640)
    with pytest.raises(ValueError, match="0 to 10"):
        mamem(11)


@pytest.mark.parametrize("size", [2, 5])
def test_covariance_matrices_are_no_epochs(size: int, tmp_path: Path) -> None:
    A = rng.standard_normal((4, size, 9))
    np.savez(tmp_path / "c.npz", X=A @ A.swapaxes(1, 2))
    with pytest.raises(DataError, match="holds symmetric matrices, as covariances are"):
        load_epochs(tmp_path / "c.npz")
    np.savez(tmp_path / "e.npz", X=A[..., :size])
    assert load_epochs(tmp_path / "e.npz").X.shape == (4, size, size)


def test_a_recording_is_to_be_cut_into_epochs(tmp_path: Path) -> None:
    info = mne.create_info(["C3", "C4"], 100.0, "eeg")
    mne.io.RawArray(rng.standard_normal((2, 500)), info, verbose="error").save(tmp_path / "a_raw.fif", verbose="error")
    with pytest.raises(DataError, match=r"a_raw\.fif cannot be read as epochs of MNE.*cut a recording into epochs"):
        load_epochs(tmp_path / "a_raw.fif")
