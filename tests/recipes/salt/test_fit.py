"""Fit, apply and the segmenter they stand on."""

import json
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from linmap.adapt import SaltConv2d
from linmap.adapt.segmentation import Segmenter, load_segmenter, probabilities
from linmap.data.pretrained import efficientnet_lite0
from linmap.errors import ArtifactError, UsageError
from linmap.recipes.job import FitJob, FittedJob
from linmap.recipes.salt.apply import apply
from linmap.recipes.salt.fit import adapt, build, fit, load, trained_parameters
from linmap.recipes.salt.flags import CompareImages, FitImages, Segmenting

SETTINGS = FitImages(size=32, epochs=2, r=2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Six scans with a bright square, which is what is to be found."""
    path = tmp_path_factory.mktemp("scans")
    random = np.random.default_rng(0)
    for part in ("images", "masks"):
        (path / part).mkdir()
    for i in range(6):
        mask = np.zeros((40, 50), np.uint8)
        row, column = random.integers(0, 20, 2)
        mask[row : row + 20, column : column + 20] = 255
        Image.fromarray((random.integers(0, 80, mask.shape) + mask // 2).astype(np.uint8)).save(
            path / f"images/{i}.png"
        )
        Image.fromarray(mask).save(path / f"masks/{i}.png")
    return path


@pytest.fixture(scope="module")
def fitted(folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("run")
    return out, fit(SETTINGS, FitJob(data=folder, out=out))


def test_the_encoder_is_efficientnet_as_it_comes():
    model, images = Segmenter().eval(), torch.rand(2, 1, 64, 64)
    seen = []
    model.encoder._conv_head.register_forward_hook(lambda module, inputs, output: seen.append(output))
    with torch.no_grad():
        model(images)
        original: Any = efficientnet_lite0()
        expected = original.extract_features(((255 * images - 127) / 128).expand(-1, 3, -1, -1))
    torch.testing.assert_close(model.encoder._swish(model.encoder._bn1(seen[0])), expected)
    assert sum(p.numel() for p in model.decoder.parameters()) == 50761


def test_salt_adapts_the_pointwise_convolutions_and_nothing_else():
    model = build(partial(adapt, ratio=0.1, r=2), seed=0)
    layers = {name: m for name, m in model.named_modules() if isinstance(m, SaltConv2d)}
    assert len(layers) == 32
    assert {layer.base_layer.kernel_size for layer in layers.values()} == {(1, 1)}
    encoder, _ = model.trainable()
    assert sum(p.numel() for p in encoder) == sum(
        p.numel() for layer in layers.values() for p in layer.adapters.parameters()
    )
    norms = build(partial(adapt, ratio=0.1, r=2, train_norms=True), seed=0)
    weights = sum(m.weight.numel() for m in Segmenter().encoder.modules() if isinstance(m, nn.BatchNorm2d))
    assert trained_parameters(norms) == trained_parameters(model) + 2 * weights


def test_running_statistics_stay():
    model = build(partial(adapt, train_norms=True), seed=0).train()
    before = {name: value.clone() for name, value in model.state_dict().items() if "running" in name}
    model(torch.rand(2, 1, 32, 32))
    state = model.state_dict()
    assert len(before) > 90
    assert all(torch.equal(state[name], value) for name, value in before.items())


def test_fit_learns_and_says_what_it_did(fitted, folder):
    out, summary = fitted
    assert summary["images"] == 6
    assert summary["epochs"] == 2
    assert 0 < summary["validation_dice"] <= 1
    config = json.loads((out / "config.json").read_text())
    assert (config["system"], config["config"]["task"], config["config"]["size"]) == ("salt", "segmentation", 32)


def test_what_was_fitted_loads_and_gives_the_same_masks(fitted, tmp_path):
    out, _ = fitted
    model, _ = load_segmenter(out)
    again, _ = load_segmenter(out)
    images = torch.rand(2, 1, 32, 32)
    torch.testing.assert_close(probabilities(model, images), probabilities(again, images), rtol=0, atol=0)
    untrained = build(partial(adapt, ratio=0.1, r=2, train_norms=True), seed=0)
    assert not torch.allclose(probabilities(untrained, images), probabilities(model, images))


def test_apply_writes_masks_at_the_size_of_the_images(fitted, folder, tmp_path):
    out, _ = fitted
    summary = apply(Segmenting(), FittedJob(artifact=out, data=folder, out=tmp_path / "found"))
    assert summary["images"] == 6
    masks = [np.asarray(Image.open(tmp_path / f"found/{i}.png")) for i in range(6)]
    assert {mask.shape for mask in masks} == {(40, 50)}
    assert set(np.unique(masks)) <= {0, 255}
    assert not list((tmp_path / "found").glob("*partial*"))


def test_a_finished_fit_resumes_to_the_same_weights(fitted, folder, tmp_path):
    out, _ = fitted
    before = (out / "model.safetensors").read_bytes()
    fit(SETTINGS, FitJob(data=folder, out=out, resume=True))
    assert (out / "model.safetensors").read_bytes() == before


def test_wrong_use_is_refused(fitted, tmp_path):
    out, _ = fitted
    with pytest.raises(UsageError, match="masks are written into a folder"):
        apply(Segmenting(), FittedJob(artifact=out, out=tmp_path / "masks.png"))
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    (damaged / "model.safetensors").write_bytes((out / "model.safetensors").read_bytes())
    config = json.loads((out / "config.json").read_text())
    config["config"]["r"] = 3
    (damaged / "config.json").write_text(json.dumps(config))
    with pytest.raises(ArtifactError, match="damaged"):
        load_segmenter(damaged)


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        (FitImages, {"size": 100}, "size=100 must be a multiple of 32"),
        (FitImages, {"validation": 1.0}, "validation=1.0 must lie between 0 and 1"),
        (CompareImages, {"images": (2,)}, "at least 4 are needed"),
        (CompareImages, {"rates": ()}, r"rates=\(\): expected positive numbers"),
        (FitImages, {"adapter_lr": 0.0}, "adapter_lr=0.0 must be positive"),
        (FitImages, {"lr": 0.0}, "lr=0.0 must be positive"),
        (FitImages, {"weight_decay": -1.0}, "weight_decay=-1.0 must not be negative"),
        (CompareImages, {"seeds": 0}, "seeds=0 must be at least 1"),
        (FitImages, {"regularization": -1.0}, "must not be negative"),
    ],
)
def test_settings_out_of_range_are_refused(kind, options, message):
    with pytest.raises(ValueError, match=message):
        kind(**options).training(0)


def test_the_label_that_was_asked_for_is_the_one_that_is_found():
    """0 too, which is false in Python."""
    masks = {label: load(None, 32, label).masks for label in (None, 0, 1, 2)}
    assert torch.equal(masks[None], masks[2])
    everything = masks[0] + masks[1] + masks[2]
    assert torch.equal(everything, torch.ones_like(everything))
