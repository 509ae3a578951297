"""`linmap compare tinvnn --data FILE.tsp`: a solver of tours in front of which TinvNN stands, and what one takes else.

Both solvers are one network, trained alike on random cities. They and the heuristics get the same 2-opt: of as many of
their shortest tours as `--polish` says. Copies are the instances turned and resized; their tours are measured on the
original.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from linmap.data.tsplib import TspInstance, known_optimum
from linmap.errors import DataError
from linmap.experiment import Arm, Check, Experiment, Metric, Outcome, Part, Picture, Result, Runs, Trial, conclude
from linmap.experiment import fingerprint as content
from linmap.experiment.charts import draw_bars
from linmap.recipes.job import CompareJob
from linmap.recipes.tinvnn.flags import CompareTours
from linmap.recipes.tinvnn.pictures import draw_tours
from linmap.recipes.tinvnn.poses import rotations
from linmap.recipes.tinvnn.tours import instances
from linmap.shapes.tinvnn import TourSolver
from linmap.shapes.tinvnn.heuristics import greedy_edges, nearest_neighbour
from linmap.shapes.tinvnn.tours import improved

OURS, RAW = "TinvNN + solver", "solver on raw coordinates"
NEAREST, GREEDY = "nearest neighbour", "shortest edges"
GAP, COPIES, SAME, BEFORE = "gap", "gap of copies", "copies alike", "gap before 2-opt"
METRICS = [
    Metric(GAP, "lower", "%", 2),
    Metric(COPIES, "lower", "%", 2),
    Metric(SAME, "higher", "%", 0),
    Metric(BEFORE, "lower", "%", 2),
]
RESIZED, DRAWN = 3e-3, 4


@dataclass(frozen=True)
class Task:
    """An instance, what its tours are compared with, and a turned and resized copy of its cities."""

    instance: TspInstance
    reference: float
    copy: np.ndarray


def compare_tours(settings: CompareTours, job: CompareJob) -> Result:
    """The same solver on canonical and on raw coordinates, and two heuristics, all with 2-opt."""
    given = instances(job.data)
    tasks = [task(instance, known_optimum(file), settings.polish) for file, instance, _ in given]
    known = sum(known_optimum(file) is not None for file, *_ in given)
    seeds = range(job.seed, job.seed + settings.seeds)
    key = {name: value for name, value in asdict(settings).items() if name != "seeds"} | {"data": content(job.data)}
    arms = list(arms_of(settings))
    runs = Experiment("tinvnn tours", job.out / "runs", key, job.resume).run(arms, [Part("", tasks)], seeds)
    rows = runs.rows(METRICS)
    several = len(tasks) > 1
    return conclude(
        "tinvnn",
        rows,
        METRICS,
        settings,
        over="instances" if several else "seeds",
        pairs={arm.name: by_instance(runs, arm.name) for arm in arms} if several else None,
        task=described(tasks, known, settings),
        shows=shows(runs),
        limits=limits(tasks, known, settings),
        checks=checks(runs),
        seeds=list(seeds),
        drawings=[
            (job.out / "tours.svg", partial(tours, tasks, runs)),
            (job.out / "gaps.svg", partial(bars, rows)),
        ],
    )


def task(instance: TspInstance, optimum: int | None, polish: int) -> Task:
    """What its tours are measured by: the optimum, or what the heuristics find where none is known."""
    found = optimum or min(instance.length(heuristic(instance, name, polish)) for name in (NEAREST, GREEDY))
    if found <= 0:
        raise DataError(f"{instance.name}: all distances are 0, so that every tour is as good; leave it out.")
    turn = rotations(1, 2, np.random.default_rng(7))[0]
    return Task(instance, float(found), RESIZED * instance.points @ turn.T)


# -- methods -----------------------------------------------------------------------------------------------------------


def arms_of(settings: CompareTours) -> Iterator[Arm]:
    """The solver behind TinvNN, and what one would take otherwise."""
    yield Arm(OURS, "system", partial(solver_arm, settings, "random"), note="all sign frames")
    yield Arm(RAW, "baseline", partial(solver_arm, settings, "raw"), note="cities in the unit square")
    for name, note in ((NEAREST, "from every city"), (GREEDY, "")):
        yield Arm(name, "baseline", partial(heuristic_arm, name, settings.polish), seeded=False, note=note)


def solver_arm(settings: CompareTours, representation: Any, trial: Trial) -> Outcome:
    """Train a solver on random cities, and let it find tours of the instances and of their copies."""
    options = settings.options(representation=representation, random_state=trial.seed)
    solver = TourSolver(**options).fit(checkpoints=trial.folder, resume=True)
    found = []
    for one in trial.data:
        poses = [one.instance.points, one.copy]
        X, copy = map(in_unit_square, poses) if representation == "raw" else poses
        ways = ((X, settings.polish), (copy, settings.polish), (X, 0))
        found.append([solver.solve(points, n_starts=settings.n_starts, polish=polish) for points, polish in ways])
    return measured(trial.data, found, sum(p.numel() for p in solver.model_.parameters()))


def in_unit_square(X: np.ndarray) -> np.ndarray:
    """As the cities of the training; what is usually done in front of such a solver."""
    low = X.min(0)
    return (X - low) / ((X - low).max() or 1.0)


def heuristic_arm(name: str, polish: int, trial: Trial) -> Outcome:
    """Tours without a network; a copy has the same distances up to rounding, and the same tour."""
    best = [[heuristic(one.instance, name, n) for n in (polish, 0)] for one in trial.data]
    return measured(trial.data, [[after, after, before] for after, before in best])


def heuristic(instance: TspInstance, name: str, polish: int) -> np.ndarray:
    """The best tour after 2-opt of so many of the shortest."""
    D = instance.distances()
    if name == GREEDY:
        found = [greedy_edges(D)]
    else:
        found = sorted((nearest_neighbour(D, start) for start in range(len(D))), key=instance.length)
    kept = [improved(tour, np.asarray(D, np.int64)) for tour in found[:polish]] if polish else found[:1]
    return min(kept, key=instance.length)


def measured(tasks: Sequence[Task], found: Sequence[Sequence[np.ndarray]], parameters: int | None = None) -> Outcome:
    """Of the tours of each instance, of its copy, and before 2-opt: gaps in per cent, and how often lengths agree."""
    lengths = np.array([[one.instance.length(tour) for tour in tours] for one, tours in zip(tasks, found, strict=True)])
    gaps = 100 * (lengths / np.array([[one.reference] for one in tasks]) - 1)
    values: dict[str, float] = dict(zip([GAP, COPIES, BEFORE], gaps.mean(0).tolist(), strict=True))
    values[SAME] = float(100 * (lengths[:, 0] == lengths[:, 1]).mean())
    kept = [tours[0].tolist() for tours in found[:DRAWN]]
    return Outcome(values, parameters, {"gaps": gaps[:, 0].tolist(), "tours": kept})


# -- what was found ----------------------------------------------------------------------------------------------------


def by_instance(runs: Runs, arm: str) -> list[float]:
    """The gap of each instance, the mean over the seeds."""
    return np.mean([run.details["gaps"] for run in runs.of(arm)], 0).tolist()


def described(tasks: Sequence[Task], known: int, settings: CompareTours) -> str:
    """Data, split and budget."""
    sizes = [len(one.instance) for one in tasks]
    cities = f"{min(sizes)} to {max(sizes)} cities" if len(set(sizes)) > 1 else f"{sizes[0]} cities"
    over = "the known optimum" if known == len(tasks) else "the optimum, or the best heuristic where none is known"
    return (
        f"{len(tasks)} instance{'s' if len(tasks) > 1 else ''} of {cities}; solvers trained on random instances of "
        f"{settings.n_cities} cities for {settings.steps} steps, {settings.seeds} seeds; tours from "
        f"{settings.n_starts} cities, 2-opt of the {settings.polish} shortest; gap: length above {over}; copies: "
        f"turned, and {RESIZED:g} times as large"
    )


def shows(runs: Runs) -> str:
    """Gaps of the instances and of their copies."""
    found = (f"{arm.name} {runs.mean(arm.name, GAP):.2f} and {runs.mean(arm.name, COPIES):.2f}" for arm in runs.arms)
    return f"Per cent above the reference, of the instances and of their copies: {'; '.join(found)}."


def limits(tasks: Sequence[Task], known: int, settings: CompareTours) -> str:
    """What not to conclude."""
    said = [
        f"The solvers are small, and trained for {settings.steps} steps on {settings.n_cities} cities; most of what "
        "they leave 2-opt mends, so gaps after it say little of the network.",
        "Programs made for tours, such as LKH or Concorde, are far ahead of all methods here.",
    ]
    if known < len(tasks):
        said.append(f"The optimum of {len(tasks) - known} of {len(tasks)} instances is not known: gaps may be below 0.")
    return " ".join(said)


def checks(runs: Runs) -> list[Check]:
    """What invariance promises, as it was measured."""
    ours, raw = runs.mean(OURS, SAME), runs.mean(RAW, SAME)
    return [
        Check(
            "turned and resized copies get tours of the same length from TinvNN's solver",
            ours == 100,
            f"{ours:.0f} % of the instances; raw coordinates {raw:.0f} %",
            "near-ties decide otherwise in copies",
        )
    ]


def tours(tasks: Sequence[Task], runs: Runs, path: Path) -> Picture:
    """Those of the first instances."""
    run = runs.of(OURS)[0]
    drawn = [
        (f"{one.instance.name}: {gap:+.1f} %", one.instance.points, np.array(tour))
        for one, gap, tour in zip(tasks, run.details["gaps"], run.details["tours"], strict=False)
    ]
    return draw_tours(path, drawn[:DRAWN], "Tours of TinvNN's solver after 2-opt, with the gap.")


def bars(rows: Sequence[Any], path: Path) -> Picture:
    """Gaps by method."""
    return draw_bars(path, rows, METRICS[:2], "Gap by method", "Mean over the instances; lower is better.", most=None)
