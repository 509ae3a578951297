"""The tasks of the paper: ETTh1 at all horizons and influenza-like illness, beside the published rows."""

from __future__ import annotations

from typing import Any

from linmap.experiment import Check, Runs, Table
from linmap.recipes.olinear.methods import RATES, linear, olinear, repeating
from studies.olinear.published import ETTH1, ILI_MEAN, ILI_TASKS, LARGER_HORIZON, TOLERANCE, ili_settings
from studies.olinear.tasks import mean_over_parts, mse_mae, run, task_part
from studies.study import Findings, Job

HORIZONS = (96, 192, 336, 720)
CHOSEN = f"The linear baselines choose their learning rate by validation, of {', '.join(f'{r:g}' for r in RATES)}."


def horizons(job: Job) -> Findings:
    """ETTh1 from 96 hours, with the published size and settings."""
    parts = [
        task_part(job, "etth1", str(h), h=h, **LARGER_HORIZON.get(h, {})) for h in HORIZONS[: 1 if job.tiny else None]
    ]
    arms = [olinear(job.resume), *repeating(parts[0].data), *linear(1 if job.tiny else 6, job.resume)]
    runs = run(job, "horizons", arms, parts)
    rows: list[list[Any]] = [[arm.name, *(mse_mae(runs, arm.name, part) for part in runs.parts)] for arm in arms]
    rows += [
        [f"{name}, published", *(f"{table[int(h)][0]:.3f} / {table[int(h)][1]:.3f}" for h in runs.parts)]
        for name, table in ETTH1.items()
    ]
    note = f"{CHOSEN} Published rows: the papers' own figures, from the same 96 steps."
    table = Table("ETTh1, MSE / MAE by horizon", ["method", *runs.parts], rows, note)
    setting = "ETTh1, 96 hours to 96, 192, 336 and 720; the published size and settings, all test windows."
    return Findings(setting, [table], [] if job.tiny else _published_checks(runs))


def _published_checks(runs: Runs) -> list[Check]:
    checks = []
    for h in HORIZONS:
        ours, theirs = runs.mean("OLinear", "MSE", str(h)), ETTH1["OLinear"][h][0]
        checks.append(
            Check(
                f"ETTh1, {h} steps: MSE within {TOLERANCE} of the paper's",
                ours <= theirs + TOLERANCE,
                f"{ours:.4f}; the paper: {theirs:.3f}",
                "this implementation or its setting is not the published one",
            )
        )
    return checks


def ili(job: Job) -> Findings:
    """Weekly influenza-like illness, with the authors' settings."""
    parts = [
        task_part(job, "ili", f"{T} to {h}", **ili_settings(T, h)) for T, h in ILI_TASKS[: 1 if job.tiny else None]
    ]
    arms = [olinear(job.resume), *repeating(parts[0].data), *linear(1 if job.tiny else 12, job.resume)]
    arms = [arm for arm in arms if arm.name != "last season"]  # a year is longer than what 12 weeks are tested on
    runs = run(job, "ili", arms, parts)
    rows: list[list[Any]] = [
        [arm.name, *(mse_mae(runs, arm.name, part, 3) for part in runs.parts), mean_over_parts(runs, arm.name)]
        for arm in arms
    ]
    rows += [
        [f"{name}, published", *[""] * len(parts), f"{error[0]:.3f} / {error[1]:.3f}"]
        for name, error in ILI_MEAN.items()
    ]
    title = "ILI, MSE / MAE: weeks of input to weeks of forecast"
    table = Table(title, ["method", *runs.parts, "mean"], rows, CHOSEN)
    ours, theirs = (runs.mean(name, "MSE", "36 to 24") for name in ("OLinear", "DLinear"))
    check = Check(
        "ILI, 24 weeks from 36: MSE at least 30 % below DLinear's",
        ours <= 0.7 * theirs,
        f"{ours:.3f} against {theirs:.3f}, {1 - ours / theirs:.0%} below",
        "the paper's gain on short weekly series is not reproduced",
        runs.differ("OLinear", "DLinear", "MSE", "36 to 24", times=0.7),
    )
    return Findings("ILI, the eight tasks of the paper, the authors' settings.", [table], [check])
