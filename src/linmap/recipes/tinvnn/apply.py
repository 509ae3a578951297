"""`linmap apply` with a fitted tinvnn: the classes of shapes, or tours."""

from __future__ import annotations

from typing import Any

import pandas as pd

from linmap.artifacts import read_config
from linmap.data.labels import judged
from linmap.errors import DataError
from linmap.recipes.answers import table_path, write_answers
from linmap.recipes.job import FittedJob
from linmap.recipes.tinvnn.flags import POINTS, Apply, ApplyTours
from linmap.recipes.tinvnn.shapes import load
from linmap.shapes.tinvnn import PointCloudClassifier


def apply(settings: Apply | ApplyTours, job: FittedJob) -> dict[str, Any]:
    """Classes and probabilities of shapes as a table, with accuracy where the file has classes; or tours of cities."""
    if isinstance(settings, ApplyTours):
        from linmap.recipes.tinvnn.tours import apply_solver

        return apply_solver(settings, job)
    out = table_path(job, "predictions.csv")
    points = int(read_config(job.artifact)["config"].get("points", POINTS))
    classifier = PointCloudClassifier.load(job.artifact)
    clouds = load(job.data, points, job.seed)
    if clouds.dim != classifier.n_features_in_:
        raise DataError(
            f"{clouds.name}: its points have {clouds.dim} coordinates; the run was fitted to points of "
            f"{classifier.n_features_in_}."
        )
    chances = classifier.predict_proba(clouds.batch(points, job.seed))
    predicted = classifier.classes_[chances.argmax(1)]
    table = pd.DataFrame(
        {"shape": clouds.names, "class": predicted}
        | {f"p({name})": chances[:, i] for i, name in enumerate(classifier.classes_)}
    )
    summary: dict[str, Any] = {"out": str(out), "shapes": len(clouds)}
    if clouds.notes:
        summary["notes"] = list(clouds.notes)
    answers = None if clouds.labels is None else judged(clouds.named_labels(), classifier.classes_)
    write_answers(out, table, summary, predicted, answers, classifier.classes_)
    return summary
