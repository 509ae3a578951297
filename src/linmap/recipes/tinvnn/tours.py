"""Tours of TSPLIB's instances and of other cities, by a solver that was trained on random ones."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from linmap import artifacts
from linmap.data.clouds import load_clouds
from linmap.data.clouds.point_clouds import GEOGRAPHIC, geographic
from linmap.data.tsplib import TspInstance, known_optimum, read_tsp, write_tour
from linmap.errors import DataError, UsageError
from linmap.pictures import illustrated
from linmap.recipes.job import ApplyJob, FitJob, FittedJob
from linmap.recipes.tinvnn.flags import CITIES, ApplyTours, FitTours, Tours, of_cities, tsp_files
from linmap.recipes.tinvnn.pictures import draw_tours
from linmap.shapes.tinvnn import TourSolver, tour_length

MOST_CITIES, DRAWN = 2000, 4
TABLE, PICTURE = "tours.csv", "tours.svg"
Given = Sequence[tuple[Path, TspInstance, bool]]
"""File, cities, and whether lengths are TSPLIB's."""


def fit_solver(settings: FitTours, job: FitJob) -> dict[str, Any]:
    """Train on random instances, save, and measure on those of the file or folder."""
    given = instances(job.data)  # what cannot be read is refused before any work
    solver = TourSolver(**settings.options(random_state=job.seed))
    solver.fit(checkpoints=job.out / "training", resume=job.resume)
    solver.save(job.out, task=CITIES)
    history = solver.history_
    assert history is not None
    summary: dict[str, Any] = {
        "artifact": str(job.out),
        "cities_in_training": settings.n_cities,
        "steps": settings.steps,
        "seconds": round(history.seconds, 1),
    }
    return summary | solved(solver, given, ApplyTours(), job.out)


def apply_solver(settings: ApplyTours, job: FittedJob) -> dict[str, Any]:
    """Tours by what was fitted before."""
    given = instances(job.data)
    out = _target(given, job.out, job.artifact)
    return solved(TourSolver.load(job.artifact), given, settings, out)


def solve(settings: Tours, job: ApplyJob) -> dict[str, Any]:
    """Train on random instances first, for there is no run."""
    given = instances(job.data)
    out = _target(given, job.out, Path())
    solver = TourSolver(**settings.options(random_state=job.seed)).fit()
    how = ApplyTours(settings.n_starts, settings.frames, settings.polish)
    return {"trained_on": f"random instances of {settings.n_cities} cities"} | solved(solver, given, how, out)


# -- files in ----------------------------------------------------------------------------------------------------------


def instances(path: Path | None) -> Given:
    """A `.tsp` file, all of a folder, or the points of a cloud in the plane.

    Raises
    ------
    UsageError
        Without a path.
    DataError
        If a file cannot be used, has cities outside of the plane, or more than the solver can take.
    """
    if path is None:
        raise UsageError("tours need cities: --data FILE.tsp, a folder of such files, or a table of points.")
    if of_cities(path):
        files = tsp_files(path) if path.is_dir() else [path]
        found = [(file, read_tsp(file), True) for file in files]
    else:
        clouds = load_clouds(path)
        names = [re.sub(r"[/.]", "_", Path(name).with_suffix("").as_posix()) for name in clouds.names]
        found = [
            (path.with_name(name + path.suffix), TspInstance(name, cloud.astype(np.float64)), False)
            for cloud, name in zip(clouds.clouds, names, strict=True)
        ]
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise DataError(f"{path}: several clouds are named {twice}; their tours need names of their own.")
    for file, instance, _ in found:
        if instance.points.shape[1] != 2:
            raise DataError(f"{file}: cities have {instance.points.shape[1]} coordinates; the solver takes the plane.")
        if not 3 <= len(instance) <= MOST_CITIES:
            raise DataError(f"{file}: {len(instance)} cities; the solver takes 3 to {MOST_CITIES}.")
    return found


def _target(given: Given, out: Path | None, folder: Path) -> Path:
    """A .tour file for one instance, a folder for several."""
    if len(given) == 1:
        out = out or folder / f"{given[0][0].stem}.tour"
        if out.suffix != ".tour":
            raise UsageError(f"--out {out}: a tour is written as .tour, in TSPLIB's form.")
    elif out is None:
        out = folder / "tours"
    elif out.suffix or out.is_file():
        raise UsageError(f"--out {out}: {len(given)} tours are written into a folder; give one.")
    return out


# -- tours out ---------------------------------------------------------------------------------------------------------


def solved(solver: TourSolver, given: Given, settings: ApplyTours, out: Path) -> dict[str, Any]:
    """Write a tour for every instance, and what is known of them."""
    rows, drawn = [], []
    for file, instance, rounded in given:
        tour = solver.solve(instance.points, n_starts=settings.n_starts, frames=settings.frames, polish=settings.polish)
        length = instance.length(tour) if rounded else tour_length(tour, instance.points)
        best = known_optimum(file) if rounded else None
        rows.append(
            {
                "instance": instance.name,
                "cities": len(instance),
                "length": length,
                "optimum": best,
                "gap": None if not best else round(length / best - 1, 4),
            }
        )
        write_tour(out if out.suffix == ".tour" else out / f"{file.stem}.tour", instance.name, tour, length)
        gap = f", {length / best - 1:.1%} above the optimum" if best else ""
        drawn.append((f"{instance.name}: {length:g}{gap}", instance.points, tour))
    summary = _summary(rows, given, out)
    picture = out.with_suffix(".svg") if out.suffix == ".tour" else out / PICTURE
    with illustrated(summary, picture) as path:
        draw_tours(path, drawn[:DRAWN], "Tours of the solver after 2-opt; lengths as the file counts them.")
        summary["picture"] = str(path)
    return summary


def _summary(rows: list[dict[str, Any]], given: Given, out: Path) -> dict[str, Any]:
    summary: dict[str, Any]
    if len(rows) == 1:
        (row,) = rows
        summary = {"tour": str(out if out.suffix == ".tour" else out / f"{given[0][0].stem}.tour")}
        summary |= {key: value for key, value in row.items() if value is not None}
    else:
        artifacts.write_table(out / TABLE, pd.DataFrame(rows))
        gaps = [row["gap"] for row in rows if row["gap"] is not None]
        summary = {"tours": str(out), "table": str(out / TABLE), "instances": len(rows)}
        if gaps:
            summary |= {"mean_gap": round(float(np.mean(gaps)), 4), "largest_gap": max(gaps)}
    notes = [GEOGRAPHIC.format(name=instance.name) for _, instance, _ in given if geographic(instance.points)]
    notes += [
        f"{instance.name}: lengths are those on the earth (GEO); the solver sees the degrees as a plane"
        for _, instance, _ in given
        if instance.kind == "GEO"
    ]
    if notes:
        summary["notes"] = notes[:DRAWN]
    return summary
