from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from linmap.data.covariances import hdm05
from linmap.errors import DataError, UsageError
from linmap.experiment.result import Result
from linmap.recipes.gbwbn import PRESETS, ApplySettings, Comparison, Settings, apply, compare, fit, fitting
from linmap.recipes.gbwbn.experiments import (
    TEST_ACTORS,
    TRAIN_ACTORS,
    VALIDATION_ACTOR,
    by_actor,
    few_shots,
    fifty_steps,
    methods,
    synthetic,
)
from linmap.recipes.job import ApplyJob, CompareJob, FitJob

pytestmark = pytest.mark.filterwarnings("ignore:GBWBatchNorm")
FAST = Settings(dims=(4,), epochs=6, lr=0.02)


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
    found = apply(ApplySettings(), ApplyJob(run, matrices, tmp_path / "p.csv"))
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
    assert apply(ApplySettings(), ApplyJob(tmp_path / "run", epochs))["accuracy"] > 0.7
    convolved = fit(replace(FAST, front="convolution", epochs=1), FitJob(epochs, tmp_path / "convolved"))
    assert convolved["dims"] == [15, 4]


def test_a_new_domain_is_adapted_to(matrices: Path, tmp_path: Path) -> None:
    fit(replace(FAST, domains=True), FitJob(matrices, tmp_path / "run"))
    with np.load(matrices) as arrays:
        np.savez(tmp_path / "new.npz", X=3 * arrays["X"][:12], y=arrays["y"][:12], domain=np.full(12, 9))
    with pytest.raises(DataError, match="domain 9 was not in fit; call adapt"):
        apply(ApplySettings(), ApplyJob(tmp_path / "run", tmp_path / "new.npz"))
    assert apply(ApplySettings(adapt=True), ApplyJob(tmp_path / "run", tmp_path / "new.npz"))["accuracy"] > 0.6


def test_wrong_use_is_named(matrices: Path, epochs: Path, tmp_path: Path) -> None:
    job = FitJob(matrices, tmp_path / "run")
    with pytest.raises(UsageError, match="--front augmented does not go with a file of matrices"):
        fit(replace(FAST, front="augmented"), job)
    with pytest.raises(UsageError, match="--held-out 7: the file has 0, 1, 2, 3"):
        fit(replace(FAST, held_out=("7",)), job)
    with pytest.raises(UsageError, match="--domains cannot choose"):
        fit(replace(FAST, domains=True, held_out=("3",)), job)
    with pytest.raises(UsageError, match="needs a fitted run"):
        apply(ApplySettings(), ApplyJob())
    fit(replace(FAST, epochs=1), job)
    with pytest.raises(UsageError, match=r"written as \.csv or \.parquet"):
        apply(ApplySettings(), ApplyJob(tmp_path / "run", matrices, tmp_path / "p.txt"))
    with pytest.raises(DataError, match="fitted to matrices; this file is not"):
        apply(ApplySettings(), ApplyJob(tmp_path / "run", epochs))
    with pytest.raises(UsageError, match="--adapt needs a run fitted with --domains"):
        apply(ApplySettings(adapt=True), ApplyJob(tmp_path / "run", matrices))
    with pytest.raises(DataError, match="was fitted to"):
        apply(ApplySettings(), ApplyJob(tmp_path / "run"))


def test_missing_files_are_wrong_use(check_wrong_use: Callable[[Path, list[str], str], None], tmp_path: Path) -> None:
    check_wrong_use(tmp_path, ["fit", "gbwbn", "--data", "none.npz"], "there is no such file")


def test_no_test_actor_is_trained_on_or_chosen_by() -> None:
    data = hdm05(subset=True)
    for split in (by_actor(data), by_actor(data, choose=False)):
        assert set(split.test.domain) == set(TEST_ACTORS)
        assert set(split.train.domain) == set(TRAIN_ACTORS) | (set() if split.validation else {VALIDATION_ACTOR})
        assert split.validation is None or set(split.validation.domain) == {VALIDATION_ACTOR}
    few = few_shots(by_actor(data), 2, 0)
    assert len(few.train) == 22
    assert len(few.test) == 44


def test_synthetic_matrices_have_their_condition_number_and_classes_that_differ() -> None:
    X, y = synthetic(1e5, 0)
    np.testing.assert_allclose(np.linalg.cond(X), 1e5, rtol=1e-4)
    logs = np.array([np.linalg.eigh(x)[1] for x in X])
    assert logs.shape == (120, 12, 12)
    assert np.linalg.norm(X[y == 0].mean(0) - X[y == 1].mean(0)) > 1e-3


