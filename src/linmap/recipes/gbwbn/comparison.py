"""`linmap compare gbwbn`: SPDNets that differ in their normalisation alone, on motion, on EEG, and by condition."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from rich.console import Console

from linmap.data.covariances import hdm05
from linmap.data.epochs import mamem
from linmap.errors import UsageError
from linmap.experiment.result import Check, Metric, Picture, Result, Row, Table
from linmap.pictures import illustrated
from linmap.recipes.confusion import draw_confusions
from linmap.recipes.drawn import drawn
from linmap.recipes.gbwbn.experiments import (
    AIM,
    LEM,
    NONE,
    Score,
    Split,
    by_actor,
    by_session,
    few_shots,
    fifty_steps,
    gbwbn,
    methods,
    trained,
)
from linmap.recipes.gbwbn.pictures import draw_conditioning, draw_training
from linmap.recipes.job import CompareJob

ACCURACY, CHOSEN = "test accuracy", "validation accuracy"
METRICS = [Metric(ACCURACY, "higher", digits=3), Metric(CHOSEN, "neither", digits=3)]
FLOOR = 0.85  # accuracy on HDM05 below which something is broken
Scores = dict[str, list[Score]]


@dataclass(frozen=True)
class Comparison:
    """Flags of `linmap compare gbwbn`."""

    subset: bool = True
    """HDM05's 110 embedded clips instead of all 288 (in LINMAP_DATA)."""
    thetas: tuple[float, ...] = (0.25, 0.5, 1.0)
    """Powers of the metric."""
    fixed_metric: bool = False
    """Also with the metric matrix left at I."""
    mean_iters: tuple[int, ...] = (1,)
    """Steps towards the mean of a batch, for every power."""
    epochs: int = 25
    """Passes over HDM05's training clips."""
    seeds: int = 3
    """Seeds of every method."""
    protocol: bool = False
    """Also all three training actors, 30 epochs and nothing chosen, as in the reference figures of this data set."""
    few_shots: int = 0
    """Also training by so many clips of each action; 0 leaves it out."""
    subjects: tuple[int, ...] = ()
    """MAMEM subjects (0 to 10) for the published EEG network."""
    eeg_epochs: int = 60
    """Passes over the epochs of a subject."""
    eeg_seeds: int = 1
    """Seeds on EEG."""
    eps: tuple[float, ...] = ()
    """What is added to the diagonal of HDM05's matrices, for accuracy by condition."""
    conditions: tuple[float, ...] = (1e1, 1e3, 1e5, 1e7, 1e9)
    """Condition numbers of synthetic matrices."""
    threads: int = 2
    """Threads of PyTorch."""


PRESETS = {
    "quick": Comparison(eps=(1e-3, 1e-6, 1e-9), conditions=(1e1, 1e5, 1e9)),
    "full": Comparison(subset=False, fixed_metric=True, epochs=60, protocol=True, few_shots=3, subjects=(0, 2, 5, 8),
                       eps=(1e-3, 1e-5, 1e-7, 1e-9, 1e-11)),
}  # fmt: skip


@dataclass
class _Found:
    tables: list[Table] = field(default_factory=list)
    checks: list[Check] = field(default_factory=list)
    pictures: list[Picture] = field(default_factory=list)
    sentences: list[str] = field(default_factory=list)


