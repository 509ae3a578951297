"""`linmap compare tinvnn`: the same network on coordinates as they come and on invariant ones, and a forest.

All networks are alike, train on the training clouds as they stand and are tested on the test clouds as they stand
(I/I), turned at random (I/SO(3)), made larger and moved. Rates are chosen on a part of the training clouds alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from linmap.experiment import (
    Arm,
    Check,
    Choice,
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
    fingerprint,
    verdict,
)
from linmap.experiment.charts import draw_bars
from linmap.experiment.drawing import Drawing
from linmap.experiment.result import Kind
from linmap.recipes.job import CompareJob
from linmap.recipes.tinvnn.flags import Compare, CompareTours
from linmap.recipes.tinvnn.forest import distance_histograms, forest
from linmap.recipes.tinvnn.pictures import draw_poses
from linmap.recipes.tinvnn.poses import PROTOCOLS, rotated
from linmap.recipes.tinvnn.shapes import Split, divided, load
from linmap.shapes.tinvnn import TinvEmbedding
from linmap.shapes.tinvnn.classifier import PointCloudClassifier

FRAMES, MOMENT = "TinvNN, sign frames", "TinvNN, moment signs"
RAW, AUGMENTED = "raw coordinates", "raw, SO(3) augmentation"
PCA, FOREST = "PCA axes, LAPACK signs", "D2 histogram + random forest"
FREE = ("seeds", "rates", "augmented_rates", "augmented_epochs")
"""Flags that a finished run does not depend on, beside what is its own."""
CHOOSING, UNCHANGED = "validation accuracy", "unchanged"
TURNS = 8
"""Poses that a network trained on turned shapes answers in, as many as TinvNN's sign frames in three dimensions."""
METRICS = [
    Metric("I/SO(3)", "higher", digits=3),
    Metric("I/I", "higher", digits=3),
    *(Metric(name, "higher", digits=3) for name in ("scaled", "shifted")),
    Metric(UNCHANGED, "higher", digits=3),
]


def compare(settings: Compare | CompareTours, job: CompareJob) -> Result:
    """The same network on raw, augmented, PCA and TinvNN's coordinates, beside a forest on distances.

    For solvers of tours, and their flags: linmap compare tinvnn --data FILE.tsp --help
    """
    if isinstance(settings, CompareTours):
        from linmap.recipes.tinvnn.compare_tours import compare_tours

        return compare_tours(settings, job)
    clouds = load(job.data, settings.points, job.seed)
    split = divided(clouds, settings.points, job.seed, settings.test, settings.validation)
    seeds = range(job.seed, job.seed + settings.seeds)
    runs = run_arms(settings, job.out, split, {"data": fingerprint(job.data)}, seeds, job.resume)
    rows = runs.rows(METRICS)
    return conclude(
        "tinvnn",
        rows,
        METRICS,
        settings,
        verdict=said(rows),
        task=described(clouds.name, split, settings),
        shows=shows(runs),
        limits=limits(split, settings, runs, clouds.notes),
        checks=checks(runs),
        tables=[differences(runs)],
        seeds=list(seeds),
        drawings=drawings(split, rows, job.out),
    )


def run_arms(
    settings: Compare,
    out: Path,
    split: Split,
    data: Mapping[str, Any],
    seeds: Sequence[int],
    resume: bool,
    arms: Sequence[Arm] | None = None,
) -> Runs:
    """Every method with every seed."""
    key = {k: v for k, v in asdict(settings).items() if k not in FREE} | dict(data)
    arms = list(arms_of(settings)) if arms is None else arms
    return Experiment("tinvnn", out / "runs", key, resume).run(
        arms, [Part("", split)], seeds, Choice(CHOOSING, "higher")
    )


# -- methods -----------------------------------------------------------------------------------------------------------


