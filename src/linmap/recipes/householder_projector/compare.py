"""`linmap compare householder_projector`: does the projector find directions that change one thing each, better than
SeFa does in the generator as it is, and what does it cost?

All fine-tuned generators get the same steps, seeds and images. Directions are measured at codes, and generators at
images, that no training draws; the codes are the same for every method.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import cast

import numpy as np
from torch import Tensor, nn

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
    paired,
    weights_digest,
)
from linmap.experiment.drawing import Drawing
from linmap.experiment.result import Row
from linmap.experiment.verdict import verdict
from linmap.interpret.householder_projector.attributes import profiles, said
from linmap.interpret.householder_projector.changes import in_batches
from linmap.interpret.householder_projector.directions import DirectionSet, find_directions, sefa_of
from linmap.interpret.householder_projector.features import image_features
from linmap.interpret.householder_projector.frechet import frechet_distance
from linmap.interpret.householder_projector.generators import Generator, draw_codes, slots_of
from linmap.interpret.householder_projector.layers import named_directions
from linmap.interpret.householder_projector.projector import HouseholderProjector
from linmap.recipes.householder_projector.flags import Compare
from linmap.recipes.householder_projector.loading import attributes_of, load_model, own_images
from linmap.recipes.householder_projector.measuring import (
    ALIKE,
    DIVERSITY,
    ENTANGLEMENT,
    FRECHET,
    FRESH_SEED,
    INTERPRETABLE,
    ORTHOGONALITY,
    PATH,
    PER_CHANGE,
    PURITY,
    REFERENCE_SEED,
    Yardstick,
    direction_error,
    measure,
)
from linmap.recipes.householder_projector.showing import draw_contact
from linmap.recipes.householder_projector.tuning import fine_tuned, projected
from linmap.recipes.job import CompareJob

PROJECTOR, RANDOM = "projector, SVD start", "projector, random start"
PLAIN, TUNED = "SeFa, plain generator", "SeFa, fine-tuned"
METRICS = [
    Metric(ALIKE, digits=3),
    Metric(ENTANGLEMENT, digits=3),
    Metric(FRECHET, digits=1),
    Metric(DIVERSITY, "higher", digits=2),
    Metric(PURITY, "higher", digits=2),
    Metric(INTERPRETABLE, digits=1),
    Metric(PER_CHANGE, digits=3),
    Metric(PATH, digits=0),
    Metric(ORTHOGONALITY, digits=7),
]
SMALL = 1e-5
"""Largest error of orthonormal directions in float32."""
ROWS = "A row for each direction, three codes moved along it by up to three standard deviations."
NEAR = 1.1
"""Times the plain generator's own Frechet distance, up to which fidelity counts as kept."""


@dataclass(frozen=True, eq=False)
class Task:
    """What the arms get."""

    generator: Generator
    slots: Mapping[str, int]
    images: Tensor | None
    """The user's, to train on; None without."""
    yard: Yardstick


def compare(settings: Compare, job: CompareJob) -> Result:
    """The projector from the pretrained weight and from a random one, at several ranks, beside SeFa in the plain
    generator and in one that was fine-tuned as long.
    """
    task, part = prepared(settings, job.data)
    runs = run_arms(settings, job.out, part, range(job.seed, job.seed + settings.seeds), job.resume)
    rows = runs.rows(METRICS)
    pairs = {arm.name: entanglement_of(runs, arm.name).tolist() for arm in runs.arms if arm.kind != "ablation"}
    return conclude(
        "householder_projector",
        rows,
        METRICS,
        settings,
        over="codes",
        pairs=pairs,
        verdict=concluded(runs, rows, pairs),
        task=described(settings, job.data, task),
        shows=shows(runs),
        limits=limits(settings, task),
        checks=checks(runs),
        tables=[directions_of(runs), differences(runs)],
        seeds=list(range(job.seed, job.seed + settings.seeds)),
        drawings=drawings(settings, task, runs, job),
    )


def prepared(settings: Compare, data: Path | None) -> tuple[Task, Part]:
    """Generator, images and what all is measured against; refuses what cannot be used before any work."""
    generator = load_model(settings.model)
    module = cast(nn.Module, generator)
    slots = slots_of(generator, settings.layers)
    sefa_of(generator, slots, max(settings.ranks))  # a rank that is too large is told by the layer's name
    images = None if data is None else own_images(data, generator)
    features = image_features(settings.feature_side)
    own = in_batches(generator, draw_codes(generator, settings.samples, REFERENCE_SEED))
    real = features(own if images is None else images[: settings.samples])
    yard = Yardstick(features, real, attributes_of(generator, settings.model), settings.samples, settings.codes)
    task = Task(generator, slots, images, yard)
    key = {"weights": weights_digest(module), "features": features.name, "data": data and fingerprint(data)}
    return task, Part("", task, key)


