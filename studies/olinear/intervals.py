"""How well the conformal intervals of OLinear hold on the test windows."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, get_args

import numpy as np
from torch import nn

from linmap.experiment import Check, Picture, Runs, Table, draw_all
from linmap.pictures import SERIES, figure, save_svg
from linmap.recipes.olinear.methods import Task, olinear
from linmap.sequence.olinear import coverage
from linmap.sequence.olinear.conformal import ScoreScale
from studies.olinear.tasks import SMALL, run, task_part
from studies.study import Findings, Job

LEVELS = (80, 90, 95)
SLACK = 5.0  # percentage points that coverage may fall short of its level


def intervals(job: Job) -> Findings:
    """Calibrated on the validation windows (which also chose the epoch), measured on the test windows."""
    arms = [olinear(job.resume, further=_covered)]
    runs = run(job, "intervals", arms, [task_part(job, "etth1", **SMALL, epochs=4)])
    drawn, missing = draw_all([(job.out / "coverage.svg", partial(draw_coverage, runs))])
    setting = "ETTh1, 96 hours from 96, a small model; intervals calibrated on the validation windows."
    return Findings(setting, [coverage_table(runs)], [coverage_check(runs)], missing, drawn)


def _covered(model: nn.Module, task: Task) -> dict[str, Any]:
    calibration, test = task.windows("validation"), task.windows("test")
    found = [coverage(model, calibration, test, LEVELS, scale) for scale in get_args(ScoreScale)]
    return {"coverage": [asdict(one) for of_scale in found for one in of_scale]}


def coverage_table(runs: Runs) -> Table:
    """How the intervals of OLinear hold on the test windows."""
    rows: list[list[str | float | int]] = [
        [
            f"{one['level']:g} %",
            one["scale"],
            round(100 * float(np.mean(one["covered"])), 1),
            round(100 * min(one["covered"]), 1),
            round(float(np.mean(one["width"])), 3),
        ]
        for one in runs.of(runs.arms[0].name)[0].details["coverage"]
    ]
    columns = ["level", "scale of the scores", "covered, %", "worst step, %", "mean width"]
    note = "Split conformal, calibrated on 500 validation windows; widths on standardised values, first seed."
    return Table("Intervals on the test windows", columns, rows, note)


def coverage_check(runs: Runs) -> Check:
    """Whether intervals hold what they promise."""
    found = [one for one in runs.of(runs.arms[0].name)[0].details["coverage"] if one["scale"] == "window"]
    covered = {one["level"]: 100 * float(np.mean(one["covered"])) for one in found}
    return Check(
        f"intervals scaled by the window cover no less than their level minus {SLACK:g} points",
        all(share >= level - SLACK for level, share in covered.items()),
        ", ".join(f"{level:g} %: {share:.1f} %" for level, share in covered.items()),
        "the intervals promise more than they hold; calibrate on more, or more recent, rows",
    )


def draw_coverage(runs: Runs, path: Path) -> Picture:
    """The share of test values inside the intervals, by step."""
    found = [one for one in runs.of("OLinear")[0].details["coverage"] if one["scale"] == "window"]
    with figure(7.2, 3.4) as (fig, ax):
        for colour, one in zip(SERIES, found, strict=False):
            steps, covered = np.arange(1, len(one["covered"]) + 1), 100 * np.array(one["covered"])
            ax.plot(steps, covered, color=colour, label=f"intervals of {one['level']:g} %")
            ax.axhline(one["level"], color=colour, linewidth=0.9, linestyle=(0, (4, 3)))
        ax.set(xlabel="step of the forecast", ylabel="test values inside, %")
        fig.legend(loc="outside upper center", ncols=len(found))
        save_svg(fig, path)
    return Picture(
        path.name,
        "What the intervals cover",
        "Share of the test values inside the conformal intervals of OLinear, by step; dashed: what they promise.",
    )
