"""Using what SALT was fitted to: masks of images, or answers to texts."""

from __future__ import annotations

from typing import Any

from PIL import Image

from linmap import artifacts
from linmap.adapt.segmentation import load_segmenter, masks_of
from linmap.data import find
from linmap.data.masks import load_images
from linmap.errors import UsageError
from linmap.recipes.finetuning import apply as texts
from linmap.recipes.finetuning.flags import Answering
from linmap.recipes.job import FittedJob
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
    pixels = 0.0
    for name, mask in masks_of(model, images, shapes):
        pixels += float(mask.mean())
        with artifacts.atomic_path(out / f"{name}.png") as partial_file:
            Image.fromarray(255 * mask).save(partial_file)
    return {"masks": str(out), "images": len(images), "share_of_pixels": round(pixels / len(images), 4)}
