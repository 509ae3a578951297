"""`linmap compare hippo`: what it measures, and that it goes on where it was killed."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from linmap.cli import main
from linmap.experiment.result import Result
from linmap.recipes import hippo
from linmap.recipes.hippo.baselines import GRUClassifier, MiniRocket, RecurrentModel
from linmap.recipes.hippo.memory import band_limited, delays, readout_error, reconstructions, systems
from linmap.recipes.hippo.tasks import SIZES, load_task, user_task
from linmap.recipes.job import CompareJob
from linmap.sequence.hippo import discretize
from linmap.sequence.s4 import SequenceModel


@pytest.fixture(scope="module")
def compared(archive: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    out = tmp_path_factory.mktemp("compared")
    words = ["compare", "hippo", "--data", str(archive), "--epochs", "2", "--inits", "s4-legs", "--states", "8", "32",
             "--seeds", "2", "--rates", "1e-2", "1e-3", "--out", str(out)]  # fmt: skip
    assert main(words) == 0
    return out, words


def test_the_result_has_all_methods_pictures_and_checks(compared) -> None:
    out, _ = compared
    result = Result.load(out)
    assert [row.name for row in result.rows] == [
        "S4D-Lin", "S4-LegS", "GRU", "S4D-Real", "S4D-Lin, timescale far too long", "the most frequent class",
    ]  # fmt: skip
    for row in result.rows[:-1]:
        assert len(row.values["accuracy, waves"]) == 2
        assert row.parameters
    assert result.rows[-1].mean("accuracy, waves") == 0.5
    for picture in result.pictures:
        assert (out / picture.file).read_text().startswith("<?xml")
    assert all(check.passed for check in result.checks), [check for check in result.checks if not check.passed]
    assert [table.title.split(",")[0] for table in result.tables] == [
        "The past of a signal", "A delay by 500 samples",
    ]  # fmt: skip


def test_a_comparison_that_was_killed_trains_only_what_is_missing(compared) -> None:
    out, words = compared
    files = sorted((out / "runs").glob("*.json"))
    before = {path: path.stat().st_mtime_ns for path in files}
    kept = json.loads(files[-1].read_text())["run"]
    files[-1].unlink()
    rows = Result.load(out).rows
    assert main([*words, "--resume"]) == 0
    again = Result.load(out).rows
    assert [row.values for row in again] == [row.values for row in rows]
    assert {p for p in files if p.stat().st_mtime_ns != before[p]} == {files[-1]}
    assert json.loads(files[-1].read_text())["run"]["losses"] == kept["losses"]


def test_the_delay_table_is_that_of_the_timescale_rule() -> None:
    found = delays(seed=1)
    assert found["LegT"][2] < -5
    assert found["LegT"][4] < -3
    assert found["LegS"][2] < -6
    assert found["LegS"][4] > -0.5
    assert -3.5 < found["FouT"][2] < -2
    for name in ("S4D-Real", "random", "LegT, dt ten times too small", "LegT, dt ten times too large"):
        assert found[name][2] > -0.5


def test_a_perfect_memory_has_no_readout_error() -> None:
    rng = np.random.default_rng(0)
    u = np.stack([band_limited(4000, 20, rng) for _ in range(3)])
    assert u[:, 0].max() == 0
    np.testing.assert_allclose(u.std(1), 1)
    spectrum = np.abs(np.fft.rfft(u))
    assert spectrum[:, 21:].max() < 1e-8 * spectrum.max()
    late = np.roll(u, 500, 1)[..., None]
    assert readout_error(late, u) < -10
    assert readout_error(rng.normal(size=late.shape), u) > -0.1
    A, B, dt = systems(0)["LegT"]
    assert discretize(A, B, dt)[0].shape == (64, 64)


def test_more_numbers_keep_more_of_the_past() -> None:
    found = {(r.signal, r.method, r.N): r.error for r in reconstructions((8, 32), seed=0)}
    for (signal, method, N), error in found.items():
        if N == 32 and signal.startswith("white"):
            assert error < found[signal, method, 8] / 2
    assert found["white up to 2 Hz", "LegS, all of the past", 32] < 0.05


@pytest.mark.parametrize("bidirectional", [False, True])
def test_padding_does_not_reach_the_gru(bidirectional: bool) -> None:
    torch.manual_seed(0)
    model = RecurrentModel(2, 3, 1, 8, bidirectional)
    x, lengths = torch.randn(3, 9, 2), torch.tensor([4, 9, 1])
    found = model(x, lengths)
    for i, length in enumerate(lengths.tolist()):
        torch.testing.assert_close(found[i : i + 1], model(x[i : i + 1, :length]))


def test_the_gru_is_of_the_same_size_and_trained_alike() -> None:
    gru = sum(p.numel() for p in RecurrentModel(1, 10, 1, 32, False).parameters())
    ours = sum(p.numel() for p in SequenceModel(1, 10, 2, 32, 16).parameters())
    assert (gru, ours) == (6730, 7946)
    estimator = GRUClassifier(2, 8, epochs=1).fit(np.random.default_rng(0).normal(size=(6, 5, 1)), [0, 1] * 3)
    assert estimator.predict_proba(np.zeros((2, 5, 1))).shape == (2, 2)


def test_tasks(archive: Path) -> None:
    task = load_task("mnist-small")
    assert (len(task.train), len(task.test)) == (2250, 500)
    assert task.validation is not None
    assert len(task.validation) == 250
    assert str(user_task(archive, 0)) == "waves (30 and 10 series, 20 to 39 samples)"
    assert set(hippo.PRESETS["full"].tasks) <= set(SIZES)


@pytest.mark.parametrize(
    ("words", "message"),
    [(["--tasks", "lra"], "there is no 'lra'; there are mnist-small"), (["--seeds", "0"], "at least one task, seed")],
)
def test_wrong_flags_are_told(words: list[str], message: str, tmp_path, capsys) -> None:
    assert main(["compare", "hippo", "--out", str(tmp_path), *words]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.skipif(not MiniRocket.available(), reason="numba is not installed")
def test_minirocket_on_series_of_unequal_lengths(archive: Path) -> None:
    task = user_task(archive, 0)
    rocket = MiniRocket(0).fit(task.train.series, task.train.require_labels())
    assert rocket.score(task.test.series, task.test.require_labels()) > 0.8


@pytest.mark.slow
def test_the_published_small_setting_and_the_timescale(tmp_path) -> None:
    """S4D-Lin on 6,000 pixel sequences: at least .83 in six epochs; with a timescale far too long, near chance."""
    try:
        settings = hippo.Comparison(("mnist",))
        result = hippo.compare(settings, CompareJob(out=tmp_path))
    except FileNotFoundError as error:
        pytest.skip(str(error))
    assert all(check.passed for check in result.checks), [check for check in result.checks if not check.passed]
