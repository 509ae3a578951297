"""Vectors in files, transformed block by block: resumable, in several processes or on a cluster."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

import numpy as np

from linmap.artifacts import read_config
from linmap.data.engines import VECTORS, Engine, Mapped, ids_beside, map_records
from linmap.data.records import files_of
from linmap.data.vectors import VectorFileWriter
from linmap.data.vectors.files import check_output
from linmap.errors import DataError
from linmap.ownership import real
from linmap.retrieve.bt2.upgrade import EmbeddingUpgrade

ROWS = 65_536
ROW = re.compile(r"^X: row \d+ is ")
Output = Literal["gallery", "query"]


def transform_files(
    artifact: Path,
    source: Path,
    out: Path,
    output: Output = "gallery",
    *,
    engine: Engine = "local",
    n_jobs: int = 1,
    resume: bool = False,
) -> Mapped:
    """Transform new vectors by a saved upgrade; what has ids keeps them, and the result is a file of vectors then.

    Parameters
    ----------
    artifact
        Folder of an `EmbeddingUpgrade`.
    source
        A .npy file, a file of vectors with ids, or a folder of these.
    out
        A .npy or .parquet file.
    output
        "gallery": vectors to store from now on; "query": vectors to search the old index with.
    engine, n_jobs, resume
        As in `linmap.data.engines.map_records`.

    Raises
    ------
    DataError
        If a file cannot be read, or a vector does not go with the upgrade.
    """
    function = Upgrade(artifact, output)
    metadata = {"system": "bt2", "fingerprint": function.fingerprint, "source": str(real(source))}
    named = out.suffix == ".parquet" or any(map(_has_ids, files_of(source, VECTORS)))
    if named:
        check_output(out)
    writer = (lambda path, dim, dtype: VectorFileWriter(path, dim, metadata)) if named else None
    return map_records(source, out, function, engine=engine, shard_records=ROWS, batch=ROWS, n_jobs=n_jobs,
                       resume=resume, of="vectors", writer=writer)  # fmt: skip


class Upgrade:
    """A saved upgrade as a function of rows, for `map_records`."""

    def __init__(self, artifact: Path, output: Output) -> None:
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
