"""A small network that segments images, for adapters on its encoder, with the losses and measures of binary masks.

>>> model = Segmenter()  # doctest: +SKIP
>>> inject_adapter_in_model(SaltConfig(ratio=0.1, r=4, target_modules=TARGETS), model.encoder)  # doctest: +SKIP
>>> segmentation_loss(model(images), masks).backward()  # doctest: +SKIP
"""

from linmap.adapt.segmentation.metrics import dice, dice_loss, focal_loss, hd95, segmentation_loss
from linmap.adapt.segmentation.segmenter import TARGETS, Segmenter, probabilities

__all__ = ["TARGETS", "Segmenter", "dice", "dice_loss", "focal_loss", "hd95", "probabilities", "segmentation_loss"]
