"""`linmap apply tinvnn`: the canonical pose of every cloud, which needs no training; tours of `.tsp` files."""

from __future__ import annotations

import warnings
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from linmap import artifacts
from linmap.data.clouds import PointClouds, ldraw_shapes, load_clouds
from linmap.errors import UsageError
from linmap.pictures import illustrated
from linmap.recipes.job import ApplyJob
from linmap.recipes.tinvnn.flags import Canonical, Tours
from linmap.recipes.tinvnn.pictures import draw_poses
from linmap.shapes.tinvnn import TinvEmbedding, TinvFrame, tinv_frame

AXES = "xyz"
NAMED = 5  # of the clouds that a note lists


def unfitted(settings: Canonical | Tours, job: ApplyJob) -> dict[str, Any]:
    """Write the canonical pose of every cloud, with nothing to train; or, for --data FILE.tsp, a tour of the cities.

    The file of one cloud becomes a table with the same rows. Several clouds, and what else is known of them (centre,
    scale, axes Q, flags), go into an .npz. To classify shapes, fit first: linmap fit tinvnn.
    """
    if isinstance(settings, Tours):
        from linmap.recipes.tinvnn.tours import solve

        return solve(settings, job)
    clouds = ldraw_shapes() if job.data is None else load_clouds(job.data, settings.points, job.seed)
    out = job.out or Path("canonical.csv" if len(clouds) == 1 else "canonical.npz")
    if out.suffix not in ((".csv", ".parquet", ".npz") if len(clouds) == 1 else (".npz",)):
        kinds = ".csv, .parquet or .npz" if len(clouds) == 1 else f".npz, for there are {len(clouds)} clouds"
        raise UsageError(f"--out {out}: canonical poses are written as {kinds}.")
    frames, H = poses(clouds, settings)
    flagged = {
        name: np.array([bool(getattr(frame, name).any()) for frame in frames]) for name in ("ambiguous", "degenerate")
    }
    if out.suffix == ".npz":
        with artifacts.atomic_path(out) as partial_file:
            np.savez_compressed(partial_file, **arrays(clouds, frames, H))  # pyright: ignore[reportArgumentType]
    else:
        artifacts.write_table(out, pd.DataFrame(H[0], columns=pd.Index(columns(H[0].shape[1]))))
    summary: dict[str, Any] = {
        "out": str(out),
        "clouds": len(clouds),
        "points": int(clouds.sizes().sum()),
        "coordinates": clouds.dim,
        "ambiguous": int(flagged["ambiguous"].sum()),
        "degenerate": int(flagged["degenerate"].sum()),
    }
    summary["notes"] = [*clouds.notes, *said(clouds, flagged, frames)]
    with illustrated(summary, out.with_suffix(".svg")) as path, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # said above
        shown = clouds.take(range(min(3, len(clouds))))
        draw_poses(path, shown.clouds, shown.names, embedding(settings), job.seed)
        summary["picture"] = str(path)
    return summary if summary["notes"] else {key: value for key, value in summary.items() if key != "notes"}


def embedding(settings: Canonical) -> TinvEmbedding:
    """What the flags ask for."""
    return TinvEmbedding(**settings.options())


def poses(clouds: PointClouds, settings: Canonical) -> tuple[list[TinvFrame], list[np.ndarray]]:
    """The frame and the canonical pose of each cloud, those of one size together."""
    options = settings.options()
    frames: list[Any] = [None] * len(clouds)
    H: list[Any] = [None] * len(clouds)
    sizes = clouds.sizes()
    for size in np.unique(sizes):
        rows = np.flatnonzero(sizes == size)
        X = torch.as_tensor(np.stack([clouds.clouds[row] for row in rows]))
        frame = tinv_frame(X, **options)
        canonical = frame.to_canonical(X).numpy()
        for place, row in enumerate(rows):
            parts: dict[str, Any] = {part.name: getattr(frame, part.name) for part in fields(frame)}
            one: dict[str, Any] = {name: part if part is None else part[place] for name, part in parts.items()}
            frames[row] = TinvFrame(**one)
            H[row] = canonical[place]
    return frames, H


def arrays(clouds: PointClouds, frames: list[TinvFrame], H: list[np.ndarray]) -> dict[str, np.ndarray]:
    """What the archive holds; smaller clouds are filled with zeros, and `mask` says where there are points."""
    most = max(map(len, H))
    points = np.zeros((len(H), most, H[0].shape[1]), H[0].dtype)
    mask = np.zeros((len(H), most), bool)
    for place, cloud in enumerate(H):
        points[place, : len(cloud)], mask[place, : len(cloud)] = cloud, True
    found = {"points": points, "names": np.array(clouds.names)}
    for name in ("center", "scale", "Q", "ambiguous", "degenerate"):
        found[name] = np.stack([getattr(frame, name).numpy() for frame in frames])
    if not mask.all():
        found["mask"] = mask
    if clouds.labels is not None:
        found |= {"label": clouds.labels, "classes": np.array(clouds.classes)}
    if clouds.test is not None:
        found["split"] = clouds.test.astype(np.uint8)
    return found


def columns(q: int) -> list[str]:
    """Of the table: x, y and z, or h1, h2, ... beyond space."""
    return list(AXES[:q]) if q <= len(AXES) else [f"h{number + 1}" for number in range(q)]


def said(clouds: PointClouds, flagged: dict[str, np.ndarray], frames: list[TinvFrame]) -> list[str]:
    """What the flags mean, in words."""
    notes = []
    if (rows := np.flatnonzero(flagged["ambiguous"])).size:
        axes = "" if len(clouds) > 1 else f", on {_axes(frames[0].ambiguous)}"
        notes.append(
            f"{_named(clouds, rows)} mirror-symmetric to working precision{axes}: the sign of such an axis is a "
            "convention, and copies agree as sets of points"
        )
    if (rows := np.flatnonzero(flagged["degenerate"])).size:
        axes = "" if len(clouds) > 1 else f", on {_axes(frames[0].degenerate)}"
        notes.append(
            f"{_named(clouds, rows)} symmetric under turns{axes}: axes are chosen by a point, and copies agree as sets "
            "of points"
        )
    return notes


def _axes(flags: torch.Tensor) -> str:
    numbers = [str(int(axis) + 1) for axis in torch.nonzero(flags).flatten()]
    return f"{'axis' if len(numbers) == 1 else 'axes'} {', '.join(numbers)}"


def _named(clouds: PointClouds, rows: np.ndarray) -> str:
    names = ", ".join(clouds.names[row] for row in rows[:NAMED])
    more = f" and {len(rows) - NAMED} more" if len(rows) > NAMED else ""
    return f"{names}{more} {'is' if len(rows) == 1 else 'are'}"