def compare(settings: Comparison, job: CompareJob) -> Result:
    """The same network, data, budget and seeds with each normalisation; the power is chosen on validation."""
    if job.data is not None:
        raise UsageError("compare gbwbn runs on its own data and takes no --data; fit your own with `fit gbwbn`.")
    if settings.seeds < 1 or not settings.thetas or min(settings.thetas) <= 0:
        raise UsageError("--seeds must be at least 1 and --thetas positive numbers.")
    torch.set_num_threads(settings.threads)
    console, found = Console(stderr=True), _Found()
    seeds = [job.seed + i for i in range(settings.seeds)]
    options = methods(settings.thetas, settings.fixed_metric, settings.mean_iters)
    with console.status("gbwbn: HDM05 by actor") as status:
        scores = _run(options, {seed: by_actor(hdm05(settings.subset)) for seed in seeds}, settings.epochs)
        chosen = _choose(scores)
        _motion(scores, chosen, job, found)
        if settings.protocol:
            status.update("gbwbn: HDM05, all training actors")
            _protocol(options, seeds, settings, found)
        if settings.few_shots:
            status.update("gbwbn: HDM05, few clips")
            splits = {seed: few_shots(by_actor(hdm05(settings.subset)), settings.few_shots, seed) for seed in seeds}
            few = _run(options, splits, settings.epochs)
            found.tables.append(_table(f"HDM05 by actor, {settings.few_shots} clips of an action to train by", few))
            found.sentences.append(f"With {settings.few_shots} clips of an action: {_summary(few)}.")
        if settings.subjects:
            status.update("gbwbn: MAMEM")
            _eeg(settings, seeds[: settings.eeg_seeds], found)
        if settings.eps:
            status.update("gbwbn: HDM05 by condition")
            _by_eps(settings, seeds, job, found)
        status.update("gbwbn: synthetic matrices by condition")
        _by_condition(settings, seeds, job, found)
    return Result(
        system="gbwbn",
        task=f"HDM05, {'110' if settings.subset else '288'} clips of 11 actions as 93 x 93 covariances: actors bd, bk train, dg chooses epoch and power, mm, tr test; SPDNet 93-30, Adam 2.5e-3, batches of 30, {settings.epochs} epochs, {settings.seeds} seeds",  # noqa: E501
        metrics=METRICS,
        rows=_rows(scores, chosen),
        shows=" ".join(found.sentences),
        limits="Small sets: two test actors, a few EEG subjects. The published benchmarks (HDM05 with 117 classes, NTU RGB+D) are not these.",  # noqa: E501
        checks=found.checks,
        tables=found.tables,
        pictures=found.pictures,
        preset=job.preset,
        seeds=seeds,
        settings=asdict(settings),
    )


def _run(options: Mapping[str, dict[str, Any]], splits: Mapping[int, Split], epochs: int, **more: Any) -> Scores:
    """A score of each method for each seed."""
    return {
        name: [trained(o, s.train, s.validation, s.test, seed, epochs, **more) for seed, s in splits.items()]
        for name, o in options.items()
    }


def _choose(scores: Scores) -> str:
    """The setting of GBWBN that is best on validation."""
    ours = [name for name in scores if name.startswith("GBWBN")]
    return max(ours, key=lambda name: np.nan_to_num(np.mean([score.validation for score in scores[name]])))


def _rows(scores: Scores, chosen: str) -> list[Row]:
    rows = []
    for name, found in scores.items():
        kind = "system" if name == chosen else "ablation" if name.startswith("GBWBN") else "baseline"
        values = {ACCURACY: [score.accuracy for score in found], CHOSEN: [score.validation for score in found]}
        note = "chosen on validation" if name == chosen else ""
        rows.append(Row(name, kind, values, seconds=float(np.mean([score.seconds for score in found])), note=note))
    return rows


def _mean(scores: list[Score]) -> float:
    return float(np.mean([score.accuracy for score in scores]))


def _table(
    title: str, scores: Scores, note: str = "mean ± std over the seeds; the epoch chosen on validation"
) -> Table:
    cells: list[list[str | float | int]] = []
    for name, found in scores.items():
        accuracy, validation = (np.array([getattr(s, n) for s in found]) for n in ("accuracy", "validation"))
        residual = np.mean([score.residual for score in found])
        cells.append([
            name, f"{accuracy.mean():.3f} ± {accuracy.std(ddof=min(1, len(found) - 1)):.3f}",
            "" if np.isnan(validation).all() else f"{validation.mean():.3f}",
            f"{np.mean([s.losses[-1] if s.losses else np.nan for s in found]):.2g}",
            "" if np.isnan(residual) else f"{residual:.2f}", f"{np.mean([s.seconds for s in found]):.0f} s",
        ])  # fmt: skip
    return Table(title, ["method", "test", "validation", "last loss", "mean residual", "time"], cells, note)


def _summary(scores: Scores) -> str:
    chosen = _choose(scores)
    others = ", ".join(f"{name} {_mean(scores[name]):.3f}" for name in (NONE, AIM, LEM) if name in scores)
    return f"{chosen} (chosen on validation) {_mean(scores[chosen]):.3f}, {others}"


# -- human motion ------------------------------------------------------------------------------------------------------