def test_fifty_steps_are_finite_and_learn() -> None:
    import torch

    steps = fifty_steps({"norm": "gbw", "theta": 0.5}, 1e7, torch.float32, 0, steps=5)
    assert np.isfinite([steps.gradient, steps.loss]).all()
    assert fifty_steps({"norm": None}, 1e7, torch.float32, 0, steps=5).gradient > steps.gradient


def test_compare_runs_every_part_and_chooses_without_the_test_actors(tmp_path: Path) -> None:
    settings = Comparison(thetas=(0.5,), epochs=2, seeds=1, few_shots=2, eps=(1e-3,), conditions=(1e1,), threads=1)
    result = compare(settings, CompareJob(out=tmp_path))
    result.save(tmp_path)
    loaded = Result.load(tmp_path)
    assert [row.kind for row in loaded.rows] == ["baseline"] * 3 + ["system"]
    assert [table.title.split(",")[0] for table in loaded.tables] == [
        "HDM05 by actor", "HDM05 by actor", "HDM05", "Synthetic matrices",
    ]  # fmt: skip
    for picture in loaded.pictures:
        assert (tmp_path / picture.file).read_text().startswith("<?xml")
    with pytest.raises(UsageError, match="takes no --data"):
        compare(settings, CompareJob(data=tmp_path))
    with pytest.raises(UsageError, match="--seeds must be at least 1"):
        compare(replace(settings, seeds=0), CompareJob(out=tmp_path))
    assert set(PRESETS) == {"quick", "full"}
    assert len(methods((0.25, 0.5, 1.0), True)) == 9


def test_answers_are_written_before_pictures_and_whatever_the_labels_are(
    matrices: Path, tmp_path: Path, monkeypatch
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("no font")

    for name in ("draw_losses", "draw_confusions"):
        monkeypatch.setattr(fitting, name, broken)
    summary = fit(replace(FAST, epochs=1), FitJob(matrices, tmp_path / "run"))
    assert summary["held_out_accuracy"] >= 0
    assert [note.partition(" ")[0] for note in summary["notes"]] == ["loss.svg", "confusion.svg"]
    with np.load(matrices) as arrays:
        for y in (arrays["y"], np.full(48, "unknown"), np.arange(48)):
            np.savez(tmp_path / "new.npz", X=arrays["X"], y=y)
            found = apply(ApplySettings(), ApplyJob(tmp_path / "run", tmp_path / "new.npz", tmp_path / "p.csv"))
            assert ("accuracy" in found) == ("balanced_accuracy" in found) == (y is arrays["y"] or y[0] == "off")
            assert len(pd.read_csv(tmp_path / "p.csv")) == 48
            assert found["notes"]


def test_epochs_of_as_many_samples_as_channels_are_epochs_where_the_front_says_so(tmp_path: Path) -> None:
    X = np.random.default_rng(0).standard_normal((12, 8, 8))
    np.savez(tmp_path / "e.npz", X=X, y=np.arange(12) % 2)
    run = tmp_path / "run"
    assert fit(replace(FAST, epochs=1, front="augmented"), FitJob(tmp_path / "e.npz", run))["dims"] == [8, 4]
    assert apply(ApplySettings(), ApplyJob(run, tmp_path / "e.npz", tmp_path / "p.csv"))["samples"] == 12


def test_channels_of_epochs_are_compared_with_those_of_the_fit(tmp_path: Path) -> None:
    X = np.random.default_rng(0).standard_normal((12, 3, 40))
    np.savez(tmp_path / "e.npz", X=X, y=np.arange(12) % 2, ch_names=["C3", "Cz", "C4"], sfreq=100.0)
    fit(replace(FAST, epochs=1, dims=(2,)), FitJob(tmp_path / "e.npz", tmp_path / "run"))
    tables = []
    for rows, names in ((slice(None), ["C3", "Cz", "C4"]), (slice(None, None, -1), ["C4", "Cz", "C3"])):
        np.savez(tmp_path / "new.npz", X=X[:, rows], ch_names=names, sfreq=100.0)
        apply(ApplySettings(), ApplyJob(tmp_path / "run", tmp_path / "new.npz", tmp_path / "p.csv"))
        tables.append(pd.read_csv(tmp_path / "p.csv"))
    pd.testing.assert_frame_equal(*tables)
    np.savez(tmp_path / "new.npz", X=X, ch_names=["C3", "Cz", "Pz"])
    with pytest.raises(DataError, match="lacks the channel C4 of the fit"):
        apply(ApplySettings(), ApplyJob(tmp_path / "run", tmp_path / "new.npz"))
