"""OLinear on files: forecast a table, look back at what it would have forecast, and compare with other forecasters."""

from linmap.recipes.olinear.comparison import compare
from linmap.recipes.olinear.files import apply, fit
from linmap.recipes.olinear.settings import PRESETS, ApplySettings, Comparison, Settings

FLAG_OF = {"h": "horizon", "n_windows": "backtest"}
"""Arguments whose flags have other names."""

__all__ = ["PRESETS", "ApplySettings", "Comparison", "Settings", "apply", "compare", "fit"]
