"""Runs before the first cell of every tutorial and example, unseen: no arguments, pictures in linmap's style."""

import sys
import warnings
from typing import Any

import matplotlib
from cycler import cycler
from matplotlib_inline import backend_inline

from linmap.pictures import GRID, INK, MUTED, PAPER, SERIES

sys.argv = ["example"]
warnings.simplefilter("ignore")
backend_inline.set_matplotlib_formats("svg")
style: dict[Any, Any] = (
    dict.fromkeys(("figure.facecolor", "axes.facecolor", "savefig.facecolor"), PAPER)
    | dict.fromkeys(("text.color", "axes.labelcolor", "axes.titlecolor"), INK)
    | dict.fromkeys(("axes.edgecolor", "xtick.color", "ytick.color"), MUTED)
    | dict.fromkeys(("axes.spines.top", "axes.spines.right", "legend.frameon"), False)
    | {"figure.figsize": (5.2, 2.9), "figure.constrained_layout.use": True, "axes.titlesize": 10.5}
    | {"axes.grid": True, "grid.color": GRID, "axes.axisbelow": True, "axes.prop_cycle": cycler(color=SERIES)}
    | {"svg.fonttype": "none", "svg.hashsalt": "linmap"}
)
matplotlib.rcParams.update(style)
