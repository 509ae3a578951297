"""The comparison: equal budgets, nothing chosen on the test images, finished runs reused, the same for own images."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from linmap.data.masks import MaskedImages
from linmap.errors import ArgumentError
from linmap.experiment import Result, Trial
from linmap.recipes.job import CompareJob
from linmap.recipes.salt import compare as module
from linmap.recipes.salt.compare import CHOOSING, DICE, Images, adapter_parameters, arms_of, compare, train_arm
from linmap.recipes.salt.fit import Adapt, load
from linmap.recipes.salt.flags import CompareImages

TINY = CompareImages(size=32, epochs=1, images=(4, 6), seeds=2, rates=(1e-3, 1e-2))


def adapted(arm) -> Adapt | None:
    return arm.run.args[2]


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    """Sixteen images with a bright square."""
    random, masks = np.random.default_rng(0), np.zeros((16, 40, 40), np.uint8)
    for mask in masks:
        row, column = random.integers(0, 20, 2)
        mask[row : row + 20, column : column + 20] = 1
    np.savez(tmp_path / "scans.npz", image=random.integers(0, 80, masks.shape) + 100 * masks, mask=masks)
    return tmp_path / "scans.npz"


def test_no_adapter_has_more_parameters_than_lora() -> None:
    arms = {arm.name: arm for arm in arms_of(TINY)}
    lora, salt = (adapter_parameters(adapted(arms[name])) for name in ("LoRA", "SALT"))
    assert 0.8 * lora < salt <= lora
    assert adapter_parameters(adapted(arms["scale and shift"])) < salt
    assert adapter_parameters(adapted(arms["decoder only"])) == 0
    assert adapter_parameters(adapted(arms["full tuning"])) > 3_000_000


def test_rates_are_chosen_on_training_images(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    seen: list[tuple[str, ...]] = []

    def measured(model: object, data: MaskedImages) -> dict[str, list[float]]:
        seen.append(data.names)
        return {"dice": [0.5] * len(data), "hd95": [0.0] * len(data)}

    monkeypatch.setattr(module, "measure", measured)
    monkeypatch.setattr(module, "train_segmenter", lambda model, data, *_, **__: seen.append(data.names))
    data = load(None, 32, None)
    task = Images(data[:20], data[20:30], 16)
    found = train_arm(TINY, "LoRA", None, Trial(task, 0, 1e-3, True, tmp_path))
    assert seen == [data.names[:14], data.names[14:20]]  # the last 30 % of the training images choose
    assert set(found.values) == {CHOOSING}
    seen.clear()
    found = train_arm(TINY, "LoRA", None, Trial(task, 0, 1e-3, False, tmp_path))
    assert seen == [data.names[:16], data.names[20:30]]
    assert found.values[DICE] == 0.5


def test_own_images_are_compared_and_a_finished_comparison_runs_nothing_again(
    scans: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = replace(TINY, rates=(1e-2,), images=(4,), seeds=1)
    job = CompareJob(data=scans, out=tmp_path / "out")
    result = compare(settings, job)
    result.save(job.out)
    assert Result.load(job.out).rows[0].name == "SALT"
    assert {row.name: row.kind for row in result.rows} == {
        "SALT": "system",
        "decoder only": "baseline",
        "LoRA": "baseline",
        "full tuning": "baseline",
        "scale and shift": "baseline",
    }
    assert all(len(row.values["Dice, 4 images"]) == 1 for row in result.rows)
    assert "of 4 images" in result.verdict
    assert all((job.out / picture.file).exists() for picture in result.pictures)
    trained: list[int] = []
    monkeypatch.setattr(module, "train_segmenter", lambda *_, **__: trained.append(1))
    again = compare(settings, replace(job, resume=True))
    assert not trained
    assert [row.values for row in again.rows] == [row.values for row in result.rows]
    with np.load(scans) as arrays:
        np.savez(scans, image=arrays["image"], mask=arrays["mask"][:, ::-1])
    compare(settings, replace(job, resume=True))
    assert len(trained) == 5  # another file: every arm anew
    with pytest.raises(ArgumentError, match="there are 12 training images; choose at most as many"):
        compare(replace(settings, images=(13,)), job)


@pytest.mark.slow
def test_the_embedded_comparison_from_end_to_end(tmp_path: Path) -> None:
    result = compare(TINY, CompareJob(out=tmp_path))
    assert [metric.name for metric in result.metrics] == [
        "Dice, 4 images",
        "HD95, 4 images",
        "Dice, 6 images",
        "HD95, 6 images",
    ]
    assert [len(row) for row in result.tables[0].rows] == [3] * 4