def arms_of(settings: Compare) -> Iterator[Arm]:
    """TinvNN in two forms, and what one would take otherwise."""
    options = settings.options()

    def network(name: str, kind: Kind, note: str, rate_of: str | None = None, rates: Any = None, **own: Any) -> Arm:
        rates = () if rate_of else rates or settings.rates
        return Arm(name, kind, partial(train_network, options | own), own, rates, rate_of, note=note)

    yield network(FRAMES, "system", "random signs in training, all in the test", representation="random")
    yield network(MOMENT, "system", "signs by moments", FRAMES, representation="moment")
    yield network(RAW, "baseline", "centred and scaled", representation="raw")
    for times in dict.fromkeys(settings.augmented_epochs):  # turned shapes are many more, and take longer to learn
        longer: dict[str, Any] = {} if times == 1 else {"epochs": times * settings.epochs}
        name = AUGMENTED if times == 1 else f"{AUGMENTED}, {times} x epochs"
        yield network(name, "baseline", f"turned anew every step; mean of {TURNS} turns in the test",
                      rates=settings.augmented_rates, representation="raw", augment="so3", **longer)  # fmt: skip
    yield network(PCA, "baseline", "principal axes", FRAMES, representation="pca")
    yield Arm(FOREST, "baseline", forest_arm, note="500 trees, no network")


def train_network(options: Mapping[str, Any], trial: Trial) -> Outcome:
    """Train a classifier; test it under every protocol, or to choose a rate on the clouds that are held out for that.

    A network that was trained on turned clouds chooses by turned ones, and is tested by its mean over several turns.
    """
    split: Split = trial.data
    train, held = split.tuning if trial.choosing else (split.train, None)
    rate = {} if trial.rate is None else {"lr": trial.rate}
    classifier = PointCloudClassifier(**{**options, **rate, "random_state": trial.seed})
    classifier.fit(train.X, train.y)
    augmented = options.get("augment") == "so3"
    if held is not None:
        X = rotated(held.X, np.random.default_rng(trial.seed)) if augmented else held.X
        return Outcome({CHOOSING: float((classifier.predict(X) == held.y).mean())})
    answer = partial(answers_of_turns, classifier, trial.seed) if augmented else classifier.predict
    answers = {name: answer(X) for name, X in posed(split, trial.seed).items()}
    parameters = sum(p.numel() for p in classifier.model_.parameters() if p.requires_grad)
    history = classifier.history_
    assert history is not None
    return measured(answers, split, parameters, history.seconds)


def answers_of_turns(classifier: PointCloudClassifier, seed: int, X: np.ndarray) -> np.ndarray:
    """The class of each cloud by its mean probability over `TURNS` random rotations."""
    random = np.random.default_rng((seed, 2))
    chances = np.mean([classifier.predict_proba(rotated(X, random)) for _ in range(TURNS)], axis=0)
    return classifier.classes_[chances.argmax(1)]


def forest_arm(trial: Trial) -> Outcome:
    """Histograms of distances and a random forest."""
    split: Split = trial.data
    trees = forest(trial.seed).fit(distance_histograms(split.train.X), split.train.y)
    return measured(
        {name: trees.predict(distance_histograms(X)) for name, X in posed(split, trial.seed).items()}, split
    )


def posed(split: Split, seed: int) -> dict[str, np.ndarray]:
    """The test clouds under every protocol, in poses that the seed draws."""
    return {name: move(split.test.X, np.random.default_rng((seed, 1))) for name, move in PROTOCOLS.items()}


def measured(
    answers: Mapping[str, np.ndarray], split: Split, parameters: int | None = None, seconds: float | None = None
) -> Outcome:
    """The share of right answers under every protocol, and of answers that a rotation leaves as they are."""
    values = {name: float((found == split.test.y).mean()) for name, found in answers.items()}
    values[UNCHANGED] = float((answers["I/I"] == answers["I/SO(3)"]).mean())
    return Outcome(values, parameters, {"answers": answers["I/SO(3)"].tolist()}, seconds)


# -- what was found ----------------------------------------------------------------------------------------------------


def said(rows: Sequence[Any]) -> str:
    """What to take where shapes come in any pose, and what where all stand alike."""
    any_pose, aligned = (verdict(rows, metric) for metric in METRICS[:2])
    return f"For shapes in any pose: {any_pose} For shapes that all stand alike: {aligned}" if any_pose else ""


