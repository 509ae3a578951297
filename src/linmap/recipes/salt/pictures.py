"""Pictures of a comparison of segmenters."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from linmap.data.masks import MaskedImages
from linmap.experiment import Picture, Runs
from linmap.experiment.charts import draw_curves
from linmap.pictures import MUTED, SERIES, SYSTEM, figure, save_svg


def draw_losses(runs: Runs, epochs: int, path: Path) -> Picture:
    """Training loss by epoch with the fewest images, mean over the seeds."""

    def by_epoch(losses: list[float]) -> np.ndarray:
        return np.array(losses).reshape(epochs, -1).mean(1)

    part = runs.parts[0]
    curves = {arm.name: [by_epoch(run.details["losses"]) for run in runs.of(arm.name, part)] for arm in runs.arms}
    draw_curves(path, curves, "epoch", "training loss (Dice + focal)", part)
    caption = "Mean over the seeds, by epoch; the bands go from the lowest to the highest seed."
    return Picture(path.name, "Training loss", caption)


def draw_masks(runs: Runs, images: MaskedImages, path: Path) -> Picture:
    """The first test images, the truth, and what each arm finds after training on the most images."""
    masks = {arm.name: runs.of(arm.name, runs.parts[-1])[0].details["masks"] for arm in runs.arms}
    columns = ["image", "truth", *masks]
    size = images.images.shape[-2:]
    step = max(1, size[0] // 96)  # every picture holds the image again, and the file with it
    inches = (1.25 * len(columns), 1.35 * len(images) + 0.5)
    with figure(*inches, nrows=len(images), ncols=len(columns), squeeze=False) as (fig, axes):
        for row in range(len(images)):
            picture, truth = images.images[row, 0].numpy(), images.masks[row, 0].numpy()
            found = [_unpacked(bits[row], tuple(size)) for bits in masks.values()]
            for ax, name, mask in zip(axes[row], columns, [None, truth, *found], strict=True):
                ax.imshow(picture[::step, ::step], cmap="gray", vmin=0, vmax=1, extent=(0, size[1], size[0], 0))
                if mask is not None and mask.any():
                    ax.contour(mask, levels=[0.5], colors=[MUTED if name == "truth" else SYSTEM], linewidths=1.2)
                if mask is not None:
                    ax.contourf(mask, levels=[0.5, 1.5], colors=[SERIES[4] if name == "truth" else SYSTEM], alpha=0.35)
                ax.set(xticks=[], yticks=[])
                ax.grid(False)
                if row == 0:
                    ax.set_title(name.replace(", relu", ",\nrelu").replace(" and ", "\nand "), fontsize=8)
        save_svg(fig, path)
    return Picture(
        path.name,
        "What each method finds",
        "Test images, the truth (amber) and the predictions (blue) of the first seed.",
    )


def _unpacked(mask: str, shape: tuple[int, ...]) -> np.ndarray:
    """A mask from its bits in hexadecimal."""
    bits = np.unpackbits(np.frombuffer(bytes.fromhex(mask), np.uint8))
    return bits[: shape[0] * shape[1]].reshape(shape)
