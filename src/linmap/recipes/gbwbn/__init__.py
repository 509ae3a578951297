"""SPDNets with Bures-Wasserstein batch normalisation on files, beside other normalisations and none."""

from linmap.recipes.gbwbn.comparison import PRESETS, Comparison, compare
from linmap.recipes.gbwbn.fitting import ApplySettings, Settings, apply, fit

__all__ = ["PRESETS", "ApplySettings", "Comparison", "Settings", "apply", "compare", "fit"]

RESUMES = ("fit",)  # verbs that honour --resume
