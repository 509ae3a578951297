"""Whether the basis and the mixing of series matter."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from linmap.experiment import Arm, Picture, Runs, Table, draw_all, mean_std
from linmap.pictures import DIVERGING, SYSTEM, figure, save_svg
from linmap.recipes.olinear.methods import Task, olinear
from linmap.sequence.olinear import OrthoTrans
from studies.olinear.tasks import SETTING, run, small_parts
from studies.study import Findings, Job

BASES = ("identity", "dct", "fft", "haar", "db4", "legendre", "chebyshev", "laguerre", "random")


def bases(job: Job) -> Findings:
    """One model with every basis, and whether the basis matters."""
    variants: dict[str, dict[str, Any]] = {
        "pearson": {"basis": "pearson"},
        "pearson, one for each series": {"basis": "pearson", "chan_indep": True},
    }
    variants |= {name: {"basis": name} for name in (BASES[:1] if job.tiny else BASES)}
    parts = small_parts(job)
    found = _variants(job, "basis", variants)
    drawn, missing = draw_all([(job.out / "basis.svg", partial(draw_basis, parts[-1].data))])
    found.pictures += drawn
    found.sentences += missing
    return found


def mixings(job: Job) -> Findings:
    """One model with other ways to mix the series."""
    return _variants(job, "mixing", {name: {"mixing": name} for name in ("normlin", "correlation", "prior")})


def _variants(job: Job, what: str, variants: Mapping[str, dict[str, Any]]) -> Findings:
    arms: list[Arm] = [olinear(job.resume, name, "ablation", **changes) for name, changes in variants.items()]
    runs = run(job, what, arms, small_parts(job))
    return Findings(
        f"{SETTING}.",
        [variants_table(f"By {what}: MSE and MAE", what, runs)],
        sentences=[f"{whether_it_matters(what, part, runs)}." for part in runs.parts],
    )


def variants_table(title: str, column: str, runs: Runs, note: str = "") -> Table:
    """A row for each arm, two columns for each part."""
    columns = [column, *(f"{part}, {metric}" for part in runs.parts for metric in ("MSE", "MAE"))]
    rows: list[list[str | float | int]] = []
    for arm in runs.arms:
        cells = [
            (mean_std(runs.values(arm.name, "MSE", part), 4), mean_std([runs.mean(arm.name, "MAE", part)], 4))
            for part in runs.parts
        ]
        rows.append([arm.name, *(cell for pair in cells for cell in pair)])
    return Table(title, columns, rows, note)


def whether_it_matters(what: str, part: str, runs: Runs) -> str:
    """The spread between the choices beside the spread between seeds, and an analysis of variance."""
    errors = {arm.name: runs.values(arm.name, "MSE", part) for arm in runs.arms}
    means = {name: statistics.fmean(values) for name, values in errors.items()}
    best, worst = min(means, key=means.__getitem__), max(means, key=means.__getitem__)
    text = f"{part}: by {what}, MSE lies between {means[best]:.4f} ({best}) and {means[worst]:.4f} ({worst})"
    if min(map(len, errors.values())) < 2:
        return f"{text}, from one seed each, which tells nothing about the {what}"
    within = float(np.sqrt(np.mean([np.var(values, ddof=1) for values in errors.values()])))
    p = float(stats.f_oneway(*errors.values()).pvalue)
    verdict = f"so the {what} matters here" if p < 0.01 else f"so these runs do not show that the {what} matters"
    return (
        f"{text}; a seed moves it by {within:.4f} (one standard deviation; analysis of variance p = {p:.2g}), {verdict}"
    )


def draw_basis(task: Task, path: Path) -> Picture:
    """The correlation of the steps and the first rows of Q, as fitted to the training rows."""
    lookback = task.lookback
    fitted = OrthoTrans(lookback).fit(task.training_rows)
    with figure(7.2, 3.4, ncols=2, width_ratios=(1, 1.25)) as (fig, (left, right)):
        image = left.imshow(fitted.correlation_, cmap=DIVERGING, vmin=-1, vmax=1)
        left.grid(False)
        left.set(title="Correlation R of the steps", xlabel="step", ylabel="step")
        fig.colorbar(image, ax=left, shrink=0.8)
        drawn = range(min(6, lookback))
        right.set_yticks([-0.5 * k for k in drawn], [str(k + 1) for k in drawn])
        for k in drawn:
            right.plot(fitted.Q_[k] - 0.5 * k, color=SYSTEM)
            share = fitted.eigenvalues_[k] / lookback
            right.text(lookback * 1.01, -0.5 * k, f"{share:.0%}", va="center", fontsize=9)
        right.set(title="First rows of Q, and their share of the variance", xlabel="step of the window", ylabel="row")
        save_svg(fig, path)
    return Picture(
        path.name,
        "What OrthoTrans found",
        "Left: how the steps of a window correlate in the training rows. Right: its first eigenvectors, the rows of Q, "
        "each with its share of the variance.",
    )
