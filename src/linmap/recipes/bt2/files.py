"""`linmap fit bt2` and `linmap apply`: vectors in .npy files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from linmap.artifacts import atomic_path
from linmap.data import EMBEDDED
from linmap.data.arrays import read_npz
from linmap.errors import DataError, UsageError
from linmap.recipes.job import ApplyJob, FitJob
from linmap.retrieve.bt2 import EmbeddingUpgrade

BANKING = EMBEDDED / "banking77_embeddings.npz"
CALIBRATION = 700  # first rows of the embedded data, which no comparison searches
ROWS = 65_536


@dataclass(frozen=True)
class Settings:
    """Flags of `linmap fit bt2`; with none, embedded vectors of two real models."""

    new: Path | None = None
    """.npy file of the new model's vectors, one item a row."""
    old: Path | None = None
    """.npy file of the old model's vectors of the same items, in the same order."""
    n_extra: int = 0
    """Dimensions added for what only the old model knows."""
    method: Literal["auto", "procrustes", "trained"] = "auto"
    """auto: the closed form, unless training finds old vectors clearly better."""
    C: float = 2.0
    """Weight of the new model's part against the added one."""
    new_model: str = "new"
    """Name of the new model, kept in the artifact."""
    old_model: str = "old"
    """Name of the old model, kept in the artifact."""


@dataclass(frozen=True)
class ApplySettings:
    """Flags of `linmap apply` with a fitted bt2."""

    output: Literal["gallery", "query"] = "gallery"
    """gallery: vectors to store from now on; query: vectors to search the old index with."""


def fit(settings: Settings, job: FitJob) -> dict[str, Any]:
    """Fit the upgrade to pairs of new and old vectors: --new and --old, or --data with both in one .npz."""
    X, Y = _pairs(settings, job.data)
    names = ("n_extra", "method", "C", "new_model", "old_model")
    options = {name: getattr(settings, name) for name in names}
    upgrade = EmbeddingUpgrade(**options, random_state=job.seed).fit(X, Y)
    upgrade.save(job.out)
    report = upgrade.report_
    candidates = {name: figures["mrr"] for name, figures in report["candidates"].items()}
    return {
        "artifact": str(job.out), "pairs": report["pairs"], "d_new": report["d_new"], "d_old": report["d_old"],
        "width": report["width"], "held_out_mrr": candidates, "chosen": report["chosen"],
        "verdict": report["verdict"],
    }  # fmt: skip


def apply(settings: ApplySettings, job: ApplyJob) -> dict[str, Any]:
    """Transform a .npy file of new vectors, block by block."""
    if job.artifact is None:
        raise UsageError("bt2 needs a fitted run: `linmap fit bt2 --new FILE --old FILE --out DIR`, then apply DIR.")
    upgrade = EmbeddingUpgrade.load(job.artifact)
    source = job.data or BANKING
    X = _read(source) if job.data is not None else read_npz(BANKING, ("new",))["new"]
    out = job.out or job.artifact / f"{settings.output}.npy"
    if out.suffix != ".npy":
        raise UsageError(f"--out {out}: vectors are written as .npy.")
    function = upgrade.transform if settings.output == "gallery" else upgrade.transform_query
    try:
        first = function(X[:1])
        with atomic_path(out) as partial:
            written = np.lib.format.open_memmap(partial, "w+", first.dtype, (len(X), first.shape[1]))
            for start in range(0, len(X), ROWS):
                written[start : start + ROWS] = function(X[start : start + ROWS])
            written.flush()
    except ValueError as error:
        raise DataError(f"{source}: {error}") from None
    return {"out": str(out), "vectors": len(X), "dim": first.shape[1], "dtype": str(first.dtype)}


def _pairs(settings: Settings, data: Path | None) -> tuple[np.ndarray, np.ndarray]:
    if (settings.new is None) != (settings.old is None):
        raise UsageError("--new and --old go together: the vectors of the same items by both models.")
    if settings.new is not None and settings.old is not None:
        return _read(settings.new), _read(settings.old)
    arrays = read_npz(data or BANKING, ("new", "old"))
    rows = slice(CALIBRATION if data is None else None)
    return arrays["new"][rows], arrays["old"][rows]


def _read(path: Path) -> np.ndarray:
    """The array of a .npy file, mapped into memory."""
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise DataError(f"{path}: there is no such file.") from None
    except (ValueError, OSError, EOFError) as error:
        raise DataError(f"{path}: this is not a .npy file of numbers ({error}); write it with numpy.save.") from None
    if not isinstance(array, np.ndarray) or array.ndim != 2 or 0 in array.shape or array.dtype.kind not in "fiu":
        raise DataError(f"{path} must hold one matrix of numbers, one vector a row; write it with numpy.save.")
    return array
