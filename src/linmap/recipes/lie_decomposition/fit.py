"""`linmap fit lie_decomposition`: a network on a matrix group, from labelled images."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from linmap.data.image_warps import WarpRanges
from linmap.experiment.charts import draw_confusions, draw_curves
from linmap.pictures import illustrated
from linmap.recipes.job import FitJob
from linmap.recipes.lie_decomposition import images
from linmap.recipes.lie_decomposition.flags import Fit
from linmap.recipes.lie_decomposition.making import NAMES, answer_of, judged, warped_tests
from linmap.recipes.lie_decomposition.pictures import draw_errors, draw_kernels, errors_of
from linmap.shapes.lie_decomposition import LieClassifier


def fit(settings: Fit, job: FitJob) -> dict[str, Any]:
    """Train a network on a matrix group to tell images apart, also those that went through an affine map.

    --data is a folder of folders named by class (images/CLASS/NAME.jpg), or an .npz with images and labels; without it,
    digits. Some of the images are held out and tested on, as they are and moved at random.
    """
    start = time.perf_counter()
    data = images.load(job.data, settings.size, settings.margin, settings.held_out, job.seed, None)
    classifier = LieClassifier(**settings.options(random_state=job.seed))
    classifier.fit(data.canvas.seen(data.x), data.y, checkpoints=job.out / "training", resume=job.resume)
    images.save(job.out, data.canvas, data.classes)
    classifier.save(job.out)  # last: its config.json says that the folder is whole
    answer = answer_of(classifier, data.canvas)
    clean, warped = judged(answer, warped_tests(data, WarpRanges(), (0.0, 1.0), job.seed), data.y_test)
    history = classifier.history_
    assert history is not None
    summary: dict[str, Any] = {
        "artifact": str(job.out),
        "images": len(data.x),
        "held_out": len(data.x_test),
        "classes": len(data.classes),
        "parameters": sum(p.numel() for p in classifier.model_.parameters()),
        "held_out_accuracy": round(float(clean.mean()), 4),
        "warped_accuracy": round(float(warped.mean()), 4),
        "seconds": round(time.perf_counter() - start, 1),
    }
    names = np.array(data.classes)
    with illustrated(summary, job.out / "loss.svg") as path:
        draw_curves(path, {"training": [[record.loss for record in history.epochs]]}, "epoch", "cross-entropy")
    with illustrated(summary, job.out / "confusion.svg") as path:
        found = answer(data.x_test)
        draw_confusions(path, {"held out": (names[data.y_test], names[found])}, names)
    with illustrated(summary, job.out / "kernels.svg") as path:
        draw_kernels(classifier.model_, path)
    with illustrated(summary, job.out / "orbit.svg") as path:
        draw_errors({NAMES[classifier.group]: errors_of(classifier.model_, data.canvas.seen(data.x_test[:32]))}, path)
    return summary
