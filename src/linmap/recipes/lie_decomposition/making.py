"""Networks as the flags say, trained alike, and the share of test images whose class they find."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import Dataset, TensorDataset

from linmap.data.image_warps import Pose, WarpRanges, standard_pose, warp
from linmap.recipes.lie_decomposition.images import Canvas, Labelled
from linmap.recipes.lie_decomposition.plain import PlainResNet
from linmap.shapes.lie_decomposition import LieClassifier
from linmap.training import train

STRENGTHS = (0.0, 0.5, 1.0, 1.5, 2.0)
"""Of the warps, whose ranges are 1."""
NAMES = {"so2": "SE(2) network", "sl2": "SL(2) network", "gl2": "GL+(2) network"}
BATCH = 250

Answer = Callable[[Tensor], np.ndarray]
"""From images on their canvas to the number of the class of each."""


class Warped(Dataset):
    """The same images, each moved by a new random map every time; draws from PyTorch's global generator."""

    def __init__(self, x: Tensor, y: Tensor, canvas: Canvas, ranges: WarpRanges) -> None:
        self.x, self.y, self.canvas, self.ranges = x, y, canvas, ranges

    def __len__(self) -> int:
        return len(self.x)

    def fingerprinted(self) -> tuple[Tensor, Tensor]:
        return self.x, self.y

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        x, y = self.__getitems__([index])
        return x[0], y[0]

    def __getitems__(self, indices: list[int]) -> tuple[Tensor, Tensor]:
        return self.canvas.seen(warp(self.x[indices], *self.ranges.draw(len(indices)))), self.y[indices]


def trained_plain(
    data: Labelled, options: Mapping[str, Any], channels: int, seed: int, ranges: WarpRanges | None, pose: Pose | None
) -> tuple[PlainResNet, Answer]:
    """A `PlainResNet` on the images, on warped ones, or on ones in standard pose, and how it answers."""

    def seen(laid: Tensor) -> Tensor:
        return data.canvas.seen(laid if pose is None else standard_pose(laid, pose))

    y = torch.from_numpy(data.y)
    images = TensorDataset(seen(data.x), y) if ranges is None else Warped(data.x, y, data.canvas, ranges)
    own = {name: options[name] for name in ("kernel_size", "head", "dropout", "early_pool")}
    trained = {name: options[name] for name in ("epochs", "batch_size", "lr", "weight_decay")}
    config = LieClassifier(**trained, random_state=seed).training_config(len(y))
    torch.manual_seed(seed)
    model = PlainResNet(data.channels, len(data.classes), channels, **own)
    train(model, cross_entropy, images, config=config, description="CNN")

    def answer(laid: Tensor) -> np.ndarray:
        with torch.no_grad():
            return torch.cat([model(seen(part)).argmax(1) for part in laid.split(BATCH)]).numpy()

    return model, answer


def answer_of(classifier: LieClassifier, canvas: Canvas) -> Answer:
    """How a fitted group network answers; its classes are numbers."""
    return lambda laid: classifier.predict(canvas.seen(laid))


def cross_entropy(model: nn.Module, batch: Any) -> Tensor:
    """Of the labels."""
    return F.cross_entropy(model(batch[0]), batch[1])


def warped_tests(data: Labelled, ranges: WarpRanges, strengths: Sequence[float], seed: int) -> list[Tensor]:
    """The test images moved by maps of each strength: the same maps, less and more of them."""
    found = []
    for strength in strengths:
        generator = torch.Generator().manual_seed(seed)
        found.append(warp(data.x_test, *ranges.times(strength).draw(len(data.x_test), generator)))
    return found


def judged(answer: Answer, tests: Sequence[Tensor], y: np.ndarray) -> np.ndarray:
    """Of each strength and image, whether its class is found, (strengths, images)."""
    return np.stack([answer(laid) == y for laid in tests])
