"""`linmap apply` with a fitted BT²: vectors in files."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path
from typing import Any, Literal

import numpy as np

from linmap.artifacts import read_config
from linmap.data.arrays import read_npz
from linmap.data.engines import VECTORS, ids_beside, map_records
from linmap.data.records import files_of
from linmap.data.vectors import VectorFileWriter
from linmap.data.vectors.files import check_output
from linmap.errors import DataError, UsageError
from linmap.recipes.bt2.flags import Apply
from linmap.recipes.bt2.pairs import BANKING
from linmap.recipes.job import FittedJob
from linmap.retrieve.bt2 import EmbeddingUpgrade

ROWS = 65_536
ROW = re.compile(r"^X: row \d+ is ")


def apply(settings: Apply, job: FittedJob) -> dict[str, Any]:
    """Transform new vectors, block by block: a .npy file, a file of vectors with ids, or a folder of these.

    What has ids keeps them: the result is a file of vectors too.
    """
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
        "out": str(out),
        "vectors": done.records,
        "resumed": done.resumed,
        "dim": done.dim,
        "dtype": str(done.dtype),
    }


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
