"""A segmenter that is adapted, saved and loaded in Python."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from linmap.adapt.segmentation import (
    build_segmenter,
    load_segmenter,
    masks_of,
    measure,
    probabilities,
    put_salt,
    save_segmenter,
    train_segmenter,
)
from linmap.data.masks import MaskedImages
from linmap.errors import ArtifactError
from linmap.training import TrainingConfig

OPTIONS = {"ratio": 0.1, "r": 2, "relu": "all", "train_norms": False}


def squares(count: int) -> MaskedImages:
    """Dark images with a bright square, which is what is to be found."""
    generator = torch.Generator().manual_seed(0)
    masks = torch.zeros(count, 1, 32, 32)
    for i in range(count):
        masks[i, 0, 8 : 20 + i, 6 : 24 - i] = 1
    return MaskedImages(
        (0.3 * torch.rand(masks.shape, generator=generator) + 0.6 * masks), masks, tuple(map(str, range(count)))
    )


def test_a_trained_segmenter_is_better_and_comes_back_as_it_was(tmp_path: Path) -> None:
    data, losses = squares(4), []
    model = build_segmenter(partial(put_salt, **OPTIONS), seed=0)
    before = np.mean(measure(model, data)["dice"])
    config = TrainingConfig(epochs=8, batch_size=4, lr=1e-2)
    train_segmenter(model, data, config, 1e-2, augment=False, losses=losses, out=tmp_path / "training")
    assert len(losses) == 8
    assert losses[-1] < losses[0]
    assert np.mean(measure(model, data)["dice"]) > before
    save_segmenter(tmp_path, model, 32, OPTIONS)
    again, config = load_segmenter(tmp_path)
    assert config["size"] == 32
    assert torch.equal(probabilities(again, data.images), probabilities(model, data.images))


def test_masks_have_the_sizes_that_the_images_had() -> None:
    model, shapes = build_segmenter(None, seed=0), {"a": (50, 40), "b": (20, 90)}
    found = dict(masks_of(model, torch.rand(2, 1, 32, 32), shapes))
    assert {name: mask.shape for name, mask in found.items()} == shapes
    assert {int(value) for mask in found.values() for value in np.unique(mask)} <= {0, 1}


def test_the_same_seed_gives_the_same_segmenter() -> None:
    one, other, third = (build_segmenter(partial(put_salt, **OPTIONS), seed).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert any(not torch.equal(one[name], third[name]) for name in one)


def test_a_folder_of_something_else_is_no_segmenter(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="not a saved run"):
        load_segmenter(tmp_path)
