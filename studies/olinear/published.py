"""What the papers report, to stand beside our figures; and the settings of the authors' scripts.

Source: OLinear (arXiv 2505.08550), tables 1 and 2, and those of the papers that it compares with; input of 96 steps.
"""

from __future__ import annotations

from typing import Any

ETTH1: dict[str, dict[int, tuple[float, float]]] = {
    "OLinear": {96: (0.360, 0.382), 192: (0.416, 0.414), 336: (0.457, 0.438), 720: (0.463, 0.462)},
    "TimeMixer": {96: (0.375, 0.400), 192: (0.429, 0.421), 336: (0.484, 0.458), 720: (0.498, 0.482)},
    "iTransformer": {96: (0.386, 0.405), 192: (0.441, 0.436), 336: (0.487, 0.458), 720: (0.503, 0.491)},
    "PatchTST": {96: (0.414, 0.419), 192: (0.460, 0.445), 336: (0.501, 0.466), 720: (0.500, 0.488)},
    "RLinear": {96: (0.386, 0.395), 192: (0.437, 0.424), 336: (0.479, 0.446), 720: (0.481, 0.470)},
    "DLinear": {96: (0.386, 0.400), 192: (0.437, 0.432), 336: (0.481, 0.459), 720: (0.519, 0.516)},
}
"""MSE and MAE on ETTh1 by horizon."""

ILI_MEAN = {"OLinear": (1.429, 0.690), "iTransformer": (1.715, 0.773), "DLinear": (2.742, 1.126)}
"""MSE and MAE on ILI, mean over the eight tasks."""

ILI_TASKS = ((36, 24), (36, 36), (36, 48), (36, 60), (12, 3), (12, 6), (12, 9), (12, 12))
"""Rows of the input and of the forecast."""

TOLERANCE = 0.01
"""How near our MSE on ETTh1 must come to the paper's."""

LARGER_HORIZON: dict[int, dict[str, Any]] = {720: {"lr": 1e-4}}
"""What the authors' scripts change on ETTh1 at a horizon."""


def ili_settings(lookback: int, horizon: int) -> dict[str, Any]:
    """The authors' settings for one of `ILI_TASKS`; they name no number of epochs for 36 rows: that of 12 rows."""
    return {
        "lookback": lookback,
        "h": horizon,
        "d_model": 256 if lookback == 36 else 512,
        "embed": 16,
        "dropout": 0.0,
        "lr": 1e-4,
        "batch_size": 4,
        "schedule": "type3",
        "patience": 10,
        "epochs": 30 if (lookback, horizon) == (12, 12) else 50,
    }
