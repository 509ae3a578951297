"""Prediction intervals around any forecaster, from its errors on windows that it was not trained on: split conformal.

For each step of the horizon and each variate, with scores s_1 .. s_n = |y - forecast| / scale of n calibration windows,
the interval of level c is forecast ± scale * q, where q is the ceil((n + 1) c)-th smallest score. If the calibration
windows and the new one were exchangeable, it would hold the truth with a probability of at least c, and of at most
c + 1 / (n + 1) where scores do not tie. Windows of one series overlap and drift: what is promised is then only as good
as the recent past, and coverage should be measured (`backtest`).

Source: Lei et al., Distribution-free predictive inference for regression (JASA 2018); the scale of the window as in
their section 5.2, locally weighted.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from jaxtyping import Float, Float32
from torch import Tensor, nn

from linmap.data.timeseries import Windows
from linmap.errors import ArgumentError
from linmap.sequence.olinear.fitting import EVALUATION_BATCH, for_inference
from linmap.sequence.olinear.revin import instance_statistics

CALIBRATION_WINDOWS = 500  # windows side by side tell nearly the same: more of them cost memory and add little
ScoreScale = Literal["constant", "window"]


@torch.inference_mode()
def calibration_scores(
    model: nn.Module, windows: Windows, scale: ScoreScale | str = "constant", limit: int = CALIBRATION_WINDOWS
) -> Float32[np.ndarray, "windows horizon variates"]:
    """|y - forecast| / scale over at most `limit` windows, evenly spread over all of them.

    Parameters
    ----------
    model
        Maps (batch, time, variate) to (batch, horizon, variate).
    windows
        Of rows that neither trained the model nor chose it.
    scale
        `"constant"`: 1, so that all intervals of a step and variate are equally wide; `"window"`: the standard
        deviation of the input window, so that they widen where the series swings.
    limit
        Most windows used.
    """
    check_scale(scale)
    model = for_inference(model)
    chosen = torch.linspace(0, len(windows) - 1, min(limit, len(windows))).long()
    scores = []
    for indices in chosen.split(EVALUATION_BATCH):
        x, y = windows.__getitems__(indices.tolist())
        scores.append((y - model(x)).abs() / window_scale(x, scale))
    return torch.cat(scores).numpy()


def conformal_quantile(
    scores: Float[np.ndarray, "windows horizon variates"], level: float | int
) -> Float[np.ndarray, "horizon variates"]:
    """The ceil((n + 1) level / 100)-th smallest of the n scores of each step and variate.

    Parameters
    ----------
    scores
        From `calibration_scores`.
    level
        In percent, at least 1 and below 100.

    Raises
    ------
    ValueError
        If the level is out of its range, or too near 100 for so few windows.
    """
    if not 1 <= level < 100:
        share = f"; is it a share? Write {100 * level:g}" if 0 < level < 1 else ""
        raise ArgumentError(f"level must lie between 1 and 100 percent, got {level}{share}.")
    n = len(scores)
    rank = math.ceil((n + 1) * level / 100)
    if rank > n:
        raise ArgumentError(
            f"level {level} needs at least {math.ceil(level / (100 - level))} calibration windows, there are {n}; "
            "calibrate on more rows, or lower the level."
        )
    return np.partition(scores, rank - 1, axis=0)[rank - 1]


@dataclass(frozen=True)
class Coverage:
    """How intervals of one level hold, by step of the horizon."""

    level: float
    scale: str
    covered: list[float]
    """Share of the truths inside."""
    width: list[float]
    """Mean width, in the units of the windows."""


@torch.inference_mode()
def coverage(
    model: nn.Module, calibration: Windows, test: Windows, levels: Sequence[float | int], scale: ScoreScale | str
) -> list[Coverage]:
    """Intervals calibrated on some windows, measured on others; levels that need more windows are left out."""
    scores = calibration_scores(model, calibration, scale)
    errors = calibration_scores(model, test, scale, limit=len(test))
    spread = window_scale(test.__getitems__(list(range(len(test))))[0], scale).mean(0).numpy()
    found = []
    for level in levels:
        if len(scores) >= level / (100 - level):
            quantile = conformal_quantile(scores, level)
            covered, width = (errors <= quantile).mean((0, 2)), (2 * quantile * spread).mean(1)
            found.append(Coverage(float(level), scale, covered.tolist(), width.tolist()))
    return found


def window_scale(x: Float[Tensor, "batch time variate"], scale: ScoreScale | str) -> Float[Tensor, "batch 1 variate"]:
    """What the scores of each window are divided by, and its intervals multiplied with."""
    deviation = instance_statistics(x)[1]
    return deviation if scale == "window" else torch.ones_like(deviation)


def check_scale(scale: str) -> None:
    if scale not in get_args(ScoreScale):
        raise ArgumentError(f"scale of the scores must be 'constant' or 'window', got {scale!r}.")
