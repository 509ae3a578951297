"""The recipe of augmented covariances: fit, apply, compare on files, and what goes wrong."""

import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import mne
import numpy as np
import pandas as pd
import pytest

from linmap.data.epochs import load_epochs, mamem
from linmap.data.folds import folds
from linmap.errors import ArtifactError, DataError, UsageError
from linmap.experiment.result import Result
from linmap.recipes import answers
from linmap.recipes.acm import compare as comparing
from linmap.recipes.acm import fit as fitting
from linmap.recipes.acm.apply import apply
from linmap.recipes.acm.compare import ACM, ACM_MDM, NETWORK, PLAIN, PLAIN_MDM, compare
from linmap.recipes.acm.fit import fit
from linmap.recipes.acm.flags import Apply, Compare, Fit
from linmap.recipes.job import CompareJob, FitJob, FittedJob
from linmap.signals.acm import ACMClassifier
from signals.acm.paths import opposite_memories

TINY = Fit(orders=(1, 2), lags=(1, 2), folds=2)


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    X, y = opposite_memories(80, 120)
    np.savez(
        tmp_path / "my.npz",
        X=X,
        y=np.array(["idle", "move"])[y],
        sfreq=100.0,
        ch_names=["C3", "Cz", "C4"],
        session=np.arange(80) // 20,
    )
    return tmp_path / "my.npz"


def test_fit_then_apply_names_the_classes(archive: Path, tmp_path: Path) -> None:
    summary = fit(TINY, FitJob(archive, tmp_path / "run"))
    assert (summary["order"], summary["lag"], summary["lag_ms"]) == (2, 1, 10.0)
    assert summary["inner_accuracy"] > 0.9
    for picture in ("order_lag.svg", "patterns.svg"):
        assert (tmp_path / "run" / picture).read_text().startswith("<?xml")
    applied = apply(Apply(), FittedJob(archive, tmp_path / "out.csv", artifact=tmp_path / "run"))
    table = pd.read_csv(tmp_path / "out.csv")
    assert table.columns.to_list() == ["epoch", "class", "p(idle)", "p(move)", "true"]
    assert applied["accuracy"] == round((table["class"] == table["true"]).mean(), 4) > 0.9
    assert (tmp_path / "out.svg").read_text().startswith("<?xml")


def test_mne_files_mdm_and_parquet(archive: Path, tmp_path: Path) -> None:
    epochs = load_epochs(archive)
    events = np.column_stack([np.arange(80), np.zeros(80, int), np.unique(epochs.labels(), return_inverse=True)[1] + 1])
    saved = mne.EpochsArray(
        epochs.X,
        mne.create_info(list(epochs.ch_names), 100.0, "eeg"),
        events,
        event_id={"idle": 1, "move": 2},
        verbose="error",
    )
    saved.save(tmp_path / "my-epo.fif", verbose="error")
    settings = replace(TINY, order=2, lag=1, classifier="mdm", band=(1.0, 45.0))
    assert fit(settings, FitJob(tmp_path / "my-epo.fif", tmp_path / "run"))["inner_accuracy"] is None
    job = FittedJob(tmp_path / "my-epo.fif", tmp_path / "out.parquet", artifact=tmp_path / "run")
    assert apply(Apply(), job)["accuracy"] > 0.8
    assert len(pd.read_parquet(tmp_path / "out.parquet")) == 80


SMALL = Compare(orders=(1, 2), lags=(1,), network_epochs=2)


def test_compare_on_a_users_file_goes_on_after_an_interruption(archive: Path, tmp_path: Path, monkeypatch) -> None:
    job = CompareJob(data=archive, out=tmp_path / "compare")
    result = compare(SMALL, job)
    found = {row.name: row for row in result.rows}
    assert list(found) == [ACM, ACM_MDM, PLAIN, PLAIN_MDM, NETWORK]
    assert [len(row.values["accuracy"]) for row in result.rows] == [4] * 5  # sessions
    assert found[ACM].mean("accuracy") > 0.9
    assert found[PLAIN].mean("accuracy") < 0.8
    assert result.verdict.startswith(f"No difference between {ACM} and {NETWORK}")
    assert found[NETWORK].parameters is not None
    for picture in result.pictures:
        assert (tmp_path / "compare" / picture.file).read_text().startswith("<?xml")
    result.save(tmp_path / "compare")
    assert Result.load(tmp_path / "compare").rows == result.rows
    kept = sorted((tmp_path / "compare" / "runs").glob("*.json"))
    assert len(kept) == 20
    stamps = [path.stat().st_mtime_ns for path in kept]

    def broken(*_: object) -> None:
        raise RuntimeError("no font")

    monkeypatch.setattr(comparing, "draw_gains", broken)
    again = compare(replace(SMALL, network_epochs=0), replace(job, resume=True))
    assert again.rows == result.rows[:-1]
    assert again.verdict.startswith(f"Take {ACM}: better than {PLAIN_MDM}")
    assert "4 of 4 folds" in again.verdict
    assert [path.stat().st_mtime_ns for path in kept] == stamps
    assert "subjects.svg was not drawn: no font." in again.limits
    assert {p.file for p in again.pictures} == {p.file for p in result.pictures} - {"subjects.svg"}


