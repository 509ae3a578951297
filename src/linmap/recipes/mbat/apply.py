"""`linmap apply mbat`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from linmap.data import EMBEDDED
from linmap.data.records import Layout
from linmap.errors import UsageError
from linmap.recipes.job import ApplyJob
from linmap.recipes.mbat.flags import Apply
from linmap.retrieve.mbat import JSONVectorizer, encode_files, parse_path

PATIENTS = EMBEDDED / "fhir_patients.jsonl"
EMBEDDED_OUT = Path("runs/mbat/vectors.parquet")  # so that the embedded records never replace a file of the user's


def apply(settings: Apply, job: ApplyJob) -> dict[str, Any]:
    """Encode every record of a file or a folder; one row of the result for each, in the same order."""
    out = job.out or (Path("vectors.parquet") if job.data else EMBEDDED_OUT)
    vectorizer, layout = vectorizer_of(settings), layout_of(settings)
    columns = (SpinnerColumn(), TextColumn("encoding"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("encoding", total=None)
        done = encode_files(
            vectorizer, job.data or PATIENTS, out, layout, decompress=settings.decompress, engine=settings.engine,
            n_jobs=settings.n_jobs, resume=settings.resume,
            progress=lambda records, total: bar.update(task, completed=records, total=total),
        )  # fmt: skip
    return {
        "out": str(out), "records": done.records, "ids": done.ids, "resumed": done.resumed, "dim": vectorizer.dim,
        "fingerprint": vectorizer.fingerprint_,
    }  # fmt: skip


def vectorizer_of(settings: Apply) -> JSONVectorizer:
    """What the flags ask for; its own workers stay idle, for whole files are shared out among processes."""
    return JSONVectorizer(**settings.options(weights=dict(map(_weight, settings.weights)) or None, n_jobs=1))


def layout_of(settings: Apply) -> Layout:
    """Where a file holds its records, and how they are called."""
    return Layout(_place_of_records(settings.records_at), settings.ids)


def _place_of_records(text: str | None) -> tuple[str | int, ...] | None:
    """The steps of --records-at; `$` is the value of the file itself."""
    try:
        return None if text is None else parse_path(text)
    except ValueError as error:
        raise UsageError(f"--records-at {text!r}: {error}") from None


def _weight(text: str) -> tuple[str, float]:
    pattern, sign, factor = text.rpartition("=")
    try:
        if not sign:
            raise ValueError  # caught below
        return pattern, float(factor)
    except ValueError:
        raise UsageError(f"--weights takes PATTERN=FACTOR, e.g. 'patient.name=3', got {text!r}.") from None
