"""The picture of masks."""

from pathlib import Path

import numpy as np
import torch

from linmap.adapt.segmentation import draw_masks
from linmap.data.masks import MaskedImages


def test_every_method_has_a_column_and_an_empty_mask_is_no_error(tmp_path: Path) -> None:
    masks = torch.zeros(2, 1, 16, 16)
    masks[0, 0, 4:9, 4:9] = 1
    data = MaskedImages(torch.rand(2, 1, 16, 16), masks, ("a", "b"))
    drawn = draw_masks(tmp_path / "m.svg", data, {"ours": [np.ones((16, 16), np.uint8), np.zeros((16, 16), np.uint8)]})
    assert all(word in drawn.read_text() for word in ("image", "truth", "ours"))
