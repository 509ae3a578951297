"""Using what SALT was fitted to: masks of images, or answers to texts."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from linmap import artifacts
from linmap.adapt.segmentation import Segmenter, probabilities
from linmap.data import find
from linmap.data.masks import load_images, resized
from linmap.errors import ArtifactError, UsageError
from linmap.recipes.finetuning import apply as texts
from linmap.recipes.finetuning.flags import Answering
from linmap.recipes.job import FittedJob
from linmap.recipes.salt.fit import adapt, build, trained_state
from linmap.recipes.salt.flags import Segmenting


def apply(settings: Answering | Segmenting, job: FittedJob) -> dict[str, Any]:
    """Segment images, or complete or classify the records of a file."""
    return texts.apply(settings, job) if isinstance(settings, Answering) else _segment(job)


def _segment(job: FittedJob) -> dict[str, Any]:
    """Write the mask of every image as a PNG of 0 and 255 at the image's size."""
    model, config = load_segmenter(job.artifact)
    out = job.out or job.artifact / "masks"
    if out.suffix or out.is_file():
        raise UsageError(f"--out {out}: masks are written into a folder; give one.")
    images, shapes = load_images(job.data or find("salt/usgra_test.npz", "Reinstall linmap."), config["size"])
    found = probabilities(model, images)
    pixels = 0.0
    for probability, (name, shape) in zip(found, shapes.items(), strict=True):
        mask = (resized(probability[0], shape)[0] > 0.5).numpy()
        pixels += float(mask.mean())
        with artifacts.atomic_path(out / f"{name}.png") as partial_file:
            Image.fromarray(255 * mask.astype(np.uint8)).save(partial_file)
    return {"masks": str(out), "images": len(images), "share_of_pixels": round(pixels / len(images), 4)}


def load_segmenter(folder: Path) -> tuple[Segmenter, dict[str, Any]]:
    """The segmenter that `fit` saved in a folder, in evaluation mode, and its settings.

    Raises
    ------
    ArtifactError
        If the folder holds no readable segmenter.
    """
    config, tensors = artifacts.load(folder, "salt")
    try:
        if config["task"] != "segmentation":
            raise ArtifactError(f"{folder} holds an adapter of texts, not a segmenter.")
        options = {name: config[name] for name in ("ratio", "r", "relu", "train_norms")}
        model = build(partial(adapt, **options), seed=0)
        expected = set(trained_state(model))
        if expected != set(tensors):
            raise ArtifactError(f"{folder} is damaged: its arrays are not those of a segmenter; fit it again.")
        model.load_state_dict(tensors, strict=False)
    except (KeyError, TypeError, RuntimeError) as error:
        raise ArtifactError(f"{folder} is damaged ({error}); fit it again.") from None
    return model.eval(), config
