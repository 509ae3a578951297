"""Files of JSON records to a file of vectors (D = 2048, float32) by the engines of `linmap apply mbat`.

The records are the 418 embedded patients again and again, 3.4 kB of JSON text and some 106 leaves each. The time is
that of the whole command: cutting the source into shards, starting the workers, encoding, joining the shards to one
Parquet file. Ray itself runs beforehand, as on a cluster; its actors do not. A worker is one process on one core.
"""

from __future__ import annotations

import logging
import tempfile
import time
from pathlib import Path

import numpy as np
import ray

from benchmarks.measure import Measurement
from linmap.data import EMBEDDED
from linmap.data.engines import Engine
from linmap.recipes.bt2 import apply as bt2
from linmap.recipes.bt2.fit import fit
from linmap.recipes.bt2.flags import Apply as ApplyUpgrade
from linmap.recipes.bt2.flags import Fit
from linmap.recipes.job import ApplyJob, FitJob, FittedJob
from linmap.recipes.mbat import apply as mbat
from linmap.recipes.mbat.flags import Apply

COPIES, FILES = 48, 4  # 80,256 records
ROWS, DIM = 400_000, 384


def run(copies: int = COPIES, rows: int = ROWS) -> list[Measurement]:
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    try:
        with tempfile.TemporaryDirectory() as folder:
            return [*records(Path(folder), copies), *vectors(Path(folder), rows)]
    finally:
        ray.shutdown()


def records(folder: Path, copies: int) -> list[Measurement]:
    source = folder / "records"
    source.mkdir()
    for number in range(FILES):
        (source / f"{number}.jsonl").write_bytes((EMBEDDED / "fhir_patients.jsonl").read_bytes() * copies)
    found = []
    for engine in ("local", "ray"):
        for workers in (1, 2):
            out = folder / f"{engine}{workers}.parquet"
            settings = Apply(engine=engine, n_jobs=workers)
            seconds, summary = timed(lambda s=settings, o=out: mbat.apply(s, ApplyJob(data=source, out=o)))
            note = f"{out.stat().st_size / summary['records']:,.0f} B a document"
            found.append(
                Measurement(
                    f"apply mbat, {engine}, {workers} worker{'s' * (workers > 1)}",
                    seconds,
                    items=summary["records"],
                    unit="documents",
                    note=note,
                )
            )
    return found


def vectors(folder: Path, rows: int) -> list[Measurement]:
    fit(Fit(method="procrustes"), FitJob(out=folder / "upgrade"))
    np.save(folder / "new.npy", np.random.default_rng(0).standard_normal((rows, DIM), np.float32))
    found = []
    engines: tuple[Engine, ...] = ("local", "ray")
    for engine in engines:
        job = FittedJob(folder / "new.npy", folder / f"{engine}.npy", artifact=folder / "upgrade")
        settings = ApplyUpgrade(engine=engine)
        seconds, _ = timed(lambda s=settings, j=job: bt2.apply(s, j))
        found.append(
            Measurement(
                f"apply bt2 to {rows:,} x {DIM} float32, {engine}, 1 worker", seconds, items=rows, unit="vectors"
            )
        )
    return found


def timed(function) -> tuple[float, dict]:
    start = time.perf_counter()
    summary = function()
    return time.perf_counter() - start, summary
