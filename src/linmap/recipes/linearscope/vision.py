"""Vision transformers of Transformers, as the recipe reads them: pixels in, logits, features or saliency out."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from linmap.data.dinov2 import SaliencyHead
from linmap.data.image_preparation import ImagePreparation, read_preparation
from linmap.data.models import load_trained, model_folder
from linmap.data.pretrained import dinov2_saliency
from linmap.errors import UsageError
from linmap.recipes.linearscope.flags import Network

SALIENT = "dinov2-small"
"""The model that comes with a saliency head."""


class Saliency(nn.Module):
    """DINOv2-small with its saliency head up to the logits: (1, 3, height, width) to (1, 1, height, width)."""

    def __init__(self, backbone: nn.Module, head: SaliencyHead) -> None:
        super().__init__()
        self.backbone, self.head = backbone, head
        self.eval()

    def forward(self, pixels: Float[Tensor, "1 3 height width"]) -> Float[Tensor, "1 1 height width"]:
        head: Any = self.head
        height, width = pixels.shape[-2:]
        patches = self.backbone(pixels).last_hidden_state[:, 1:]
        x = patches.transpose(1, 2).unflatten(2, (height // 14, width // 14))
        for k in (1, 2, 3):
            x = F.relu(getattr(head, f"bn{k}")(getattr(head, f"upconv{k}")(x)))
        return F.interpolate(head.final_conv(x), size=(height, width), mode="bilinear", align_corners=False)


class Answer(nn.Module):
    """A model of Transformers by what it answers: logits of classes, or the features of the class token."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.config: Any = model.config
        self.eval()

    def forward(self, pixels: Float[Tensor, "1 3 height width"]) -> Float[Tensor, "1 outputs"]:
        found = self.model(pixels)
        return found.logits if hasattr(found, "logits") else found.last_hidden_state[:, 0]


def load_vision(name: str, side: int | None) -> tuple[nn.Module, ImagePreparation]:
    """A vision transformer by folder or name, and how it takes images."""
    folder = model_folder(name, "images")
    stated = read_preparation(folder)
    preparation = stated if side is None else stated.at(side)
    loaded = load_trained(folder).eval().requires_grad_(False)
    return Saliency(loaded, dinov2_saliency().requires_grad_(False)) if name == SALIENT else Answer(loaded), preparation


def refuse_preparation(settings: Network) -> None:
    """Refuse flags that say how an image is fed: the folder says it.

    Raises
    ------
    UsageError
        If one is given.
    """
    if wrong := settings.given(("grey", "mean", "std")):
        raise UsageError(f"--{wrong[0]} is not for {settings.model}: its preprocessor_config.json says how it is fed.")


def seen_point(preparation: ImagePreparation, image: np.ndarray, at: tuple[int, int]) -> tuple[int, int]:
    """Where a point (x, y) of a photograph lies in what the model sees of it: (row, column).

    Raises
    ------
    UsageError
        If it lies outside the photograph, or in what is cut off.
    """
    x, y = at
    height, width = image.shape[:2]
    if not (0 <= x < width and 0 <= y < height):
        raise UsageError(f"--at {x} {y} lies outside the photograph of {width} x {height} pixels.")
    resized = preparation.resized(image).shape
    crop = preparation.crop or resized[:2]
    row = int((y + 0.5) * resized[0] / height) - (resized[0] - crop[0]) // 2
    column = int((x + 0.5) * resized[1] / width) - (resized[1] - crop[1]) // 2
    if not (0 <= row < crop[0] and 0 <= column < crop[1]):
        raise UsageError(
            f"--at {x} {y} lies in what the model does not see: of the photograph the centre of {crop[1]} x {crop[0]} "
            "pixels is cut out; give a point there, or --side, which takes the largest square."
        )
    return row, column


def pixels_of(preparation: ImagePreparation, image: np.ndarray) -> Tensor:
    """An image as the model takes it, (1, 3, height, width)."""
    return torch.as_tensor(preparation(image))[None]
