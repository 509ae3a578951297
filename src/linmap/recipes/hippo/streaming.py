"""A series from standard input, one sample a line, one answer a line; a stream that is cut continues from its state."""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from linmap.artifacts import inert, run_fingerprint, write_text
from linmap.data.door import read_text
from linmap.data.samples import read_samples
from linmap.errors import UsageError
from linmap.ownership import record, replacing
from linmap.sequence.s4 import S4Classifier, load_estimator


def follow(artifact: Path, out: Path | None, state: Path | None, save_every: int) -> dict[str, Any]:
    """Read samples from standard input to its end and answer each at once, to standard output or `out`.

    For the lines see `linmap.data.samples.read_samples`. An answer is the number of the sample, the class or value from
    all samples so far, and the probability of each class. The state is written at the end, whatever ends the stream,
    and every `save_every` samples; a stream that was cut and continued from its state gives the same answers, byte for
    byte.

    Raises
    ------
    DataError
        If a line is not a sample; the samples before it are in the state.
    ArtifactError
        If the state is not of this model.
    """
    if save_every < 0 or (save_every and state is None):
        raise UsageError("--save-every needs --state FILE and a number of samples.")
    estimator = load_estimator(artifact)
    classes = estimator.classes_.tolist() if isinstance(estimator, S4Classifier) else None
    stream, model = estimator.stream(), run_fingerprint(artifact)
    if state is not None and state.exists():
        stream.load(state, model)
    first = stream.count
    with _answers_to(out, first) as file:
        answers = csv.writer(file, lineterminator="\n")
        try:
            for values in read_samples(sys.stdin, estimator.n_features_in_):
                if stream.count == 0:
                    answers.writerow(map(inert, ["sample", "answer", *(f"p({c})" for c in classes or ())]))
                answers.writerow(map(inert, [stream.count + 1, *_cells(stream.update(values), classes)]))
                file.flush()
                if save_every and state is not None and stream.count % save_every == 0:
                    stream.save(state, model)
        finally:
            if state is not None:
                stream.save(state, model)
    summary: dict[str, Any] = {"samples": stream.count - first, "samples_in_all": stream.count}
    return summary | ({} if out is None else {"answers": str(out)}) | ({} if state is None else {"state": str(state)})


@contextmanager
def _answers_to(out: Path | None, first: int) -> Iterator[TextIO]:
    """Standard output, or a file that keeps what it has of the first samples."""
    if out is None:
        yield sys.stdout
        return
    lines = read_text(out).splitlines(keepends=True) if first and out.exists() else []
    # the earlier part of this stream wrote them, line by line
    with replacing() if lines and lines[0].startswith("sample,answer") else nullcontext():
        write_text(out, "".join(line for line in lines if not _after(line, first)))
    try:
        with out.open("a", encoding="utf-8") as file:
            yield file
    finally:
        record(out)


def _after(line: str, first: int) -> bool:
    """Whether a line of answers is of a later sample: written by a stream that was killed before it kept its state."""
    number = line.partition(",")[0]
    return not line.endswith("\n") or (number.isdecimal() and int(number) > first)


def _cells(answer: np.ndarray, classes: list[Any] | None) -> list[Any]:
    if classes is None:
        return [float(answer[0])]
    return [classes[int(answer.argmax())], *(f"{float(p):.9g}" for p in answer)]
