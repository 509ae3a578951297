"""`linmap fit bt2` and `linmap apply`: vectors in files."""

from __future__ import annotations

import re
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from linmap.artifacts import read_config
from linmap.data import EMBEDDED
from linmap.data.arrays import open_rows, read_npz
from linmap.data.engines import VECTORS, Engine, ids_beside, map_records
from linmap.data.records import files_of
from linmap.data.vectors import VectorFileWriter
from linmap.data.vectors.files import check_output
from linmap.errors import DataError, UsageError
from linmap.recipes.job import ApplyJob, FitJob
from linmap.retrieve.bt2 import EmbeddingUpgrade, Method

BANKING = EMBEDDED / "banking77_embeddings.npz"
CALIBRATION = 700  # first rows of the embedded data, which no comparison searches
ROWS = 65_536
BY_IDS = "ids=(ids_new, ids_old) pairs them by id."
ROW = re.compile(r"^X: row \d+ is ")


@dataclass(frozen=True)
class Settings:
    """Flags of `linmap fit bt2`; with none, embedded vectors of two real models."""

    new: Path | None = None
    """.npy file of the new model's vectors, one item a row."""
    old: Path | None = None
    """.npy file of the old model's vectors of the same items, in the same order."""
    n_extra: int = 0
    """Dimensions added for what only the old model knows."""
    method: Method = "auto"
    """auto: the closed form, unless centring or training finds old vectors clearly better."""
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
    n_jobs: int = 1
    """Worker processes; -1 for all cores."""
    engine: Engine = "local"
    """local: processes of this machine; ray: Ray Data, also on a cluster. The result is the same, byte for byte."""
    resume: bool = False
    """Keep what an interrupted run with the same flags has finished."""


def fit(settings: Settings, job: FitJob) -> dict[str, Any]:
    """Fit the upgrade to pairs of new and old vectors: --new and --old, or --data with both in one .npz."""
    X, Y = _pairs(settings, job.data)
    names = ("n_extra", "method", "C", "new_model", "old_model")
    options = {name: getattr(settings, name) for name in names}
    with _words_of_files():
        upgrade = EmbeddingUpgrade(**options, random_state=job.seed).fit(X, Y)
    upgrade.save(job.out)
    report = upgrade.report_
    candidates = {name: figures["mrr"] for name, figures in report["candidates"].items()}
    return {
        "artifact": str(job.out), "pairs": report["pairs"], "d_new": report["d_new"], "d_old": report["d_old"],
        "width": report["width"], "held_out_mrr": candidates, "chosen": report["chosen"],
        "verdict": report["verdict"],
    }  # fmt: skip


@contextmanager
def _words_of_files() -> Iterator[None]:
    """Errors and warnings about arrays and their ids as such about files, which are paired by rows alone."""

    def told(message: object) -> str:
        text = str(message).replace("X_new", "--new").replace("Y_old", "--old")
        return text.replace(BY_IDS, "bring both files into one order.")

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            yield
        except ValueError as error:
            raise DataError(told(error)) from None
    for warning in caught:
        warnings.warn(told(warning.message), warning.category, stacklevel=2)


def apply(settings: ApplySettings, job: ApplyJob) -> dict[str, Any]:
    """Transform new vectors, block by block: a .npy file, a file of vectors with ids, or a folder of these.

    What has ids keeps them: the result is a file of vectors too.
    """
    if job.artifact is None:
        raise UsageError("bt2 needs a fitted run: `linmap fit bt2 --new FILE --old FILE --out DIR`, then apply DIR.")
    function = Upgrade(job.artifact, settings.output)
    source, out = job.data or BANKING, job.out or job.artifact / f"{settings.output}.npy"
    if out.suffix not in VECTORS:
        raise UsageError(f"--out {out}: vectors are written as .npy or .parquet.")
    metadata = {"system": "bt2", "fingerprint": function.fingerprint, "source": str(source.resolve())}
    named = out.suffix == ".parquet" or any(map(_has_ids, files_of(source, VECTORS) if job.data else ()))
    if named:
        check_output(out)
    with tempfile.TemporaryDirectory() as folder:
        if job.data is None:
            source = Path(folder) / "new.npy"
            np.save(source, read_npz(BANKING, ("new",))["new"])
        done = map_records(
            source,
            out,
            function,
            engine=settings.engine,
            shard_records=ROWS,
            batch=ROWS,
            n_jobs=settings.n_jobs,
            resume=settings.resume and job.data is not None,
            of="vectors",
            writer=(lambda path, dim, dtype: VectorFileWriter(path, dim, metadata)) if named else None,
        )
    return {
        "out": str(out), "vectors": done.records, "resumed": done.resumed, "dim": done.dim, "dtype": str(done.dtype),
    }  # fmt: skip


class Upgrade:
    """A fitted upgrade as a function of rows, for `map_records`."""

    def __init__(self, artifact: Path, output: Literal["gallery", "query"]) -> None:
        upgrade = EmbeddingUpgrade.load(artifact)
        self.function = upgrade.transform if output == "gallery" else upgrade.transform_query
        self.fingerprint = f"{output} {read_config(artifact)['config']['sha256']}"

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        try:
            return self.function(rows)
        except ValueError as error:  # whose row counts in this batch; the engine knows that in the file
            raise DataError(ROW.sub("the vector is ", str(error))) from None


def _has_ids(path: Path) -> bool:
    return path.suffix.lower() == ".parquet" or ids_beside(path) is not None


def _pairs(settings: Settings, data: Path | None) -> tuple[np.ndarray, np.ndarray]:
    if (settings.new is None) != (settings.old is None):
        raise UsageError("--new and --old go together: the vectors of the same items by both models.")
    if settings.new is not None and settings.old is not None:
        return open_rows(settings.new), open_rows(settings.old)
    arrays = read_npz(data or BANKING, ("new", "old"))
    rows = slice(CALIBRATION if data is None else None)
    return arrays["new"][rows], arrays["old"][rows]