def described(name: str, split: Split, settings: Compare) -> str:
    """Data, split and budget."""
    n, d = split.train.X.shape[1:]
    longer = " and ".join(dict.fromkeys(str(times) for times in settings.augmented_epochs if times > 1))
    more = f" ({longer} times as many where the name says it)" if longer else ""
    return (
        f"{name}: {len(split.train)} shapes to train on, {len(split.test)} to test on, "
        f"{len(set(split.train.y.tolist()))} classes, {n} points of {d} coordinates; {settings.network}, "
        f"{settings.n_points or n} points a step, "
        f"{settings.epochs} epochs for every network{more}; "
        "tested as they stand (I/I), turned at random (I/SO(3)), three times as large, and moved by two radii; "
        "unchanged: the share of answers that the turn leaves as they are"
    )


def shows(runs: Runs) -> str:
    """Accuracies as the shapes stand and in any pose."""
    found = (
        f"{arm.name} {runs.mean(arm.name, 'I/I'):.3f} and {runs.mean(arm.name, 'I/SO(3)'):.3f}" for arm in runs.arms
    )
    return f"As the shapes stand, and turned at random: {'; '.join(found)}."


def limits(split: Split, settings: Compare, runs: Runs, notes: Sequence[str]) -> str:
    """What not to conclude."""
    error = (0.25 / len(split.test)) ** 0.5
    sentences = [
        f"{len(split.test)} test shapes have a standard error of up to {100 * error:.1f} points, and {settings.seeds} "
        "seeds of one small network do not remove it: differences among the invariant methods of that size are noise.",
        "Where all shapes stand alike the pose itself tells classes apart, and an invariant method cannot see it; "
        "scale is normalised away, too.",
    ]
    edge = runs.at_edge()
    if edge:
        sentences.append(
            f"The rate of {', '.join(edge)} is the smallest or the largest that there was; a better one may lie beyond."
        )
    return " ".join([*sentences, *(f"{note}." for note in notes)])


def checks(runs: Runs) -> list[Check]:
    """What invariance promises, as it was measured."""
    found = []
    for name in (FRAMES, MOMENT):
        gap = max(abs(a - b) for a, b in zip(runs.values(name, "I/I"), runs.values(name, "I/SO(3)"), strict=True))
        same = min(runs.values(name, UNCHANGED))
        found.append(
            Check(
                f"{name}: accuracy in any pose is that of the aligned shapes",
                gap <= 0.005,
                f"largest gap {gap:.3f}, at least {same:.1%} of the answers unchanged",
                "poses that rounding or near-ties decide reach the network",
            )
        )
    raw, ours = runs.mean(RAW, "I/SO(3)"), runs.mean(FRAMES, "I/SO(3)")
    found.append(
        Check(
            "TinvNN is at least three times as right in any pose as raw coordinates",
            ours >= 3 * raw,
            f"{ours:.3f} against {raw:.3f}",
            "pose matters little for these shapes, and augmentation may do",
            runs.differ(FRAMES, RAW, "I/SO(3)", times=3),
        )
    )
    return found


def differences(runs: Runs) -> Table:
    """What TinvNN gains over every other, with an interval over the seeds."""
    columns = [metric.name for metric in METRICS[:2]]
    cells: list[list[str | float | int]] = [
        [arm.name, *(runs.difference(FRAMES, arm.name, column).text() for column in columns)] for arm in runs.arms[1:]
    ]
    return Table(
        f"Accuracy of {FRAMES} less that of the others",
        ["method", *columns],
        cells,
        "With the 95 % interval over the seeds.",
    )


def drawings(split: Split, rows: Sequence[Any], out: Path) -> list[Drawing]:
    """Poses of three test shapes, and accuracy by protocol."""

    def poses(path: Path) -> Picture:
        classes = sorted(set(split.test.y.tolist()))
        some = [int(np.flatnonzero(split.test.y == name)[0]) for name in classes[:: max(1, len(classes) // 3)][:3]]
        return draw_poses(path, [split.test.X[i] for i in some], [str(split.test.y[i]) for i in some], TinvEmbedding())

    def accuracy(path: Path) -> Picture:
        return draw_bars(
            path,
            rows,
            METRICS[1::-1] + METRICS[2:4],
            "Accuracy by protocol",
            "Test shapes as they stand, turned at random, three times as large, and moved.",
        )

    return [(out / "poses.svg", poses), (out / "accuracy.svg", accuracy)]
