"""`linmap apply mbat`."""

from __future__ import annotations

import itertools
import re
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from linmap.data import EMBEDDED
from linmap.data.compressed import is_compressed
from linmap.data.engines import map_records
from linmap.data.records import READERS, Layout, Record, files_of, read_records
from linmap.data.vectors.files import check_output
from linmap.errors import DataError, UsageError
from linmap.recipes.job import ApplyJob
from linmap.recipes.mbat.flags import Apply
from linmap.retrieve.mbat import JSONVectorizer, VectorFileWriter, parse_path
from linmap.retrieve.mbat.record_index import warn_of_inner_records

PATIENTS = EMBEDDED / "fhir_patients.jsonl"
EMBEDDED_OUT = Path("runs/mbat/vectors.parquet")  # so that the embedded records never replace a file of the user's
DOCUMENT = re.compile(r"^document \d+, ")


class Encode:
    """A vectorizer as a function of records, for `map_records`."""

    def __init__(self, vectorizer: JSONVectorizer) -> None:
        self.vectorizer, self.fingerprint = vectorizer, f"{vectorizer.fingerprint_} {vectorizer.dtype}"

    def __call__(self, records: list[Record]) -> np.ndarray:
        try:
            return self.vectorizer.transform([record.document for record in records], parse=False)
        except (TypeError, DataError) as error:  # whose number counts in this batch; the engine knows that in the file
            raise DataError(DOCUMENT.sub("", str(error))) from None


def apply(settings: Apply, job: ApplyJob) -> dict[str, Any]:
    """Encode every record of a file or a folder; one row of the result for each, in the same order."""
    source, out = job.data or PATIENTS, check_output(job.out or (Path("vectors.parquet") if job.data else EMBEDDED_OUT))
    vectorizer = vectorizer_of(settings)
    layout = Layout(_place_of_records(settings.records_at), settings.ids)
    _check_source(source, layout, settings.decompress)
    vectorizer.fit((record.document for record in read_records(source, layout)), parse=False)
    metadata = {
        "fingerprint": vectorizer.fingerprint_, "options": vectorizer.as_json(), "source": str(Path(source).resolve()),
        "layout": layout.as_json(),
    }  # fmt: skip
    columns = (SpinnerColumn(), TextColumn("encoding"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=_stderr()) as progress:
        task = progress.add_task("encoding", total=None)
        done = map_records(
            source,
            out,
            Encode(vectorizer),
            engine=settings.engine,
            n_jobs=settings.n_jobs,
            resume=settings.resume,
            of="records",
            layout=layout,
            writer=lambda path, dim, dtype: VectorFileWriter(path, dim, metadata, dtype),
            progress=lambda records, total: progress.update(task, completed=records, total=total),
        )
    return {
        "out": str(out), "records": done.records, "resumed": done.resumed, "dim": vectorizer.dim,
        "fingerprint": vectorizer.fingerprint_,
    }  # fmt: skip


def vectorizer_of(settings: Apply) -> JSONVectorizer:
    """What the flags ask for; its own workers stay idle, for whole files are shared out among processes."""
    return JSONVectorizer(**settings.options(weights=dict(map(_weight, settings.weights)) or None, n_jobs=1))


def _place_of_records(text: str | None) -> tuple[str | int, ...] | None:
    """The steps of --records-at; `$` is the value of the file itself."""
    try:
        return None if text is None else parse_path(text)
    except ValueError as error:
        raise UsageError(f"--records-at {text!r}: {error}") from None


def _check_source(source: Path, layout: Layout, decompress: bool) -> None:
    """There is a record in it, and compressed files are meant to be read."""
    compressed = next((path for path in files_of(source, READERS) if is_compressed(path)), None)
    if compressed is not None and not decompress:
        raise DataError(
            f"{compressed} is compressed, so that several workers cannot share it: decompress it, or read each file by "
            "one worker with --decompress."
        )
    records = list(itertools.islice(read_records(source, layout), 2))
    if not records:
        raise DataError(f"{source} holds no records; there is nothing to encode.")
    if len(records) == 1 and layout.at is None:
        warn_of_inner_records(source, records[0].document)


def _weight(text: str) -> tuple[str, float]:
    pattern, sign, factor = text.rpartition("=")
    try:
        if not sign:
            raise ValueError  # caught below
        return pattern, float(factor)
    except ValueError:
        raise UsageError(f"--weights takes PATTERN=FACTOR, e.g. 'patient.name=3', got {text!r}.") from None


def _stderr() -> Console:
    return Console(stderr=True)
