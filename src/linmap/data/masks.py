"""Images with masks: a folder of files or an archive, as tensors of one size, and their augmentation."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Shaped
from torch import Tensor
from torch.utils.data import Dataset

from linmap.data import find, require_content
from linmap.data.arrays import read_npz
from linmap.data.door import files_inside
from linmap.data.images import DEEP, opened, read_grey
from linmap.errors import ArgumentError, DataError

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")
ROTATION, BRIGHTNESS, SCALE = 10.0, 0.25, 0.15  # degrees; shares
LAYOUT = "images/NAME.png beside masks/NAME.png"


@dataclass(frozen=True)
class MaskedImages:
    """Images and what is to be found in them, all of one size."""

    images: Float[Tensor, "samples 1 height width"]
    """Grey, from 0 to 1 within each image."""
    masks: Float[Tensor, "samples 1 height width"]
    """0 and 1."""
    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, rows: slice | list[int]) -> MaskedImages:
        names = self.names[rows] if isinstance(rows, slice) else tuple(self.names[row] for row in rows)
        return MaskedImages(self.images[rows], self.masks[rows], names)


class Augmented(Dataset):
    """The same samples, changed at random every time a batch is read; draws from PyTorch's global generator."""

    def __init__(self, data: MaskedImages) -> None:
        self.data = data

    def __len__(self) -> int:
        return len(self.data)

    def fingerprinted(self) -> tuple[Tensor, Tensor]:
        """What a checkpoint knows the data by."""
        return self.data.images, self.data.masks

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        images, masks = self.__getitems__([index])
        return images[0], masks[0]

    def __getitems__(self, indices: list[int]) -> tuple[Tensor, Tensor]:
        return augment(self.data.images[indices], self.data.masks[indices])


def embedded_ultrasound(part: str, size: int = 192, label: int = 2) -> MaskedImages:
    """Ultrasound images of arms, 120 to train on and 40 to test on (T. Kandaouroff, 2025, CC BY 4.0).

    Parameters
    ----------
    part
        "train" or "test".
    size
        Pixels of a side; 192 is the size in the package.
    label
        What is to be found: 1 nerves, 2 vessels.
    """
    if part not in ("train", "test"):
        raise ArgumentError(f"part must be 'train' or 'test', got {part!r}.")
    return load_masked_images(find(f"salt/usgra_{part}.npz", "Reinstall linmap."), size, label)


def load_masked_images(path: Path | str, size: int, label: int | None = None) -> MaskedImages:
    """A folder of images and masks, or an .npz with arrays `image` and `mask` of shape (samples, height, width).

    Parameters
    ----------
    path
        A folder with images/NAME.png beside masks/NAME.png (other formats too; the ends may differ), or an archive.
    size
        Pixels of a side that all samples are resized to: images smoothly, masks to the nearest pixel.
    label
        The value that marks what is to be found. When None, the masks must hold zero and one other value.

    Raises
    ------
    DataError
        If files are missing, unpaired or unreadable, an image and its mask differ in size, or the masks hold several
        values and no label was given, or never the label.
    """
    path = Path(path)
    images, masks, names = _archive(path) if path.suffix == ".npz" else _folder(path)
    marked = _marked(masks, names, label, path)
    pictures = torch.stack([resized(torch.from_numpy(image.astype(np.float32)), size) for image in images])
    targets = torch.stack([resized(torch.from_numpy(mask), size, nearest=True) for mask in marked])
    return MaskedImages(min_max(pictures), targets, names)


def load_images(path: Path | str, size: int) -> tuple[Float[Tensor, "samples 1 size size"], dict[str, tuple[int, int]]]:
    """Images alone, as `load_masked_images` prepares them, and the (height, width) of each by its name.

    `path` is a folder of images, one with a folder `images` in it, a single image, or an archive with an array `image`.

    Raises
    ------
    DataError
        If there are none, or one cannot be read.
    """
    path = Path(path)
    if path.suffix == ".npz":
        (array,) = _arrays(path, "image")
        if array.ndim != 3 or not len(array):
            raise DataError(f"{path}: image must have the shape (samples, height, width), got {array.shape}.")
        images = list(array)
        names = [f"{i:05d}" for i in range(len(images))]
    else:
        folder = path / "images" if (path / "images").is_dir() else path
        files = [path] if path.is_file() else list(_files(folder).values())
        images, names = [read_grey(file) for file in files], [file.stem for file in files]
    pictures = torch.stack([resized(torch.from_numpy(image.astype(np.float32)), size) for image in images])
    return min_max(pictures), {name: image.shape[:2] for name, image in zip(names, images, strict=True)}


def resized(
    image: Shaped[Tensor, "height width"], size: int | tuple[int, int], nearest: bool = False
) -> Shaped[Tensor, "1 new_height new_width"]:
    """An image at another size, smoothly with antialiasing or with the nearest pixels."""
    mode = "nearest-exact" if nearest else "bilinear"
    shape = [size, size] if isinstance(size, int) else list(size)
    return F.interpolate(image[None, None], size=shape, mode=mode, antialias=not nearest)[0]


def min_max(images: Float[Tensor, "samples 1 height width"]) -> Float[Tensor, "samples 1 height width"]:
    """Each image from 0 (its darkest pixel) to 1; a constant image is 0."""
    low, high = images.amin((1, 2, 3), keepdim=True), images.amax((1, 2, 3), keepdim=True)
    return (images - low) / (high - low).clamp_min(1e-12)


