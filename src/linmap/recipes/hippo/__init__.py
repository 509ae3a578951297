"""HiPPO and S4 on files, on streams, and beside what one would use otherwise."""

from linmap.recipes.hippo.comparison import compare
from linmap.recipes.hippo.files import apply, fit
from linmap.recipes.hippo.settings import PRESETS, ApplySettings, Comparison, Settings

FLAG_OF = {"n_layers": "layers"}  # flags that are called otherwise than the argument
STANDARD_INPUT = True  # `linmap apply DIR --data -` reads a series sample by sample

__all__ = ["PRESETS", "STANDARD_INPUT", "ApplySettings", "Comparison", "Settings", "apply", "compare", "fit"]
