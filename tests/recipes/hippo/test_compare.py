"""`linmap compare hippo`: what it measures, and that it goes on where it was killed."""

import json
from pathlib import Path

import numpy as np
import pytest

from linmap.cli import main
from linmap.experiment import Result
from linmap.recipes.hippo.compare import budget
from linmap.sequence.s4.baselines import MiniRocket
from recipes.hippo.waves import waves

ROCKET = ["MiniRocket"] if MiniRocket.installed() else []


@pytest.fixture(scope="module")
def compared(archive: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    out = tmp_path_factory.mktemp("compared")
    small = ["--epochs", "12", "--d-model", "8", "--d-state", "8", "--layers", "1", "--seeds", "2"]
    words = ["compare", "hippo", "--data", str(archive), *small, "--rates", "1e-2", "1e-3", "--out", str(out)]
    assert main(words) == 0
    return out, words


def test_the_result_has_all_methods_a_verdict_and_checks(compared) -> None:
    out, _ = compared
    result = Result.load(out)
    assert [row.name for row in result.rows] == ["S4D-Lin", "GRU", *ROCKET, "S4D-LegS", "the most frequent class"]
    for row in result.rows:
        assert len(row.values["accuracy"]) == 2
        assert row.parameters or row.kind == "reference" or row.name in ROCKET
    assert result.rows[-1].values["accuracy"] == [0.5, 0.5]
    assert result.rows[0].mean("accuracy") > 0.5
    assert result.verdict.startswith(("Take ", "No difference between S4D-Lin and "))
    assert "2 seeds" in result.verdict
    (picture,) = result.pictures
    assert (out / picture.file).read_text().startswith("<?xml")
    stated = {check.statement: check.passed for check in result.checks}
    assert stated["sample by sample, the trained models answer as at once (1e-3)"]
    ours, theirs = (row.mean("accuracy") for row in result.rows[:2])
    assert stated["S4D-Lin has a higher accuracy than GRU"] == (ours > theirs)


def test_a_comparison_that_was_killed_trains_only_what_is_missing(compared) -> None:
    out, words = compared
    files = sorted((out / "runs").glob("waves-S4D-Lin*.json"))
    before = {path: path.stat().st_mtime_ns for path in (out / "runs").glob("*.json")}
    kept = json.loads(files[-1].read_text())["run"]
    files[-1].unlink()
    rows = Result.load(out).rows
    assert main([*words, "--resume"]) == 0
    again = Result.load(out).rows
    assert [row.values for row in again] == [row.values for row in rows]
    assert {path for path, then in before.items() if path.stat().st_mtime_ns != then} == {files[-1]}
    assert json.loads(files[-1].read_text())["run"]["details"] == kept["details"]


def test_embedded_data_go_the_same_way(tmp_path: Path, monkeypatch) -> None:
    """The same series under a name of their own give the same figures as in a file."""
    from linmap.data import sequences

    series, labels = waves(24)
    data = sequences.LabelledSeries(series, labels, [str(i) for i in range(24)])
    monkeypatch.setattr("linmap.recipes.hippo.compare.whole_series", lambda name: data)
    path = tmp_path / "waves.npz"
    np.savez(path, X=np.concatenate(series), lengths=np.array([len(s) for s in series]), y=labels)
    words = ["compare", "hippo", "--epochs", "1", "--d-model", "4", "--d-state", "4", "--layers", "1", "--seeds", "1"]
    assert main([*words, "--out", str(tmp_path / "embedded")]) == 0
    assert main([*words, "--data", str(path), "--out", str(tmp_path / "file")]) == 0
    embedded, file = (Result.load(tmp_path / name) for name in ("embedded", "file"))
    assert [row.values for row in embedded.rows] == [row.values for row in file.rows]


def test_few_series_get_as_many_steps_as_many() -> None:
    assert budget(2250) == {"batch_size": 50, "epochs": 8}
    assert budget(270) == {"batch_size": 16, "epochs": 21}
    assert budget(30) == {"batch_size": 16, "epochs": 40}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--dataset", "lra"], "'lra' is not one of"),
        (["--seeds", "0"], "at least one seed"),
        (["--held-out", "1"], "must be a share"),
        (["--data", "numbers.npz"], "compare hippo is about classes"),
        (["--data", "nowhere.npz"], "there is no such file"),
    ],
)
def test_wrong_flags_are_told(words: list[str], message: str, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    np.savez("numbers.npz", X=np.zeros((4, 5)), y=np.arange(4) / 2)
    assert main(["compare", "hippo", "--out", "out", *words]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.skipif(not MiniRocket.installed(), reason="numba is not installed")
def test_minirocket_on_series_of_unequal_lengths() -> None:
    series, labels = waves(40)
    rocket = MiniRocket(0).fit(series[:30], labels[:30])
    assert rocket.score(series[30:], labels[30:]) > 0.8
