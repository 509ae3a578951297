"""The comparison: equal budgets, nothing chosen on the test images, finished runs reused."""

from dataclasses import replace

import numpy as np
import pytest

from linmap.experiment.result import Result
from linmap.recipes.job import CompareJob
from linmap.recipes.segmentation import PRESETS, comparison
from linmap.recipes.segmentation.comparison import (
    Run,
    adapter_parameters,
    arms_of,
    best_rate,
    compare,
    interval,
    prepare,
)

TINY = replace(PRESETS["quick"], size=32, epochs=1, images=(4, 6), seeds=2, rates=(1e-3, 1e-2))


def test_no_adapter_has_more_parameters_than_lora():
    arms = {arm.name: arm for arm in arms_of(TINY)}
    lora = adapter_parameters(arms["LoRA"].adapt)
    salt = adapter_parameters(arms["SALT"].adapt)
    assert 0.8 * lora < salt <= lora
    assert adapter_parameters(arms["SALT, relu on the diagonal"].adapt) == salt
    assert adapter_parameters(arms["scale and shift"].adapt) < salt
    assert adapter_parameters(arms["decoder only"].adapt) == 0
    assert adapter_parameters(arms["full tuning"].adapt) > 3_000_000


def test_rates_are_chosen_on_training_images(monkeypatch, tmp_path):
    seen = []

    def fake_run(arm, task, n, seed, rate, settings, job, purpose="runs"):
        seen.append((n, len(task.train), task.test.names, purpose))
        return Run(dice=[rate], hd95=[0.0], losses=[], seconds=0, parameters=0, rate=rate)

    monkeypatch.setattr(comparison, "run", fake_run)
    job = CompareJob(out=tmp_path)
    task = prepare(TINY, job)
    lora = next(arm for arm in arms_of(TINY) if arm.name == "LoRA")
    assert best_rate(lora, task, TINY, job) == 1e-2
    assert seen == [(4, 4, task.train.names[-36:], "choosing")] * 2


def test_the_bootstrap_is_over_images():
    def with_dice(*values):
        return Run(dice=list(values), hd95=[], losses=[], seconds=0, parameters=0, rate=0)

    mean, low, high = interval([with_dice(0.6, 0.8), with_dice(0.8, 0.8)], [with_dice(0.5, 0.5)])
    assert (mean, low, high) == pytest.approx((0.25, 0.2, 0.3))
    random = np.random.default_rng(1)
    gaps = random.normal(0.1, 0.2, 200)
    mean, low, high = interval([with_dice(*gaps)], [with_dice(*np.zeros(200))])
    assert high - low == pytest.approx(2 * 1.96 * gaps.std() / np.sqrt(200), rel=0.15)


@pytest.mark.slow
def test_a_comparison_from_end_to_end(tmp_path, monkeypatch):
    job = CompareJob(out=tmp_path)
    result = compare(TINY, job)
    result.save(tmp_path)
    assert Result.load(tmp_path).rows[0].name == "SALT"
    assert len(result.rows) == 6
    assert all(len(row.values["Dice, 6 images"]) == 2 for row in result.rows)
    assert all((tmp_path / picture.file).exists() for picture in result.pictures)
    calls = []
    original = comparison.train_segmenter
    monkeypatch.setattr(comparison, "train_segmenter", lambda *a, **o: calls.append(1) or original(*a, **o))
    again = compare(TINY, replace(job, resume=True))
    assert not calls
    assert [row.values for row in again.rows] == [row.values for row in result.rows]
    compare(replace(TINY, epochs=2), replace(job, resume=True))
    assert calls  # other settings, other runs
