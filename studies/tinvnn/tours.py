"""Tours: random instances under transforms, and TSPLIB's with their copies."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np

from linmap.data import find
from linmap.data.tsplib import TspInstance, known_optimum, read_tsp
from linmap.experiment import Arm, Check, Experiment, Metric, Outcome, Part, Picture, Table, Trial, draw_all
from linmap.recipes.tinvnn.pictures import draw_tours
from linmap.recipes.tinvnn.poses import rotations
from linmap.shapes.tinvnn import TourSolver, tour_length
from linmap.shapes.tinvnn.heuristics import nearest_neighbour
from linmap.shapes.tinvnn.tours import distances
from studies.study import Findings, Job, table_of

CITIES, INSTANCES, STEPS = 20, 100, 300
COPIES = ("as trained", "turned", "shifted by 2", "5 times as large", "mirrored")
SOLVERS = {"TinvNN, sign frames": "random", "TinvNN, moment signs": "moment", "raw coordinates": "raw"}


def random_cities(job: Job) -> Findings:
    """Uniform instances of the training's size, and their copies; lengths in the units of the original."""
    instances, steps = (3, 2) if job.tiny else (INSTANCES, STEPS)
    cities = np.random.default_rng(2024).random((instances, CITIES, 2))
    metrics = [Metric(name, digits=3) for name in COPIES]
    arms = [Arm(name, "baseline" if kind == "raw" else "system", partial(_lengths, kind, steps))
            for name, kind in SOLVERS.items()]  # fmt: skip
    arms.append(Arm("nearest neighbour, best of 20", "baseline", _nearest_lengths, seeded=False))
    runs = Experiment("tinvnn tsp-20", job.out / "runs", {"instances": instances, "steps": steps}, job.resume).run(
        arms, [Part("", cities)], job.seeds
    )
    spread = [max(abs(run.values[name] - run.values[COPIES[0]]) for name in COPIES)
              for kind in list(SOLVERS)[:2] for run in runs.of(kind)]  # fmt: skip
    return Findings(
        f"{instances} instances of {CITIES} cities, uniform in the unit square; POMO's loss, {steps} steps of 48 "
        f"instances x {CITIES} starts; greedy from every city, no 2-opt; {len(job.seeds)} seeds",
        [table_of("Mean length of the tours", runs.rows(metrics), metrics)],
        [Check("lengths of TinvNN's tours are the same for all copies", max(spread) < 1e-6,
               f"largest difference of means {max(spread):.1g}", "near-ties decide otherwise in copies")],
    )  # fmt: skip


def copies(X: np.ndarray) -> dict[str, tuple[np.ndarray, float]]:
    """Copies of cities (n, 2), each with its scale."""
    turn = rotations(1, 2, np.random.default_rng(7))[0]
    moved = (X, X @ turn.T, X + 2, 5 * X, X * (-1, 1))
    return {name: (copy, 5.0 if name == COPIES[3] else 1.0) for name, copy in zip(COPIES, moved, strict=True)}


def _lengths(representation: str, steps: int, trial: Trial) -> Outcome:
    solver = TourSolver(representation, n_cities=CITIES, steps=steps, random_state=trial.seed).fit()  # pyright: ignore[reportArgumentType]
    found: dict[str, list[float]] = {name: [] for name in COPIES}
    for X in trial.data:
        for name, (copy, scale) in copies(X).items():
            found[name].append(
                tour_length(solver.solve(copy, polish=0, frames=representation == "random"), copy) / scale
            )
    return Outcome({name: float(np.mean(values)) for name, values in found.items()})


def _nearest_lengths(trial: Trial) -> Outcome:
    length = float(
        np.mean([min(tour_length(nearest_neighbour(distances(X), s), X) for s in range(len(X))) for X in trial.data])
    )
    return Outcome(dict.fromkeys(COPIES, length))


def _nearest(X: np.ndarray) -> list[np.ndarray]:
    D = distances(X)
    return [nearest_neighbour(D, start) for start in range(len(X))]


def tsplib(job: Job) -> Findings:
    """Gaps to the optimum as TSPLIB counts, before and after 2-opt, for each instance and two copies."""
    folder = find("tsplib/optimal.csv", "Download TSPLIB's instances.").parent
    files = sorted(folder.glob("*.tsp"), key=lambda file: len(read_tsp(file)))[: 1 if job.tiny else None]
    solver = TourSolver(steps=2 if job.tiny else STEPS, random_state=job.seeds[0]).fit()
    rows: list[list[str | float | int]] = []
    gaps, same, drawn = [], [], []
    turn = rotations(1, 2, np.random.default_rng(7))[0]
    for file in files:
        instance, best = read_tsp(file), known_optimum(file)
        assert best is not None
        placed = (instance.points, instance.points @ turn.T, 3e-3 * instance.points)
        found = [[solver.solve(X, n_starts=50, polish=polish) for X in placed] for polish in (0, 8)]
        lengths = [[instance.length(tour) for tour in tours] for tours in found]
        neighbour = min(
            instance.length(nearest_neighbour(distances(instance.points), start)) for start in range(len(instance))
        )
        same.append(all(len(set(of)) == 1 for of in lengths))
        gaps.append([of[0] / best - 1 for of in lengths] + [neighbour / best - 1])
        rows.append([instance.name, len(instance), best, *(f"{gap:.1%}" for gap in gaps[-1]),
                     "yes" if same[-1] else ", ".join(map(str, lengths[0] + lengths[1]))])  # fmt: skip
        if len(drawn) < 4:
            drawn += _drawn(instance, best, found)
    rows.append(["mean", "", "", *(f"{gap:.1%}" for gap in np.mean(gaps, 0)), f"{sum(same)} of {len(same)}"])
    columns = ["instance", "cities", "optimum", "greedy", "after 2-opt", "nearest neighbour", "copies the same"]

    def picture(path: Path) -> Picture:
        return draw_tours(path, drawn[:4], "Before and after 2-opt, and the tour of a turned copy.")

    pictures, notes = draw_all([(job.out / "tours.svg", picture)])
    return Findings(
        f"{len(files)} EUC_2D instances, rounded distances; a solver trained on random instances of {CITIES} "
        "cities; greedy from the 50 cities farthest from the mean in all sign frames, 2-opt of the 8 shortest; copies: "
        "turned, and 0.003 times as large",
        [Table("Gap to the optimum", columns, rows, "Nearest neighbour: the best of all starts, without 2-opt.")],
        [Check("turned and scaled copies get tours of the same length", all(same), f"{sum(same)} of {len(same)}",
               "near-ties decide otherwise in copies")],
        notes, pictures,
    )  # fmt: skip


def _drawn(instance: TspInstance, best: int, found: list[list[np.ndarray]]) -> list[tuple[str, np.ndarray, np.ndarray]]:
    turn = rotations(1, 2, np.random.default_rng(7))[0]
    greedy, polished = found
    return [
        (f"{instance.name}, greedy: {instance.length(greedy[0]) / best - 1:+.1%}", instance.points, greedy[0]),
        (f"{instance.name}, 2-opt: {instance.length(polished[0]) / best - 1:+.1%}", instance.points, polished[0]),
        (f"turned: {instance.length(polished[1]) / best - 1:+.1%}", instance.points @ turn.T, polished[1]),
    ]
