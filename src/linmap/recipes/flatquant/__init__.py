"""FlatQuant on files: quantise a language model, generate with it, and compare with other ways to few bits."""

from linmap.recipes.flatquant.applying import apply
from linmap.recipes.flatquant.comparison import PRESETS, compare
from linmap.recipes.flatquant.fitting import fit
from linmap.recipes.flatquant.settings import Settings
from linmap.recipes.language.answering import Generation as ApplySettings

FLAG_OF = {"n_samples": "windows", "sequence_length": "length"}  # flags that are called otherwise than the argument

__all__ = ["FLAG_OF", "PRESETS", "ApplySettings", "Settings", "apply", "compare", "fit"]
