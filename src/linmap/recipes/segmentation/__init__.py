"""Segmentation of images with few of them: EfficientNet-lite0 with SALT, fitted, applied and compared."""

from linmap.recipes.segmentation.comparison import compare
from linmap.recipes.segmentation.fitting import apply, fit
from linmap.recipes.segmentation.settings import PRESETS, SegmentationSettings

__all__ = ["PRESETS", "SegmentationSettings", "apply", "compare", "fit"]
