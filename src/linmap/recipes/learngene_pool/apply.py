"""One model of a pool, for a budget, as a folder of its own."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from linmap import artifacts
from linmap.compress.learngene_pool import Descendant, LearngenePool
from linmap.compress.learngene_pool.descendant import is_descendant
from linmap.data.image_sets import read_image_set
from linmap.data.image_tensors import to_grey
from linmap.data.labels import judged
from linmap.errors import ArtifactError, UsageError
from linmap.ownership import real
from linmap.recipes.answers import say_accuracy
from linmap.recipes.beside import FILE
from linmap.recipes.job import FittedJob
from linmap.recipes.learngene_pool import images
from linmap.recipes.learngene_pool.flags import Apply

BATCH = 64


def apply(settings: Apply, job: FittedJob) -> dict[str, Any]:
    """Build one model of a fitted pool; with --data (a folder of images, or an .npz), also let it classify them.

    A model that was built before classifies --data, too: into --out, a .csv or .parquet, or a folder.
    """
    if is_descendant(artifacts.read_config(job.artifact)["config"]):
        return by_one_model(settings, job)
    out = job.out or job.artifact / "model"
    if out.suffix or out.is_file():
        raise UsageError(f"--out {out}: the model is written into a folder; give one.")
    if real(out) == real(job.artifact):
        raise UsageError(f"--out {out} is the pool itself; give another folder.")
    pool = LearngenePool.load(job.artifact)
    about, preparation = images.saved(job.artifact)
    model = pool.build(
        settings.id,
        max_params=settings.max_params,
        max_macs=settings.max_macs,
        max_latency_ms=settings.max_latency_ms,
        objective=settings.objective,
    )
    number = pool.configs.index(model.config)
    model.save(out)
    artifacts.write_json(out / FILE, about)
    summary = {
        "model": str(out),
        "id": number,
        "parameters": model.cost.params,
        "macs": model.cost.macs,
        "widths": [pool.members[m].embed_dim for m in model.config.members],
        "blocks": [len(list(part.children())) for part in model.parts],
    }
    if number in pool.accuracy:
        summary["held_out_accuracy"] = round(pool.accuracy[number], 4)
    if settings.onnx:
        summary["onnx"] = str(model.export(out / "model.onnx"))
    if job.data is not None:
        summary |= classified(model, job.data, about, preparation, out / "classes.csv")
    return summary


def by_one_model(settings: Apply, job: FittedJob) -> dict[str, Any]:
    """What the folder of a model gives."""
    for flag in fields(settings):
        if flag.name != "onnx" and getattr(settings, flag.name) != flag.default:
            raise UsageError(
                f"--{flag.name.replace('_', '-')} chooses from a pool; {job.artifact} is one model already."
            )
    if job.data is None and not settings.onnx:
        raise UsageError(f"{job.artifact} is one model; give it images: --data, a folder of them or an .npz.")
    out = job.out or job.artifact
    if not out.suffix or out.is_dir():
        out = out / "classes.csv"
    if out.suffix not in (".csv", ".parquet"):
        raise UsageError(f"--out {out}: classes are written to a .csv, a .parquet or a folder.")
    model = Descendant.load(job.artifact)
    about, preparation = images.saved(job.artifact)
    summary: dict[str, Any] = {"parameters": model.cost.params, "macs": model.cost.macs}
    if settings.onnx:
        summary["onnx"] = str(model.export(out.parent / "model.onnx"))
    if job.data is not None:
        summary |= classified(model, job.data, about, preparation, out)
    return summary


def classified(model: Descendant, data: Path, about: dict[str, Any], preparation: Any, path: Path) -> dict[str, Any]:
    """A line for every image: its name, its class and how probable that is."""
    found = read_image_set(data)
    classes, rows = about["classes"], []
    with torch.no_grad():
        for first in range(0, len(found), BATCH):
            x = preparation.batch(found.subset(range(first, min(first + BATCH, len(found)))))
            rows.append(model(to_grey(x) if about["grey"] else x).softmax(-1))
    probabilities = torch.cat(rows)
    if probabilities.shape[1] != len(classes):
        raise ArtifactError(f"{FILE} names {len(classes)} classes, and the model has {probabilities.shape[1]}.")
    best = probabilities.argmax(-1)
    named = [classes[int(k)] for k in best]
    table = {"image": found.names, "class": named, "probability": probabilities.amax(-1).numpy()}
    artifacts.write_table(path, pd.DataFrame(table))
    summary: dict[str, Any] = {"classes": str(path), "images": len(found)}
    if found.labels is not None:
        say_accuracy(summary, judged(np.array(found.classes)[found.labels], np.array(classes)), np.array(named))
    return summary
