"""`linmap apply` with a fitted lie_decomposition: the classes of images."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from linmap.data.image_sets import embedded_digits, read_image_set
from linmap.data.labels import judged
from linmap.errors import ArtifactError
from linmap.recipes.answers import table_path, write_answers
from linmap.recipes.beside import FILE
from linmap.recipes.job import FittedJob
from linmap.recipes.lie_decomposition import images
from linmap.recipes.lie_decomposition.flags import Apply
from linmap.shapes.lie_decomposition import LieClassifier

BATCH = 256


def apply(settings: Apply, job: FittedJob) -> dict[str, Any]:
    """Classes and probabilities of images, as a table; with classes in the data, accuracy and a confusion matrix.

    --data is a folder of images, folders of them named by class, or an .npz with images; without it, digits.
    """
    out = table_path(job, "predictions.csv")
    classifier, (canvas, classes) = LieClassifier.load(job.artifact), images.saved(job.artifact)
    if len(classes) != len(classifier.classes_):
        raise ArtifactError(
            f"{FILE} names {len(classes)} classes, and the network has {len(classifier.classes_)}; fit again."
        )
    given = embedded_digits("test") if job.data is None else read_image_set(job.data)
    parts = [given.subset(range(first, min(first + BATCH, len(given)))) for first in range(0, len(given), BATCH)]
    chances = np.concatenate([classifier.predict_proba(canvas.seen(canvas.laid(part))) for part in parts])
    names = np.array(classes)
    predicted = names[chances.argmax(1)]
    columns = {f"p({name})": chances[:, number] for number, name in enumerate(classes)}
    table = pd.DataFrame({"image": given.names, "class": predicted} | columns)
    summary: dict[str, Any] = {"out": str(out), "images": len(table)}
    known = None if given.labels is None else judged(np.array(given.classes)[given.labels], names)
    write_answers(out, table, summary, predicted, known, names)
    return summary
