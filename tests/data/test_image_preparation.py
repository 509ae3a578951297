from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from linmap.data.image_preparation import ImagePreparation, preparation_of, read_preparation
from linmap.data.images import embedded_image
from linmap.errors import DataError

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("kind", ["ViT", "DeiT", "Bit", "CLIP", "Siglip"])
def test_as_the_processors_of_transformers(kind: str, tmp_path: Path):
    """Pictures high, wide, square, and smaller than what is asked for."""
    import transformers

    name = f"{kind}ImageProcessorPil"
    slug = {"Bit": "bit", "ViT": "vit", "DeiT": "deit", "CLIP": "clip", "Siglip": "siglip"}[kind]
    module = getattr(transformers.models, slug)
    processor = getattr(module, name)()
    processor.save_pretrained(tmp_path)
    ours = read_preparation(tmp_path)
    for height, width in ((300, 451), (333, 250), (224, 224), (60, 41)):
        image = RNG.integers(0, 256, (height, width, 3), dtype=np.uint8)
        theirs = torch.as_tensor(np.asarray(processor(image, return_tensors="np")["pixel_values"][0]))
        torch.testing.assert_close(ours(image), theirs, rtol=0, atol=2e-6)


def test_a_crop_larger_than_the_image_is_black_outside_as_in_transformers():
    from transformers.image_transforms import center_crop
    from transformers.image_utils import ChannelDimension

    for shape in ((5, 8, 3), (5, 4, 3), (8, 5, 3), (7, 7, 3)):
        for crop in ((7, 7), (6, 8), (8, 6), (9, 4)):
            image = RNG.integers(0, 256, shape, dtype=np.uint8)
            theirs = center_crop(image, crop, input_data_format=ChannelDimension.LAST)
            assert np.array_equal(ImagePreparation(crop=crop).shown(image), theirs), (shape, crop)


def test_steps_that_are_off_and_sizes_of_old_files():
    image = embedded_image("chelsea")
    off: dict[str, Any] = dict.fromkeys(("do_resize", "do_rescale", "do_normalize"), False)
    assert torch.equal(preparation_of(off, "x")(image), torch.from_numpy(image).permute(2, 0, 1).float())
    sized = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "size": 30}
    assert preparation_of(sized, "x").shown(image).shape == (30, 30, 3)
    clip = preparation_of(sized | {"feature_extractor_type": "CLIPFeatureExtractor"}, "x")
    assert clip.shown(image).shape == (30, 45, 3)
    assert clip.at(28).shown(image).shape == (28, 28, 3)
    with pytest.raises(DataError, match=r"differ in size \(30 x 45 and 45 x 30\)"):
        clip.batch([image, image.transpose(1, 0, 2)])
    with pytest.raises(ValueError, match="size must be a positive"):
        clip.at(0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"do_pad": True}, "do_pad is a step that is not supported"),
        ({"crop_pct": 0.9}, "crop_pct is a step that is not supported"),
        ({"size": {"longest_edge": 3}}, "a size of longest_edge"),
        ({"size": 3, "do_center_crop": True}, "it lacks 'crop_size'"),
        ({"size": 3, "image_mean": [0.5] * 2}, "three numbers each"),
        ({"size": 3, "image_std": [0, 1, 1]}, "none of the latter 0"),
        ({"size": "large"}, "not those of an image processor"),
        ({"size": 3, "resample": 99}, "not those of an image processor"),
    ],
)
def test_what_is_not_honoured_is_refused(options: dict[str, Any], message: str):
    whole = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3} | options
    with pytest.raises(DataError, match=message):
        preparation_of(whole, "x")


def test_bad_files(tmp_path: Path):
    with pytest.raises(DataError, match=r"has no preprocessor_config\.json"):
        read_preparation(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text("{")
    with pytest.raises(DataError, match="is not JSON"):
        read_preparation(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps([1]))
    with pytest.raises(DataError, match="expected an object"):
        read_preparation(tmp_path)