def test_a_folder_of_subjects_is_compared_as_the_embedded_ones_are(archive: Path, tmp_path: Path) -> None:
    folder = tmp_path / "subjects"
    folder.mkdir()
    with np.load(archive) as arrays:
        for i, name in enumerate("ab"):
            np.savez(
                folder / f"{name}.npz",
                **{k: v[40 * i : 40 * (i + 1)] if len(v.shape) and len(v) == 80 else v for k, v in arrays.items()},
            )
    result = compare(replace(SMALL, network_epochs=0, band=(1, 45)), CompareJob(data=folder, out=tmp_path / "compare"))
    assert [row[0] for row in result.tables[0].rows] == ["a", "b"]
    assert "values are subjects" in result.task
    assert [row.name for row in result.rows] == [ACM, ACM_MDM, PLAIN, PLAIN_MDM]
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="empty: the folder holds no file of epochs"):
        compare(SMALL, CompareJob(data=tmp_path / "empty", out=tmp_path / "compare"))


def test_the_gain_on_real_epochs() -> None:
    epochs = mamem(5).filtered(4, 35)
    parts = folds(epochs, 0)[-1]
    scores = [
        ACMClassifier((order, 8), kernel="linear", C=1.0)
        .fit(parts.train.X, parts.train.labels())
        .score(parts.test.X, parts.test.labels())
        for order in (1, 4)
    ]
    assert scores[1] > scores[0] + 0.1


