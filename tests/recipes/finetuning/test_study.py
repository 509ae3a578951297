"""All runs of a comparison: what is picked, and what is kept on disk."""

import math
from dataclasses import replace
from pathlib import Path

import pytest

from linmap.errors import UsageError
from linmap.recipes.finetuning import study as study_module
from linmap.recipes.finetuning.experiments import Arm, Run, Task, execute
from linmap.recipes.finetuning.study import RunFiles, study
from recipes.finetuning.line import PLAIN, Line


def test_a_diverged_run_is_kept_as_such(tmp_path: Path) -> None:
    task = Line()
    run = execute(task, replace(PLAIN, penalty=lambda model: model.weight.sum() * math.nan), 0.3, 0, 20)  # pyright: ignore
    assert math.isnan(run.final)
    assert run.scores == {}
    files = RunFiles(tmp_path, task, resume=True)
    path = files.path(PLAIN, 0.3, 0, 20)
    files.save(path, run)
    loaded = files.load(path)
    assert loaded is not None
    assert math.isnan(loaded.final)
    assert loaded.losses == run.losses


def test_the_best_pilot_gives_the_learning_rate(tmp_path: Path) -> None:
    found = study(Line(), [PLAIN], (1e-4, 0.3), [0, 1, 2], tmp_path, resume=False)
    assert [run.lr for run in found.runs["plain"]] == [0.3] * 3
    assert [run.seed for run in found.runs["plain"]] == [0, 1, 2]
    assert [run.steps for run in found.pilots["plain"]] == [10, 10]
    assert found.pilots["plain"][0].final > found.pilots["plain"][1].final
    assert found.at_edge() == []  # two rates have no middle
    assert study(Line(), [PLAIN], (1e-4, 1e-3, 0.3), [0], tmp_path, resume=False).at_edge() == ["plain"]


def test_a_diverged_pilot_is_not_picked(tmp_path: Path) -> None:
    arm = replace(PLAIN, name="fragile")
    task = Line()
    files = RunFiles(tmp_path, task, resume=True)
    diverged = Run("fragile", 0.5, 0, 10, [1.0], [(10, math.nan)])
    files.save(files.path(arm, 0.5, 0, 10), diverged)
    found = study(task, [arm], (0.5, 0.1), [0], tmp_path, resume=True)
    assert found.runs["fragile"][0].lr == 0.1


def test_resume_takes_what_is_there_and_refuses_other_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = study(Line(), [PLAIN], (0.1, 0.3), [0], tmp_path, resume=False)
    trained: list[tuple[int, int]] = []
    original = study_module.execute

    def counted(task: Task, arm: Arm, lr: float, seed: int, steps: int) -> Run:
        trained.append((seed, steps))
        return original(task, arm, lr, seed, steps)

    monkeypatch.setattr(study_module, "execute", counted)
    after = study(Line(), [PLAIN], (0.1, 0.3), [0, 1], tmp_path, resume=True)
    assert trained == [(1, 20)]
    assert after.runs["plain"][0] == before.runs["plain"][0]
    with pytest.raises(UsageError, match=r"noise = 0\.0, now it is 1\.0"):
        study(Line(1.0), [PLAIN], (0.1, 0.3), [0], tmp_path, resume=True)
    study(Line(), [PLAIN], (0.3,), [0], tmp_path, resume=False)
    assert trained == [(1, 20), (0, 20)]  # without resume nothing is taken from before
    assert after.runs["plain"][1] == study(Line(), [PLAIN], (0.1, 0.3), [0, 1], tmp_path, resume=True).runs["plain"][1]


def test_a_pilot_as_long_as_a_run_is_the_run_of_the_first_seed(tmp_path: Path) -> None:
    task = Line()
    task.pilot_steps = task.steps
    found = study(task, [PLAIN], (0.1, 0.3), [0, 1], tmp_path, resume=False)
    assert found.runs["plain"][0] is not None
    assert found.runs["plain"][0] == found.pilots["plain"][1]
    assert len(list(tmp_path.glob("*.json"))) == 3
