"""Many images, with or without labels: a folder, folders of classes, or an archive; files are read when asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import Int64, UInt8

from linmap.data import find
from linmap.data.arrays import read_npz
from linmap.data.door import hidden
from linmap.data.images import EMBEDDED_IMAGES, embedded_image, image_files, read_image
from linmap.data.labels import one_for_each
from linmap.errors import ArgumentError, DataError, OutOfRangeError

LAYOUTS = (
    "a folder of images, folders of them named by class (images/CLASS/NAME.jpg), or an .npz with images and labels"
)


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Images in a fixed order, each read when it is asked for."""

    names: tuple[str, ...]
    """Of each, unique: the path in its folder, or its number in the archive."""
    read: Callable[[int], UInt8[np.ndarray, "height width 3"]]
    """One of them, by its number."""
    labels: Int64[np.ndarray, " images"] | None = None
    """Of each the number of its class; None where there are no classes."""
    classes: tuple[str, ...] = ()
    """By number."""

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> UInt8[np.ndarray, "height width 3"]:
        if not -len(self) <= index < len(self):
            raise OutOfRangeError(f"there are {len(self)} images, numbered from 0; got {index}.")
        return self.read(index % len(self))

    def __iter__(self) -> Iterator[UInt8[np.ndarray, "height width 3"]]:
        return map(self.read, range(len(self)))

    def subset(self, rows: Sequence[int] | np.ndarray) -> ImageSet:
        """The images of these numbers, in this order; classes stay as they are numbered."""
        rows = [int(row) for row in rows]
        labels = None if self.labels is None else self.labels[rows]
        names = tuple(self.names[row] for row in rows)
        return replace(self, names=names, read=lambda index: self.read(rows[index]), labels=labels)


def read_image_set(path: Path | str, labelled: bool | None = None) -> ImageSet:
    """The images of a path, by name; a file that is no image is refused when it is read.

    Parameters
    ----------
    path
        A folder of images, at any depth; a folder with a folder of images for each of at least two classes; an image;
        or an .npz with the array `images`, of shape (images, height, width[, channels]) in 8 or 16 bits or from 0 to 1,
        and `labels`, a number or text for each.
    labelled
        Whether the images must have labels (True) or must be read without (False). When None, they have them where
        `path` holds folders of images and no images beside them, or the archive has `labels`.

    Raises
    ------
    DataError
        If there are no images, labels are wanted and not there, or images lie beside folders of images.
    """
    path = Path(path)
    found = _archive(path, labelled) if path.suffix.lower() == ".npz" else _folder(path, labelled)
    if labelled and found.labels is None:
        if not path.is_dir():
            found[0]  # what is no image is told first
        first = {Path(name).parts[0] for name in found.names}
        if len(first) == 1 and len(found) > 1:
            raise DataError(f"{path}: all images lie in one folder, {first.pop()!r}; expected one for each class.")
        raise DataError(f"{path}: its images have no labels; expected folders named by class, or an .npz with labels.")
    return found


def embedded_photographs() -> ImageSet:
    """Five photographs of 300 to 640 pixels: the package's three, and scikit-learn's china and flower."""
    names = (*EMBEDDED_IMAGES, "china", "flower")
    return ImageSet(names, lambda index: embedded_image(names[index]))


def embedded_digits(part: str) -> ImageSet:
    """Digits of MNIST, 28 x 28: 2,500 of part "train", or 500 of part "test".

    Raises
    ------
    ValueError
        If there is no such part.
    """
    if part not in ("train", "test"):
        raise ArgumentError(f"part must be 'train' or 'test', got {part!r}.")
    arrays = read_npz(find("mnist/mnist_3k.npz", "Reinstall linmap."), (f"x_{part}", f"y_{part}"))
    return image_set_of(arrays[f"x_{part}"], arrays[f"y_{part}"], f"mnist {part}")


