from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from linmap.errors import ArgumentError, DataError, UsageError
from linmap.experiment.result import Result
from linmap.recipes import answers
from linmap.recipes.gbwbn import fit as fitting
from linmap.recipes.gbwbn.apply import apply
from linmap.recipes.gbwbn.compare import AIM, GBWBN, LEM, NONE, SVM, compare, epochs_for
from linmap.recipes.gbwbn.fit import fit
from linmap.recipes.gbwbn.flags import Apply, Compare, Fit
from linmap.recipes.job import CompareJob, FitJob, FittedJob

pytestmark = pytest.mark.filterwarnings("ignore:GBWBatchNorm")
FAST = Fit(dims=(4,), epochs=6, lr=0.02)


@pytest.fixture
def matrices(tmp_path: Path) -> Path:
    rng, y = np.random.default_rng(0), np.arange(48) % 2
    A = rng.standard_normal((48, 6, 12))
    A[:, 0] *= 1 + 2 * y[:, None]
    np.savez(tmp_path / "cov.npz", X=A @ A.swapaxes(1, 2), y=np.array(["off", "on"])[y], domain=np.arange(48) // 12)
    return tmp_path / "cov.npz"


@pytest.fixture
def epochs(tmp_path: Path) -> Path:
    rng, y = np.random.default_rng(0), np.arange(40) % 2
    X = rng.standard_normal((40, 4, 60)) + np.sin((0.3 + 0.5 * y[:, None, None]) * np.arange(60))
    np.savez(tmp_path / "epochs.npz", X=X, y=y, session=np.arange(40) // 20, sfreq=100.0)
    return tmp_path / "epochs.npz"


def test_what_is_fitted_to_matrices_classifies_matrices(matrices: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    summary = fit(FAST, FitJob(matrices, run))
    assert (summary["samples"], summary["held_out"], summary["dims"]) == (36, 12, [6, 4])
    assert summary["held_out_accuracy"] > 0.7
    found = apply(Apply(), FittedJob(matrices, tmp_path / "p.csv", artifact=run))
    table = pd.read_csv(tmp_path / "p.csv")
    assert list(table) == ["class", "p(off)", "p(on)"]
    np.testing.assert_allclose(table[["p(off)", "p(on)"]].sum(axis=1), 1)
    with np.load(matrices) as arrays:
        assert found["accuracy"] == pytest.approx((table["class"] == arrays["y"]).mean(), abs=1e-4)
    for name in ("run/loss.svg", "run/confusion.svg", "p.svg"):
        assert (tmp_path / name).read_text().startswith("<?xml")


def test_epochs_go_through_their_augmented_covariance(epochs: Path, tmp_path: Path) -> None:
    settings = replace(FAST, order=2, lag=3)
    assert fit(settings, FitJob(epochs, tmp_path / "run"))["dims"] == [8, 4]
    assert apply(Apply(), FittedJob(epochs, artifact=tmp_path / "run"))["accuracy"] > 0.7
    convolved = fit(replace(FAST, front="convolution", epochs=1), FitJob(epochs, tmp_path / "convolved"))
    assert convolved["dims"] == [15, 4]


def test_a_new_domain_is_adapted_to(matrices: Path, tmp_path: Path) -> None:
    fit(replace(FAST, domains=True), FitJob(matrices, tmp_path / "run"))
    with np.load(matrices) as arrays:
        np.savez(tmp_path / "new.npz", X=3 * arrays["X"][:12], y=arrays["y"][:12], domain=np.full(12, 9))
    with pytest.raises(DataError, match="domain 9 was not in fit; call adapt"):
        apply(Apply(), FittedJob(tmp_path / "new.npz", artifact=tmp_path / "run"))
    assert apply(Apply(adapt=True), FittedJob(tmp_path / "new.npz", artifact=tmp_path / "run"))["accuracy"] > 0.6


def test_wrong_use_is_named(matrices: Path, epochs: Path, tmp_path: Path) -> None:
    job = FitJob(matrices, tmp_path / "run")
    with pytest.raises(UsageError, match="--front augmented does not go with a file of matrices"):
        fit(replace(FAST, front="augmented"), job)
    with pytest.raises(ArgumentError, match="held_out=7: the file has 0, 1, 2, 3"):
        fit(replace(FAST, held_out=("7",)), job)
    with pytest.raises(UsageError, match="--domains cannot choose"):
        fit(replace(FAST, domains=True, held_out=("3",)), job)
    fit(replace(FAST, epochs=1), job)
    with pytest.raises(UsageError, match=r"written as \.csv or \.parquet"):
        apply(Apply(), FittedJob(matrices, tmp_path / "p.txt", artifact=tmp_path / "run"))
    with pytest.raises(DataError, match=r"epochs\.npz holds epochs, and the run was fitted to covariance matrices"):
        apply(Apply(), FittedJob(epochs, artifact=tmp_path / "run"))
    with pytest.raises(UsageError, match="--adapt needs a run fitted with --domains"):
        apply(Apply(adapt=True), FittedJob(matrices, artifact=tmp_path / "run"))
    with pytest.raises(DataError, match="was fitted to"):
        apply(Apply(), FittedJob(artifact=tmp_path / "run"))


def test_missing_files_are_wrong_use(check_wrong_use: Callable[[Path, list[str], str], None], tmp_path: Path) -> None:
    check_wrong_use(tmp_path, ["fit", "gbwbn", "--data", "none.npz"], "there is no such file")


QUICK = Compare(thetas=(0.5, 1.0), dims=(4,), epochs=5, lr=0.02)


def test_compare_on_matrices_gives_a_value_for_each_domain_and_goes_on(matrices: Path, tmp_path: Path) -> None:
    job, threads = CompareJob(data=matrices, out=tmp_path / "compare"), torch.get_num_threads()
    result = compare(QUICK, job)
    result.save(job.out)
    assert Result.load(job.out).rows == result.rows
    assert [(row.name, row.kind) for row in result.rows] == [
        (GBWBN, "system"),
        (NONE, "baseline"),
        (AIM, "baseline"),
        (LEM, "baseline"),
        (SVM, "baseline"),
    ]
    assert {len(row.values["test accuracy"]) for row in result.rows} == {4}
    assert result.rows[-1].mean("test accuracy") > 0.7
    assert [row[0] for row in result.tables[0].rows] == ["GBWBN θ = 0.5", "GBWBN θ = 1"]
    assert all(check.passed for check in result.checks)
    assert "4 folds" in result.verdict
    for picture in result.pictures:
        assert (job.out / picture.file).read_text().startswith("<?xml")
    assert torch.get_num_threads() == threads
    kept = {path: path.stat().st_mtime_ns for path in (job.out / "runs").glob("*.json")}
    assert len(kept) == 4 * 6
    more = compare(replace(QUICK, thetas=(0.25, 0.5, 1.0)), replace(job, resume=True))
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert len(list((job.out / "runs").glob("*.json"))) == 4 * 7
    assert more.rows[1:] == result.rows[1:]


def test_compare_takes_epochs_with_their_front(epochs: Path, tmp_path: Path) -> None:
    settings = replace(QUICK, thetas=(0.5,), order=2, lag=3, epochs=2)
    result = compare(settings, CompareJob(data=epochs, out=tmp_path / "compare"))
    assert {len(row.values["test accuracy"]) for row in result.rows} == {5}
    assert "40 epochs of 4 x 60" in result.task
    assert "SPDNet 8-4" in result.task
    assert next(row for row in result.rows if row.name == SVM).mean("test accuracy") > 0.7


def test_comparisons_that_cannot_be_are_explained(matrices: Path, tmp_path: Path) -> None:
    job = CompareJob(data=matrices, out=tmp_path / "compare")
    with pytest.raises(UsageError, match="--thetas must be positive numbers"):
        compare(replace(QUICK, thetas=(0.5, 0.0)), job)
    with pytest.raises(UsageError, match="--front convolution does not go with a file of matrices"):
        compare(replace(QUICK, front="convolution"), job)
    with pytest.raises(DataError, match=r"cov: no network could be trained: .*dims must be"):
        compare(replace(QUICK, dims=(9,), epochs=1), job)


def test_answers_are_written_before_pictures_and_whatever_the_labels_are(
    matrices: Path, tmp_path: Path, monkeypatch
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("no font")

    for module, name in ((fitting, "draw_curves"), (fitting, "draw_confusions"), (answers, "draw_confusions")):
        monkeypatch.setattr(module, name, broken)
    summary = fit(replace(FAST, epochs=1), FitJob(matrices, tmp_path / "run"))
    assert summary["held_out_accuracy"] >= 0
    assert [note.partition(" ")[0] for note in summary["notes"]] == ["loss.svg", "confusion.svg"]
    with np.load(matrices) as arrays:
        for y in (arrays["y"], np.full(48, "unknown"), np.arange(48)):
            np.savez(tmp_path / "new.npz", X=arrays["X"], y=y)
            found = apply(Apply(), FittedJob(tmp_path / "new.npz", tmp_path / "p.csv", artifact=tmp_path / "run"))
            assert ("accuracy" in found) == ("balanced_accuracy" in found) == (y is arrays["y"] or y[0] == "off")
            assert len(pd.read_csv(tmp_path / "p.csv")) == 48
            assert found["notes"]


def test_epochs_of_as_many_samples_as_channels_are_epochs_where_the_front_says_so(tmp_path: Path) -> None:
    X = np.random.default_rng(0).standard_normal((12, 8, 8))
    np.savez(tmp_path / "e.npz", X=X, y=np.arange(12) % 2)
    run = tmp_path / "run"
    assert fit(replace(FAST, epochs=1, front="augmented"), FitJob(tmp_path / "e.npz", run))["dims"] == [8, 4]
    assert apply(Apply(), FittedJob(tmp_path / "e.npz", tmp_path / "p.csv", artifact=run))["samples"] == 12


def test_channels_of_epochs_are_compared_with_those_of_the_fit(tmp_path: Path) -> None:
    X = np.random.default_rng(0).standard_normal((12, 3, 40))
    np.savez(tmp_path / "e.npz", X=X, y=np.arange(12) % 2, ch_names=["C3", "Cz", "C4"], sfreq=100.0)
    fit(replace(FAST, epochs=1, dims=(2,)), FitJob(tmp_path / "e.npz", tmp_path / "run"))
    tables = []
    for rows, names in ((slice(None), ["C3", "Cz", "C4"]), (slice(None, None, -1), ["C4", "Cz", "C3"])):
        np.savez(tmp_path / "new.npz", X=X[:, rows], ch_names=names, sfreq=100.0)
        apply(Apply(), FittedJob(tmp_path / "new.npz", tmp_path / "p.csv", artifact=tmp_path / "run"))
        tables.append(pd.read_csv(tmp_path / "p.csv"))
    pd.testing.assert_frame_equal(*tables)
    np.savez(tmp_path / "new.npz", X=X, ch_names=["C3", "Cz", "Pz"])
    with pytest.raises(DataError, match="lacks the channel C4 of the fit"):
        apply(Apply(), FittedJob(tmp_path / "new.npz", artifact=tmp_path / "run"))


@pytest.mark.parametrize(("samples", "epochs"), [(6, 75), (30, 75), (31, 38), (61, 25), (5000, 25)])
def test_small_files_get_more_passes(samples: int, epochs: int) -> None:
    assert epochs_for(samples, 30) == epochs
    assert epochs_for(samples, 1) == max(25, min(-(-75 // samples), 100))


def test_one_channel_has_no_covariance_to_learn_from(tmp_path: Path) -> None:
    np.savez(tmp_path / "one.npz", X=np.random.default_rng(0).random((20, 1, 1)), y=np.arange(20) % 2)
    with pytest.raises(ArgumentError, match="one channel, whose covariance is one number"):
        fit(Fit(), FitJob(tmp_path / "one.npz", tmp_path / "run"))
