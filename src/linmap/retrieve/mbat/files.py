"""Records in files, encoded shard by shard: resumable, in several processes or on a cluster."""

from __future__ import annotations

import itertools
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from linmap.data.compressed import is_compressed
from linmap.data.engines import Engine, Mapped, map_records
from linmap.data.records import AS_THEY_ARE, READERS, Layout, Record, files_of, read_records
from linmap.data.vectors import VectorFileWriter
from linmap.data.vectors.files import check_output
from linmap.errors import DataError
from linmap.ownership import real
from linmap.retrieve.mbat.record_index import warn_of_inner_records
from linmap.retrieve.mbat.vectorizer import JSONVectorizer

MANY = 100_000
"""Values of a record, beyond which it is told that they are many."""
DOCUMENT = re.compile(r"^document \d+, ")


def encode_files(
    vectorizer: JSONVectorizer,
    source: Path,
    out: Path,
    layout: Layout = AS_THEY_ARE,
    *,
    decompress: bool = False,
    engine: Engine = "local",
    n_jobs: int = 1,
    resume: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Mapped:
    """Fit a vectorizer to the records of a file or folder, and write a vector for each, in the same order.

    Parameters
    ----------
    vectorizer
        Fitted on the way; its own workers stay idle where `n_jobs` is above 1, for whole files are shared out.
    source
        A file of JSON records, or a folder of such files.
    out
        A .npy or .parquet file; with it goes all that `RecordIndex` needs to search it.
    layout
        Where the records are in their files, and what they are called.
    decompress
        Read compressed files, each as one shard, by one worker.
    engine, n_jobs, resume, progress
        As in `linmap.data.engines.map_records`.

    Raises
    ------
    DataError
        If there is no record, a file is compressed and not to be read so, or a record cannot be encoded.
    """
    check_output(out)
    _check_source(source, layout, decompress)
    vectorizer.fit((record.document for record in read_records(source, layout)), parse=False)
    metadata = {
        "fingerprint": vectorizer.fingerprint_,
        "options": vectorizer.as_json(),
        "source": str(real(source)),
        "layout": layout.as_json(),
    }
    return map_records(source, out, Encode(vectorizer), engine=engine, n_jobs=n_jobs, resume=resume, of="records",
                       layout=layout, progress=progress,
                       writer=lambda path, dim, dtype: VectorFileWriter(path, dim, metadata, dtype))  # fmt: skip


class Encode:
    """A vectorizer as a function of records, for `map_records`."""

    def __init__(self, vectorizer: JSONVectorizer) -> None:
        self.vectorizer, self.fingerprint = vectorizer, f"{vectorizer.fingerprint_} {vectorizer.dtype}"

    def __call__(self, records: list[Record]) -> np.ndarray:
        try:
            return self.vectorizer.transform([record.document for record in records], parse=False)
        except (TypeError, DataError) as error:  # whose number counts in this batch; the engine knows that in the file
            raise DataError(DOCUMENT.sub("", str(error))) from None


def _check_source(source: Path, layout: Layout, decompress: bool) -> None:
    """There is a record in it, and compressed files are meant to be read."""
    compressed = next((path for path in files_of(source, READERS) if is_compressed(path)), None)
    if compressed is not None and not decompress:
        raise DataError(
            f"{compressed} is compressed, so that several workers cannot share it: decompress it, or read each file by "
            "one worker (decompress=True)."
        )
    records = list(itertools.islice(read_records(source, layout), 2))
    if not records:
        raise DataError(f"{source} holds no records; there is nothing to encode.")
    if len(records) == 1 and layout.at is None:
        warn_of_inner_records(source, records[0].document)
    for record in records:
        if _has_many(record.document):
            warnings.warn(
                f"the record {record.id!r:.40} of {source} has over {MANY:,} values, which one vector cannot hold, and "
                "each 100,000 take some seconds; ignore parts of it, or name the place of the records in it with "
                "records_at.",
                stacklevel=3,
            )


def _has_many(document: Any) -> bool:
    """Whether a document has more than `MANY` values."""
    left, stack = MANY, [document]
    while stack and left >= 0:
        value = stack.pop()
        inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
        left -= len(inner)
        stack.extend(item for item in inner if isinstance(item, dict | list))
    return left < 0
