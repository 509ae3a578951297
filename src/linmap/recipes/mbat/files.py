"""`linmap apply mbat` and `linmap search`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from linmap.data import EMBEDDED
from linmap.data.engines import Engine, map_records
from linmap.data.records import Record, parse_json, read_records
from linmap.data.vectors.files import check_suffix
from linmap.errors import ArtifactError, DataError, UsageError
from linmap.recipes.job import ApplyJob
from linmap.retrieve.mbat import JSONVectorizer, VectorFile, VectorFileWriter, nearest

PATIENTS = EMBEDDED / "fhir_patients.jsonl"
DOCUMENT = re.compile(r"^document \d+, ")
SHOWN_VALUES = 3  # of one path, in the breakdown of a match


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
    seed: str = ""
    """Vectors of different seeds are unrelated."""
    n_jobs: int = 2
    """Worker processes; -1 for all cores."""
    engine: Engine = "local"
    """local: processes of this machine; ray: Ray Data, also on a cluster. The result is the same, byte for byte."""
    resume: bool = False
    """Keep what an interrupted run with the same flags has finished."""

    def vectorizer(self) -> JSONVectorizer:
        names = ("dim", "strings", "numbers", "arrays", "level_norm", "normalize", "ignore", "dates", "key_presence",
                 "path_backoff", "seed")  # fmt: skip
        options = {name: getattr(self, name) for name in names}
        return JSONVectorizer(**options, weights=dict(map(_weight, self.weights)) or None)


@dataclass(frozen=True)
class SearchSettings:
    """Flags of `linmap search`."""

    index: Path
    """File of vectors written by `linmap apply mbat`."""
    like: str | None = None
    """What to look for: JSON text, or the path of a .json file."""
    id: str | None = None
    """What to look for: the record of the index with this id."""
    records: Path | None = None
    """The records' file, to say why they match; where the index was made from when left out."""
    top: int = 5
    """How many matches."""
    reasons: int = 6
    """How many paths to show for each match."""


class Encode:
    """A vectorizer as a function of records, for `map_records`."""

    def __init__(self, vectorizer: JSONVectorizer) -> None:
        self.vectorizer, self.fingerprint = vectorizer, vectorizer.fingerprint_

    def __call__(self, records: list[Record]) -> np.ndarray:
        try:
            return self.vectorizer.transform([record.document for record in records], parse=False)
        except (TypeError, DataError) as error:  # whose number counts in this batch; the engine knows that in the file
            raise DataError(DOCUMENT.sub("", str(error))) from None


def apply(settings: ApplySettings, job: ApplyJob) -> dict[str, Any]:
    """Encode every record of a file or a folder; one row of the result for each, in the same order."""
    source, out = job.data or PATIENTS, check_suffix(job.out or Path("vectors.parquet"))
    try:
        vectorizer = settings.vectorizer()
    except ValueError as error:
        raise UsageError(str(error)) from None
    if settings.numbers == "quantile":
        vectorizer.fit((record.document for record in read_records(source)), parse=False)
    metadata = {
        "fingerprint": vectorizer.fingerprint_, "options": vectorizer.as_json(), "source": str(Path(source).resolve()),
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
            writer=lambda path, dim, dtype: VectorFileWriter(path, dim, metadata),
            progress=lambda records, total: progress.update(task, completed=records, total=total),
        )
    return {
        "out": str(out), "records": done.records, "resumed": done.resumed, "dim": vectorizer.dim,
        "fingerprint": vectorizer.fingerprint_,
    }  # fmt: skip


