"""MNIST as point sets: 6 and 9 are one shape to whoever cannot see how it is turned."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np

from linmap.data.clouds import PointClouds
from linmap.data.image_sets import embedded_digits
from linmap.experiment import Arm, Experiment, Metric, Part, Trial
from linmap.experiment.engine import Outcome
from linmap.shapes.tinvnn.classifier import PointCloudClassifier
from studies.study import Findings, Job, table_of

POINTS, LEVEL = 128, 128
PAIRS = ((6, 9), (1, 8))
EPOCHS = 15


def six_and_nine(job: Job) -> Findings:
    """Two digits told apart: those that a turn makes equal, and two that it does not."""
    epochs, points = (1, 16) if job.tiny else (EPOCHS, POINTS)
    parts = [Part(f"{a} and {b}", _pair(a, b, points, job.tiny)) for a, b in PAIRS]
    arms = [
        Arm("TinvNN, moment signs", "system", partial(_train, {"representation": "moment"}, epochs)),
        Arm("TinvNN, mirror images apart", "system",
            partial(_train, {"representation": "moment", "reflections": False}, epochs)),
        Arm("raw coordinates", "baseline", partial(_train, {"representation": "raw"}, epochs)),
    ]  # fmt: skip
    runs = Experiment("tinvnn digits", job.out / "runs", {"epochs": epochs, "points": points}, job.resume).run(
        arms, parts, job.seeds
    )
    columns = {part.name: ("accuracy", part.name) for part in parts}
    rows = [runs.row(arm, columns) for arm in arms]
    first = [f"{arm.name} {runs.mean(arm.name, 'accuracy', parts[0].name):.3f}" for arm in arms]
    return Findings(
        f"MNIST, pixels above {LEVEL} as points of the plane, {points} drawn of each digit; {epochs} epochs",
        [table_of("Accuracy on test digits", rows, [Metric(name, "higher", digits=3) for name in columns])],
        sentences=[f"6 and 9: {', '.join(first)}."],
    )


def _pair(a: int, b: int, points: int, tiny: bool) -> tuple[np.ndarray, ...]:
    """Training clouds and classes, test clouds and classes."""
    found: list[np.ndarray] = []
    for part in ("train", "test"):
        digits = embedded_digits(part)
        assert digits.labels is not None
        rows = np.flatnonzero(np.isin(digits.labels, [digits.classes.index(str(d)) for d in (a, b)]))
        rows = rows[:40] if tiny else rows
        pixels = [np.argwhere(digits[int(row)][..., 0] > LEVEL).astype(np.float32) for row in rows]
        clouds = PointClouds(tuple(pixels), tuple(f"{part} {row}" for row in rows))
        found += [clouds.batch(points), digits.labels[rows]]
    return tuple(found)


def _train(options: Mapping[str, Any], epochs: int, trial: Trial) -> Outcome:
    X, y, X_test, y_test = trial.data
    classifier = PointCloudClassifier(**options, epochs=epochs, random_state=trial.seed).fit(X, y)
    return Outcome({"accuracy": float((classifier.predict(X_test) == y_test).mean())})
