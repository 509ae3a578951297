"""`linmap apply mbat`."""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from linmap.data import EMBEDDED
from linmap.data.compressed import is_compressed
from linmap.data.engines import Engine, map_records
from linmap.data.records import READERS, Layout, Record, files_of, read_records
from linmap.data.vectors.files import check_output
from linmap.errors import DataError, UsageError
from linmap.recipes.job import ApplyJob
from linmap.retrieve.mbat import JSONVectorizer, VectorFileWriter, parse_path
from linmap.retrieve.mbat.record_index import warn_of_inner_records

PATIENTS = EMBEDDED / "fhir_patients.jsonl"
EMBEDDED_OUT = Path("runs/mbat/vectors.parquet")  # so that the embedded records never replace a file of the user's
DOCUMENT = re.compile(r"^document \d+, ")


@dataclass(frozen=True)
class ApplySettings:
    """Flags of `linmap apply mbat`."""

    dim: int = 2048
    """Length of the vectors."""
    strings: Literal["mixed", "words", "exact", "ngrams"] = "mixed"
    """mixed: equal strings and common words; ngrams: forgives typos."""
    numbers: Literal["level", "quantile", "exact", "thermometer"] = "level"
    """level: near on a logarithmic scale; quantile: near in the distribution of the file."""
    arrays: Literal["sequence", "bag", "both"] = "sequence"
    """Whether the items of an array count with their index, in any order, or half and half."""
    level_norm: Literal["none", "unit"] = "none"
    """unit: a long array weighs no more than a short one."""
    normalize: Literal["l2", "none"] = "l2"
    """l2: unit vectors; none: the raw sums, from which values are read back."""
    ignore: tuple[str, ...] = ()
    """Path patterns to leave out, e.g. '**.id' 'meta'."""
    weights: tuple[str, ...] = ()
    """Factors by path pattern, e.g. 'patient.name=3'."""
    dates: bool = False
    """Take ISO-8601 dates as points in time."""
    key_presence: float = 0.0
    """Weight of having a key, whatever its value."""
    path_backoff: float = 0.0
    """Weight of values without their path."""
    soft_keys: float = 0.0
    """Share of a key's words in what --key-presence adds: birth_date is similar to dateOfBirth."""
    idf: float = 0.0
    """Power of the weights by rarity in the file: 0 none, 1 as in TF-IDF, 0.5 their root."""
    dtype: Literal["float32", "float16"] = "float32"
    """float16: files of half the size."""
    seed: str = ""
    """Vectors of different seeds are unrelated."""
    n_jobs: int = 2
    """Worker processes; -1 for all cores."""
    engine: Engine = "local"
    """local: processes of this machine; ray: Ray Data, also on a cluster. The result is the same, byte for byte."""
    resume: bool = False
    """Keep what an interrupted run with the same flags has finished."""
    records_at: str | None = None
    """Where a file holds its records, e.g. Records, features or data.items, if it is not one array of them."""
    ids: Literal["given", "number"] = "given"
    """given: a record goes by its "id", or by its number where it has none; number: by its number in the file."""
    decompress: bool = False
    """Read .gz, .bz2, .xz and .zst, each file as one shard, by one worker."""

    def vectorizer(self) -> JSONVectorizer:
        names = ("dim", "strings", "numbers", "arrays", "level_norm", "normalize", "ignore", "dates", "key_presence",
                 "path_backoff", "soft_keys", "idf", "dtype", "seed")  # fmt: skip
        options = {name: getattr(self, name) for name in names}
        return JSONVectorizer(**options, weights=dict(map(_weight, self.weights)) or None)


class Encode:
    """A vectorizer as a function of records, for `map_records`."""

    def __init__(self, vectorizer: JSONVectorizer) -> None:
        self.vectorizer, self.fingerprint = vectorizer, f"{vectorizer.fingerprint_} {vectorizer.dtype}"

    def __call__(self, records: list[Record]) -> np.ndarray:
        try:
            return self.vectorizer.transform([record.document for record in records], parse=False)
        except (TypeError, DataError) as error:  # whose number counts in this batch; the engine knows that in the file
            raise DataError(DOCUMENT.sub("", str(error))) from None


def apply(settings: ApplySettings, job: ApplyJob) -> dict[str, Any]:
    """Encode every record of a file or a folder; one row of the result for each, in the same order."""
    source, out = job.data or PATIENTS, check_output(job.out or (Path("vectors.parquet") if job.data else EMBEDDED_OUT))
    try:
        vectorizer = settings.vectorizer()
    except ValueError as error:
        raise UsageError(str(error)) from None
    layout = Layout(place_of_records(settings.records_at), settings.ids)
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


def place_of_records(text: str | None) -> tuple[str | int, ...] | None:
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
