"""Labelled images as tensors: how they are divided, made grey and moved."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import TensorDataset

from linmap.data.image_preparation import ImagePreparation
from linmap.data.image_sets import ImageSet, image_set_of
from linmap.data.image_tensors import Shifted, colourless, divided, labelled, to_grey
from linmap.errors import DataError

PLAIN = ImagePreparation(scale=1 / 255)


def numbered(labels: list[int]) -> ImageSet:
    """Image i has the value i everywhere."""
    images = np.arange(len(labels), dtype=np.uint8)[:, None, None].repeat(6, 1).repeat(6, 2)
    return image_set_of(images, np.array(labels))


def values(images: ImageSet) -> list[int]:
    return [int(image[0, 0, 0]) for image in images]


@given(st.lists(st.integers(2, 9), min_size=2, max_size=4), st.floats(0.05, 0.95), st.integers(0, 99))
def test_each_image_is_on_one_side_and_each_class_on_both(counts: list[int], share: float, seed: int):
    labels = [k for k, n in enumerate(counts) for _ in range(n)]
    train, test = divided(numbered(labels), share, seed, "here")
    assert sorted(values(train) + values(test)) == list(range(len(labels)))
    for part in (train, test):
        assert set(np.asarray(part.labels).tolist()) == set(range(len(counts)))
        assert [labels[i] for i in values(part)] == np.asarray(part.labels).tolist()
    held = np.bincount(np.asarray(test.labels), minlength=len(counts))
    assert held.tolist() == [min(max(1, round(share * n)), n - 1) for n in counts]
    again = divided(numbered(labels), share, seed, "here")
    assert values(again[1]) == values(test)


@pytest.mark.parametrize(("labels", "words"), [([0, 0, 1], "here: class '1' has 1 image"), ([0, 0], "of one class")])
def test_what_cannot_be_divided_is_named(labels: list[int], words: str):
    with pytest.raises(DataError, match=words):
        divided(numbered(labels), 0.5, 0, "here")


def test_grey_is_one_channel_of_equal_ones_and_the_brightness_of_others():
    equal = torch.rand(4, 1, 3, 3).expand(-1, 3, -1, -1)
    assert colourless(equal)
    assert torch.equal(to_grey(equal), equal[:, :1])
    coloured = torch.rand(4, 3, 3, 3)
    expected = 0.299 * coloured[:, :1] + 0.587 * coloured[:, 1:2] + 0.114 * coloured[:, 2:]
    torch.testing.assert_close(to_grey(coloured), expected)


def test_coloured_images_keep_their_channels():
    pixels = np.random.default_rng(0).integers(0, 255, (4, 6, 6, 3), dtype=np.uint8)
    coloured, plain = image_set_of(pixels, np.array([0, 0, 1, 1])), numbered([0, 0, 1, 1])
    assert labelled(plain, plain, PLAIN, grey=True).channels == 1
    assert labelled(plain, plain, PLAIN).channels == 3
    assert labelled(plain, coloured, PLAIN, grey=True).channels == 3  # one of both would lose its colours


def test_images_that_are_not_square_are_refused():
    wide = image_set_of(np.zeros((2, 4, 6), np.uint8), np.array([0, 1]))
    with pytest.raises(DataError, match="4 x 6; give a square"):
        labelled(wide, wide, PLAIN)


def test_images_are_moved_by_at_most_a_fourteenth():
    torch.manual_seed(0)
    x = torch.zeros(200, 1, 28, 28)
    x[:, 0, 10, 20] = 1
    moved, y = Shifted(TensorDataset(x, torch.arange(200))).__getitems__(list(range(200)))
    assert torch.equal(y, torch.arange(200))
    places = (moved[:, 0] == 1).nonzero()[:, 1:] - torch.tensor([10, 20])
    assert places.abs().amax() == 2
    assert len({tuple(place) for place in places.tolist()}) == 25
