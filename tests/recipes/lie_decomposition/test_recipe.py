"""The recipe on small pictures of bars and rings: from files to classes, comparisons, and what goes wrong."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from linmap.data.image_sets import embedded_digits, image_set_of
from linmap.errors import ArgumentError, ArtifactError, DataError, UsageError
from linmap.experiment.result import Result
from linmap.recipes.job import CompareJob, FitJob, FittedJob
from linmap.recipes.lie_decomposition import images, making
from linmap.recipes.lie_decomposition.apply import apply
from linmap.recipes.lie_decomposition.compare import AUGMENTED, CLEAN, CNN, POSED, WARPED, compare, group_options
from linmap.recipes.lie_decomposition.fit import fit
from linmap.recipes.lie_decomposition.flags import Apply, Compare, Fit
from linmap.recipes.lie_decomposition.images import Canvas
from linmap.recipes.lie_decomposition.making import NAMES, trained_plain
from linmap.recipes.lie_decomposition.pictures import errors_along, orbits
from linmap.recipes.lie_decomposition.plain import PlainResNet, channels_of
from linmap.shapes.lie_decomposition import LieClassifier
from linmap.training import TrainingConfig

SMALL = {"channels": 4, "num_samples": 3, "hidden": 8, "head": 8, "batch_size": 8, "size": 14}
FAST = Fit(**SMALL, epochs=30, lr=1e-2)
QUICK = Compare(**SMALL, epochs=2)


def drawn(kind: str, seed: int, side: int = 20) -> np.ndarray:
    """A bar or a ring in 8 bits."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side] - (side - 1) / 2 + random.uniform(-1, 1, (2, 1, 1))
    bar = (np.abs(x) < 2) & (np.abs(y) < 7)
    ring = np.abs(np.hypot(x, y) - 6) < 1.5
    return (255 * (bar if kind == "bar" else ring)).astype(np.uint8)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for kind in ("bar", "ring"):
        (tmp_path / "shapes" / kind).mkdir(parents=True)
        for seed in range(12):
            Image.fromarray(drawn(kind, seed)).save(tmp_path / "shapes" / kind / f"{seed}.png")
    return tmp_path / "shapes"


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    found = np.stack([drawn(kind, seed) for kind in ("bar", "ring") for seed in range(12)])
    np.savez(tmp_path / "shapes.npz", images=found, labels=np.repeat(["bar", "ring"], 12))
    return tmp_path / "shapes.npz"


def test_what_is_fitted_to_a_folder_tells_its_shapes_apart(folder: Path, archive: Path, tmp_path: Path) -> None:
    run, out = tmp_path / "run", tmp_path / "classes.csv"
    summary = fit(FAST, FitJob(folder, run))
    assert (summary["images"], summary["held_out"], summary["classes"]) == (20, 4, 2)
    assert "notes" not in summary, summary["notes"]
    for name in ("loss.svg", "confusion.svg", "kernels.svg", "orbit.svg"):
        assert (run / name).read_text().startswith("<?xml")
    assert apply(Apply(), FittedJob(folder, out, artifact=run))["accuracy"] > 0.8
    table = pd.read_csv(out)
    assert list(table) == ["image", "class", "p(bar)", "p(ring)"]
    assert table["image"].tolist()[0] == "bar/0.png"
    np.testing.assert_allclose(table[["p(bar)", "p(ring)"]].sum(axis=1), 1, atol=1e-6)
    of_archive = apply(Apply(), FittedJob(archive, tmp_path / "again.csv", artifact=run))
    assert of_archive["accuracy"] == summary_accuracy(table)
    classifier = LieClassifier.load(run)
    assert classifier.predict(images.saved(run)[0].seen(torch.zeros(1, 1, 28, 28))).shape == (1,)


def summary_accuracy(table: pd.DataFrame) -> float:
    return round(float((table["image"].str.partition("/")[0] == table["class"]).mean()), 4)


@pytest.mark.slow  # test_classifier.py resumes by default
def test_a_run_goes_on_where_it_was_stopped(archive: Path, tmp_path: Path) -> None:
    settings = replace(FAST, epochs=2)
    whole = fit(settings, FitJob(archive, tmp_path / "whole"))
    again = fit(settings, FitJob(archive, tmp_path / "whole", resume=True))
    assert again | {"seconds": 0} == whole | {"seconds": 0}


def test_compare_has_every_method_and_goes_on(archive: Path, tmp_path: Path) -> None:
    job = CompareJob(archive, tmp_path / "compare")
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    result = compare(QUICK, job)
    result.save(job.out)
    assert Result.load(job.out).rows == result.rows
    assert [(row.name, row.kind) for row in result.rows] == [
        (NAMES["sl2"], "system"),
        (NAMES["so2"], "ablation"),
        (CNN, "baseline"),
        (AUGMENTED, "baseline"),
        (POSED, "baseline"),
    ]
    assert {metric.name for metric in result.metrics} == {WARPED.name, CLEAN.name}
    assert all(len(values) == 4 for values in result.pairs.values())
    assert {len(row) for row in result.tables[0].rows} == {8}
    assert "images" in result.verdict
    for picture in result.pictures:
        assert (job.out / picture.file).read_text().startswith("<?xml")
    kept = {path: path.stat().st_mtime_ns for path in (job.out / "runs").glob("*.json")}
    assert len(kept) == 5
    more = compare(replace(QUICK, seeds=1), replace(job, resume=True))
    assert more.rows == result.rows
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert torch.equal(state, torch.get_rng_state())
    assert threads == torch.get_num_threads()