def test_wrong_use_is_explained(archive: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--order and --lag go together"):
        fit(replace(TINY, order=2), FitJob(archive, tmp_path / "run"))
    with pytest.raises(DataError, match=r"my: .*T = 120"):
        fit(replace(TINY, order=20, lag=8), FitJob(archive, tmp_path / "run"))
    assert not (tmp_path / "run").exists()
    fit(replace(TINY, order=2, lag=1), FitJob(archive, tmp_path / "run"))
    with pytest.raises(UsageError, match=r"written as \.csv or \.parquet"):
        apply(Apply(), FittedJob(archive, tmp_path / "out.txt", artifact=tmp_path / "run"))
    with pytest.raises(ArtifactError, match="not a saved run"):
        apply(Apply(), FittedJob(archive, artifact=tmp_path))
    X = np.random.default_rng(0).standard_normal((4, 3, 120))
    for changes, message in (
        ({"sfreq": 250.0}, "250 Hz, and was fitted to 100 Hz"),
        ({"ch_names": ["C4", "Cz", "Pz"]}, "lacks the channel C3 of the fit"),
        ({"X": X[:, :2], "ch_names": ["channel 1", "x"]}, "expected 3 channels"),
    ):
        arrays: dict[str, Any] = {"X": X, "sfreq": 100.0, "ch_names": ["C3", "Cz", "C4"]} | changes
        np.savez(tmp_path / "other.npz", **arrays)
        with pytest.raises(DataError, match=message):
            apply(Apply(), FittedJob(tmp_path / "other.npz", artifact=tmp_path / "run"))


@pytest.mark.parametrize(
    ("labels", "accuracy", "note"),
    [
        (np.full(80, "unknown"), None, "no accuracy: the file has the classes unknown, and the run knows idle, move"),
        (np.arange(80) % 3, None, "no accuracy: the file has the classes 0, 1, 2"),
        (np.array(["idle", "rest"])[np.arange(80) % 2], float, "over 40 of 80 samples"),
        (np.array([b"idle", b"move"])[np.arange(80) % 2], float, None),
        (None, None, None),
    ],
)
def test_answers_are_written_whatever_the_labels_of_the_file_are(
    labels: np.ndarray | None, accuracy: type | None, note: str | None, archive: Path, tmp_path: Path
) -> None:
    fit(replace(TINY, order=2, lag=1), FitJob(archive, tmp_path / "run"))
    with np.load(archive) as arrays:
        given: dict[str, Any] = {"X": arrays["X"], "sfreq": 100.0} | ({} if labels is None else {"y": labels})
    np.savez(tmp_path / "new.npz", **given)
    summary = apply(Apply(), FittedJob(tmp_path / "new.npz", tmp_path / "out.csv", artifact=tmp_path / "run"))
    assert set(pd.read_csv(tmp_path / "out.csv")["class"]) == {"idle", "move"}
    assert type(summary.get("accuracy")) is (accuracy or type(None))
    notes = " ".join(summary["notes"])
    assert "does not name its channels" in notes
    assert note is None or note in notes


def test_a_picture_that_fails_leaves_the_answers(archive: Path, tmp_path: Path, monkeypatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("no font")

    for module, name in ((fitting, "draw_order_lag"), (fitting, "draw_patterns"), (answers, "draw_confusions")):
        monkeypatch.setattr(module, name, broken)
    assert fit(TINY, FitJob(archive, tmp_path / "run"))["notes"] == [
        "order_lag.svg was not drawn: no font.",
        "patterns.svg was not drawn: no font.",
    ]
    summary = apply(Apply(), FittedJob(archive, tmp_path / "out.csv", artifact=tmp_path / "run"))
    assert summary["accuracy"] > 0.9
    assert summary["notes"] == ["out.svg was not drawn: no font."]
    assert len(pd.read_csv(tmp_path / "out.csv")) == 80


def test_too_few_epochs_for_probabilities_still_give_classes(archive: Path, tmp_path: Path) -> None:
    with np.load(archive) as arrays:
        np.savez(tmp_path / "few.npz", X=arrays["X"][:3], y=arrays["y"][:3], sfreq=100.0)
    fit(replace(TINY, order=2, lag=1), FitJob(tmp_path / "few.npz", tmp_path / "run"))
    summary = apply(Apply(), FittedJob(archive, tmp_path / "out.csv", artifact=tmp_path / "run"))
    assert list(pd.read_csv(tmp_path / "out.csv")) == ["epoch", "class", "true"]
    assert "probabilities need" in summary["notes"][0]


def test_channels_are_put_in_order_and_other_units_brought_back(archive: Path, tmp_path: Path) -> None:
    fit(replace(TINY, order=2, lag=1), FitJob(archive, tmp_path / "run"))
    answers = []
    with np.load(archive) as arrays:
        for i, (X, names) in enumerate(
            (
                (arrays["X"], ["C3", "Cz", "C4"]),
                (arrays["X"][:, ::-1], ["c4", "CZ", "C3."]),
                (1e-6 * arrays["X"], ["C3", "Cz", "C4"]),
            )
        ):
            np.savez(tmp_path / "new.npz", X=X, ch_names=names)
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                apply(Apply(), FittedJob(tmp_path / "new.npz", tmp_path / f"{i}.csv", artifact=tmp_path / "run"))
            assert any("another unit" in str(one.message) for one in caught) == (i == 2)
            answers.append(pd.read_csv(tmp_path / f"{i}.csv")["class"].tolist())
    assert answers[0] == answers[1] == answers[2]


def test_a_run_saved_in_python_is_applied_to_the_file_of_the_same_epochs(archive: Path, tmp_path: Path) -> None:
    epochs = load_epochs(archive)
    codes = 1 + (epochs.labels() == "move")
    events = np.column_stack([np.arange(80), np.zeros(80, int), codes])
    types: Any = ["eeg"] * 3 + ["stim"]
    info = mne.create_info([*epochs.ch_names, "STI"], 100.0, types)
    data = np.concatenate([1e-6 * epochs.X, np.ones((80, 1, 120)) * codes[:, None, None]], 1)
    made = mne.EpochsArray(data, info, events, event_id={"idle": 1, "move": 2}, verbose="error")
    made.save(tmp_path / "e-epo.fif", fmt="double", verbose="error")
    fitted = ACMClassifier((2, 1)).fit(made)
    fitted.save(tmp_path / "run")
    summary = apply(Apply(), FittedJob(tmp_path / "e-epo.fif", tmp_path / "out.csv", artifact=tmp_path / "run"))
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
            fit(TINY, FitJob(tmp_path / name, tmp_path / "run"))
    (tmp_path / "empty.npz").write_bytes(b" \n")
    with pytest.raises(DataError, match=r"empty\.npz is empty; there is nothing to read\."):
        fit(TINY, FitJob(tmp_path / "empty.npz", tmp_path / "run"))
    np.savez(tmp_path / "turned.npz", X=X[..., :10].transpose(0, 2, 1), y=y)
    summary = fit(replace(TINY, order=1, lag=1), FitJob(tmp_path / "turned.npz", tmp_path / "run"))
    assert "10 channels of 3 samples; if it is the other way round" in summary["notes"][0]


def test_channels_without_contact_are_told_by_fit_and_apply(archive: Path, tmp_path: Path) -> None:
    with np.load(archive) as arrays:
        held = dict(arrays)
    run = replace(TINY, order=2, lag=1)
    assert "notes" not in fit(run, FitJob(archive, tmp_path / "run"))
    held["X"][:, 1] = 3.0
    np.savez(tmp_path / "flat.npz", **held)
    notes = [
        fit(run, FitJob(tmp_path / "flat.npz", tmp_path / "other"))["notes"],
        apply(Apply(), FittedJob(tmp_path / "flat.npz", tmp_path / "a.csv", artifact=tmp_path / "run"))["notes"],
    ]
    assert all("flat in every epoch: Cz;" in found[0] for found in notes)
