"""How well conformal intervals around a trained forecaster hold on the test windows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args

import numpy as np
import torch

from linmap.experiment.result import Check, Table
from linmap.recipes.olinear.methods import Task, Trained
from linmap.sequence.olinear.conformal import ScoreScale, calibration_scores, conformal_quantile, window_scale

LEVELS = (80, 90, 95)
SLACK = 5.0  # percentage points that coverage may fall short of its level


@dataclass(frozen=True)
class Coverage:
    """Share of test values inside the intervals, and how wide these are, by step of the horizon."""

    level: int
    scale: str
    covered: np.ndarray
    width: np.ndarray


@torch.inference_mode()
def measure(task: Task, trained: Trained) -> list[Coverage]:
    """Calibrated on the validation windows (which also chose the epoch), measured on the test windows."""
    found = []
    x, _ = task.windows["test"].__getitems__(list(range(len(task.windows["test"]))))
    for scale in get_args(ScoreScale):
        calibration = calibration_scores(trained.model, task.windows["validation"], scale)
        scores = calibration_scores(trained.model, task.windows["test"], scale, limit=len(x))
        spread = float(window_scale(x, scale).mean()) if scale == "constant" else window_scale(x, scale).mean(0).numpy()
        for level in LEVELS:
            if len(calibration) < level / (100 - level):
                continue  # too few windows for the level
            quantile = conformal_quantile(calibration, level)
            found.append(Coverage(level, scale, (scores <= quantile).mean((0, 2)), (2 * quantile * spread).mean(1)))
    return found


def as_table(found: list[Coverage]) -> Table:
    rows: list[list[str | float | int]] = [
        [f"{one.level} %", one.scale, round(100 * float(one.covered.mean()), 1),
         round(100 * float(one.covered.min()), 1), round(float(one.width.mean()), 3)]
        for one in found
    ]  # fmt: skip
    return Table(
        "Intervals on the test windows",
        ["level", "scale of the scores", "covered, %", "worst step, %", "mean width"],
        rows,
        "Split conformal, calibrated on 500 validation windows; widths on standardised values, first seed.",
    )


def as_check(found: list[Coverage]) -> Check:
    own = [one for one in found if one.scale == "window"]
    covered = {one.level: 100 * float(one.covered.mean()) for one in own}
    return Check(
        f"intervals scaled by the window cover no less than their level minus {SLACK:g} points",
        all(share >= level - SLACK for level, share in covered.items()),
        ", ".join(f"{level} %: {share:.1f} %" for level, share in covered.items()),
        "the intervals promise more than they hold; calibrate on more, or more recent, rows",
    )
