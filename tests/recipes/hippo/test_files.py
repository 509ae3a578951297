"""`linmap fit hippo` and `linmap apply` on files."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from linmap.cli import main
from linmap.data.sequences import LabelledSeries
from linmap.sequence.s4 import S4Classifier, S4Regressor, load_estimator
from recipes.hippo.waves import SMALL, waves


def answer(capsys: pytest.CaptureFixture[str], *words: object) -> dict:
    capsys.readouterr()
    assert main([*map(str, words), "--json"]) == 0
    return json.loads(capsys.readouterr().out)["summary"]


def test_classes_of_series_of_unequal_lengths(archive: Path, fitted: Path, tmp_path, capsys) -> None:
    done = answer(capsys, "apply", fitted, "--data", archive, "--out", tmp_path / "answers.csv")
    table = pd.read_csv(tmp_path / "answers.csv")
    assert list(table.columns) == ["series", "answer", "p(fast, very)", "p(slow)"]
    assert done["accuracy"] == pytest.approx((table["answer"] == waves(40)[1]).mean(), abs=1e-4)
    assert done["accuracy"] > 0.7
    np.testing.assert_allclose(table[["p(fast, very)", "p(slow)"]].sum(axis=1), 1)
    assert load_estimator(fitted).dt_[0] == pytest.approx(1 / max(map(len, waves(40)[0])), rel=0.1)


def test_numbers_of_a_folder_of_csv(tmp_path, capsys) -> None:
    rng = np.random.default_rng(0)
    levels = rng.uniform(-2, 2, 24)
    for i, level in enumerate(levels):
        pd.DataFrame({"u": level + 0.1 * rng.normal(size=12 + i % 3)}).to_csv(tmp_path / f"{i:02}.csv", index=False)
    files = [f"{i:02}.csv" for i in range(24)]
    pd.DataFrame({"file": files, "label": levels + 0.5}).to_csv(tmp_path / "labels.csv", index=False)
    fitted = answer(capsys, "fit", "hippo", "--data", tmp_path, "--out", tmp_path / "run", *SMALL)
    assert fitted["series"] == 19
    assert fitted["held_out_series"] == 5
    assert "held_out_r2" in fitted
    done = answer(capsys, "apply", tmp_path / "run", "--data", tmp_path, "--out", tmp_path / "answers.parquet")
    table = pd.read_parquet(tmp_path / "answers.parquet")
    assert list(table["series"]) == files
    assert done["r2"] == pytest.approx(1 - np.square(table["answer"] - levels - 0.5).mean() / levels.var(), abs=1e-3)
    assert isinstance(load_estimator(tmp_path / "run"), S4Regressor)


def test_columns_that_the_fit_left_out_are_left_out_again(tmp_path, capsys) -> None:
    series, labels = waves(12)
    for name in ("timed", "bare"):
        (tmp_path / name).mkdir()
        pd.DataFrame({"file": [f"{i:02}.csv" for i in range(12)], "label": labels}).to_csv(
            tmp_path / name / "labels.csv", index=False
        )
    for i, one in enumerate(series):
        table = pd.DataFrame(one, columns=[f"c{k}" for k in range(one.shape[1])])
        table.to_csv(tmp_path / "bare" / f"{i:02}.csv", index=False)
        table.assign(t=range(len(table))).to_csv(tmp_path / "timed" / f"{i:02}.csv", index=False)
    answer(capsys, "fit", "hippo", "--data", tmp_path / "timed", "--drop", "t", "--out", tmp_path / "run", *SMALL)
    for name in ("timed", "bare"):
        answer(capsys, "apply", tmp_path / "run", "--data", tmp_path / name, "--out", tmp_path / f"{name}.csv")
    assert (tmp_path / "timed.csv").read_bytes() == (tmp_path / "bare.csv").read_bytes()


def test_channels_go_by_the_names_of_the_fit(tmp_path, capsys) -> None:
    series, labels = waves(12)
    others = {"fit": ["x", "y"], "swapped": ["y", "x"], "other": ["x", "z"], "bare": None, "renamed": ["left", "right"]}
    for name, columns in others.items():
        (tmp_path / name).mkdir()
        pd.DataFrame({"file": [f"{i:02}.csv" for i in range(12)], "label": labels}).to_csv(
            tmp_path / name / "labels.csv", index=False
        )
        for i, one in enumerate(series):
            table = pd.DataFrame(one[:, ::-1] if name == "swapped" else one, columns=columns)
            table.to_csv(tmp_path / name / f"{i:02}.csv", index=False, header=columns is not None)
    answer(capsys, "fit", "hippo", "--data", tmp_path / "fit", "--out", tmp_path / "run", *SMALL)
    for name in ("fit", "swapped", "bare", "renamed"):
        answer(capsys, "apply", tmp_path / "run", "--data", tmp_path / name, "--out", tmp_path / f"{name}.csv")
        assert (tmp_path / f"{name}.csv").read_bytes() == (tmp_path / "fit.csv").read_bytes()
    single = ("--data", tmp_path / "swapped" / "03.csv", "--out", tmp_path / "one.csv")
    answer(capsys, "apply", tmp_path / "run", *single)
    one, all_ = (pd.read_csv(tmp_path / name)["answer"] for name in ("one.csv", "fit.csv"))
    assert one.to_list() == all_.to_list()[3:4]
    assert main(["apply", str(tmp_path / "run"), "--data", str(tmp_path / "other")]) == 2
    assert "these series have the channels x, z, expected are x, y;" in capsys.readouterr().err


def test_a_fit_goes_on_to_the_same_bytes(archive: Path, fitted: Path, tmp_path, capsys, monkeypatch) -> None:
    from linmap.training import loop

    stop, steps = 9, []
    step = loop._Run._step

    def interrupted(self, batch):
        step(self, batch)
        steps.append(1)
        if len(steps) == stop:
            self.interruption.requested = True

    words = ["fit", "hippo", "--data", str(archive), "--out", str(tmp_path / "run"), *SMALL]
    with monkeypatch.context() as patch:
        patch.setattr(loop._Run, "_step", interrupted)
        assert main(words) == 130
    assert not (tmp_path / "run" / "config.json").exists()
    assert main([*words, "--resume"]) == 0
    for name in ("model.safetensors", "config.json"):
        assert (tmp_path / "run" / name).read_bytes() == (fitted / name).read_bytes()


@pytest.mark.parametrize(("step", "task"), [(1.0, "classification"), (0.5, "regression")])
def test_numbers_without_a_fraction_are_classes(step: float, task: str, tmp_path, capsys) -> None:
    series, labels = waves(12)
    y = 1 + step * (labels == "slow")
    np.savez(tmp_path / "s.npz", X=np.concatenate(series), lengths=np.array([len(s) for s in series]), y=y)
    words = ["fit", "hippo", "--data", tmp_path / "s.npz", "--out", tmp_path / "run", *SMALL, "--epochs", "1"]
    assert answer(capsys, *words)["task"] == task
    kind = {"classification": S4Classifier, "regression": S4Regressor}[task]
    assert type(load_estimator(tmp_path / "run")) is kind


def test_large_offsets_reach_the_estimator_from_files(tmp_path, capsys) -> None:
    """Answers to 10 MHz ± 1 Hz are those to ± 1 Hz, whichever file they come in."""
    series, labels = waves(12)
    lengths, found = np.array([len(s) for s in series]), []
    grid = np.round(np.concatenate(series).astype(np.float64) * 2**16) / 2**16
    for offset in (0.0, 1e7):
        path, out = tmp_path / f"{offset:g}.npz", tmp_path / f"run-{offset:g}"
        np.savez(path, X=grid + offset, lengths=lengths, y=labels)
        answer(capsys, "fit", "hippo", "--data", path, "--out", out, *SMALL, "--epochs", "2")
        answer(capsys, "apply", out, "--data", path, "--out", tmp_path / "a.csv")
        found.append(pd.read_csv(tmp_path / "a.csv").iloc[:, 2:].to_numpy())
    np.testing.assert_allclose(*found, atol=1e-4)


def test_held_out_series_keep_the_proportions_of_the_classes() -> None:
    labels = np.array(["a"] * 30 + ["b"] * 10)
    data = LabelledSeries([np.zeros((3, 1), np.float32)] * 40, labels, [str(i) for i in range(40)])
    train, test = data.hold_out(0.2, seed=3)
    assert test is not None
    assert (test.labels == "b").sum() == 2
    assert sorted(train.names + test.names, key=int) == data.names
    assert data.hold_out(0.0, 0) == (data, None)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--rate", "2", "--data", "-"], "--rate is for series in files"),
        (["--state", "s"], "--state and --save-every are for streams"),
        (["--out", "a.txt"], "answers are written as .csv or .parquet"),
        (["--dataset", "mnist-small"], "these series have 1 channels, the run was fitted to 2"),
        (["--data", "nowhere.npz"], "there is no such file"),
    ],
)
def test_wrong_use_of_a_fitted_run_is_told(fitted: Path, words: list[str], message: str, capsys) -> None:
    assert main(["apply", str(fitted), *words]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--held-out", "1.5"], "must be a share"),
        (["--held-out", "0.99"], "too few to hold out"),
        (["--task", "regression"], "--task regression needs numbers as labels"),
        (["--d-state", "7"], "7 must be even and >= 2"),
        (["--init", "legsd"], "legsd is not one of S4D"),
    ],
)
def test_wrong_settings_of_a_fit_are_told(archive: Path, words: list[str], message: str, tmp_path, capsys) -> None:
    assert main(["fit", "hippo", "--data", str(archive), "--out", str(tmp_path), *words]) == 2
    assert message in capsys.readouterr().err


def test_a_column_of_times_can_be_dropped(tmp_path, capsys) -> None:
    series, labels = waves(8)
    for i, (one, label) in enumerate(zip(series, labels, strict=True)):
        (tmp_path / "data" / label).mkdir(parents=True, exist_ok=True)
        table = pd.DataFrame(one, columns=["x", "y"])
        table.insert(0, "when", pd.date_range("2024-01-01", periods=len(one)))
        table.to_csv(tmp_path / "data" / label / f"{i}.csv", index=False)
    words = ["fit", "hippo", "--data", str(tmp_path / "data"), "--out", str(tmp_path / "run"), *SMALL, "--epochs", "1"]
    assert main(words) == 2
    assert (
        "'2024-01-01' is no finite number; to leave the whole column out, give --drop when" in capsys.readouterr().err
    )
    assert answer(capsys, *words, "--drop", "when")["channels"] == 2
    done = answer(capsys, "apply", tmp_path / "run", "--data", tmp_path / "data", "--drop", "when")
    assert done["series"] == 8
    assert main([*words, "--drop", "then"]) == 2
    assert "has no column 'then' to leave out; there are when, x, y" in capsys.readouterr().err


def test_classes_that_the_run_does_not_know_are_no_wrong_answers(archive: Path, fitted: Path, tmp_path, capsys) -> None:
    with np.load(archive) as arrays:
        held = dict(arrays)
    right = answer(capsys, "apply", fitted, "--data", archive, "--out", tmp_path / "a.csv")["accuracy"]
    y = held["y"].astype("U20")
    for known in (0, len(y) // 2):
        held["y"] = np.where(np.arange(len(y)) < known, y, "unheard of")
        np.savez(tmp_path / "other.npz", **held)
        done = answer(capsys, "apply", fitted, "--data", tmp_path / "other.npz", "--out", tmp_path / "b.csv")
        assert ("accuracy" in done) == (known > 0)
        assert "unheard of" in done["notes"][0]
    found = pd.read_csv(tmp_path / "a.csv")["answer"].to_numpy()
    assert done["accuracy"] == pytest.approx((found == y)[:known].mean(), abs=1e-4)
    assert right == pytest.approx((found == y).mean(), abs=1e-4)


@pytest.mark.parametrize(
    ("factor", "told"), [(1e-6, True), (1e-3, True), (0.1, False), (1, False), (10, False), (1e3, True)]
)
def test_series_in_another_unit_are_told(
    factor: float, told: bool, archive: Path, fitted: Path, tmp_path, capsys
) -> None:
    with np.load(archive) as arrays:
        held = dict(arrays)
    np.savez(tmp_path / "scaled.npz", **held | {"X": held["X"] * factor})
    done = answer(capsys, "apply", fitted, "--data", tmp_path / "scaled.npz", "--out", tmp_path / "a.csv")
    assert ("standard deviations of the fit" in " ".join(done.get("notes", []))) == told
