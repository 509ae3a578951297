"""`linmap compare tooth_arrangement`: a diffusion beside regression with the same network, a mean arch and nothing.

Two tasks are simulated. In one the set-up all but follows from the malocclusion, so that a regression can give it. In
the other each case has two valid set-ups and nothing says which is meant: there the mean of both is neither.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from linmap.experiment import conclude, differ, fingerprint, paired
from linmap.experiment.drawing import Drawing
from linmap.experiment.engine import Arm, Experiment, Outcome, Part, Runs, Trial
from linmap.experiment.result import Check, Metric, Result, Row, Table
from linmap.pictures import styles
from linmap.recipes.job import CompareJob
from linmap.recipes.tooth_arrangement import predictors
from linmap.recipes.tooth_arrangement.fit import patches_of, split
from linmap.recipes.tooth_arrangement.flags import Compare
from linmap.recipes.tooth_arrangement.pictures import draw_case, draw_errors
from linmap.shapes.tooth_arrangement import DentitionSimulator, ToothPairs, ToothSet
from linmap.shapes.tooth_arrangement.clinical_pairs import load_clinical_cases, pairs_of
from linmap.shapes.tooth_arrangement.estimator import TADPM, MotionRegression
from linmap.shapes.tooth_arrangement.pairs import unmoved

ONE, TWO = "one set-up", "two valid set-ups"
STAY, MEAN_ARCH, REGRESSION, DIFFUSION = "teeth stay", "mean arch", "regression", "diffusion"
SINGLE, MEAN, BEST = "one sample", "mean of samples", "best of samples"
NEARER = "ADD to the nearer set-up"
METRICS = (
    Metric("ADD", "lower", "mm", 3),
    Metric("PA-ADD", "lower", "mm", 3),
    Metric("CSA", "higher", digits=3),
    Metric("ME_rot", "lower", "°", 2),
    Metric("FD_cur", "lower", "mm", 3),
    Metric("contact", "lower", "mm", 2),
)
COLLISION = 0.2
MESHES = 8
"""Cases whose meshes are tried for contacts, at most; a fifth of the test cases."""


@dataclass(frozen=True)
class Task:
    """What the methods get."""

    train: ToothPairs
    test: ToothPairs
    valid: tuple[ToothPairs, ...]
    """The set-ups of the test cases that are right; `test` has one of them."""
    sets: tuple[ToothSet, ...] = ()
    """Whole meshes of the first test cases, before treatment."""


def compare(settings: Compare, job: CompareJob) -> Result:
    """Identity, mean arch, regression and diffusion: one sample, the mean of several, the best of several."""
    parts = parts_for(settings, job)
    runs = run_arms(settings, job, parts)
    first = parts[0].name
    pairs = {name: _by_case(runs, arm, variant, first) for name, arm, variant, _ in methods(settings)}
    metrics = [*METRICS, *([Metric(NEARER, "lower", "mm", 3)] if len(parts) > 1 else [])]
    return conclude(
        "tooth_arrangement",
        rows_of(runs, settings, parts),
        metrics,
        settings,
        over="test cases",
        pairs=pairs,
        task=_task(settings, job, parts),
        shows=_shows(runs, settings, parts),
        limits=_limits(job),
        checks=checks_of(runs, first),
        tables=tables_of(runs, settings, parts),
        seeds=list(range(job.seed, job.seed + settings.seeds)),
        drawings=_drawings(runs, settings, parts, job.out),
    )


def run_arms(settings: Compare, job: CompareJob, parts: Sequence[Part]) -> Runs:
    """Every method on every task, with all seeds."""
    key = settings.options() | {"samples": settings.samples}
    seeds = range(job.seed, job.seed + settings.seeds)
    return Experiment("tooth_arrangement", job.out / "runs", key, job.resume).run(arms_of(settings), parts, seeds)


def parts_for(settings: Compare, job: CompareJob) -> list[Part]:
    """The user's pairs, or both simulated tasks."""
    if job.data is not None:
        cases = load_clinical_cases(job.data)
        pairs = pairs_of(cases, settings.points, patches_of(settings))
        train, test = split(pairs, settings.held_out, job.seed, job.data)
        return [Part(job.data.name, Task(train, test, (test,)), {"data": fingerprint(job.data)})]
    numbers = {"cases": settings.cases, "test cases": settings.test_cases, "severity": settings.severity}
    one, two = (simulated(settings, job.seed, ambiguous) for ambiguous in (False, True))
    return [Part(ONE, one, numbers | {"first seed": job.seed}), Part(TWO, two, numbers | {"first seed": job.seed})]


