"""LDraw shapes: every method of the comparison at its full size."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from linmap.data.clouds import PointClouds, ldraw_shapes
from linmap.experiment import Picture, draw_all
from linmap.experiment.charts import draw_bars
from linmap.recipes.tinvnn.compare import METRICS, checks, differences, run_arms, shows
from linmap.recipes.tinvnn.flags import Compare
from linmap.recipes.tinvnn.shapes import divided, without
from studies.study import Findings, Job, table_of

SMALL_CLASSES = ("Plate", "Wedge", "Panel", "Door", "Hinge", "Brick")
"""That differ from another class by little more than their proportions."""
EPOCHS, RATES, LONGER = 40, (3e-4, 1e-3, 3e-3), (1, 4)
"""Of every network; those on turned shapes may train up to four times as long."""


def fourteen_classes(job: Job) -> Findings:
    """All 681 shapes."""
    return _of(job, ldraw_shapes(), "14 classes")


def eight_classes(job: Job) -> Findings:
    """Without plates, wedges, panels, doors, hinges and bricks."""
    return _of(job, without(ldraw_shapes(), SMALL_CLASSES), "8 classes")


def _of(job: Job, clouds: PointClouds, what: str) -> Findings:
    settings = Compare(epochs=EPOCHS, rates=RATES, augmented_rates=RATES, augmented_epochs=LONGER)
    if job.tiny:
        clouds = clouds.take(range(0, len(clouds), 6))
        settings = replace(settings, points=32, n_points=16, epochs=1, rates=(3e-3,), augmented_rates=(3e-3,))
    split = divided(clouds, settings.points, 0, settings.test, settings.validation)
    runs = run_arms(settings, job.out, split, {"what": what, "shapes": len(clouds)}, job.seeds, job.resume)
    rows = runs.rows(METRICS)

    def accuracy(path: Path) -> Picture:
        return draw_bars(path, rows, METRICS[1::-1] + METRICS[2:4], f"LDraw, {what}", "Mean and spread over the seeds.")

    pictures, notes = draw_all([(job.out / "accuracy.svg", accuracy)])
    n = split.train.X.shape[1]
    return Findings(
        f"LDraw, {what}: {len(split.train)} shapes to train on, {len(split.test)} to test on, {n} points, "
        f"{settings.n_points} a step; {settings.network}, {settings.epochs} epochs, {len(job.seeds)} seeds; rates of "
        f"{', '.join(f'{rate:g}' for rate in settings.rates)} chosen on {settings.validation:.0%} of the training",
        [table_of("Accuracy by protocol", rows, METRICS), differences(runs)],
        checks(runs),
        [shows(runs), *notes],
        pictures,
    )
