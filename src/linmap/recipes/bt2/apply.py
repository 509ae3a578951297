"""`linmap apply` with a fitted BT²: vectors in files."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from linmap.data.arrays import read_npz, write_npy
from linmap.data.engines import VECTORS
from linmap.errors import UsageError
from linmap.recipes.bt2.fit import BANKING
from linmap.recipes.bt2.flags import Apply
from linmap.recipes.job import FittedJob
from linmap.retrieve.bt2 import transform_files


def apply(settings: Apply, job: FittedJob) -> dict[str, Any]:
    """Transform new vectors, block by block: a .npy file, a file of vectors with ids, or a folder of these.

    What has ids keeps them: the result is a file of vectors too.
    """
    source, out = job.data, job.out or job.artifact / f"{settings.output}.npy"
    if out.suffix not in VECTORS:
        raise UsageError(f"--out {out}: vectors are written as .npy or .parquet.")
    with tempfile.TemporaryDirectory() as folder:
        if source is None:
            source = Path(folder) / "new.npy"
            write_npy(source, read_npz(BANKING, ("new",))["new"])
        resume = settings.resume and job.data is not None
        done = transform_files(
            job.artifact, source, out, settings.output, engine=settings.engine, n_jobs=settings.n_jobs, resume=resume
        )
    return {"out": str(out), "vectors": done.records, "ids": done.ids, "resumed": done.resumed, "dim": done.dim,
            "dtype": str(done.dtype)}  # fmt: skip
