"""What a pretrained vision model wants of an image: its size, crop and normalisation, from the model's folder."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32, UInt8
from PIL import Image
from torch import Tensor

from linmap.data.door import load_json
from linmap.data.schema import check_fields
from linmap.errors import ArgumentError, DataError

FILE = "preprocessor_config.json"
MOST_SIDE = 2**14
"""Pixels of an image as a model takes it."""
STEPS = ("do_resize", "do_center_crop", "do_rescale", "do_normalize")
NEEDLESS = ("do_convert_rgb",)
"""Images come in RGB."""
SHORTEST = ("CLIP", "Bit", "ChineseCLIP", "OwlViT")
"""Processors for which a size that is one number is that of the shorter edge; of the others, of both."""


@dataclass(frozen=True)
class ImagePreparation:
    """Resize, crop the centre, scale and normalise, in this order and each where it is given."""

    size: int | tuple[int, int] | None = None
    """Pixels of the shorter edge, or (height, width)."""
    crop: tuple[int, int] | None = None
    """(height, width) of the centre; what lies outside the image is black."""
    resample: int = Image.Resampling.BICUBIC
    """Pillow's number of the filter."""
    scale: float = 1.0
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)

    def __post_init__(self) -> None:
        check_fields(self)
        sides = [*((self.size,) if isinstance(self.size, int) else self.size or ()), *(self.crop or ())]
        if not all(1 <= side <= MOST_SIDE for side in sides):
            raise ArgumentError(f"sizes of images are {sides}, expected 1 to {MOST_SIDE} pixels.")
        if not all(map(math.isfinite, (self.scale, *self.mean, *self.std))):
            raise ArgumentError("scale, mean and std must be finite.")
        if not {len(self.mean), len(self.std)} <= {1, 3} or not all(self.std):
            raise ArgumentError("image_mean and image_std must be three numbers each, and none of the latter 0.")
        if self.resample not in list(Image.Resampling):
            raise ArgumentError(f"resample is {self.resample}, which is none of Pillow's filters.")

    def __call__(self, image: UInt8[np.ndarray, "height width 3"]) -> Float32[Tensor, "3 new_height new_width"]:
        """The image as the model takes it."""
        values = self.cropped(self.resized(image)).astype(np.float64) * self.scale
        values = (values - np.array(self.mean)) / np.array(self.std)
        return torch.from_numpy(values.astype(np.float32)).permute(2, 0, 1).contiguous()

    def shown(self, image: UInt8[np.ndarray, "height width 3"]) -> UInt8[np.ndarray, "new_height new_width 3"]:
        """What of the image the model sees, to look at."""
        return self.cropped(self.resized(image))

    def batch(self, images: Iterable[UInt8[np.ndarray, "height width 3"]]) -> Float32[Tensor, "images 3 height width"]:
        """Several images.

        Raises
        ------
        DataError
            If they come out with different sizes.
        """
        prepared = [self(image) for image in images]
        if len({one.shape for one in prepared}) > 1:
            sizes = " and ".join(sorted({f"{one.shape[1]} x {one.shape[2]}" for one in prepared})[:2])
            raise DataError(f"the prepared images differ in size ({sizes}); give one size (size=224).")
        return torch.stack(prepared)

    def at(self, side: int) -> ImagePreparation:
        """The same with the largest centred square, resized to `side` x `side` pixels.

        Raises
        ------
        ValueError
            If `side` is not positive.
        """
        if side < 1:
            raise ArgumentError(f"size must be a positive number of pixels, got {side}.")
        return replace(self, size=side, crop=(side, side))

    def resized(self, image: UInt8[np.ndarray, "height width 3"]) -> UInt8[np.ndarray, "new_height new_width 3"]:
        """The image in the size that is resized to."""
        if self.size is None:
            return image
        height, width = image.shape[:2]
        if isinstance(self.size, int):
            longer = int(self.size * max(height, width) / min(height, width))
            target = (self.size, longer) if height <= width else (longer, self.size)
        else:
            target = self.size
        turned = Image.fromarray(image).resize((target[1], target[0]), Image.Resampling(self.resample))
        return np.asarray(turned)

    def cropped(self, image: UInt8[np.ndarray, "height width 3"]) -> UInt8[np.ndarray, "new_height new_width 3"]:
        """The centre of the image."""
        if self.crop is None:
            return image
        outside = [max(wanted - there, 0) for wanted, there in zip(self.crop, image.shape, strict=False)]
        padded = np.pad(image, [*[((extra + 1) // 2, extra // 2) for extra in outside], (0, 0)])
        top, left = ((there - wanted) // 2 for wanted, there in zip(self.crop, padded.shape, strict=False))
        return padded[top : top + self.crop[0], left : left + self.crop[1]]


def read_preparation(folder: Path | str) -> ImagePreparation:
    """The preparation that a model's folder states in `preprocessor_config.json`, as Transformers does it.

    Raises
    ------
    DataError
        If there is no such file, or it asks for a step that is not among `STEPS`.
    """
    path = Path(folder) / FILE
    try:
        stated = load_json(path)
    except FileNotFoundError:
        raise DataError(
            f"{folder} has no {FILE}, which says how the model takes images; copy the model's own."
        ) from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: this is not JSON ({error}).") from None
    if not isinstance(stated, dict):
        raise DataError(f"{path}: expected an object of options, got {type(stated).__name__}.")
    return preparation_of(stated, str(path))


def preparation_of(stated: Mapping[str, Any], source: str) -> ImagePreparation:
    """The preparation of the options of a processor; `source` is for messages.

    Raises
    ------
    DataError
        If a step is not known, or lacks its values.
    """
    other = [key for key, value in stated.items() if key.startswith("do_") and value and key not in STEPS + NEEDLESS]
    if other or stated.get("crop_pct") is not None:
        raise DataError(
            f"{source}: {(other or ['crop_pct'])[0]} is a step that is not supported ({', '.join(STEPS)} are)."
        )
    on = {step: bool(stated.get(step, step != "do_center_crop" or "crop_size" in stated)) for step in STEPS}
    kind = str(stated.get("image_processor_type") or stated.get("feature_extractor_type") or "")
    try:
        size = _size(stated["size"], kind) if on["do_resize"] else None
        crop = _pair(stated["crop_size"]) if on["do_center_crop"] else None
        resample = Image.Resampling(stated.get("resample", Image.Resampling.BILINEAR))
        scale = float(stated.get("rescale_factor", 1 / 255)) if on["do_rescale"] else 1.0
        mean, std = (stated["image_mean"], stated["image_std"]) if on["do_normalize"] else ([0.0], [1.0])
        found = ImagePreparation(size, crop, resample, scale, tuple(map(float, mean)), tuple(map(float, std)))
    except KeyError as error:
        raise DataError(f"{source}: it lacks {error}, which a step needs.") from None
    except (TypeError, ValueError, OverflowError) as error:
        raise DataError(f"{source}: its values are not those of an image processor ({error}).") from None
    return found


def _size(size: Any, kind: str) -> int | tuple[int, int]:
    if isinstance(size, Mapping) and set(size) == {"shortest_edge"}:
        return int(size["shortest_edge"])
    if isinstance(size, int) and kind.startswith(SHORTEST):
        return size
    return _pair(size)


def _pair(size: Any) -> tuple[int, int]:
    """(height, width) of what a configuration says of a size."""
    if isinstance(size, Mapping):
        if set(size) != {"height", "width"}:
            raise ArgumentError(f"a size of {', '.join(map(str, size))}")
        return int(size["height"]), int(size["width"])
    return int(size), int(size)
