"""What images are compared by: DINOv2-small where it is installed, else mean colours."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from linmap.data.dinov2 import MEAN, STD
from linmap.data.models import quiet_libraries
from linmap.data.pretrained import bundled_model
from linmap.errors import ArgumentError

Images = Float[Tensor, "batch channels height width"]
SIDE, PATCH, CELLS = 98, 14, 8
BATCH = 64
"""Images that go through the network at once."""


@dataclass(frozen=True)
class Features:
    """A function from images in [-1, 1] to rows of features."""

    name: str
    of: Callable[[Images], Float[Tensor, "batch features"]]
    note: str = ""
    """What its user must be told, if anything."""

    def __call__(self, images: Images) -> Float[Tensor, "batch features"]:
        """Features of images in [-1, 1], no gradient; in batches."""
        with torch.no_grad():
            return torch.cat([self.of(part) for part in images.split(BATCH)])


def image_features(side: int = SIDE) -> Features:
    """Class tokens of DINOv2-small of images resized to `side`; mean colours where it is not installed.

    The fallback needs nothing: colours averaged over a grid of 8 x 8 cells. Its distances are of another scale and
    know nothing of shapes; `note` says so.

    Parameters
    ----------
    side
        Pixels, a multiple of 14.

    Raises
    ------
    ValueError
        If 14 does not divide `side`.
    """
    if side < PATCH or side % PATCH:
        raise ArgumentError(f"side={side} must be a multiple of {PATCH}.")
    try:
        network = _dinov2()
    except (FileNotFoundError, ModuleNotFoundError) as error:
        reason = str(error).rstrip(".")
        note = f"Features are mean colours of 8 x 8 cells, for DINOv2-small is not there ({reason})"
        return Features("mean colours of 8 x 8 cells", mean_colours, note)

    def tokens(images: Images) -> Float[Tensor, "batch features"]:
        return network(normalised(images, side)).last_hidden_state[:, 0]

    return Features(f"DINOv2-small at {side} x {side}", tokens)


def mean_colours(images: Images) -> Float[Tensor, "batch features"]:
    """Colours averaged over 8 x 8 cells, as rows."""
    return F.adaptive_avg_pool2d(images.float(), CELLS).flatten(1)


def normalised(images: Images, side: int) -> Float[Tensor, "batch 3 new_height new_width"]:
    """Images in [-1, 1] as the network takes them: RGB, resized (bicubic), by ImageNet's mean and deviation."""
    rgb = images.float().expand(-1, 3, -1, -1).clamp(-1, 1) / 2 + 0.5
    if rgb.shape[-1] != side or rgb.shape[-2] != side:
        rgb = F.interpolate(rgb, size=(side, side), mode="bicubic", antialias=True, align_corners=False).clamp(0, 1)
    mean, std = (torch.tensor(values, device=rgb.device)[:, None, None] for values in (MEAN, STD))
    return (rgb - mean) / std


@cache
def _dinov2() -> torch.nn.Module:
    from transformers import Dinov2Model

    with quiet_libraries():
        model = Dinov2Model.from_pretrained(bundled_model("dinov2-small"))
    return model.eval().requires_grad_(False)