def run_arms(
    settings: Compare, out: Path, part: Part, seeds: Sequence[int], resume: bool, arms: Sequence[Arm] | None = None
) -> Runs:
    """Every method with every seed."""
    key = {name: value for name, value in asdict(settings).items() if name not in ("seeds", "rank", "ranks")}
    arms = list(arms_of(settings)) if arms is None else arms
    return Experiment("householder_projector", out / "runs", key, resume).run(arms, [part], seeds)


# -- methods -----------------------------------------------------------------------------------------------------------


def arms_of(settings: Compare, before: bool = False) -> Iterator[Arm]:
    """The projector, what one would take otherwise, and the projector in other forms; `before`: whether the Frechet
    distance is measured before training, too."""
    rank, steps = settings.rank, f"{settings.steps} steps"
    own = {"rank": rank}
    yield Arm(
        PROJECTOR, "system", partial(train_projector, settings, rank, False, before), own, note=f"rank {rank}, {steps}"
    )
    yield Arm(PLAIN, "baseline", partial(read_plain, settings), own, seeded=False, note="nothing trained")
    yield Arm(TUNED, "baseline", partial(tune_plain, settings), own, note=f"all weights, {steps}")
    yield Arm(
        RANDOM, "ablation", partial(train_projector, settings, rank, True, before), own, note=f"rank {rank}, {steps}"
    )
    for other in settings.ranks:
        if other != rank:
            run = partial(train_projector, settings, other, False, before)
            yield Arm(f"projector, rank {other}", "ablation", run, {"rank": other}, note=steps)


def train_projector(settings: Compare, rank: int, random: bool, before: bool, trial: Trial) -> Outcome:
    """Project, fine-tune, measure."""
    task: Task = trial.data
    generator = copy.deepcopy(task.generator)
    projected(generator, task.slots, settings, rank=rank, random=random, seed=trial.seed)
    untrained = measured_distance(generator, task) if before else None
    seconds = fine_tuned(generator, task.generator, task.images, settings, trial.seed, trial.folder)
    module = cast(nn.Module, generator)
    directions = find_directions(generator, named_directions(module), task.slots)
    error = max(m.orthogonality_error() for m in module.modules() if isinstance(m, HouseholderProjector))
    return outcome(generator, directions, error, task, seconds, untrained)


def read_plain(settings: Compare, trial: Trial) -> Outcome:
    """SeFa's directions of the generator as it is."""
    return _sefa(trial.data.generator, settings, trial.data, 0.0)


def tune_plain(settings: Compare, trial: Trial) -> Outcome:
    """The same steps for the generator as it is, then SeFa."""
    task: Task = trial.data
    generator = copy.deepcopy(task.generator)
    seconds = fine_tuned(generator, task.generator, task.images, settings, trial.seed, trial.folder)
    return _sefa(generator, settings, task, seconds)


def _sefa(generator: Generator, settings: Compare, task: Task, seconds: float) -> Outcome:
    directions = find_directions(generator, sefa_of(generator, task.slots, settings.rank), task.slots)
    return outcome(generator, directions, direction_error(directions), task, seconds)


def measured_distance(generator: Generator, task: Task) -> float:
    """The Frechet distance before training."""
    few = task.yard.samples
    images = in_batches(generator, draw_codes(generator, few, FRESH_SEED))
    return frechet_distance(task.yard.features(images), task.yard.real)


def outcome(
    generator: Generator,
    directions: DirectionSet,
    error: float,
    task: Task,
    seconds: float,
    before: float | None = None,
) -> Outcome:
    """What is kept of a method."""
    found = measure(generator, directions, error, task.yard)
    values = found.values | ({} if before is None else {"before": before})
    labels = [said(profile) for profile in found.profiles]
    details = {"entanglements": found.entanglements, "labels": labels, "changes": directions.changes.tolist()}
    return Outcome(values, sum(p.numel() for p in cast(nn.Module, generator).parameters()), details, seconds)


# -- what was found ----------------------------------------------------------------------------------------------------


def entanglement_of(runs: Runs, name: str) -> np.ndarray:
    """At every code, at equal steps, seeds averaged."""
    return np.mean([run.details["entanglements"] for run in runs.of(name)], 0)


def concluded(runs: Runs, rows: Sequence[Row], pairs: Mapping[str, list[float]]) -> str:
    """What to take for directions that change one thing each, and what it costs in fidelity."""
    counted = [Row(row.name, row.kind, {ALIKE: pairs[row.name]}, note=row.note) for row in rows if row.name in pairs]
    told = verdict(counted, METRICS[0], "codes")
    ours, floor = runs.mean(PROJECTOR, FRECHET), runs.mean(PLAIN, FRECHET)
    kept = "keeps" if ours <= NEAR * floor else "does not keep"
    return (
        f"{told} The projector {kept} the fidelity: Frechet distance {ours:.1f} against {floor:.1f} of the plain "
        "generator."
    )


