"""Labelled images as tensors, and what a saved pool says of them."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, TensorDataset

from linmap import artifacts
from linmap.data.image_preparation import ImagePreparation, read_preparation
from linmap.data.image_sets import ImageSet, embedded_digits, read_image_set
from linmap.data.models import model_folder
from linmap.errors import ArtifactError, DataError
from linmap.recipes.learngene_pool.flags import Images

FILE = "images.json"
SIZE = 28  # of images, without a model
LUMA = (0.299, 0.587, 0.114)  # of red, green and blue, ITU-R BT.601
PLAIN = ImagePreparation(scale=1 / 255, mean=(0.5,), std=(0.5,))


@dataclass(frozen=True)
class Labelled:
    """Images to train and to test on."""

    train: TensorDataset
    test: TensorDataset
    classes: tuple[str, ...]
    preparation: ImagePreparation
    grey: bool
    """Whether the models get one channel."""

    @property
    def channels(self) -> int:
        return 1 if self.grey else 3

    @property
    def size(self) -> int:
        return self.train.tensors[0].shape[-1]


class Shifted(Dataset):
    """The same samples, each moved by up to a fourteenth of its side every time; from PyTorch's global generator."""

    def __init__(self, data: TensorDataset) -> None:
        self.x, self.y = data.tensors

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        x, y = self.__getitems__([index])
        return x[0], y[0]

    def __getitems__(self, indices: list[int]) -> tuple[Tensor, Tensor]:
        x = self.x[indices]
        by = max(1, x.shape[-1] // 14)
        padded = torch.nn.functional.pad(x, (by, by, by, by), mode="replicate")
        rows, columns = torch.randint(2 * by + 1, (2, len(indices))).tolist()
        side = x.shape[-1]
        moved = [part[:, r : r + side, c : c + side] for part, r, c in zip(padded, rows, columns, strict=True)]
        return torch.stack(moved), self.y[indices]


def load(settings: Images, data: Path | None, seed: int, most: int | None = None) -> Labelled:
    """The images of a path, divided by the seed, or the embedded digits, as the ancestry model takes them.

    Raises
    ------
    DataError
        If there are too few images or classes.
    """
    preparation = preparation_of(settings)
    if data is None:
        train, test = embedded_digits("train"), embedded_digits("test")
    else:
        train, test = divided(read_image_set(data, labelled=True), settings.held_out, seed, str(data))
    if most is not None and most < len(train):
        train = train.subset(np.sort(np.random.default_rng(seed).permutation(len(train))[:most]))
        if lost := sorted(set(range(len(train.classes))) - set(np.asarray(train.labels).tolist())):
            raise DataError(f"class {train.classes[lost[0]]!r} has none of the images={most} to train on; raise it.")
    x, x_test = (preparation.batch(part) for part in (train, test))
    if x.shape[-1] != x.shape[-2]:
        raise DataError(f"the model takes images of {x.shape[-2]} x {x.shape[-1]}; give a square with size=224.")
    grey = settings.model is None and all(colourless(part) for part in (x, x_test))
    if grey:
        x, x_test = to_grey(x), to_grey(x_test)
    y, y_test = (torch.as_tensor(part.labels) for part in (train, test))
    return Labelled(TensorDataset(x, y), TensorDataset(x_test, y_test), train.classes, preparation, grey)


def colourless(x: Tensor) -> bool:
    """Whether images (n, 3, height, width) have equal channels."""
    return bool((x == x[:, :1]).all())


def to_grey(x: Tensor) -> Tensor:
    """One channel of images (n, 3, height, width): any of equal ones, else their brightness."""
    if colourless(x):
        return x[:, :1].clone()
    return (x * torch.tensor(LUMA)[:, None, None]).sum(1, keepdim=True)


def preparation_of(settings: Images) -> ImagePreparation:
    """What the folder of --model says, or grey values from -1 to 1."""
    if settings.model is None:
        return PLAIN.at(settings.size or SIZE)
    stated = read_preparation(model_folder(settings.model, "images"))
    return stated if settings.size is None else stated.at(settings.size)


def divided(images: ImageSet, share: float, seed: int, source: str) -> tuple[ImageSet, ImageSet]:
    """All but a share of the images of every class, and that share."""
    assert images.labels is not None
    random, held = np.random.default_rng(seed), np.zeros(len(images), dtype=bool)
    for number, name in enumerate(images.classes):
        rows = np.flatnonzero(images.labels == number)
        if len(rows) < 2:
            raise DataError(f"{source}: class {name!r} has {len(rows)} image; two are needed, to train and to test.")
        held[random.permutation(rows)[: min(max(1, round(share * len(rows))), len(rows) - 1)]] = True
    if len(images.classes) < 2:
        named = " and ".join(images.classes)
        raise DataError(f"{source}: all images are of one class, {named!r}; there is nothing to tell apart.")
    return images.subset(np.flatnonzero(~held)), images.subset(np.flatnonzero(held))


# -- beside a saved pool -----------------------------------------------------------------------------------------------


def save(folder: Path, data: Labelled, more: dict[str, Any]) -> None:
    """Write how images are prepared, and the classes."""
    about = {"classes": list(data.classes), "grey": data.grey, "preparation": asdict(data.preparation)}
    artifacts.write_json(folder / FILE, artifacts.plain(about | more))


def saved(folder: Path) -> tuple[dict[str, Any], ImagePreparation]:
    """What `save` wrote, and the preparation.

    Raises
    ------
    ArtifactError
        If it cannot be read.
    """
    if not (folder / FILE).exists():
        raise ArtifactError(
            f"{folder} has no {FILE}, which says the classes and how images are prepared; `linmap fit` and `linmap "
            "apply` write it, and what was saved from Python is for Python."
        )
    try:
        about = json.loads((folder / FILE).read_text(encoding="utf-8"))
        stated: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in about["preparation"].items()}
        return about, ImagePreparation(**stated)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ArtifactError(f"{folder / FILE} cannot be read ({error}); fit the pool again.") from None
