"""From a model and images in classes to a pool of models of many sizes."""

from __future__ import annotations

import time
from typing import Any

import pandas as pd

from linmap.artifacts import write_table
from linmap.compress.learngene_pool import LearngenePool, make_pool
from linmap.compress.learngene_pool.pictures import ANCESTRY, Family, draw_families
from linmap.recipes.job import FitJob
from linmap.recipes.learngene_pool import images
from linmap.recipes.learngene_pool.flags import Fit
from linmap.recipes.learngene_pool.making import accuracy, ancestry, shapes, training

DESCENDANTS = "descendants.csv"


def fit(settings: Fit, job: FitJob) -> dict[str, Any]:
    """Distil a model into a pool of models of many sizes, for images that are sorted into classes.

    --data is a folder of folders named by class (images/CLASS/NAME.jpg), or an .npz with images and labels; all of them
    are held in memory. Without it, digits.
    """
    start = time.perf_counter()
    data = images.load(settings, job.data, job.seed)
    work, n = job.out / "training", len(data.train)
    teacher = ancestry(settings, data, job.seed, work / "ancestry", job.resume)
    sizes, inherits = shapes(settings, teacher), settings.teacher_blocks
    pool = make_pool(
        teacher, sizes.members(teacher, job.seed, inherits), data.train,
        distillation=sizes.distillation(settings, teacher, n, settings.epochs, job.seed, inherits),
        tuning=training(settings, n, settings.tune_epochs, settings.tune_lr, job.seed),
        stitches=settings.stitches, sampler=settings.sampler, kd_weight=settings.kd_weight, nearest=settings.nearest,
        out=work, resume=job.resume,
    )  # fmt: skip
    table = described(pool, pool.evaluate(data.test))
    about = {"ancestry": settings.model or "trained on the images", "ancestry_accuracy": accuracy(teacher, data)}
    images.save(job.out, data, about)
    write_table(job.out / DESCENDANTS, table)
    stored = sum(p.numel() for p in pool.parameters())
    others = {
        ANCESTRY: sum(p.numel() for p in teacher.parameters()),
        "a file for each": sum(map(int, table["params"])),
    }
    draw_families(
        [Family("pool", table, stored, "system")], job.out / "descendants.svg", about["ancestry_accuracy"], others
    )
    pool.save(job.out)  # last: its config.json says that the folder is whole
    best = table.loc[table["accuracy"].idxmax()]
    return {
        "artifact": str(job.out),
        "images": len(data.train),
        "held_out": len(data.test),
        "classes": len(data.classes),
        "ancestry_accuracy": round(about["ancestry_accuracy"], 4),
        "models": len(table),
        "frontier": len(pool.frontier()),
        "stored_parameters": stored,
        "in_a_file_for_each": others["a file for each"],
        "macs": f"{table['macs'].min():,} to {table['macs'].max():,}",
        "accuracy": f"{table['accuracy'].min():.4f} to {best['accuracy']:.4f}",
        "seconds": round(time.perf_counter() - start, 1),
    }


def described(pool: LearngenePool, table: pd.DataFrame) -> pd.DataFrame:
    """With what each model is made of: the blocks of each member that it runs, and whether it is on the frontier."""
    front = set(pool.frontier())
    made = []
    for id in table["id"]:
        config = pool.configs[id]
        starts, stops = [0, *(f for _, f in config.points)], [e + 1 for e, _ in config.points]
        stops.append(pool.depths[config.members[-1]])
        spans = zip(config.members, starts, stops, strict=True)
        made.append(" > ".join(f"{pool.members[m].embed_dim}:{a}-{b - 1}" for m, a, b in spans))
    return table.assign(blocks=made, frontier=[id in front for id in table["id"]])
