"""Every finished run is kept, and taken again only where nothing that it depends on has changed."""

import math
import os
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import fresh
from faults.every_change import killed_at_every_change
from fresh import Fresh
from linmap.errors import Stopped
from linmap.experiment import Arm, Choice, Experiment, Metric, Outcome, Part, Trial, fingerprint, untouched

ERROR = [Metric("error")]


class Counted:
    """An arm's function that counts what it is asked for."""

    def __init__(self, error: Callable[[Trial], float] = lambda trial: trial.data + trial.seed) -> None:
        self.trials: list[Trial] = []
        self.error = error

    def __call__(self, trial: Trial) -> Outcome:
        self.trials.append(trial)
        return Outcome({"error": self.error(trial)}, parameters=3, details={"curve": [1.0, math.nan]})


def run(
    folder: Path,
    arms: list[Arm],
    resume: bool = False,
    seeds: int = 2,
    said: list[str] | None = None,
    choice: Choice | None = None,
    **settings: object,
):
    said = [] if said is None else said
    experiment = Experiment("trial", folder, settings, resume, said.append)
    return experiment.run(arms, [Part("a", 0.0), Part("b", 10.0)], range(seeds), choice)


def test_each_arm_meets_each_part_with_each_seed(tmp_path: Path) -> None:
    work = Counted()
    found = run(tmp_path, [Arm("ours", "system", work), Arm("fixed", "baseline", work, seeded=False)])
    assert [(t.data, t.seed) for t in work.trials] == [(0, 0), (0, 1), (0, 0), (10, 0), (10, 1), (10, 0)]
    assert found.values("ours", "error") == [0, 1, 10, 11]
    assert found.values("ours", "error", "b") == [10, 11]
    assert found.mean("fixed", "error") == 5
    rows = found.rows({"error a": ("error", "a"), "error": ("error", None)})
    assert [row.name for row in rows] == ["ours", "fixed"]
    assert rows[0].values == {"error a": [0, 1], "error": [0, 1, 10, 11]}
    assert rows[0].parameters == 3


def test_a_resumed_experiment_runs_only_what_is_missing(tmp_path: Path) -> None:
    first, second, third = Counted(), Counted(), Counted()
    before = run(tmp_path, [Arm("ours", "system", first)], epochs=3)
    after = run(tmp_path, [Arm("ours", "system", second)], resume=True, seeds=3, epochs=3)
    assert [(t.data, t.seed) for t in second.trials] == [(0, 2), (10, 2)]
    assert after.values("ours", "error") == [0, 1, 2, 10, 11, 12]
    assert before.runs["ours", "a"] == after.runs["ours", "a"][:2]
    run(tmp_path, [Arm("ours", "system", third)], epochs=3)
    assert len(third.trials) == 4, "without resume, nothing of before is taken"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"settings": {"epochs": 4}}, "epochs was 3, now 4"),
        ({"arm": {"rank": 2}}, "rank was None, now 2"),
        ({"settings": {"epochs": 3, "fingerprint": "0" * 64}}, "fingerprint has other content"),
        ({"settings": {"epochs": 3, "files": {"data": "f" * 64}}}, "data has other content"),
    ],
)
def test_what_has_changed_is_measured_again_and_said(change: dict, words: str, tmp_path: Path) -> None:
    run(tmp_path, [Arm("ours", "system", Counted())], epochs=3)
    said: list[str] = []
    work = Counted()
    run(
        tmp_path,
        [Arm("ours", "system", work, change.get("arm", {}))],
        True,
        2,
        said,
        **change.get("settings", {"epochs": 3}),
    )
    assert len(work.trials) == 4
    assert [line for line in said if "again" in line] == [f"trial: measured again, for {words}"]


