"""Pictures of a comparison of segmenters."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from linmap.adapt import segmentation
from linmap.data.masks import MaskedImages
from linmap.experiment import Picture, Runs
from linmap.experiment.charts import draw_curves


def draw_losses(runs: Runs, epochs: int, path: Path) -> Picture:
    """Training loss by epoch with the fewest images, mean over the seeds."""

    def by_epoch(losses: list[float]) -> np.ndarray:
        return np.array(losses).reshape(epochs, -1).mean(1)

    part = runs.parts[0]
    curves = {arm.name: [by_epoch(run.details["losses"]) for run in runs.of(arm.name, part)] for arm in runs.arms}
    draw_curves(path, curves, "epoch", "training loss (Dice + focal)", part, styles=runs.styles)
    caption = "Mean over the seeds, by epoch; the bands go from the lowest to the highest seed."
    return Picture(path.name, "Training loss", caption)


def draw_masks(runs: Runs, images: MaskedImages, path: Path) -> Picture:
    """The first test images, the truth, and what each arm finds after training on the most images."""
    shape = tuple(images.images.shape[-2:])

    def unpacked(mask: str) -> np.ndarray:
        return np.unpackbits(np.frombuffer(bytes.fromhex(mask), np.uint8))[: shape[0] * shape[1]].reshape(shape)

    bits = {arm.name: runs.of(arm.name, runs.parts[-1])[0].details["masks"] for arm in runs.arms}
    colours = {name: style["color"] for name, style in runs.styles.items()}
    segmentation.draw_masks(path, images, {name: list(map(unpacked, one)) for name, one in bits.items()}, colours)
    caption = "Test images, the truth (amber), and what each method predicts with the first seed, in its colour."
    return Picture(path.name, "What each method finds", caption)
