"""`linmap fit tinvnn`: a classifier of shapes from a file or a folder, or a solver of tours."""

from __future__ import annotations

from typing import Any

import numpy as np

from linmap.experiment.charts import draw_confusions, draw_curves
from linmap.pictures import illustrated
from linmap.recipes.job import FitJob
from linmap.recipes.tinvnn.flags import SHAPES, Fit, FitTours
from linmap.recipes.tinvnn.poses import rotated
from linmap.recipes.tinvnn.shapes import Part, classed, drawn, load, separated
from linmap.shapes.tinvnn import PointCloudClassifier


def fit(settings: Fit | FitTours, job: FitJob) -> dict[str, Any]:
    """Train a network that tells shapes apart in any pose, and save it; held-out shapes are tested as they stand and
    turned.

    For a solver of tours, and its flags: linmap fit tinvnn --data FILE.tsp --help
    """
    if isinstance(settings, FitTours):
        from linmap.recipes.tinvnn.tours import fit_solver

        return fit_solver(settings, job)
    clouds = load(job.data, settings.points, job.seed)
    points = min(settings.points, int(clouds.sizes().max()))
    shapes = classed(clouds, points, job.seed)
    test = clouds.test
    if test is None:
        test = drawn(shapes.y, settings.held_out, job.seed, clouds.name) if settings.held_out else None
    train, held = (shapes, None) if test is None else separated(shapes, test, clouds.name)
    classifier = PointCloudClassifier(**settings.options(random_state=job.seed))
    classifier.fit(train.X, train.y, checkpoints=job.out / "training", resume=job.resume)
    classifier.save(job.out, task=SHAPES, points=points)
    history = classifier.history_
    assert history is not None
    summary: dict[str, Any] = {
        "artifact": str(job.out),
        "shapes": len(train),
        "classes": len(classifier.classes_),
        "points": train.X.shape[1],
        "representation": settings.representation,
        "epochs": len(history.epochs),
        "seconds": round(history.seconds, 1),
    }
    if clouds.notes:
        summary["notes"] = list(clouds.notes)
    with illustrated(summary, job.out / "loss.svg") as path:
        draw_curves(
            path, {"training": [[record.loss for record in history.epochs]]}, "epoch", "cross-entropy", log=True
        )
    if held is not None:
        measure(summary, classifier, held, job)
    return summary


def measure(summary: dict[str, Any], classifier: PointCloudClassifier, held: Part, job: FitJob) -> None:
    """Add the accuracy on held-out shapes as they stand and each turned at random, and draw the confusions."""
    found = classifier.predict(held.X)
    turned = classifier.predict(rotated(held.X, np.random.default_rng(job.seed)))
    summary |= {
        "held_out": len(held),
        "held_out_accuracy": round(float((found == held.y).mean()), 4),
        "held_out_accuracy_turned": round(float((turned == held.y).mean()), 4),
    }
    with illustrated(summary, job.out / "confusion.svg") as path:
        draw_confusions(path, {"held out": (held.y, found)}, classifier.classes_)