def test_a_changed_file_has_another_fingerprint_and_a_moved_one_the_same(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("1,2")
    (tmp_path / "b.csv").write_text("1,3")
    (tmp_path / "c.csv").write_text("1,2")
    a, b, c = (fingerprint(tmp_path / name) for name in ("a.csv", "b.csv", "c.csv"))
    assert a == c != b
    whole = fingerprint(tmp_path)
    (tmp_path / "c.csv").rename(tmp_path / "d.csv")
    assert fingerprint(tmp_path) != whole
    assert fingerprint(None) is None


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"key": 1}', '{"key": {}, "run": {}}'])
def test_half_a_file_of_a_run_is_no_run(damage: str, tmp_path: Path) -> None:
    run(tmp_path, [Arm("ours", "system", Counted())])
    for path in tmp_path.glob("*.json"):
        path.write_text(damage)
    work = Counted()
    run(tmp_path, [Arm("ours", "system", work)], resume=True)
    assert len(work.trials) == 4


def test_a_run_whose_values_have_changed_on_the_disk_is_measured_again(tmp_path: Path) -> None:
    run(tmp_path, [Arm("ours", "system", Counted(lambda trial: 0.25))])
    for path in tmp_path.glob("*.json"):
        assert "0.25" in path.read_text()
        path.write_text(path.read_text().replace("0.25", "0.35"))
    work = Counted(lambda trial: 0.25)
    again = run(tmp_path, [Arm("ours", "system", work)], resume=True)
    assert len(work.trials) == 4
    assert set(again.values("ours", "error")) == {0.25}


def test_values_that_are_not_finite_come_back_as_they_are(tmp_path: Path) -> None:
    values = iter([math.nan, math.inf, -math.inf, 0.1 + 0.2])
    run(tmp_path, [Arm("ours", "system", Counted(lambda trial: next(values)))])
    again = run(tmp_path, [Arm("ours", "system", Counted())], resume=True).values("ours", "error")
    assert math.isnan(again[0])
    assert again[1:] == [math.inf, -math.inf, 0.1 + 0.2]


@pytest.mark.parametrize("better", ["lower", "higher"])
@pytest.mark.parametrize("pilots", [True, False])
def test_the_best_rate_is_chosen_for_each_part_and_lent_to_others(better: str, pilots: bool, tmp_path: Path) -> None:
    sign = 1 if better == "lower" else -1
    work = Counted(lambda t: math.nan if t.rate == 3 else sign * abs((t.rate or 0) - (1 if t.data == 0 else 2)))
    arms = [
        Arm("ours", "system", work, rates=(0.0, 1.0, 2.0, 3.0)),
        Arm("other", "ablation", work, rate_of="ours", rate_name="power"),
    ]
    found = run(tmp_path, arms, choice=Choice("error", better, pilots))
    assert [[r.rate for r in found.of(arm, p)] for arm in ("ours", "other") for p in "ab"] == [[1, 1], [2, 2]] * 2
    assert {t.choosing for t in work.trials} == ({True, False} if pilots else {False})
    assert len(work.trials) == (2 * (4 + 2 + 2) if pilots else 2 * (4 + 1 + 2))
    assert found.at_edge() == []
    assert [row.note for row in found.rows(ERROR)] == ["rate 1, 2", "power 1, 2"]
    edged = run(tmp_path / "edge", [Arm("ours", "system", work, rates=(1.5, 2.0, 2.5))], choice=Choice("error", better))
    assert edged.at_edge() == ["ours"]


def test_an_arm_with_several_rates_needs_a_way_to_choose(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="ours has several rates"):
        run(tmp_path, [Arm("ours", "system", Counted(), rates=(1.0, 2.0))])


def test_ctrl_c_says_what_is_kept_and_the_rest_follows(tmp_path: Path) -> None:
    def interrupted(trial: Trial) -> float:
        if trial.data == 10:
            raise KeyboardInterrupt
        return 0.5

    with pytest.raises(Stopped, match="2 runs are done and kept, of 4"):
        run(tmp_path, [Arm("ours", "system", Counted(interrupted))])
    work = Counted()
    run(tmp_path, [Arm("ours", "system", work)], resume=True)
    assert [t.data for t in work.trials] == [10, 10]


