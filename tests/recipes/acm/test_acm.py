"""The recipe of augmented covariances: fit, apply, compare on files, and what goes wrong."""

import warnings
from dataclasses import replace
from pathlib import Path

import mne
import numpy as np
import pandas as pd
import pytest
import torch

from linmap.data.epochs import load_epochs, mamem
from linmap.errors import ArtifactError, DataError, UsageError
from linmap.experiment.result import Result
from linmap.recipes import acm
from linmap.recipes.acm.comparison import ACM, NETWORK, PLAIN, PRESETS, split
from linmap.recipes.acm.files import ApplySettings, Settings
from linmap.recipes.acm.network import ShallowNet
from linmap.recipes.job import ApplyJob, CompareJob, FitJob
from linmap.signals.acm import ACMClassifier
from signals.acm.paths import opposite_memories

TINY = Settings(orders=(1, 2), lags=(1, 2), folds=2)


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    X, y = opposite_memories(80, 120)
    np.savez(tmp_path / "my.npz", X=X, y=np.array(["idle", "move"])[y], sfreq=100.0, ch_names=["C3", "Cz", "C4"],
             session=np.arange(80) // 20)  # fmt: skip
    return tmp_path / "my.npz"


def test_fit_then_apply_names_the_classes(archive: Path, tmp_path: Path) -> None:
    summary = acm.fit(TINY, FitJob(archive, tmp_path / "run"))
    assert (summary["order"], summary["lag"], summary["lag_ms"]) == (2, 1, 10.0)
    assert summary["inner_accuracy"] > 0.9
    for picture in ("order_lag.svg", "patterns.svg"):
        assert (tmp_path / "run" / picture).stat().st_size > 1000
    applied = acm.apply(ApplySettings(), ApplyJob(tmp_path / "run", archive, tmp_path / "out.csv"))
    table = pd.read_csv(tmp_path / "out.csv")
    assert table.columns.to_list() == ["epoch", "class", "p(idle)", "p(move)", "true"]
    assert applied["accuracy"] == round((table["class"] == table["true"]).mean(), 4) > 0.9
    assert (tmp_path / "out.svg").stat().st_size > 1000


def test_mne_files_mdm_and_parquet(archive: Path, tmp_path: Path) -> None:
    epochs = load_epochs(archive)
    events = np.column_stack([np.arange(80), np.zeros(80, int), np.unique(epochs.labels(), return_inverse=True)[1] + 1])
    saved = mne.EpochsArray(epochs.X, mne.create_info(list(epochs.ch_names), 100.0, "eeg"), events,
                            event_id={"idle": 1, "move": 2}, verbose="error")  # fmt: skip
    saved.save(tmp_path / "my-epo.fif", verbose="error")
    settings = replace(TINY, order=2, lag=1, classifier="mdm", band=(1.0, 45.0))
    assert acm.fit(settings, FitJob(tmp_path / "my-epo.fif", tmp_path / "run"))["inner_accuracy"] is None
    job = ApplyJob(tmp_path / "run", tmp_path / "my-epo.fif", tmp_path / "out.parquet")
    assert acm.apply(ApplySettings(), job)["accuracy"] > 0.8
    assert len(pd.read_parquet(tmp_path / "out.parquet")) == 80


def test_compare_on_a_users_file_goes_on_after_an_interruption(archive: Path, tmp_path: Path, monkeypatch) -> None:
    settings = replace(PRESETS["quick"], orders=(1, 2), lags=(1,), mdop_epochs=2, network_epochs=2)
    job = CompareJob(data=archive, out=tmp_path / "compare")
    result = acm.compare(settings, job)
    found = {row.name: row for row in result.rows}
    assert next(iter(found)) == ACM
    assert found[ACM].mean("accuracy, unfiltered") > 0.9
    assert found[PLAIN].mean("accuracy, unfiltered") < 0.8
    assert found[NETWORK].parameters is not None
    for picture in result.pictures:
        assert (tmp_path / "compare" / picture.file).stat().st_size > 1000
    result.save(tmp_path / "compare")
    assert Result.load(tmp_path / "compare").rows == result.rows
    kept = sorted((tmp_path / "compare" / "subjects").glob("*.json"))
    stamps = [path.stat().st_mtime_ns for path in kept]

    def broken(*_: object) -> None:
        raise RuntimeError("no font")

    monkeypatch.setattr(acm.comparison, "draw_gains", broken)
    with pytest.warns(UserWarning, match=r"subjects\.svg was not drawn: no font"):
        again = acm.compare(settings, replace(job, resume=True))
    assert [row.values for row in again.rows] == [row.values for row in result.rows]
    assert [path.stat().st_mtime_ns for path in kept] == stamps
    assert {p.file for p in again.pictures} == {p.file for p in result.pictures} - {"subjects.svg"}


def test_the_parts_are_sessions_and_share_no_group() -> None:
    parts = split(mamem(0), 0)
    assert [len(part) for part in (parts.train, parts.validation, parts.test)] == [300, 100, 100]
    assert parts.test.session is not None
    assert set(parts.test.session) == {4}
    one = mamem(0).take(slice(0, 100))
    parts = split(one, 0)
    groups = [
        set(part.group.tolist()) for part in (parts.train, parts.validation, parts.test) if part.group is not None
    ]
    assert len(set.union(*groups)) == sum(map(len, groups)) == 25


def test_the_network_is_the_published_architecture() -> None:
    network = ShallowNet(22, 1125, 4)
    assert sum(p.numel() for p in network.parameters()) == (40 * 25 + 40) + 40 * 40 * 22 + 2 * 40 + (40 * 69 * 4 + 4)
    assert network(torch.randn(2, 22, 1125)).shape == (2, 4)


def test_the_gain_on_real_epochs() -> None:
    from linmap.signals.acm import ACMClassifier

    epochs = mamem(5).filtered(4, 35)
    parts = split(epochs, 0)
    scores = [ACMClassifier((order, 8), kernel="linear", C=1.0).fit(parts.train.X, parts.train.labels())
              .score(parts.test.X, parts.test.labels()) for order in (1, 4)]  # fmt: skip
    assert scores[1] > scores[0] + 0.1


def test_wrong_use_is_explained(archive: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="needs a fitted run"):
        acm.apply(ApplySettings(), ApplyJob(None, archive))
    with pytest.raises(UsageError, match="--order and --lag go together"):
        acm.fit(replace(TINY, order=2), FitJob(archive, tmp_path / "run"))
    with pytest.raises(DataError, match=r"my: .*T = 120"):
        acm.fit(replace(TINY, order=20, lag=8), FitJob(archive, tmp_path / "run"))
    assert not (tmp_path / "run").exists()
    acm.fit(replace(TINY, order=2, lag=1), FitJob(archive, tmp_path / "run"))
    with pytest.raises(UsageError, match=r"written as \.csv or \.parquet"):
        acm.apply(ApplySettings(), ApplyJob(tmp_path / "run", archive, tmp_path / "out.txt"))
    with pytest.raises(ArtifactError, match="not a saved run"):
        acm.apply(ApplySettings(), ApplyJob(tmp_path, archive))
    X = np.random.default_rng(0).standard_normal((4, 3, 120))
    for changes, message in (({"sfreq": 250.0}, "250 Hz, and was fitted to 100 Hz"),
                             ({"ch_names": ["C4", "Cz", "Pz"]}, "lacks the channel C3 of the fit"),
                             ({"X": X[:, :2], "ch_names": ["channel 1", "x"]}, "expected 3 channels")):  # fmt: skip
        arrays = {"X": X, "sfreq": 100.0, "ch_names": ["C3", "Cz", "C4"]} | changes
        np.savez(tmp_path / "other.npz", **arrays)
        with pytest.raises(DataError, match=message):
            acm.apply(ApplySettings(), ApplyJob(tmp_path / "run", tmp_path / "other.npz"))


@pytest.mark.parametrize(("labels", "accuracy", "note"), [
    (np.full(80, "unknown"), None, "no accuracy: the file has the classes unknown, and the run knows idle, move"),
    (np.arange(80) % 3, None, "no accuracy: the file has the classes 0, 1, 2"),
    (np.array(["idle", "rest"])[np.arange(80) % 2], float, "over 40 of 80 samples"),
    (np.array([b"idle", b"move"])[np.arange(80) % 2], float, None),
    (None, None, None),
])  # fmt: skip
def test_answers_are_written_whatever_the_labels_of_the_file_are(
    labels: np.ndarray | None, accuracy: type | None, note: str | None, archive: Path, tmp_path: Path
) -> None:
    acm.fit(replace(TINY, order=2, lag=1), FitJob(archive, tmp_path / "run"))
    with np.load(archive) as arrays:
        given = {"X": arrays["X"], "sfreq": 100.0} | ({} if labels is None else {"y": labels})
    np.savez(tmp_path / "new.npz", **given)
    summary = acm.apply(ApplySettings(), ApplyJob(tmp_path / "run", tmp_path / "new.npz", tmp_path / "out.csv"))
    assert set(pd.read_csv(tmp_path / "out.csv")["class"]) == {"idle", "move"}
    assert type(summary.get("accuracy")) is (accuracy or type(None))
    notes = " ".join(summary["notes"])
    assert "does not name its channels" in notes
    assert note is None or note in notes


def test_a_picture_that_fails_leaves_the_answers(archive: Path, tmp_path: Path, monkeypatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("no font")

    for name in ("draw_order_lag", "draw_patterns", "draw_confusions"):
        monkeypatch.setattr(acm.files, name, broken)
    assert acm.fit(TINY, FitJob(archive, tmp_path / "run"))["notes"] == [
        "order_lag.svg was not drawn: no font.", "patterns.svg was not drawn: no font.",
    ]  # fmt: skip
    summary = acm.apply(ApplySettings(), ApplyJob(tmp_path / "run", archive, tmp_path / "out.csv"))
    assert summary["accuracy"] > 0.9
    assert summary["notes"] == ["out.svg was not drawn: no font."]
    assert len(pd.read_csv(tmp_path / "out.csv")) == 80


def test_too_few_epochs_for_probabilities_still_give_classes(archive: Path, tmp_path: Path) -> None:
    with np.load(archive) as arrays:
        np.savez(tmp_path / "few.npz", X=arrays["X"][:3], y=arrays["y"][:3], sfreq=100.0)
    acm.fit(replace(TINY, order=2, lag=1), FitJob(tmp_path / "few.npz", tmp_path / "run"))
    summary = acm.apply(ApplySettings(), ApplyJob(tmp_path / "run", archive, tmp_path / "out.csv"))
    assert list(pd.read_csv(tmp_path / "out.csv")) == ["epoch", "class", "true"]
    assert "probabilities need" in summary["notes"][0]


def test_channels_are_put_in_order_and_other_units_brought_back(archive: Path, tmp_path: Path) -> None:
    acm.fit(replace(TINY, order=2, lag=1), FitJob(archive, tmp_path / "run"))
    answers = []
    with np.load(archive) as arrays:
        for i, (X, names) in enumerate(((arrays["X"], ["C3", "Cz", "C4"]), (arrays["X"][:, ::-1], ["c4", "CZ", "C3."]),
                                        (1e-6 * arrays["X"], ["C3", "Cz", "C4"]))):  # fmt: skip
            np.savez(tmp_path / "new.npz", X=X, ch_names=names)
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                acm.apply(ApplySettings(), ApplyJob(tmp_path / "run", tmp_path / "new.npz", tmp_path / f"{i}.csv"))
            assert any("another unit" in str(one.message) for one in caught) == (i == 2)
            answers.append(pd.read_csv(tmp_path / f"{i}.csv")["class"].tolist())
    assert answers[0] == answers[1] == answers[2]


def test_a_run_saved_in_python_is_applied_to_the_file_of_the_same_epochs(archive: Path, tmp_path: Path) -> None:
    epochs = load_epochs(archive)
    codes = 1 + (epochs.labels() == "move")
    events = np.column_stack([np.arange(80), np.zeros(80, int), codes])
    info = mne.create_info([*epochs.ch_names, "STI"], 100.0, ["eeg"] * 3 + ["stim"])
    data = np.concatenate([1e-6 * epochs.X, np.ones((80, 1, 120)) * codes[:, None, None]], 1)
    made = mne.EpochsArray(data, info, events, event_id={"idle": 1, "move": 2}, verbose="error")
    made.save(tmp_path / "e-epo.fif", fmt="double", verbose="error")
    fitted = ACMClassifier((2, 1)).fit(made)
    fitted.save(tmp_path / "run")
    summary = acm.apply(ApplySettings(), ApplyJob(tmp_path / "run", tmp_path / "e-epo.fif", tmp_path / "out.csv"))
    table = pd.read_csv(tmp_path / "out.csv")
    assert table["class"].tolist() == fitted.predict(made).tolist()
    assert table["true"].tolist() == codes.tolist()
    assert summary["left_out"] == ["STI (stim)"]


def test_fits_that_cannot_be_are_explained(archive: Path, tmp_path: Path) -> None:
    with np.load(archive) as arrays:
        X, y = arrays["X"], arrays["y"]
    for name, arrays, message in (
        ("one.npz", {"X": X, "y": np.zeros(80, int)}, "one: y holds a single class, 0; a classifier"),
        (
            "few.npz",
            {"X": X[:4], "y": ["a", "a", "a", "b"]},
            "--folds 2 needs as many epochs of every class, and one has 1",
        ),
    ):
        np.savez(tmp_path / name, **arrays)
        with pytest.raises(DataError, match=message):
            acm.fit(TINY, FitJob(tmp_path / name, tmp_path / "run"))
    (tmp_path / "empty.npz").write_bytes(b" \n")
    with pytest.raises(DataError, match=r"empty\.npz is empty; there is nothing to read\."):
        acm.fit(TINY, FitJob(tmp_path / "empty.npz", tmp_path / "run"))
    np.savez(tmp_path / "turned.npz", X=X[..., :10].transpose(0, 2, 1), y=y)
    summary = acm.fit(replace(TINY, order=1, lag=1), FitJob(tmp_path / "turned.npz", tmp_path / "run"))
    assert "10 channels of 3 samples; if it is the other way round" in summary["notes"][0]