def search(settings: SearchSettings) -> dict[str, Any]:
    """The nearest records by cosine, and which paths make them so."""
    if (settings.like is None) == (settings.id is None):
        raise UsageError("give what to look for: either --like JSON or --id ID, and not both.")
    if settings.top < 1:
        raise UsageError(f"--top must be at least 1, got {settings.top}.")
    file = VectorFile(settings.index)
    vectorizer = JSONVectorizer.from_json(file.metadata["options"])
    vectorizer.check_fingerprint(file.metadata["fingerprint"])
    if settings.like is not None:
        document, row = _query_document(settings.like), None
        query = vectorizer.transform([document], parse=False)[0]
    else:
        row = _row_of(file, settings.id)  # pyright: ignore[reportArgumentType]
        document, query = None, file.vector(row)
    found = nearest(query, file.blocks(), settings.top + (row is not None))
    found = [match for match in found if match.row != row][: settings.top]
    wanted = [match.row for match in found] + ([] if row is None else [row])
    records = _records(file, settings.records, wanted)
    if row is not None and records:
        document = records[row].document
    matches = [
        {"id": file.ids[match.row], "cosine": round(match.cosine, 4)}
        | (_why(vectorizer, document, records[match.row].document, settings.reasons) if records else {})
        for match in found
    ]
    answer: dict[str, Any] = {"index": str(settings.index), "records": len(file.ids), "matches": matches}
    if not records:
        answer["note"] = "the records' file is not where the index was made from: --records FILE says why they match"
    return answer


def _why(vectorizer: JSONVectorizer, query: Any, match: Any, reasons: int) -> dict[str, Any]:
    if vectorizer.level_norm != "none":
        return {"because": "level_norm=unit is not linear in the leaves: its cosines have no exact breakdown"}
    breakdown = vectorizer.similarity_breakdown(query, match)
    because = [
        {"path": part.path, "share": round(part.share, 4), "query": _short(part.left), "match": _short(part.right)}
        for part in breakdown.contributions[:reasons]
    ]
    rest = breakdown.cosine - breakdown.crosstalk - sum(part.share for part in breakdown.contributions[:reasons])
    return {"because": because, "other_paths": round(rest, 4), "crosstalk": round(breakdown.crosstalk, 4)}


def _short(values: list[Any]) -> Any:
    if len(values) == 1:
        return values[0]
    return [*values[:SHOWN_VALUES], "..."] if len(values) > SHOWN_VALUES else values


def _query_document(like: str) -> Any:
    path = Path(like)
    is_file = like.endswith(".json") and path.is_file()
    try:
        return parse_json(path.read_bytes() if is_file else like)
    except DataError as error:
        raise UsageError(f"--like {like[:60]!r} is neither JSON text nor the path of a .json file: {error}") from None


def _row_of(file: VectorFile, name: str) -> int:
    try:
        return file.ids.index(name)
    except ValueError:
        first = ", ".join(file.ids[:3])
        raise UsageError(f"{file.path} has no record with the id {name!r}; its ids are {first}, ...") from None


def _records(file: VectorFile, records: Path | None, rows: list[int]) -> dict[int, Record]:
    """The records of some rows, if their file is there; it must be the one that the vectors were made from."""
    source = records or Path(file.metadata["source"])
    if records is None and not source.is_file():
        return {}
    last, found = max(rows), {}
    for row, record in enumerate(read_records(source)):
        if row in rows:
            if record.id != file.ids[row]:
                raise ArtifactError(
                    f"{source} has changed since {file.path} was made from it: record {row} is {record.id!r}, not "
                    f"{file.ids[row]!r}; run `linmap apply mbat` again, or give the old file with --records."
                )
            found[row] = record
        if row == last:
            break
    if len(found) < len(set(rows)):
        raise ArtifactError(
            f"{source} is shorter than {file.path}: it has no record {last}; run `linmap apply mbat` again."
        )
    return found


def _weight(text: str) -> tuple[str, float]:
    pattern, sign, factor = text.rpartition("=")
    try:
        if not sign:
            raise ValueError
        return pattern, float(factor)
    except ValueError:
        raise UsageError(f"--weights takes PATTERN=FACTOR, e.g. 'patient.name=3', got {text!r}.") from None


def _stderr() -> Console:
    return Console(stderr=True)