def image_set_of(images: np.ndarray, labels: np.ndarray | None = None, source: str = "images") -> ImageSet:
    """Images of an array, as `read_image_set` takes them from an archive; `source` is for messages.

    Raises
    ------
    DataError
        If the shape or the values are not those of images, or there is not a label for each.
    """
    shape = images.shape
    if images.ndim not in (3, 4) or 0 in shape or (images.ndim == 4 and shape[-1] not in (1, 3, 4)):
        turned = "; move the channels to the end" if images.ndim == 4 and shape[1] in (1, 3) else ""
        raise DataError(
            f"{source}: images must have the shape (images, height, width) or (images, height, width, 1, 3 or 4), "
            f"got {shape}{turned}."
        )
    scale = _scale(images, source)
    names = tuple(f"{number:0{len(str(len(images) - 1))}d}" for number in range(len(images)))
    found = ImageSet(names, lambda index: _colours(images[index], scale))
    if labels is None:
        return found
    labels = one_for_each(labels, len(images), f"{source}: labels", "images")
    if labels.dtype.kind == "f" and not (labels == np.round(labels)).all():
        raise DataError(f"{source}: labels holds {labels[labels != np.round(labels)][0]:g}; classes are whole numbers.")
    values, numbers = np.unique(labels, return_inverse=True)
    classes = tuple(str(int(value)) if values.dtype.kind == "f" else str(value) for value in values)
    return replace(found, labels=numbers.astype(np.int64), classes=classes)


# -- formats -----------------------------------------------------------------------------------------------------------


def _archive(path: Path, labelled: bool | None) -> ImageSet:
    names = ("images", "labels") if labelled else ("images",)
    arrays = read_npz(path, names, only=("images", "labels"), texts=("labels",))
    return image_set_of(arrays["images"], None if labelled is False else arrays.get("labels"), str(path))


def _folder(path: Path, labelled: bool | None) -> ImageSet:
    if not path.exists():
        raise DataError(f"{path}: there is no such file or folder; expected {LAYOUTS}.")
    files = image_files(path)
    if not path.is_dir():
        return ImageSet((path.name,), lambda index: read_image(files[index]))
    inside = [file.relative_to(path) for file in files]
    found = ImageSet(tuple(map(str, inside)), lambda index: read_image(files[index]))
    classes = sorted({file.parts[0] for file in inside if len(file.parts) > 1})
    if labelled is False or len(classes) < 2:
        return found
    if beside := [file for file in inside if len(file.parts) == 1]:
        raise DataError(
            f"{path}: {beside[0]} lies beside folders of images ({', '.join(classes[:3])}); move it into its class, or "
            "all images into one folder."
        )
    empty = sorted(part.name for part in path.iterdir() if part.is_dir() and not hidden(part, path))
    if missing := [name for name in empty if name not in classes]:
        raise DataError(f"{path / missing[0]}: this folder of a class holds no images; fill or remove it.")
    numbers = {name: number for number, name in enumerate(classes)}
    labels = np.array([numbers[file.parts[0]] for file in inside], np.int64)
    return replace(found, labels=labels, classes=tuple(classes))


def _scale(images: np.ndarray, source: str) -> float:
    """What 8-bit values are made of these by: 1, or 1 / 257 for 16 bits, or 255 for shares."""
    if images.dtype.kind == "c":
        raise DataError(f"{source}: images must be real numbers, got {images.dtype}.")
    low, high = float(images.min()), float(images.max())
    if images.dtype == np.uint8:
        return 1.0
    if images.dtype == np.uint16 and high <= 255:
        raise DataError(
            f"{source}: images are of 16 bits (uint16), and none of their values is above 255; write images of 8 bits "
            "as uint8."
        )
    if images.dtype.kind in "iu" and low >= 0 and high <= 65535:
        return 1.0 if high <= 255 else 1 / 257
    if images.dtype.kind in "fb" and low >= 0 and high <= 1:
        return 255.0
    raise DataError(
        f"{source}: the values of images go from {low:g} to {high:g} ({images.dtype}); expected 0 to 255 or 65535 as "
        "whole numbers, or 0 to 1."
    )


def _colours(image: np.ndarray, scale: float) -> UInt8[np.ndarray, "height width 3"]:
    """One image of an array as 8-bit RGB; what is transparent shows white."""
    values = image if image.dtype == np.uint8 else np.round(image * scale).astype(np.uint8)
    values = values[..., None] if values.ndim == 2 else values
    if values.shape[-1] == 4:
        alpha = values[..., 3:] / 255
        values = np.round(values[..., :3] * alpha + 255 * (1 - alpha)).astype(np.uint8)
    return np.repeat(values, 3, axis=-1) if values.shape[-1] == 1 else values.copy()