KILLED = """
import sys, os, signal
from pathlib import Path
from linmap.experiment import *
def work(trial):
    if (trial.data, trial.seed) == (10.0, 1) and sys.argv[2] == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    with open(sys.argv[1] + "/log", "a") as log: log.write("x")
    return Outcome({"error": trial.data + trial.seed / 3})
experiment = Experiment("trial", Path(sys.argv[1]) / "runs", {}, sys.argv[2] == "resume")
runs = experiment.run([Arm("ours", "system", work)], [Part("a", 0.0), Part("b", 10.0)], range(3))
print(runs.values("ours", "error"))
"""


def test_a_killed_experiment_goes_on_to_the_same_result(tmp_path: Path) -> None:
    for folder in ("killed", "whole"):
        (tmp_path / folder).mkdir()
    assert Fresh(KILLED, str(tmp_path / "killed"), "die").wait() == -signal.SIGKILL
    resumed = fresh.run(KILLED, str(tmp_path / "killed"), "resume")
    assert resumed == fresh.run(KILLED, str(tmp_path / "whole"), "once") != ""
    assert (tmp_path / "killed/log").read_text() == "x" * 6


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on Windows")
def test_killed_before_any_change_of_the_disk_it_leaves_nothing_but_its_runs(tmp_path: Path, monkeypatch) -> None:
    def trained(trial: Trial) -> float:
        trial.folder.mkdir(parents=True, exist_ok=True)
        (trial.folder / "checkpoint").touch()
        return 0.5

    def call(place: Path, resume: bool = False) -> None:
        run(place / "runs", [Arm("ours", "system", Counted(trained))], resume, seeds=1)

    monkeypatch.setattr(os, "fsync", lambda file: None)
    call(tmp_path)
    whole = sorted(path.name for path in (tmp_path / "runs").iterdir())
    for place in killed_at_every_change(call, tmp_path):
        call(place, resume=True)
        assert sorted(path.name for path in (place / "runs").iterdir()) == whole


def global_state() -> tuple:
    return torch.get_num_threads(), torch.get_default_dtype(), torch.get_rng_state().tolist(), np.random.random()  # noqa: NPY002


def test_global_state_is_as_before_after_work_that_changes_it() -> None:
    np.random.seed(3)  # noqa: NPY002
    before = global_state()
    np.random.seed(3)  # noqa: NPY002

    def work() -> None:
        with untouched():
            torch.set_num_threads(before[0] + 1)
            torch.set_default_dtype(torch.float64)
            torch.manual_seed(1)
            np.random.seed(2)  # noqa: NPY002
            raise RuntimeError("boom")

    with pytest.raises(RuntimeError, match="boom"):
        work()
    assert global_state() == before


def test_a_folder_for_checkpoints_goes_with_the_run(tmp_path: Path) -> None:
    seen = []

    def work(trial: Trial) -> Outcome:
        trial.folder.mkdir(parents=True)
        (trial.folder / "checkpoint").touch()
        seen.append(trial.folder)
        return Outcome({"error": 0.0})

    run(tmp_path, [Arm("ours", "system", work)])
    assert len(set(seen)) == 4
    assert not any(folder.exists() for folder in seen)


def test_runs_of_one_seed_are_paired(tmp_path: Path) -> None:
    ours, theirs = Counted(lambda t: t.data + t.seed), Counted(lambda t: t.data + t.seed + 0.5 + 0.1 * t.seed)
    found = run(tmp_path, [Arm("ours", "system", ours), Arm("theirs", "baseline", theirs)])
    gap = found.difference("theirs", "ours", "error")
    assert gap.mean == pytest.approx(0.55)
    assert (gap.n, gap.wins, gap.certain) == (4, 4, True)
    assert found.differ("theirs", "ours", "error")
    assert not found.differ("theirs", "ours", "error", times=1.3)
    assert found.best(["ours", "theirs"], "error", "lower") == "ours"
    assert found.best(["ours", "theirs"], "error", "higher") == "theirs"
    assert os.path.isdir(tmp_path)