def _motion(scores: Scores, chosen: str, job: CompareJob, found: _Found) -> None:
    runs = [score for of_method in scores.values() for score in of_method]
    falls = [score for score in runs if score.losses]
    found.sentences.append(f"HDM05 by actor: {_summary(scores)}.")
    found.checks += [
        Check("HDM05: every method trains without NaN", not any(score.failure for score in runs),
              "; ".join(score.failure for score in runs if score.failure) or f"{len(runs)} runs",
              "a method is numerically unsafe on covariances of this kind"),
        Check("HDM05: every loss falls", all(s.losses[-1] < s.losses[0] for s in falls),
              f"largest quotient {max(s.losses[-1] / s.losses[0] for s in falls):.2g}",
              "a method did not learn at all, and its accuracy is chance"),
    ]  # fmt: skip
    said: dict[str, Any] = {}
    with illustrated(said, job.out / "loss.svg") as path:
        draw_training(path, {name: np.mean([s.losses for s in of if s.losses], 0).tolist()
                             for name, of in scores.items() if any(s.losses for s in of)})  # fmt: skip
    truth = np.concatenate([score.truth for score in scores[chosen]])
    predicted = np.concatenate([score.predicted for score in scores[chosen]])
    with illustrated(said, job.out / "confusion.svg") as path:
        draw_confusions(path, {chosen: (truth, predicted)}, np.unique(truth))
    found.tables.append(_table("HDM05 by actor", scores))
    found.pictures += drawn(job.out, [
        Picture("loss.svg", "Training loss on HDM05", "Mean over the seeds."),
        Picture("confusion.svg", f"Test actors, {chosen}", "Share of each action's clips, all seeds together."),
    ], said)  # fmt: skip


def _protocol(options: dict[str, Any], seeds: list[int], settings: Comparison, found: _Found) -> None:
    """The reference protocol: what spec sheets of this data set report, and why powers near 1 lose."""
    split = by_actor(hdm05(settings.subset), choose=False)
    more = {gbwbn(theta, mean_iter=10): {"norm": "gbw", "theta": theta, "mean_iter": 10} for theta in settings.thetas}
    scores = _run(options | more, dict.fromkeys(seeds, split), 30)
    found.tables.append(_table("HDM05, three training actors, 30 epochs, nothing chosen", scores,
                               "mean ± std over the seeds"))  # fmt: skip
    lowest = min(_mean(of) for of in scores.values())
    found.checks.append(Check(f"HDM05, three training actors: every method is above {FLOOR}", lowest >= FLOOR,
                              f"lowest {lowest:.3f}",
                              "the protocol or a method is broken, for simpler classifiers reach this"))  # fmt: skip


# -- EEG ---------------------------------------------------------------------------------------------------------------


def _eeg(settings: Comparison, seeds: list[int], found: _Found) -> None:
    """The published network on each subject, and the augmented covariance before the same layers."""
    arms = {f"{front}: {name}": options | {"front": front} | extra
            for front, extra in (("convolution", {"dims": (12,)}), ("augmented", {"dims": (15,), "order": 4, "lag": 3}))
            for name, options in methods(settings.thetas, settings.fixed_metric).items()}  # fmt: skip
    subjects = {subject: by_session(mamem(subject)) for subject in settings.subjects}
    scores: Scores = {
        name: [trained(o, s.train, s.validation, s.test, seed, settings.eeg_epochs, floor=1e-5, eps=1e-5)
               for s in subjects.values() for seed in seeds]
        for name, o in arms.items()
    }  # fmt: skip
    found.tables.append(_table(
        f"MAMEM, subjects {', '.join(str(s + 1) for s in subjects)}: sessions 1-3 train, 4 chooses the epoch, 5 tests",
        scores, "mean ± std over subjects and seeds; chance is .20 to .24"))  # fmt: skip
    for front in ("convolution", "augmented"):
        of_front = {name.split(": ", 1)[1]: s for name, s in scores.items() if name.startswith(front)}
        found.sentences.append(f"MAMEM, {front} front: {_summary(of_front)}.")


# -- condition ---------------------------------------------------------------------------------------------------------


def _studied(settings: Comparison) -> dict[str, dict[str, Any]]:
    theta = 0.5 if 0.5 in settings.thetas else settings.thetas[0]
    return methods((theta,), fixed=False) | {gbwbn(1.0): {"norm": "gbw", "theta": 1.0}}


