"""Images: read, crop, resize and turn into arrays, with checks that name the file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from jaxtyping import Float, Shaped, UInt8
from PIL import Image, ImageOps, UnidentifiedImageError

from linmap.data import find, require_file
from linmap.data.door import files_inside, most_bytes, too_large, understood
from linmap.errors import ArgumentError, DataError

EMBEDDED_IMAGES = ("chelsea", "coffee", "camera")
"""Photographs inside the package (scikit-image's: a cat, a cup of coffee, the cameraman)."""

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
"""Of the files that are taken for images in a folder."""
DEEP = ("I;16", "I;16B", "I;16L", "I", "F")
"""Pillow's names for grey of more than 8 bits."""


def read_image(path: Path | str, channels: int = 3) -> UInt8[np.ndarray, "height width *channels"]:
    """An image file as 8-bit values: (height, width, 3) RGB, or (height, width) grey for `channels=1`.

    Of 16 bits the upper 8 are taken, rounded; what is transparent shows white; the turn that a camera notes is made.

    Raises
    ------
    DataError
        If the file is missing or empty, is not an image, is truncated, holds several, or numbers that are no
        brightnesses.
    ValueError
        If `channels` is neither 1 nor 3.
    """
    if channels not in (1, 3):
        raise ArgumentError(f"channels must be 1 (grey) or 3 (RGB), got {channels}.")
    with opened(path) as image:
        if (frames := getattr(image, "n_frames", 1)) > 1:
            raise DataError(f"{path}: it holds {frames} images (an animation or pages); save the one that you want.")
        upright = ImageOps.exif_transpose(image)
        if upright.mode in DEEP:
            grey = _eight_bits(np.asarray(upright), path)
            return grey if channels == 1 else np.repeat(grey[..., None], 3, axis=2)
        return np.asarray(over_white(upright).convert("RGB" if channels == 3 else "L")).copy()


def image_files(path: Path | str) -> list[Path]:
    """An image file as it is, or the images in a folder and below, by name; hidden files and folders are skipped.

    Raises
    ------
    DataError
        If the folder holds none.
    """
    path = Path(path)
    if not path.is_dir():
        return [path]
    files = files_inside(path, SUFFIXES, below=True)
    if not files:
        raise DataError(f"{path}: this folder holds no images ({', '.join(SUFFIXES)}).")
    return files


def over_white(image: Image.Image) -> Image.Image:
    """An image as it looks on white paper, where it has transparency."""
    if "A" not in image.getbands() and "transparency" not in image.info:
        return image
    with_alpha = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), with_alpha).convert("RGB")


def read_grey(path: Path | str) -> Shaped[np.ndarray, "height width"]:
    """An image file in grey, with the values of the file where it has more than 8 bits; errors as of `read_image`."""
    with opened(path) as image:
        values = np.asarray(image if image.mode in DEEP else image.convert("L")).copy()
    if not np.isfinite(values).all():
        raise DataError(f"{path}: it holds NaN or infinite values.")
    return values


@contextmanager
def opened(path: Path | str) -> Iterator[Image.Image]:
    """An image file for reading, with what goes wrong there as a `DataError` that names it."""
    require_file(path)
    with understood(path, "an image"):
        try:
            image = Image.open(path)
        except UnidentifiedImageError:
            raise DataError(f"{path}: this is not an image that Pillow can read; PNG and JPEG are.") from None
        with image:
            _require_room(image, path)
            yield image


def _require_room(image: Image.Image, path: Path | str) -> None:
    """Refuse pixels that take more than `linmap.data.door.most_bytes`: white paper of any size packs to nothing."""
    width, height = image.size
    if width * height * len(image.getbands()) * (4 if image.mode in DEEP else 1) > most_bytes():
        raise too_large(path, f"its {width} x {height} pixels take more than")


def _eight_bits(values: Shaped[np.ndarray, "height width"], path: Path | str) -> UInt8[np.ndarray, "height width"]:
    """Values of more than 8 bits as 8; Pillow would cut all above 255."""
    low, high = float(values.min()), float(values.max())
    if values.dtype == np.uint16 or (values.dtype.kind in "iu" and low >= 0 and 255 < high <= 65535):
        return np.round(values / 257).astype(np.uint8)
    shares = values.dtype.kind == "f" and 0 < high <= 1  # all of it would be black
    if not 0 <= low <= high <= 255 or shares:
        raise DataError(f"{path}: its values go from {low:g} to {high:g}; save it with 8 or 16 bits a pixel.")
    return values.astype(np.uint8)


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
        raise ArgumentError(f"there is no photograph {name!r}; there are {known}.")
    return read_image(find(f"images/{name}.png", "Reinstall linmap."), channels)


def square(image: UInt8[np.ndarray, "height width *channels"], side: int) -> UInt8[np.ndarray, "side side *channels"]:
    """The largest centred square of an image, resized to `side` pixels (bicubic, antialiased).

    Raises
    ------
    ValueError
        If `side` is not positive.
    """
    if side < 1:
        raise ArgumentError(f"side must be a positive number of pixels, got {side}.")
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
