"""Labelled images as tensors: prepared for a model, divided, in grey, and moved a little."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, TensorDataset

from linmap.data.image_preparation import ImagePreparation
from linmap.data.image_sets import ImageSet
from linmap.errors import DataError

LUMA = (0.299, 0.587, 0.114)  # of red, green and blue, ITU-R BT.601


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

    def fingerprinted(self) -> tuple[Tensor, Tensor]:
        """What a checkpoint knows the data by."""
        return self.x, self.y

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


def labelled(train: ImageSet, test: ImageSet, preparation: ImagePreparation, grey: bool = False) -> Labelled:
    """Images as a model takes them; with `grey`, one channel where no image has colours.

    Raises
    ------
    DataError
        If they do not come out square.
    """
    x, x_test = (preparation.batch(part) for part in (train, test))
    if x.shape[-1] != x.shape[-2]:
        raise DataError(f"the model takes images of {x.shape[-2]} x {x.shape[-1]}; give a square with size=224.")
    grey = grey and all(colourless(part) for part in (x, x_test))
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


def divided(images: ImageSet, share: float, seed: int, source: str, least: int = 2) -> tuple[ImageSet, ImageSet]:
    """All but a share of the images of every class, and that share, drawn with the seed.

    Raises
    ------
    DataError
        If a class has fewer than `least` images, or there is one class; `source` is for messages.
    """
    assert images.labels is not None
    if len(images.classes) < 2:
        named = " and ".join(images.classes)
        raise DataError(f"{source}: all images are of one class, {named!r}; there is nothing to tell apart.")
    random, held = np.random.default_rng(seed), np.zeros(len(images), dtype=bool)
    for number, name in enumerate(images.classes):
        rows = np.flatnonzero(images.labels == number)
        if len(rows) < least:
            noun = "image" if len(rows) == 1 else "images"
            raise DataError(
                f"{source}: class {name!r} has {len(rows)} {noun}; at least {least} are needed, to train and to test."
            )
        held[random.permutation(rows)[: min(max(1, round(share * len(rows))), len(rows) - 1)]] = True
    return images.subset(np.flatnonzero(~held)), images.subset(np.flatnonzero(held))
