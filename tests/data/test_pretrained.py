from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from linmap.data.images import embedded_image, luminance
from linmap.data.pretrained import fsrcnn


def decibels(a: np.ndarray, b: np.ndarray) -> float:
    error = (a - b)[8:-8, 8:-8]
    return float(-10 * np.log10((error**2).mean()))


def test_fsrcnn_enlarges_better_than_bicubic():
    high = luminance(embedded_image("camera"))[100:356, 100:356]
    low = np.asarray(Image.fromarray(high.astype(np.float32)).resize((128, 128), Image.Resampling.BICUBIC))
    bicubic = np.asarray(Image.fromarray(low).resize((256, 256), Image.Resampling.BICUBIC))
    with torch.no_grad():
        found = fsrcnn(2)(torch.from_numpy(low.copy())[None, None])[0, 0].numpy()
    assert decibels(found, high) > decibels(bicubic, high) + 0.3


def test_sizes_and_unknown_weights():
    for scale in (2, 3, 4):
        assert fsrcnn(scale)(torch.zeros(1, 1, 5, 6)).shape == (1, 1, 5 * scale, 6 * scale)
    assert sum(p.numel() for p in fsrcnn(2, small=True).parameters()) < sum(p.numel() for p in fsrcnn(2).parameters())
    for scale, small in ((5, False), (3, True)):
        with pytest.raises(ValueError, match="there is no fsrcnn"):
            fsrcnn(scale, small)