def simulated(settings: Compare, seed: int, ambiguous: bool) -> Task:
    """Pairs to train on and, of other patients, to test on."""
    simulator = DentitionSimulator(points=settings.points)

    def drawn(offset: int) -> torch.Generator:
        return torch.Generator().manual_seed(1_000_003 * (seed + 1) + offset)

    patches = patches_of(settings)
    train = simulator.sample(settings.cases, settings.severity, drawn(1), ambiguous, patches)
    if ambiguous:
        first, second = simulator.alternatives(settings.test_cases, settings.severity, drawn(2), patches)
        coin = torch.rand(len(first), generator=drawn(3)) < 0.5
        after = torch.where(coin[:, None, None, None], second.after, first.after)
        centers = torch.where(coin[:, None, None], second.after_centroid, first.after_centroid)
        test = replace(first, after=after, after_centroid=centers)
        return Task(train, test, (first, second))
    test = simulator.sample(settings.test_cases, settings.severity, drawn(2), patches=patches)
    meshes = simulator.sample_sets(min(MESHES, max(1, settings.test_cases // 5)), settings.severity, drawn(4))
    sets = tuple(before for before, _ in meshes)
    return Task(train, test, (test,), sets)


# -- the arms ----------------------------------------------------------------------------------------------------------


def arms_of(settings: Compare) -> list[Arm]:
    """The diffusion first; its samples are drawn once for three rows."""
    regression = {
        name: value for name, value in settings.options().items() if name not in ("timesteps", "sampling_steps", "eta")
    }
    return [
        Arm(DIFFUSION, "system", partial(_trained, partial(TADPM, **settings.options()), settings.samples)),
        Arm(REGRESSION, "baseline", partial(_trained, partial(MotionRegression, **regression), 1)),
        Arm(MEAN_ARCH, "baseline", _mean_arch, seeded=False),
        Arm(STAY, "baseline", _stay, seeded=False),
    ]


def methods(settings: Compare) -> list[tuple[str, str, str, Any]]:
    """Rows: name, arm, variant and kind. The best of several is chosen by the truth, so it wins nothing."""
    count = settings.samples
    return [
        (f"diffusion, {SINGLE}", DIFFUSION, SINGLE, "system"),
        (f"diffusion, mean of {count}", DIFFUSION, MEAN, "system"),
        (f"diffusion, best of {count} by the truth", DIFFUSION, BEST, "reference"),
        (REGRESSION, REGRESSION, SINGLE, "baseline"),
        (MEAN_ARCH, MEAN_ARCH, SINGLE, "baseline"),
        (STAY, STAY, SINGLE, "baseline"),
    ]


def _stay(trial: Trial) -> Outcome:
    return outcome(trial.data, {SINGLE: predictors.identity}, None)


def _mean_arch(trial: Trial) -> Outcome:
    return outcome(trial.data, {SINGLE: partial(predictors.to_mean_arch, trial.data.train)}, None)


def _trained(build: Callable[..., TADPM | MotionRegression], samples: int, trial: Trial) -> Outcome:
    """Train, then draw."""
    task: Task = trial.data
    model = build(random_state=trial.seed)
    model.fit(task.train, checkpoints=trial.folder, resume=True)
    drawn = predictors.sampled(model, task.test, samples, trial.seed)
    variants: dict[str, Callable[[ToothPairs], Tensor]] = {SINGLE: lambda pairs: drawn[0]}
    if samples > 1:
        variants[MEAN] = lambda pairs: predictors.mean_of(drawn)
        variants[BEST] = lambda pairs: predictors.best_of(drawn, (pairs,))
    parameters = sum(parameter.numel() for parameter in model.model_.parameters())
    found = outcome(task, variants, parameters)
    if samples > 1 and len(task.valid) > 1:
        best = predictors.best_of(drawn, task.valid)
        found.values[f"{BEST} {NEARER}"] = float(predictors.nearest_errors(best, task.valid).mean())  # pyright: ignore[reportIndexIssue]
    if task.sets:
        _add_contacts(found, model, task, samples, trial.seed)
    return found


def outcome(task: Task, variants: Mapping[str, Callable[[ToothPairs], Tensor]], parameters: int | None) -> Outcome:
    """Every measure of every variant, on the test cases."""
    values: dict[str, float] = {}
    details: dict[str, Any] = {}
    for name, predict in variants.items():
        y = predict(task.test)
        values |= {f"{name} {measure}": value for measure, value in predictors.measured(task.test, y).items()}
        values[f"{name} {NEARER}"] = float(predictors.nearest_errors(y, task.valid).mean())
        details[f"{name} by case"] = [round(value, 5) for value in predictors.errors(y, task.test).tolist()]
        details[f"{name} centers"] = np.round(y[0, :, :3].numpy(), 3).tolist()
        if task.sets and name == SINGLE and parameters is None:
            pairs = unmoved(task.sets, task.test.points)
            values[f"{name} contact"] = float(np.mean(predictors.contacts(task.sets, predict(pairs))))
    return Outcome(values, parameters, details)


def _add_contacts(found: Outcome, model: TADPM | MotionRegression, task: Task, samples: int, seed: int) -> None:
    """Depths of the deepest neighbours of plans: as drawn, and of the first by rank after they were moved apart."""
    pairs = unmoved(task.sets, task.test.points, task.test.meshes and task.test.meshes.patches)
    drawn = predictors.sampled(model, pairs, samples, seed)
    values: Any = found.values
    values[f"{SINGLE} contact"] = float(np.mean(predictors.contacts(task.sets, drawn[0])))
    if samples > 1:
        values[f"{MEAN} contact"] = float(np.mean(predictors.contacts(task.sets, predictors.mean_of(drawn))))
    ranked = [model.arrange(teeth, n_samples=samples, seed=seed).scores["collision"][0] for teeth in task.sets]
    values["ranked contact"] = float(np.mean(ranked))
    values["ranked without contact"] = float(np.mean(np.array(ranked) <= COLLISION))


# -- what they say -----------------------------------------------------------------------------------------------------


def rows_of(runs: Runs, settings: Compare, parts: Sequence[Part]) -> list[Row]:
    """A row for each method: measures of the first task, and how near it comes to either set-up of the second."""
    rows = []
    for name, arm, variant, kind in methods(settings):
        if variant != SINGLE and settings.samples == 1:
            continue
        columns = {metric.name: (f"{variant} {metric.name}", parts[0].name) for metric in METRICS}
        if len(parts) > 1:
            columns[NEARER] = (f"{variant} {NEARER}", TWO)
        row = runs.row(arm, columns)
        rows.append(Row(name, kind, row.values, row.parameters, seconds=row.seconds))
    return rows


def _by_case(runs: Runs, arm: str, variant: str, part: str) -> list[float]:
    """ADD of each test case, seeds averaged."""
    found = [run.details[f"{variant} by case"] for run in runs.of(arm, part) if f"{variant} by case" in run.details]
    return np.mean(found, axis=0).tolist() if found else []


def tables_of(runs: Runs, settings: Compare, parts: Sequence[Part]) -> list[Table]:
    """Both tasks side by side, and what ranking does to contacts."""
    tables = []
    if len(parts) > 1:
        rows: list[list[str | float | int]] = [
            [
                name,
                *(
                    f"{runs.mean(arm, f'{variant} {measure}', part):.3f}"
                    for part, measure in ((ONE, "ADD"), (TWO, "ADD"), (TWO, NEARER))
                ),
            ]
            for name, arm, variant, _ in methods(settings)
            if settings.samples > 1 or variant == SINGLE
        ]
        note = (
            "The best of several by the truth is chosen by what is measured: by the one that was drawn, or by the "
            "nearer of both."
        )
        columns = ["method", f"{ONE}: ADD (mm)", f"{TWO}: ADD to the one drawn", f"{TWO}: {NEARER}"]
        tables.append(Table("Where the set-up follows from the input, and where two are right", columns, rows, note))
    depths = [
        [
            name,
            f"{runs.mean(name, f'{SINGLE} contact'):.2f}",
            f"{runs.mean(name, 'ranked contact'):.2f}",
            f"{100 * runs.mean(name, 'ranked without contact'):.0f} %",
        ]
        for name in (DIFFUSION, REGRESSION)
    ]
    if runs.values(DIFFUSION, "ranked contact"):
        columns = [
            "method",
            "deepest contact as proposed (mm)",
            "first by rank, moved apart (mm)",
            f"cases without a contact over {COLLISION:g} mm",
        ]
        count = len(parts[0].data.sets)
        note = f"On the meshes of {count} cases; the ranked one is of {settings.samples} (regression: of one)."
        tables.append(Table("Neighbours that stand in each other", columns, [list(row) for row in depths], note))
    return tables


def checks_of(runs: Runs, part: str) -> list[Check]:
    """What the protocol of the method promises on pairs whose set-up follows from the input."""
    stay, one = runs.mean(STAY, f"{SINGLE} ADD", part), runs.mean(DIFFUSION, f"{SINGLE} ADD", part)
    drawn = _by_case(runs, DIFFUSION, SINGLE, part)
    checks = [
        Check(
            "leaving the teeth has at least twice the error of one sample",
            stay >= 2 * one,
            f"ADD {stay:.3f} mm against {one:.3f} mm",
            "there are too few pairs or too few passes for the diffusion to learn the arch",
            differ(_by_case(runs, STAY, SINGLE, part), [2 * error for error in drawn]),
        )
    ]
    if runs.values(DIFFUSION, f"{MEAN} ADD", part):
        mean = runs.mean(DIFFUSION, f"{MEAN} ADD", part)
        checks.append(
            Check(
                "the mean of several samples is no worse than one",
                mean <= one,
                f"ADD {mean:.3f} mm, {one:.3f} mm",
                "samples do not scatter about the set-up, or there are few test cases",
                differ(_by_case(runs, DIFFUSION, MEAN, part), drawn),
            )
        )
    return checks


def _task(settings: Compare, job: CompareJob, parts: Sequence[Part]) -> str:
    train, test = len(parts[0].data.train), len(parts[0].data.test)
    source = f"{job.data}" if job.data else "simulated pairs of the shapes of real teeth, two tasks"
    return (
        f"{source}: {train} cases to train on and {test} others to test on, {settings.points} points a tooth, "
        f"{settings.epochs} epochs, {settings.sampling_steps} steps of sampling"
    )


def _shows(runs: Runs, settings: Compare, parts: Sequence[Part]) -> str:
    first = parts[0].name
    ours = _by_case(runs, DIFFUSION, MEAN if settings.samples > 1 else SINGLE, first)
    gap = paired(ours, _by_case(runs, REGRESSION, SINGLE, first))
    said = (
        f"ADD of one sample {runs.mean(DIFFUSION, f'{SINGLE} ADD', first):.3f} mm, of regression "
        f"{runs.mean(REGRESSION, f'{SINGLE} ADD', first):.3f} mm, of teeth that stay "
        f"{runs.mean(STAY, f'{SINGLE} ADD', first):.3f} mm; the mean of samples less regression: {gap.text()} mm."
    )
    if len(parts) > 1:
        one, other = (runs.mean(arm, f"{SINGLE} {NEARER}", TWO) for arm in (DIFFUSION, REGRESSION))
        order = "nearer to a valid one than" if one < other else "no nearer to a valid one than"
        best = runs.mean(DIFFUSION, f"{BEST} {NEARER}", TWO)
        said += (
            f" With two valid set-ups, one sample is {order} regression ({one:.3f} against {other:.3f} mm); the best "
            f"of {settings.samples} by the truth comes as near as {best:.3f} mm."
        )
    return said


def _limits(job: CompareJob) -> str:
    data = (
        "The pairs are simulated: shapes are statistics of real teeth, malocclusions are drawn, nobody was treated. "
        if job.data is None
        else ""
    )
    return (
        f"{data}A regression gives the mean of what is possible, best where one set-up is right; a sample is one of "
        "what is possible. Small networks and few passes: figures of full-size training are lower. Research "
        "and planning support, no medical device; a clinician decides."
    )


def _drawings(runs: Runs, settings: Compare, parts: Sequence[Part], out: Path) -> list[Drawing]:
    names = [(name, _by_case(runs, arm, variant, parts[0].name)) for name, arm, variant, _ in methods(settings)]
    drawn = styles({name: kind for name, _, _, kind in methods(settings)})
    found = [(out / "errors.svg", partial(draw_errors, {name: values for name, values in names if values}, drawn))]
    for part in parts:
        centers = {
            name: np.array(runs.of(arm, part.name)[0].details[f"{variant} centers"])
            for name, arm, variant, _ in methods(settings)
            if variant == SINGLE and arm in (DIFFUSION, REGRESSION)
        }
        case = f"case-{part.name.replace(' ', '-') if part.name in (ONE, TWO) else 'pairs'}.svg"
        found.append((out / case, partial(draw_case, part.data.test, part.data.valid, centers, drawn, part.name)))
    return found