def described(settings: Compare, data: Path | None, task: Task) -> str:
    """Generator, budget and what is measured."""
    against = "the plain generator's own images" if data is None else f"the images of {data.stem}"
    return (
        f"{settings.model}: directions of {', '.join(task.slots)}; {settings.steps} steps of {settings.batch_size} "
        f"images for every fine-tuned generator; Frechet distance of {settings.samples} images to as many of {against} "
        f"on {task.yard.features.name}; entanglement (mean |cos| of the image changes of two directions) and path "
        f"lengths at {settings.codes} codes, by steps of one standard deviation, and by steps that change the image "
        "equally"
    )


def shows(runs: Runs) -> str:
    """Entanglement, fidelity and diversity of every method."""
    found = (
        f"{arm.name} {runs.mean(arm.name, ALIKE):.3f}, {runs.mean(arm.name, FRECHET):.1f}, "
        f"{runs.mean(arm.name, DIVERSITY):.1f}"
        for arm in runs.arms
    )
    return f"Entanglement at equal steps, Frechet distance, diversity: {'; '.join(found)}."


def limits(settings: Compare, task: Task) -> str:
    """What not to conclude."""
    sentences = [
        f"{settings.samples} images bias the Frechet distance upwards, for all methods alike: the plain generator's "
        "row is what images of its own are apart.",
        f"{settings.steps} steps are far fewer than the paper's 1 % of the original training; `--steps` gives more.",
        "A low mean |cos| says that directions change different pixels, not that a person finds one thing in each.",
    ]
    if len(task.slots) == 1:
        sentences.append(
            "All of the code goes through the one projected layer here, so the images have as many degrees of freedom "
            "as its rank; in a style-based generator the other layers keep the rest."
        )
    return " ".join([*sentences, *([f"{task.yard.features.note}."] if task.yard.features.note else [])])


def checks(runs: Runs) -> list[Check]:
    """What the construction promises, and what the paper says."""
    error = max(max(runs.values(arm.name, ORTHOGONALITY)) for arm in runs.arms if arm.name not in (PLAIN, TUNED))
    ours, floor, random = (runs.mean(name, FRECHET) for name in (PROJECTOR, PLAIN, RANDOM))
    return [
        Check(
            "directions are orthonormal to 1e-5 after fine-tuning",
            error < SMALL,
            f"largest error {error:.1e}",
            "the projector is no partial isometry, and no other figure here holds",
        ),
        Check(
            "the Frechet distance is within 10 % of the plain generator's own",
            ours <= NEAR * floor,
            f"{ours:.1f} against {floor:.1f}",
            "the projector costs fidelity; a larger rank costs less",
            differ(runs.values(PROJECTOR, FRECHET), NEAR * floor),
        ),
        Check(
            "the start from the pretrained weight is nearer to the plain generator than a random start",
            ours < random,
            f"{ours:.1f} against {random:.1f}",
            "where the projector starts is of no account here",
            runs.differ(PROJECTOR, RANDOM, FRECHET),
        ),
    ]


def directions_of(runs: Runs) -> Table:
    """What the directions of the projector and of SeFa change, of the first seed."""
    names = [PROJECTOR, PLAIN]
    labels = [runs.of(name)[0].details["labels"] for name in names]
    rows: list[list[str | float | int]] = [
        [number, *pair] for number, pair in enumerate(zip(*labels, strict=False), start=1)
    ]
    return Table("What one standard deviation along each direction changes", ["direction", *names], rows)


def differences(runs: Runs) -> Table:
    """Entanglement of the projector less that of the others, with an interval over the codes."""
    ours = entanglement_of(runs, PROJECTOR)
    rows: list[list[str | float | int]] = [
        [arm.name, paired(ours, entanglement_of(runs, arm.name)).text()] for arm in runs.arms if arm.name != PROJECTOR
    ]
    note = (
        "At equal steps, with the 95 % interval over the codes; below zero the projector's directions are less alike."
    )
    return Table(f"Entanglement of {PROJECTOR} less that of the others", ["method", "difference"], rows, note)


def drawings(settings: Compare, task: Task, runs: Runs, job: CompareJob) -> list[Drawing]:
    """The directions of the projector before fine-tuning, and SeFa's."""

    def before_training(path: Path) -> Picture:
        generator = copy.deepcopy(task.generator)
        projected(generator, task.slots, settings, rank=settings.rank)
        directions = find_directions(generator, named_directions(cast(nn.Module, generator)), task.slots)
        told = profiles(generator, directions, task.yard.attributes)
        draw_contact(path, generator, directions, list(map(said, told)), 3.0, job.seed)
        return Picture(path.name, "The projector's directions before fine-tuning", ROWS)

    def of_sefa(path: Path) -> Picture:
        generator = task.generator
        directions = find_directions(generator, sefa_of(generator, task.slots, settings.rank), task.slots)
        draw_contact(path, generator, directions, runs.of(PLAIN)[0].details["labels"], 3.0, job.seed)
        return Picture(path.name, "SeFa's directions in the plain generator", ROWS)

    return [(job.out / "projector.svg", before_training), (job.out / "sefa.svg", of_sefa)]
