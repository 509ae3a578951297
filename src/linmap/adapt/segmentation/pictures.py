"""The picture of masks over their images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import numpy as np

from linmap.data.masks import MaskedImages
from linmap.pictures import MUTED, SERIES, SYSTEM, figure, save_svg

WIDE = 96  # pixels that are drawn: every panel holds the image again, and the file with it


def draw_masks(
    path: Path,
    data: MaskedImages,
    found: Mapping[str, Sequence[np.ndarray]],
    colours: Mapping[str, str] = MappingProxyType({}),
) -> Path:
    """Images, the truth, and what each method finds, an image a line.

    Parameters
    ----------
    path
        Of the SVG.
    data
        Images and their masks.
    found
        By the name of a method, a mask (height, width) of 0 and 1 for each image.
    colours
        By the name of a method, of its masks; blue without it.
    """
    columns, size = ["image", "truth", *found], data.images.shape[-2:]
    step = max(1, size[0] // WIDE)
    inches = (1.25 * len(columns), 1.35 * len(data) + 0.5)
    with figure(*inches, nrows=len(data), ncols=len(columns), squeeze=False) as (fig, axes):
        for row in range(len(data)):
            picture, truth = data.images[row, 0].numpy(), data.masks[row, 0].numpy()
            masks = [None, truth, *(one[row] for one in found.values())]
            for ax, name, mask in zip(axes[row], columns, masks, strict=True):
                ax.imshow(picture[::step, ::step], cmap="gray", vmin=0, vmax=1, extent=(0, size[1], size[0], 0))
                own = colours.get(name, SYSTEM)
                if mask is not None and mask.any():
                    ax.contour(mask, levels=[0.5], colors=[MUTED if name == "truth" else own], linewidths=1.2)
                if mask is not None:
                    ax.contourf(mask, levels=[0.5, 1.5], colors=[SERIES[4] if name == "truth" else own], alpha=0.35)
                ax.set(xticks=[], yticks=[])
                ax.grid(False)
                if row == 0:
                    ax.set_title(name.replace(", relu", ",\nrelu").replace(" and ", "\nand "), fontsize=8)
        return save_svg(fig, path)