def _by_eps(settings: Comparison, seeds: list[int], job: CompareJob, found: _Found) -> None:
    """Real matrices, regularised less and less; no floor protects the logarithm."""
    split = by_actor(hdm05(settings.subset))
    curves: dict[str, dict[str, np.ndarray]] = {}
    cells: list[list[str | float | int]] = []
    for dtype in ("float32", "float64"):
        curves[dtype] = {}
        for name, options in _studied(settings).items():
            runs = [[trained(options, split.train, split.validation, split.test, seed, settings.epochs // 2, eps=eps,
                             floor=1e-14, dtype=dtype) for seed in seeds] for eps in settings.eps]  # fmt: skip
            curves[dtype][name] = np.array([[score.accuracy for score in of_eps] for of_eps in runs])
            failed = sum(bool(score.failure) for of_eps in runs for score in of_eps)
            cells.append([name, dtype, *(f"{np.nanmean(v):.3f}" if not np.isnan(v).all() else "failed"
                                         for v in curves[dtype][name]), failed])  # fmt: skip
    found.tables.append(Table("HDM05, test accuracy by eps, ReEig floor 1e-14",
                              ["method", "type", *map("{:g}".format, settings.eps), "failed runs"], cells))  # fmt: skip
    picture = Picture(
        "eps.svg",
        "Real matrices by condition",
        "Accuracy on the test actors by what is added to the diagonal; mean and spread over the seeds.",
    )
    said: dict[str, Any] = {}
    with illustrated(said, job.out / picture.file) as path:
        draw_conditioning(path, settings.eps, curves, "eps on the diagonal (trace 1)", ("linear", "test accuracy"))
    found.pictures += drawn(job.out, [picture], said)


def _by_condition(settings: Comparison, seeds: list[int], job: CompareJob, found: _Found) -> None:
    """Synthetic matrices: the gradient at the first step, and the loss after fifty."""
    gradients: dict[str, dict[str, np.ndarray]] = {}
    cells: list[list[str | float | int]] = []
    broken = dict.fromkeys(_studied(settings), 0)
    for label, dtype in (("float32", torch.float32), ("float64", torch.float64)):
        gradients[label] = {}
        for name, options in _studied(settings).items():
            runs = [[fifty_steps(options, c, dtype, seed) for seed in seeds] for c in settings.conditions]
            gradients[label][name] = np.array([[step.gradient for step in of] for of in runs])
            losses = np.array([[step.loss for step in of] for of in runs])
            broken[name] += int(np.isnan(losses).sum())
            cells.append([name, label, *(f"{np.nanmean(row):.3f}" if not np.isnan(row).all() else "not finite"
                                         for row in losses), int(np.isnan(losses).sum())])  # fmt: skip
    ours = {name: count for name, count in broken.items() if name.startswith("GBWBN")}
    found.checks.append(Check("synthetic: GBWBN has no NaN or infinite gradient at any condition number",
                              not any(ours.values()), ", ".join(f"{n}: {c}" for n, c in broken.items()),
                              "the layer is unsafe for ill-conditioned covariances"))  # fmt: skip
    found.tables.append(Table("Synthetic matrices, loss after 50 steps by condition number",
                              ["method", "type", *map("{:.0e}".format, settings.conditions), "not finite"],
                              cells))  # fmt: skip
    growth = {name: float(np.nanmean(g[-1]) / np.nanmean(g[0])) for name, g in gradients["float64"].items()}
    found.sentences.append(
        "On synthetic matrices the gradient towards the input (times the input's norm) grows from condition "
        f"{settings.conditions[0]:.0e} to {settings.conditions[-1]:.0e} by "
        + ", ".join(f"{value:.2g} ({name})" for name, value in growth.items()) + "."
    )  # fmt: skip
    picture = Picture(
        "condition.svg",
        "Synthetic matrices by condition",
        "Gradient towards the input at the first step, times the input's norm: what a relative error can do.",
    )
    said: dict[str, Any] = {}
    with illustrated(said, job.out / picture.file) as path:
        draw_conditioning(path, settings.conditions, gradients, "condition number", ("log", "relative gradient"))
    found.pictures += drawn(job.out, [picture], said)
