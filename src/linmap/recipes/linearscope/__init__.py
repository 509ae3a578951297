"""linearscope at work: a classifier, super-resolution networks and an image-to-image network read as affine maps."""

from linmap.recipes.linearscope.comparison import compare
from linmap.recipes.linearscope.reading import apply
from linmap.recipes.linearscope.settings import PRESETS, ApplySettings, Settings

__all__ = ["PRESETS", "ApplySettings", "Settings", "apply", "compare"]