def augment(
    images: Float[Tensor, "batch 1 height width"], masks: Float[Tensor, "batch 1 height width"]
) -> tuple[Float[Tensor, "batch 1 height width"], Float[Tensor, "batch 1 height width"]]:
    """Each half of the time: mirrored, turned by up to 10 degrees, scaled by up to 15 %, brighter or darker by 25 %.

    An image and its mask move together; masks stay 0 and 1, and what comes in from outside is 0.
    """
    n = len(images)

    def half(*size: int) -> Tensor:
        return (torch.rand(n, *size) < 0.5).float()

    def between(limit: float) -> Tensor:
        return limit * (2 * torch.rand(n) - 1)

    mirror, angle = 1 - 2 * half(), half() * between(math.radians(ROTATION))
    zoom, bright = 1 + half() * between(SCALE), 1 + half() * between(BRIGHTNESS)
    cos, sin, zero = angle.cos() / zoom, angle.sin() / zoom, torch.zeros(n)
    maps = torch.stack([torch.stack([mirror * cos, -sin, zero], -1), torch.stack([mirror * sin, cos, zero], -1)], -2)
    grid = F.affine_grid(maps.to(images), list(images.shape), align_corners=False)
    moved = F.grid_sample(images, grid, mode="bilinear", align_corners=False)
    moved_masks = F.grid_sample(masks, grid, mode="nearest", align_corners=False)
    return (moved * bright.to(images).view(-1, 1, 1, 1)).clamp(0, 1), moved_masks


# -- files -----------------------------------------------------------------------------------------------------------


def _arrays(path: Path, *names: str) -> list[np.ndarray]:
    """Arrays of real numbers from an archive, by name."""
    require_content(path)
    arrays = read_npz(path, names, ignore=("filename",))
    if complex_ones := [name for name in names if arrays[name].dtype.kind == "c"]:
        raise DataError(f"{path}: the array {complex_ones[0]!r} holds complex numbers, expected real ones.")
    return [arrays[name] for name in names]


def _archive(path: Path) -> tuple[list[np.ndarray], list[np.ndarray], tuple[str, ...]]:
    image, mask = _arrays(path, "image", "mask")
    if image.ndim != 3 or image.shape != mask.shape or not len(image):
        raise DataError(
            f"{path}: image and mask must have one shape (samples, height, width), got {image.shape} and {mask.shape}."
        )
    return list(image), list(mask), tuple(f"{i:05d}" for i in range(len(image)))


def _folder(path: Path) -> tuple[list[np.ndarray], list[np.ndarray], tuple[str, ...]]:
    for name in ("images", "masks"):
        if not (path / name).is_dir():
            raise DataError(f"{path} has no folder {name!r}; expected {LAYOUT}, or an .npz with image and mask.")
    images, masks = _files(path / "images"), _files(path / "masks")
    for have, lack, what in ((images, masks, "mask"), (masks, images, "image")):
        if unpaired := sorted(set(have) - set(lack)):
            raise DataError(f"{have[unpaired[0]]} has no {what}; expected {LAYOUT} ({len(unpaired)} unpaired).")
    pictures = [read_grey(file) for file in images.values()]
    targets = [_read_mask(masks[name]) for name in images]
    for name, picture, target in zip(images, pictures, targets, strict=True):
        if picture.shape != target.shape:
            raise DataError(
                f"{images[name]} has {picture.shape[0]} x {picture.shape[1]} pixels and its mask {target.shape[0]} x "
                f"{target.shape[1]}; they must agree."
            )
    return pictures, targets, tuple(images)


def _files(folder: Path) -> dict[str, Path]:
    """The images in a folder by the stem of their names, in order."""
    files = files_inside(folder, SUFFIXES) if folder.is_dir() else []
    if not files:
        raise DataError(f"{folder} holds no image ({', '.join(SUFFIXES)}).")
    found: dict[str, Path] = {}
    for file in files:
        if file.stem in found:
            raise DataError(f"{found[file.stem]} and {file} have one name; rename one of them.")
        found[file.stem] = file
    return found


def _read_mask(path: Path) -> np.ndarray:
    """The values of a mask as they are in the file: indices of a palette, not its colours."""
    with opened(path) as image:
        return np.asarray(image if image.mode in ("1", "L", "P", *DEEP) else image.convert("L")).copy()


def _marked(masks: list[np.ndarray], names: tuple[str, ...], label: int | None, path: Path) -> list[np.ndarray]:
    """Each mask as 1 where the label is, 0 elsewhere."""
    found = {float(value) for mask in masks for value in np.unique(mask)}
    if between := sorted(value for value in found if not value.is_integer()):
        raise DataError(f"{path}: the masks hold {between[0]:g}, and whole numbers mark what is to be found.")
    values = sorted(map(int, found))
    if label is None:
        others = [value for value in values if value]
        if len(others) > 1:
            shown = ", ".join(map(str, values[:8])) + (", ..." if len(values) > 8 else "")
            odd = max(zip(masks, names, strict=True), key=lambda pair: len(np.unique(pair[0])))[1]
            raise DataError(
                f"{path}: the masks hold the values {shown} (see {odd}); say which marks what is to be found "
                f"(label={others[0]}), or write masks of 0 and one other value (PNG, not JPEG)."
            )
        label = others[0] if others else 1
    if label not in values:
        raise DataError(f"{path}: no mask holds the value {label}; they hold {', '.join(map(str, values[:8]))}.")
    return [(mask == label).astype(np.float32) for mask in masks]
