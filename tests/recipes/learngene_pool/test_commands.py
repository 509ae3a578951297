"""Pools on images from the command line: fitted, resumed, applied; and what is refused."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from linmap.compress.learngene_pool import Descendant, LearngenePool
from linmap.errors import DataError, LinmapError, Stopped
from linmap.recipes.job import FitJob, FittedJob
from linmap.recipes.learngene_pool import making
from linmap.recipes.learngene_pool.apply import apply
from linmap.recipes.learngene_pool.fit import fit
from linmap.recipes.learngene_pool.flags import Apply, Fit
from recipes.learngene_pool.tiny import TINY, save_dinov2, write_archive


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_archive(tmp_path_factory.mktemp("data") / "images.npz")


@pytest.fixture(scope="module")
def pool(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("pool")
    fit(Fit(**TINY), FitJob(data, out))
    return out


def test_a_fitted_folder_holds_pool_table_and_picture(data: Path, pool: Path, tmp_path: Path) -> None:
    summary = fit(Fit(**TINY), FitJob(data, tmp_path))
    assert (summary["images"], summary["held_out"], summary["classes"]) == (24, 6, 3)
    loaded = LearngenePool.load(tmp_path)
    assert summary["models"] == len(loaded.configs) == len(loaded.accuracy) == 6  # two auxiliaries, four stitched
    assert summary["stored_parameters"] == sum(p.numel() for p in loaded.parameters())
    table = (tmp_path / "descendants.csv").read_text().splitlines()
    assert table[0] == "id,params,macs,accuracy,blocks,frontier"
    assert [row.split(",")[4] for row in table[1:4]] == ["8:0-1", "12:0-1", "8:0-0 > 12:0-1"]
    assert (tmp_path / "descendants.svg").exists()
    again = LearngenePool.load(pool)  # the same data and seed
    assert all(torch.equal(a, b) for a, b in zip(loaded.parameters(), again.parameters(), strict=True))


@pytest.mark.parametrize(
    "at",
    [
        f"linmap.compress.learngene_pool.{step}"
        for step in ("pipeline.distilled", "pipeline.stitched", "pool.LearngenePool.fit")
    ],
)
def test_a_fit_goes_on_from_where_it_was_stopped(
    at: str, data: Path, pool: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: Any, **__: Any) -> None:
        raise Stopped("as Ctrl-C does")

    with monkeypatch.context() as patch:
        patch.setattr(at, stop)
        with pytest.raises(Stopped):
            fit(Fit(**TINY), FitJob(data, tmp_path))
    log = tmp_path / "training" / "ancestry" / "metrics.jsonl"
    before = log.read_text()
    fit(Fit(**TINY), FitJob(data, tmp_path, resume=True))
    one, other = LearngenePool.load(tmp_path), LearngenePool.load(pool)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))
    assert log.read_text() == before  # the ancestry model was read, not trained again


def test_a_model_for_a_budget_stands_alone(data: Path, pool: Path, tmp_path: Path) -> None:
    whole = LearngenePool.load(pool)
    budget = whole.cost(0).macs + 1
    summary = apply(Apply(max_macs=budget), FittedJob(data, tmp_path, artifact=pool))
    model = Descendant.load(tmp_path)
    assert summary["id"] == 0
    assert summary["parameters"] == sum(p.numel() for p in model.parameters())
    assert summary["macs"] <= budget
    x = torch.randn(2, 1, 14, 14)
    assert torch.equal(model(x), whole(x, config=0))
    assert (tmp_path / "classes.csv").read_text().splitlines()[0] == "image,class,probability"
    assert 0 <= summary["accuracy"] <= 1
    largest = apply(Apply(objective="macs"), FittedJob(None, tmp_path / "largest", artifact=pool))
    assert largest["macs"] == max(whole.cost(id).macs for id in range(6))
    quick = apply(Apply(max_latency_ms=1e4), FittedJob(None, tmp_path / "quick", artifact=pool))
    assert quick["held_out_accuracy"] == round(max(whole.accuracy.values()), 4)


def test_classes_that_the_pool_does_not_know_are_no_wrong_answers(pool: Path, tmp_path: Path) -> None:
    pixels = np.zeros((4, 14, 14), np.uint8)
    np.savez(tmp_path / "strange.npz", images=pixels, labels=np.array(["unheard of"] * 4))
    told = apply(Apply(id=3), FittedJob(tmp_path / "strange.npz", tmp_path / "out", artifact=pool))
    assert "accuracy" not in told
    assert "unheard of" in told["notes"][0]


def test_a_built_model_classifies_by_itself(data: Path, pool: Path, tmp_path: Path) -> None:
    model, table = tmp_path / "model", tmp_path / "classes.csv"
    of_pool = apply(Apply(id=3), FittedJob(data, model, artifact=pool))
    alone = apply(Apply(), FittedJob(data, table, artifact=model))
    assert alone["accuracy"] == of_pool["accuracy"]
    assert table.read_text() == (model / "classes.csv").read_text()
    for name, kept in (("macs", alone["macs"]), ("parameters", alone["parameters"])):
        assert of_pool[name] == kept
    with pytest.raises(LinmapError, match="--max-macs chooses from a pool"):
        apply(Apply(max_macs=1e9), FittedJob(data, table, artifact=model))
    with pytest.raises(LinmapError, match=r"written to a \.csv, a \.parquet or a folder"):
        apply(Apply(), FittedJob(data, tmp_path / "classes.txt", artifact=model))
    with pytest.raises(LinmapError, match="give it images: --data"):
        apply(Apply(), FittedJob(None, table, artifact=model))
    (model / "images.json").write_text((model / "images.json").read_text().replace('"0",', "", 1))
    with pytest.raises(LinmapError, match="names 2 classes, and the model has 3"):
        apply(Apply(), FittedJob(data, table, artifact=model))
    (model / "images.json").unlink()
    with pytest.raises(LinmapError, match=r"has no images\.json"):
        apply(Apply(), FittedJob(data, table, artifact=model))


@pytest.mark.slow
def test_onnx_gives_the_models_logits_for_any_number_of_images(pool: Path, tmp_path: Path) -> None:
    import onnxruntime

    apply(Apply(id=3, onnx=True), FittedJob(None, tmp_path, artifact=pool))
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    for n in (1, 5):
        x = torch.randn(n, 1, 14, 14)
        found = np.asarray(session.run(None, {"images": x.numpy()})[0])
        np.testing.assert_allclose(found, Descendant.load(tmp_path)(x).detach().numpy(), rtol=1e-4, atol=1e-5)


def test_class_folders_and_a_pretrained_model(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    for name, level in (("dark", 40), ("light", 200)):
        (tmp_path / "images" / name).mkdir(parents=True)
        for number in range(6):
            pixels = np.clip(random.normal(level, 20, (30, 40, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / "images" / name / f"{number}.png")
    model = save_dinov2(tmp_path / "model")
    settings = Fit(model=str(model), size=14, depth=1, epochs=1, tune_epochs=1)
    summary = fit(settings, FitJob(tmp_path / "images", tmp_path / "pool"))
    assert summary["classes"] == 2
    assert summary["ancestry_accuracy"] == 1.0  # a linear head tells dark from light
    pool = LearngenePool.load(tmp_path / "pool")
    assert [(m.embed_dim, m.num_heads) for m in pool.members] == [(6, 1), (12, 2), (24, 3)]
    answers = apply(Apply(), FittedJob(tmp_path / "images" / "dark", tmp_path / "one", artifact=tmp_path / "pool"))
    assert answers["images"] == 6
    assert json.loads((tmp_path / "one" / "images.json").read_text())["classes"] == ["dark", "light"]


def test_the_widest_auxiliary_starts_from_the_ancestrys_blocks(data: Path) -> None:
    from linmap.recipes.learngene_pool import images

    settings = Fit(**TINY)
    loaded = images.load(settings, data, 0)
    teacher = making.ancestry(settings, loaded, 0, None, False)
    found = making.shapes(settings, teacher)
    for from_teacher in (True, False):
        narrow, wide = found.members(teacher, 0, from_teacher)
        same = torch.equal(
            wide.get_parameter("blocks.1.mlp.fc1.weight"), teacher.get_parameter("blocks.3.mlp.fc1.weight")
        )
        assert same == from_teacher
        assert narrow.embed_dim == 8


def test_an_auxiliary_that_starts_from_blocks_has_its_own_rate(data: Path) -> None:
    for chosen, model, expected in ((None, None, 2e-3), (5e-5, None, 5e-5), (None, "dinov2-small", 1e-4)):
        settings = Fit(**{**TINY, "lr": 2e-3, "blocks_lr": chosen})
        teacher = making.ancestry(settings, images_of(settings, data), 0, None, False)
        sizes = making.shapes(settings, teacher)
        settings = replace(settings, model=model)
        assert [c.lr for c in sizes.distillation(settings, teacher, 24, 1, 0, True)] == [2e-3, expected]
        assert [c.lr for c in sizes.distillation(settings, teacher, 24, 1, 0, False)] == [2e-3, 2e-3]


def images_of(settings: Fit, data: Path) -> Any:
    from linmap.recipes.learngene_pool import images

    return images.load(settings, data, 0)


def test_a_grey_model_sees_the_brightness_of_coloured_images(pool: Path, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (14, 14, 3), dtype=np.uint8)
    luma = pixels @ np.array([0.299, 0.587, 0.114])
    np.savez(tmp_path / "colour.npz", images=pixels[None])
    np.savez(tmp_path / "grey.npz", images=np.round(luma).astype(np.uint8)[None])
    found = []
    for name in ("colour", "grey"):
        apply(Apply(id=5), FittedJob(tmp_path / f"{name}.npz", tmp_path / name, artifact=pool))
        found.append(float((tmp_path / name / "classes.csv").read_text().split(",")[-1]))
    assert found[0] == pytest.approx(found[1], abs=1e-3)  # half a grey level


def test_what_cannot_be_done_is_refused(data: Path, pool: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="size=14 must be a multiple of patch=5"):
        fit(Fit(**TINY | {"patch": 5}), FitJob(data, tmp_path / "a"))
    with pytest.raises(ValueError, match=r"widths=\(12, 8\) must go from narrow to wide"):
        Fit(widths=(12, 8))
    with pytest.raises(ValueError, match=r"heads=\(2,\) must name a number for each"):
        Fit(widths=(8, 12), heads=(2,))
    with pytest.raises(ValueError, match="heads=3 does not divide the width 8"):
        Fit(widths=(8, 12), heads=(3, 3))
    with pytest.raises(ValueError, match=r"the smallest has .* MACs"):
        apply(Apply(max_macs=10), FittedJob(None, tmp_path / "b", artifact=pool))
    with pytest.raises(LinmapError, match="is the pool itself"):
        apply(Apply(), FittedJob(None, pool, artifact=pool))
    with pytest.raises(LinmapError, match=r"the model is written into a folder"):
        apply(Apply(), FittedJob(None, tmp_path / "model.pt", artifact=pool))
    one = write_archive(tmp_path / "one.npz", classes=1)
    with pytest.raises(DataError, match="all images are of one class, '0'"):
        fit(Fit(**TINY), FitJob(one, tmp_path / "c"))
    broken = tmp_path / "broken"
    shutil.copytree(pool, broken)
    (broken / "images.json").write_text("{")
    with pytest.raises(LinmapError, match=r"images\.json cannot be read"):
        apply(Apply(), FittedJob(None, tmp_path / "d", artifact=broken))


def test_a_model_that_is_no_vision_transformer_is_named(data: Path, tmp_path: Path) -> None:
    from transformers import ResNetConfig, ResNetModel

    folder = save_dinov2(tmp_path / "model")
    ResNetModel(ResNetConfig(hidden_sizes=[8], depths=[1], embedding_size=8)).save_pretrained(folder)
    with pytest.raises(LinmapError, match="ResNetModel is neither a ViT nor a DINOv2"):
        fit(Fit(**TINY | {"model": str(folder)}), FitJob(data, tmp_path / "out"))
