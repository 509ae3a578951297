"""A small network that segments images, adapted through its encoder; losses and measures of binary masks.

>>> data = load_masked_images("scans", size=192)  # doctest: +SKIP
>>> model = build_segmenter(partial(put_salt, ratio=0.1, r=8), seed=0)  # doctest: +SKIP
>>> train_segmenter(model, data, TrainingConfig(epochs=40, batch_size=4, lr=3e-3), adapter_lr=3e-3)  # doctest: +SKIP
>>> np.mean(measure(model, load_masked_images("others", size=192))["dice"])  # doctest: +SKIP
"""

from linmap.adapt.segmentation.metrics import dice, dice_loss, focal_loss, hd95, segmentation_loss
from linmap.adapt.segmentation.pictures import draw_masks
from linmap.adapt.segmentation.segmenter import TARGETS, Segmenter, probabilities
from linmap.adapt.segmentation.training import (
    build_segmenter,
    load_segmenter,
    masks_of,
    measure,
    put_salt,
    save_segmenter,
    train_segmenter,
)

__all__ = [
    "TARGETS",
    "Segmenter",
    "build_segmenter",
    "dice",
    "dice_loss",
    "draw_masks",
    "focal_loss",
    "hd95",
    "load_segmenter",
    "masks_of",
    "measure",
    "probabilities",
    "put_salt",
    "save_segmenter",
    "segmentation_loss",
    "train_segmenter",
]