def test_images_lie_in_the_middle_of_their_canvas_and_the_edge_goes_on() -> None:
    canvas = Canvas(size=20, margin=0.2, grey=True)
    assert (canvas.side, canvas.inner) == (40, 28)
    digits = embedded_digits("test").subset([0, 1])
    laid = canvas.laid(digits)
    assert laid.shape == (2, 1, 40, 40)
    np.testing.assert_allclose(laid[1, 0, 6:34, 6:34], digits[1][..., 0] / 255, atol=1e-6)
    seen = canvas.seen(laid)
    assert seen.shape == (2, 1, 20, 20)
    torch.testing.assert_close(seen[0, 0, 5, 7], 2 * laid[0, 0, 10:12, 14:16].mean() - 1)
    white = image_set_of(np.full((1, 9, 9), 255, np.uint8))
    assert bool((canvas.laid(white) == 1).all())


def test_errors_along_orbits_are_zero_at_the_identity_and_for_what_is_invariant() -> None:
    x = torch.rand(3, 1, 14, 14, generator=torch.Generator().manual_seed(0))
    net = PlainResNet(1, 2, 4, head=8).eval()
    for places, elements in orbits().values():
        found = errors_along(net, x, elements)
        assert len(found) == len(places)
        assert found[int(np.abs(places).argmin())] < 1e-5
        assert max(found) > 0.01
        assert max(errors_along(lambda images: torch.ones(len(images), 2), x, elements)) == 0


def test_a_plain_network_of_a_given_size_is_the_nearest_one() -> None:
    def size(channels: int) -> int:
        return sum(p.numel() for p in PlainResNet(1, 10, channels, head=128).parameters())

    found = channels_of(80_650, 1, 10, 5, 128)
    assert abs(size(found) - 80_650) == min(abs(size(c) - 80_650) for c in range(1, 100))


def test_the_networks_without_a_group_follow_the_flags(archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Topology, decay and schedule are those of the group network."""
    seen: list[TrainingConfig] = []
    monkeypatch.setattr(making, "train", lambda *_, config, **__: seen.append(config))
    settings = replace(QUICK, kernel_size=3, size=8, early_pool=False, weight_decay=0.5)
    options = group_options(settings)
    data = images.load(archive, 8, 0.2, 0.2, 0, None)
    model, _ = trained_plain(data, options, 4, 0, None, None)
    assert model.conv3.kernel_size == (3, 3)
    assert not model.early_pool
    assert seen == [LieClassifier(**options).training_config(len(data.x))]
    assert seen[0].weight_decay == 0.5


def test_wrong_use_is_named(archive: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    fit(replace(FAST, epochs=1), FitJob(archive, run))
    with pytest.raises(UsageError, match=r"written as \.csv or \.parquet"):
        apply(Apply(), FittedJob(archive, tmp_path / "p.txt", artifact=run))
    about = json.loads((run / "images.json").read_text())
    (run / "images.json").write_text(json.dumps(about | {"classes": ["bar"]}))
    with pytest.raises(ArtifactError, match="names 1 classes, and the network has 2"):
        apply(Apply(), FittedJob(archive, artifact=run))
    (run / "images.json").write_text("[]")
    with pytest.raises(ArtifactError, match="cannot be read"):
        apply(Apply(), FittedJob(archive, artifact=run))
    for change, message in (
        ({"size": 13}, "size=13 must be at least 14"),
        ({"margin": -1.0}, r"margin=-1\.0"),
        ({"held_out": 1.0}, r"held_out=1\.0"),
        ({"seeds": 0}, "seeds=0"),
        ({"scale": 0.5}, r"scale=0\.5"),
        ({"rotation": -1.0}, r"rotation=-1\.0"),
    ):
        with pytest.raises(ArgumentError, match=message):
            replace(QUICK, **change)


def test_data_that_cannot_be_used_are_explained(archive: Path, tmp_path: Path) -> None:
    with np.load(archive) as arrays:
        found = arrays["images"]
    np.savez(tmp_path / "one.npz", images=found, labels=np.zeros(24, int))
    np.savez(tmp_path / "few.npz", images=found, labels=[0] * 22 + [1] * 2)
    for name, message in (("one", "all images are of one class, '0'"), ("few", "class '1' has 2 images; at least 4")):
        with pytest.raises(DataError, match=message):
            fit(FAST, FitJob(tmp_path / f"{name}.npz", tmp_path / "run"))
    with pytest.raises(DataError, match="has none of the images=1 to train on"):
        compare(replace(QUICK, images=1), CompareJob(archive, tmp_path / "compare"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["fit", "lie_decomposition", "--data", "none.npz"], "no such file"),
        (["fit", "lie_decomposition", "--group", "sl3"], "sl3"),
        (["fit", "lie_decomposition", "--size", "8"], "--size 8 must be at least 14"),
        (["compare", "lie_decomposition", "--data", "none"], "no such file"),
        (["compare", "lie_decomposition", "--shift", "-1"], "--shift -1"),
    ],
)
def test_bad_commands_are_one_line(
    check_wrong_use: Callable[[Path, list[str], str], None], tmp_path: Path, words: list[str], message: str
) -> None:
    check_wrong_use(tmp_path, words, message)
