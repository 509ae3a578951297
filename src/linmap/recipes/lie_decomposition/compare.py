"""`linmap compare lie_decomposition`: on your images, clean and warped, does a group network beat what one would take?

All networks see the same images, undeformed, and the same number of passes; the augmented one sees them warped anew in
every pass. What is tested on is never trained on, and nothing is chosen.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from linmap.data.image_warps import Pose, WarpRanges
from linmap.experiment import (
    Arm,
    Check,
    Experiment,
    Metric,
    Outcome,
    Part,
    Picture,
    Result,
    Runs,
    Table,
    Trial,
    conclude,
    differ,
    fingerprint,
    mean_std,
)
from linmap.recipes.job import CompareJob
from linmap.recipes.lie_decomposition import images
from linmap.recipes.lie_decomposition.flags import Compare
from linmap.recipes.lie_decomposition.images import Labelled
from linmap.recipes.lie_decomposition.making import NAMES, STRENGTHS, answer_of, judged, trained_plain, warped_tests
from linmap.recipes.lie_decomposition.pictures import draw_deformation, draw_errors, errors_of, orbits
from linmap.shapes.lie_decomposition import LieClassifier

WARPED, CLEAN = Metric("accuracy, warped", "higher", digits=3), Metric("accuracy, clean", "higher", digits=3)
CNN, EQUAL = "CNN, same topology", "CNN, as many parameters"
AUGMENTED, POSED = "CNN + affine augmentation", "standard pose + CNN"


@dataclass(frozen=True)
class Task:
    """Images, and the test images at each strength of the warps."""

    data: Labelled
    ranges: WarpRanges
    tests: list[Tensor]

    @classmethod
    def of(cls, data: Labelled, ranges: WarpRanges, seed: int) -> Task:
        return cls(data, ranges, warped_tests(data, ranges, STRENGTHS, seed))


def compare(settings: Compare, job: CompareJob) -> Result:
    """A network on a matrix group beside convolutional ones: plain, with affine augmentation, after moments."""
    data = images.load(
        job.data, settings.size, settings.margin, settings.held_out, job.seed, settings.images, settings.tested
    )
    ranges = WarpRanges(settings.rotation, settings.shear, settings.scale, settings.shift)
    task = Task.of(data, ranges, job.seed)
    flags = settings.options()
    seeds = list(range(job.seed, job.seed + settings.seeds))
    key = {name: value for name, value in flags.items() if name != "seeds"} | {"data": fingerprint(job.data)}
    experiment = Experiment("lie_decomposition", job.out / "runs", key | {"split": job.seed}, job.resume)
    runs = experiment.run(arms(settings), [Part("", task)], seeds)
    system = NAMES[settings.group]
    return conclude(
        "lie_decomposition",
        runs.rows([WARPED, CLEAN]),
        [WARPED, CLEAN],
        settings,
        task=described(task, settings, job.data.stem if job.data else "digits"),
        shows=shows(runs, system),
        limits=limits(settings),
        checks=checks(runs, system),
        tables=[by_strength(runs)],
        over="images",
        pairs=by_image(runs),
        seeds=seeds,
        drawings=drawings(runs, job.out),
    )


# -- the arms ----------------------------------------------------------------------------------------------------------


def arms(settings: Compare) -> list[Arm]:
    """The group network, the one of rotations alone, and networks without a group."""
    options = group_options(settings)
    turning = [] if settings.group == "so2" else [grouped("so2", "ablation", options, "rotations alone")]
    return [
        grouped(settings.group, "system", options),
        *turning,
        plain(CNN, options),
        plain(AUGMENTED, options, warped=True, note="warped anew in every pass, by the ranges of the test"),
        plain(POSED, options, pose="upright", note="centre, slant, width and height by the moments of each image"),
    ]


def group_options(settings: Compare) -> dict[str, Any]:
    """Of the classifier, without its group and seed."""
    taken = LieClassifier().get_params()
    return {name: value for name, value in settings.options().items() if name in taken and name != "group"}


def grouped(group: str, kind: Any, options: Mapping[str, Any], note: str = "", name: str | None = None) -> Arm:
    """A `LieClassifier`."""
    return Arm(
        name or NAMES[group], kind, partial(run_group, dict(options) | {"group": group}), {"group": group}, note=note
    )


def plain(
    name: str,
    options: Mapping[str, Any],
    warped: bool = False,
    pose: Pose | None = None,
    note: str = "",
    channels: int | None = None,
) -> Arm:
    """A `PlainResNet`, as wide as the group network where `channels` are left out."""
    work = partial(run_plain, dict(options), channels or options["channels"], warped, pose)
    return Arm(name, "baseline", work, {"warped": warped, "pose": pose, "channels": channels}, note=note)


def run_group(options: Mapping[str, Any], trial: Trial) -> Outcome:
    """Train a group network, and test it at each strength and along orbits."""
    task: Task = trial.data
    classifier = LieClassifier(**options, random_state=trial.seed)
    classifier.fit(task.data.canvas.seen(task.data.x), task.data.y, checkpoints=trial.folder, resume=True)
    found = judged(answer_of(classifier, task.data.canvas), task.tests, task.data.y_test)
    size = sum(p.numel() for p in classifier.model_.parameters() if p.requires_grad)
    return outcome(found, size, classifier.model_, task)


def run_plain(options: Mapping[str, Any], channels: int, warped: bool, pose: Pose | None, trial: Trial) -> Outcome:
    """Train a network without a group, and test it alike."""
    task: Task = trial.data
    model, answer = trained_plain(task.data, options, channels, trial.seed, task.ranges if warped else None, pose)
    found = judged(answer, task.tests, task.data.y_test)
    size = sum(p.numel() for p in model.parameters())
    return outcome(found, size, model if pose is None else None, task)


def outcome(found: np.ndarray, size: int, model: Any, task: Task) -> Outcome:
    """`found` says of each strength and image whether its class was found."""
    curve, at = found.mean(1), STRENGTHS.index(1.0)
    details: dict[str, Any] = {"curve": curve.tolist(), "by image": found[at].astype(int).tolist()}
    if model is not None:
        x = task.data.canvas.seen(task.data.x_test[:32])
        details["orbits"] = errors_of(model, x)
    return Outcome({WARPED.name: float(curve[at]), CLEAN.name: float(curve[0])}, size, details)


# -- what was found ----------------------------------------------------------------------------------------------------


def by_image(runs: Runs) -> dict[str, list[float]]:
    """For each method, of each warped test image the share of seeds that find its class."""
    return {arm.name: np.mean([run.details["by image"] for run in runs.of(arm.name)], 0).tolist() for arm in runs.arms}


def by_strength(runs: Runs) -> Table:
    """The accuracy at each strength of the warps."""
    rows: list[list[str | float | int]] = []
    for arm in runs.arms:
        curves = zip(*(run.details["curve"] for run in runs.of(arm.name)), strict=True)
        seconds = statistics.fmean(run.seconds for run in runs.of(arm.name))
        cells = [mean_std(list(values)) for values in curves]
        rows.append([arm.name, f"{runs.of(arm.name)[0].parameters or 0:,}", *cells, f"{seconds:.0f}"])
    columns = ["method", "parameters", *(f"{strength:g}" for strength in STRENGTHS), "seconds"]
    note = "All ranges of the warps times the strength; 0: clean images. Seconds: to train and test one seed."
    return Table("Accuracy by strength of the warps", columns, rows, note)


def checks(runs: Runs, system: str) -> list[Check]:
    """What the paper says, and what it has to be weighed against."""
    others = [
        (NAMES["so2"], WARPED, "rotations alone do as well here: take the smaller group"),
        (CNN, WARPED, "the group network does not help against warps here"),
        (POSED, WARPED, "moments alone do as well here, at a fraction of the cost"),
        (AUGMENTED, WARPED, "if the warps to come are known, train on warped images"),
    ]
    found, shares = [], by_image(runs)
    for name, metric, otherwise in others:
        if name != system and runs.of(name):
            ours, theirs = runs.mean(system, metric.name), runs.mean(name, metric.name)
            statement = f"{metric.name}: {system} is ahead of {name}"
            sure = differ(shares[system], shares[name])
            found.append(Check(statement, ours > theirs, f"{ours:.3f} against {theirs:.3f}", otherwise, sure))
    return found


def shows(runs: Runs, system: str) -> str:
    """The figures in words."""
    said = ", ".join(
        f"{arm.name} {runs.mean(arm.name, CLEAN.name):.3f} / {runs.mean(arm.name, WARPED.name):.3f}"
        for arm in runs.arms
    )
    lost = {name: runs.mean(name, CLEAN.name) - runs.mean(name, WARPED.name) for name in (system, CNN)}
    return (
        f"Accuracy on clean / warped test images: {said}. Warps cost {system} {100 * lost[system]:.1f} points, and the "
        f"CNN {100 * lost[CNN]:.1f}."
    )


def described(task: Task, settings: Compare, name: str) -> str:
    """Data and budget."""
    data, ranges = task.data, task.ranges
    return (
        f"{name}, {len(data.x)} images to train on and {len(data.x_test)} to test on, of {settings.size} x "
        f"{settings.size} pixels with a border; warps: turns of up to {ranges.rotation:g} degrees, shear "
        f"{ranges.shear:g}, scales {1 - ranges.scale:g} to {1 + ranges.scale:g}, shifts of {ranges.shift:g} of the "
        f"side; {settings.channels} channels, {settings.num_samples} group samples, {settings.epochs} passes"
    )


def limits(settings: Compare) -> str:
    """What not to conclude."""
    return (
        f"Small networks, {settings.epochs} passes and {settings.seeds} {'seed' if settings.seeds == 1 else 'seeds'}; "
        "the interval is over the test images, not over trainings. The augmented network knows the ranges of the "
        "warps that it is tested with, the others do not; equal passes cost the group network several times as much."
    )


def drawings(runs: Runs, out: Path) -> list[Any]:
    """Accuracy by strength, and invariance along orbits."""

    def deformation(path: Path) -> Picture:
        curves = {arm.name: [run.details["curve"] for run in runs.of(arm.name)] for arm in runs.arms}
        return draw_deformation(curves, STRENGTHS, path, runs.styles)

    return [(out / "deformation.svg", deformation), (out / "orbits.svg", partial(orbit_picture, runs))]


def orbit_picture(runs: Runs, path: Path) -> Picture:
    """How far logits are from invariant, seeds averaged."""
    named = {arm.name: runs.of(arm.name) for arm in runs.arms if "orbits" in runs.of(arm.name)[0].details}
    curves = {
        name: {label: np.mean([run.details["orbits"][label] for run in of], 0) for label in orbits()}
        for name, of in named.items()
    }
    return draw_errors(curves, path, runs.styles)
