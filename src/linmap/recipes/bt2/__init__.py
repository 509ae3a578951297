"""BT² on files: fit an upgrade to pairs of vectors, apply it, and compare it with what one would do otherwise."""

from linmap.recipes.bt2.comparison import PRESETS, Comparison, compare
from linmap.recipes.bt2.files import ApplySettings, Settings, apply, fit

__all__ = ["PRESETS", "ApplySettings", "Comparison", "Settings", "apply", "compare", "fit"]

RESUMES = ()  # verbs that honour --resume
