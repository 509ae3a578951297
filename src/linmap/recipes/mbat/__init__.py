"""MBAT on files: records to vectors, search among them, and a comparison with what one would pick otherwise."""

from linmap.recipes.mbat.comparison import PRESETS, Settings, compare
from linmap.recipes.mbat.files import ApplySettings, apply

__all__ = ["PRESETS", "ApplySettings", "Settings", "apply", "compare"]

RESUMES = ()  # verbs that honour --resume
