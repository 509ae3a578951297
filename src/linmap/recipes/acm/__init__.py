"""Augmented covariance on files of epochs, and compared with plain covariances and a convolutional network."""

from linmap.recipes.acm.comparison import PRESETS, compare
from linmap.recipes.acm.files import ApplySettings, Settings, apply, fit

__all__ = ["PRESETS", "ApplySettings", "Settings", "apply", "compare", "fit"]

RESUMES = ("compare",)  # verbs that honour --resume
