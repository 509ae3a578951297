"""`linmap fit tooth_arrangement`: a model from simulated pairs, or from pairs of the user's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from linmap.artifacts import write_json
from linmap.errors import DataError
from linmap.experiment.charts import draw_curves
from linmap.pictures import illustrated
from linmap.recipes.job import FitJob
from linmap.recipes.tooth_arrangement.flags import Compare, Fit
from linmap.recipes.tooth_arrangement.predictors import measured, sampled
from linmap.shapes.tooth_arrangement import TADPM, DentitionSimulator, ToothPairs
from linmap.shapes.tooth_arrangement.clinical_pairs import load_pairs
from linmap.shapes.tooth_arrangement.network import reads_meshes

MEASURED = 40
"""Held-out cases that are measured, at most."""


def fit(settings: Fit, job: FitJob) -> dict[str, Any]:
    """Train the diffusion over tooth motions on pairs before and after treatment, and measure it on held-out pairs.

    Without --data the pairs are simulated from statistics of real teeth; --data is a folder with before/ and after/, a
    folder of such folders, or TeethAlign3D.
    """
    pairs = pairs_for(settings, job.data, job.seed)
    train, held = split(pairs, settings.held_out, job.seed, job.data)
    model = TADPM(**settings.options(random_state=job.seed))
    model.fit(train, checkpoints=job.out / "training", resume=job.resume)
    write_json(job.out / "training.json", {"simulated": job.data is None, "cases": len(train)})
    model.save(job.out)
    held = held[: min(len(held), MEASURED)]
    values = measured(held, sampled(model, held, 1, job.seed)[0])
    summary: dict[str, Any] = {
        "artifact": str(job.out),
        "cases": len(train),
        "simulated": job.data is None,
        "held_out": len(held),
        **{f"held_out {name}": round(value, 4) for name, value in values.items()},
    }
    if (history := model.history_) is not None:
        summary["seconds"] = round(history.seconds, 1)
        with illustrated(summary, job.out / "loss.svg") as path:
            draw_curves(path, {"training": [[record.loss for record in history.epochs]]}, "epoch", "loss", log=True)
    return summary


def pairs_for(settings: Fit, data: Path | None, seed: int) -> ToothPairs:
    """The user's pairs, or simulated ones, with meshes where the encoder reads them."""
    if data is not None:
        return load_pairs(data, settings.points, patches_of(settings))
    generator = torch.Generator().manual_seed(seed)
    simulator = DentitionSimulator(points=settings.points)
    return simulator.sample(settings.cases, settings.severity, generator, patches=patches_of(settings))


def patches_of(settings: Fit | Compare) -> int | None:
    """Of the mesh of each tooth; None where no mesh is read."""
    return settings.patches if reads_meshes(settings.encoder) else None


def split(pairs: ToothPairs, share: float, seed: int, data: Path | None) -> tuple[ToothPairs, ToothPairs]:
    """Pairs to train on, and a random share to measure on; each pair is of one patient.

    Raises
    ------
    DataError
        If there are fewer than two.
    """
    if len(pairs) < 2:
        raise DataError(f"{data}: one case is too few to train on and to measure on; give two or more.")
    order = torch.randperm(len(pairs), generator=torch.Generator().manual_seed(seed))
    held = min(max(1, round(share * len(pairs))), len(pairs) - 1)
    return pairs[order[held:]], pairs[order[:held]]
