"""Networks trained on clean digits, tested on clean and on warped ones; affNIST's ranges, drawn by ourselves."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from linmap.data.image_warps import WarpRanges
from linmap.experiment import Arm, Check, Experiment, Part, Picture, Runs, Table, draw_all
from linmap.recipes.lie_decomposition.compare import (
    AUGMENTED,
    CLEAN,
    CNN,
    EQUAL,
    POSED,
    WARPED,
    Task,
    by_strength,
    grouped,
    orbit_picture,
    plain,
)
from linmap.recipes.lie_decomposition.making import NAMES, STRENGTHS
from linmap.recipes.lie_decomposition.pictures import draw_deformation, orbits
from linmap.recipes.lie_decomposition.plain import channels_of
from linmap.shapes.lie_decomposition import LieClassifier
from studies.lie_decomposition.digits import for_testing
from studies.study import Findings, Job, table_of

EPOCHS, SPLIT = 12, 5
SE2, SL2, GL2 = NAMES["so2"], NAMES["sl2"], NAMES["gl2"]
LOG_NORMAL, FRESH, WHOLE_POSE = "SL(2), official log-normal sampler", "SE(2), samples drawn anew", "affine pose + CNN"


def options(tiny: bool) -> dict[str, Any]:
    """Of the classifier; the defaults are the setting that was chosen."""
    small: dict[str, Any] = {"channels": 4, "num_samples": 3, "hidden": 8, "head": 8} if tiny else {}
    return {name: value for name, value in LieClassifier(epochs=1 if tiny else EPOCHS, **small).get_params().items()
            if name not in ("group", "random_state")}  # fmt: skip


def arms(tiny: bool) -> list[Arm]:
    """Networks on three groups, with other samples, and what needs no group."""
    own = options(tiny)
    size = parameters_of(own)
    wide = channels_of(size, 1, 10, own["kernel_size"], own["head"])
    return [
        grouped("sl2", "system", own),
        grouped("gl2", "ablation", own),
        grouped("so2", "ablation", own),
        grouped("so2", "ablation", own | {"deterministic": False}, name=FRESH),
        grouped("sl2", "ablation", own | {"sampler": "lognormal"}, name=LOG_NORMAL),
        plain(CNN, own),
        plain(EQUAL, own, channels=wide, note=f"{wide} channels"),
        plain(AUGMENTED, own, warped=True, note="warped anew in every pass, by the ranges of the test"),
        plain(POSED, own, pose="upright"),
        plain(WHOLE_POSE, own, pose="affine"),
    ]


def parameters_of(own: dict[str, Any]) -> int:
    """Of an SL(2) network."""
    classifier = LieClassifier(group="sl2", **own)
    classifier.classes_, classifier._shape = list(range(10)), (1, 20, 20)  # pyright: ignore[reportAttributeAccessIssue]
    return sum(p.numel() for p in classifier.build().parameters())


def run(job: Job) -> Runs:
    """All arms with all seeds; the warps are the same for all of them."""
    task = Task.of(for_testing(job.tiny), WarpRanges(), SPLIT)
    key = options(job.tiny) | {"split": SPLIT, "images": len(task.data.x)}
    experiment = Experiment("lie_decomposition robustness", job.out / "runs", key, job.resume)
    return experiment.run(arms(job.tiny), [Part("", task)], job.seeds)


def robustness(job: Job) -> Findings:
    """The paper's order: CNN, SE(2), SL(2) about as GL+(2)."""
    runs = run(job)
    metrics = [CLEAN, WARPED]

    def deformation(path: Path) -> Picture:
        curves = {arm.name: [run.details["curve"] for run in runs.of(arm.name)] for arm in runs.arms}
        return draw_deformation(curves, STRENGTHS, path, runs.styles)

    drawn, notes = draw_all(
        [(job.out / "deformation.svg", deformation), (job.out / "orbits.svg", partial(orbit_picture, runs))]
    )
    own = options(job.tiny)
    said = (
        f"2,000 digits of MNIST on 40 x 40, seen as 20 x 20; {own['channels']} channels, {own['num_samples']} group "
        f"samples, {own['epochs']} passes in batches of {own['batch_size']}; tested on 2,000 digits of the test file, "
        f"clean and after one random affine map each (up to 20 degrees, shear 0.2, scales 0.8 to 1.2, 4 of 40 pixels); "
        f"{len(job.seeds)} seeds"
    )
    tables = [table_of("Accuracy", runs.rows(metrics), metrics), by_strength(runs), changes(runs)]
    return Findings(said, tables, checks(runs), notes, drawn)


def changes(runs: Runs) -> Table:
    """How far the logits of each network are from invariant."""
    (turning, (angles, _)), (stretching, (stretches, _)) = orbits().items()
    rows: list[list[str | float | int]] = []
    for arm in runs.arms:
        kept = [run.details["orbits"] for run in runs.of(arm.name) if "orbits" in run.details]
        if not kept:
            continue
        turned, stretched = (np.mean([one[label] for one in kept], 0) for label in (turning, stretching))
        at = [f"{turned[np.isclose(np.abs(angles), angle)].mean():.2f}" for angle in (15, 45, 90)]
        rows.append([arm.name, *at, f"{stretched[np.isclose(stretches, 0.2)].mean():.2f}"])
    return Table(
        "Change of the logits, relative to their size",
        ["method", "15°", "45°", "90°", "stretch 0.2"],
        rows,
        "Test digits that are turned either way, or stretched by e^0.2 along an axis and by e^-0.2 across it.",
    )


def checks(runs: Runs) -> list[Check]:
    """What the spec asks for, and the order of the paper."""
    clean = runs.mean(SL2, CLEAN.name)
    found = [Check("the SL(2) network finds at least .90 of the clean digits", clean >= 0.9, f"{clean:.3f}",
                   "the setting does not train")]  # fmt: skip
    pairs = [(SE2, CNN), (FRESH, CNN), (SL2, SE2), (SL2, FRESH), (GL2, SL2), (SL2, LOG_NORMAL), (SL2, EQUAL),
             (SL2, POSED), (SL2, AUGMENTED)]  # fmt: skip
    for better, worse in pairs:
        gap = runs.difference(better, worse, WARPED.name)
        figures = f"{runs.mean(better, WARPED.name):.3f} against {runs.mean(worse, WARPED.name):.3f}"
        sure = f", difference {gap.text(3)}" if gap.n > 1 else ""
        found.append(Check(f"warped digits: {better} is ahead of {worse}", gap.mean > 0, figures + sure,
                           f"{worse} withstands as much", gap.certain))  # fmt: skip
    return found
