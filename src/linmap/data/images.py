"""Images: read, crop, resize and turn into arrays, with checks that name the file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, UnidentifiedImageError

from linmap.data import find
from linmap.errors import DataError

EMBEDDED_IMAGES = ("chelsea", "coffee", "camera")
"""Photographs inside the package (scikit-image's: a cat, a cup of coffee, the cameraman)."""


def read_image(path: Path | str, channels: int = 3) -> UInt8[np.ndarray, "height width *channels"]:
    """An image file as 8-bit values: (height, width, 3) RGB, or (height, width) grey for `channels=1`.

    Raises
    ------
    DataError
        If the file is missing, is not an image, or is truncated.
    ValueError
        If `channels` is neither 1 nor 3.
    """
    if channels not in (1, 3):
        raise ValueError(f"channels must be 1 (grey) or 3 (RGB), got {channels}.")
    try:
        with Image.open(path) as image:
            return np.asarray(image.convert("RGB" if channels == 3 else "L")).copy()
    except FileNotFoundError:
        raise DataError(f"{path}: there is no such file.") from None
    except UnidentifiedImageError:
        raise DataError(f"{path}: this is not an image that Pillow can read; PNG and JPEG are.") from None
    except (OSError, Image.DecompressionBombError) as error:
        raise DataError(f"{path}: the image cannot be read ({error}).") from None


def embedded_image(name: str, channels: int = 3) -> UInt8[np.ndarray, "height width *channels"]:
    """One of the photographs of the package: `EMBEDDED_IMAGES`, and scikit-learn's "china" and "flower".

    Raises
    ------
    ValueError
        If there is no photograph of that name.
    """
    if name in ("china", "flower"):
        from sklearn.datasets import load_sample_image

        image = load_sample_image(f"{name}.jpg")
        return image.copy() if channels == 3 else np.asarray(Image.fromarray(image).convert("L")).copy()
    if name not in EMBEDDED_IMAGES:
        known = ", ".join((*EMBEDDED_IMAGES, "china", "flower"))
        raise ValueError(f"there is no photograph {name!r}; there are {known}.")
    return read_image(find(f"images/{name}.png", "Reinstall linmap."), channels)


def square(image: UInt8[np.ndarray, "height width *channels"], side: int) -> UInt8[np.ndarray, "side side *channels"]:
    """The largest centred square of an image, resized to `side` pixels (bicubic, antialiased).

    Raises
    ------
    ValueError
        If `side` is not positive.
    """
    if side < 1:
        raise ValueError(f"side must be a positive number of pixels, got {side}.")
    height, width = image.shape[:2]
    edge = min(height, width)
    left, top = (width - edge) // 2, (height - edge) // 2
    crop = Image.fromarray(image[top : top + edge, left : left + edge])
    return np.asarray(crop.resize((side, side), Image.Resampling.BICUBIC)).copy()


def window(
    image: UInt8[np.ndarray, "height width *channels"], top: int, left: int, height: int, width: int
) -> UInt8[np.ndarray, "crop_height crop_width *channels"]:
    """The crop of `height` x `width` pixels whose upper left pixel is (top, left).

    Raises
    ------
    DataError
        If the crop does not lie inside the image.
    """
    if min(top, left) < 0 or min(height, width) < 1 or top + height > image.shape[0] or left + width > image.shape[1]:
        raise DataError(
            f"a crop of {height} x {width} pixels at ({top}, {left}) does not lie inside an image of "
            f"{image.shape[0]} x {image.shape[1]}; choose a smaller crop or another corner."
        )
    return image[top : top + height, left : left + width].copy()


def luminance(image: UInt8[np.ndarray, "height width *channels"]) -> Float[np.ndarray, "height width"]:
    """BT.601 studio-range luma in [16, 235] / 255, as float64; a grey image counts as R = G = B."""
    rgb = (image if image.ndim == 3 else np.repeat(image[..., None], 3, axis=2)) / 255
    return (rgb @ np.array([65.481, 128.553, 24.966]) + 16) / 255
