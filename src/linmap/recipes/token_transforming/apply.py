"""`linmap apply token_transforming`: features and predictions for images or texts, with fewer tokens inside."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from rich.console import Console
from rich.progress import track

from linmap import artifacts
from linmap.artifacts import atomic_path, plain, write_json
from linmap.compress.token_transforming import Compressed, TokenTransform, compress
from linmap.compress.token_transforming.evaluation.images import Images
from linmap.compress.token_transforming.evaluation.predictions import Head, write_predictions
from linmap.compress.token_transforming.evaluation.subject import Subject
from linmap.compress.token_transforming.evaluation.timing import in_turn
from linmap.data.arrays import write_npy
from linmap.data.door import load_json
from linmap.data.vectors import VectorFileWriter
from linmap.data.vectors.files import check_output
from linmap.data.work import MADE, PLAN, begin_work, discard, in_the_way
from linmap.errors import DataError, Stopped, UsageError
from linmap.ownership import real
from linmap.recipes.job import ApplyJob
from linmap.recipes.token_transforming.flags import Apply, Transforming
from linmap.recipes.token_transforming.loading import model_of, subject_of

OUT = Path("runs/token_transforming/features.parquet")  # so that embedded images never replace a file of the user's
KEEP = 0.65
BLOCK = 16
"""Batches that are kept together; as many are lost when a run is interrupted."""
ROWS = 4096
"""Vectors that are written together."""
TURNS = 3


def apply(settings: Apply, job: ApplyJob) -> dict[str, Any]:
    """Write a vector for every image or text, and a classifier's predictions, with tokens merged to the budget."""
    model = model_of(settings, job.data)
    if model.reads == "text" and model.generates:
        raise UsageError(
            f"--model {model.name} is a language model, whose answers are no features; compress its prompts in Python "
            "with linmap.compress.token_transforming.compress_prefill."
        )
    out = check_output(job.out or (Path("features.parquet") if job.data else OUT))
    if job.data is not None and real(out).is_relative_to(real(job.data)):
        raise UsageError(f"--out {out} must not lie in {job.data}, which is read; write elsewhere.")
    subject = subject_of(settings, model, job.data, None, predicts=True)
    work = out.with_name(f"{out.name}.work")
    asked = plain(asdict(settings)) | {"weights": model.weights(), "data": listed(subject, job.data)}
    asked.pop("resume")
    asked["classes"] = subject.head and len(subject.head.labels)
    begin(work, asked, settings.resume)
    transform = TokenTransform(**settings.options(Transforming))
    budget = budget_of(subject, settings, transform, work)
    with compress(subject.model, **budget, transform=transform) as handle:
        resumed = run(subject, handle, settings, work)
        subject.forward(0)
        left = handle.matrix().shape[1]
    seconds = in_turn(subject, lambda: compress(subject.model, **budget, transform=transform), TURNS)
    found = {subject.what: len(subject.names), "resumed": resumed, "budget": plain(budget), "tokens_left": left}
    found["speed_up"] = round(seconds.speed_up, 2)
    metadata = {"options": asked, "fingerprint": digest(asked), "source": str(job.data or "embedded photographs")}
    written = {"out": str(out)}
    if subject.head is not None:
        written["predictions"] = str(predicted(subject, subject.head, work, out))
    dim = join(subject, work, out, metadata)
    discard(work)
    return {**written, **found, "dim": dim, "fingerprint": metadata["fingerprint"]}


# -- the budget --------------------------------------------------------------------------------------------------------


def budget_of(subject: Subject, settings: Apply, transform: TokenTransform, work: Path) -> dict[str, Any]:
    """What `compress` is given; a target of speed is measured once, so that a resumed run goes on with the same."""
    if settings.target_flops is not None:
        return {"target_flops": settings.target_flops}
    if settings.target_speedup is None:
        return subject.budget(transform, settings.keep or KEEP, settings.at)
    path = work / "budget.json"
    if not path.exists():
        target = settings.target_speedup
        with compress(subject.model, target_speedup=target, example=subject.example(0), transform=transform) as handle:
            assert handle.measured is not None  # the target was of speed
            write_json(path, {"stages": [handle.measured.keep, list(handle.measured.layers)]})
    with artifacts.reading(work):
        keep, layers = load_json(path)["stages"]
    return {"stages": (keep, tuple(layers))}


# -- block by block ----------------------------------------------------------------------------------------------------


def listed(subject: Subject, data: Path | None) -> str | None:
    """What tells one set of inputs from another without reading large files again: names, sizes and times."""
    if data is None:
        return None
    files = sorted(file for file in data.rglob("*") if file.is_file()) if data.is_dir() else [data]
    stats = [(str(file), (stat := file.stat()).st_size, stat.st_mtime_ns) for file in files]
    return digest([stats, len(subject.names)])


def digest(value: Any) -> str:
    """Sixteen characters that stand for a value."""
    return hashlib.sha256(json.dumps(plain(value), sort_keys=True).encode()).hexdigest()[:16]


def begin(work: Path, asked: dict[str, Any], resume: bool) -> None:
    """A folder for what is done: that of the run that is resumed, or an empty one.

    Raises
    ------
    DataError
        If it belongs to something else.
    """
    plan = work / PLAN
    if in_the_way(work, resume):
        raise DataError(f"{work} is in the way and no folder of an interrupted run; move it, or write elsewhere.")
    if plan.exists() and resume:
        before = load_json(plan)
        if not isinstance(before, dict):
            raise DataError(f"{plan} is damaged; remove {work}, and start again.")
        before.pop(MADE, None)
        if differ := sorted(name for name in asked.keys() | before.keys() if asked.get(name) != before.get(name)):
            raise DataError(
                f"{work} belongs to a run with another {', '.join(differ)}; start again without --resume, or write "
                "elsewhere."
            )
        return
    if plan.exists():
        discard(work)
    begin_work(work, asked)


def run(subject: Subject, handle: Compressed, settings: Apply, work: Path) -> int:
    """Write the vectors of every block that is not there yet; how many inputs were there already."""
    console, resumed, done = Console(stderr=True), 0, 0
    blocks = [range(first, min(first + BLOCK, len(subject))) for first in range(0, len(subject), BLOCK)]
    try:
        for block in track(blocks, "features", console=console, disable=not console.is_terminal):
            path = work / f"{block.start:08d}.npy"
            if path.exists():
                resumed += len(np.load(path, mmap_mode="r"))
                continue
            vectors = np.concatenate([answers_of(subject, handle, settings, batch) for batch in block])
            with atomic_path(path) as partial:
                write_npy(partial, vectors)
            done += len(vectors)
    except KeyboardInterrupt:
        raise Stopped(f"{resumed + done} of {len(subject.names)} {subject.what} are done and kept") from None
    return resumed


def answers_of(subject: Subject, handle: Compressed, settings: Apply, batch: int) -> Float[np.ndarray, "inputs width"]:
    """What a batch is described by, and behind it the logits of a classifier."""
    if isinstance(subject, Images):
        vectors = subject.vectors(batch, handle, settings.features)
    else:
        vectors = subject.features(batch, handle)["pooled"]
    logits = [] if subject.head is None else [subject.head.logits]
    return torch.cat([vectors, *logits], 1).float().cpu().numpy()


def predicted(subject: Subject, head: Head, work: Path, out: Path) -> Path:
    """Write the predictions of all blocks beside the vectors, in the order of the inputs."""
    path = out.with_name(f"{out.stem}.predictions.csv")
    names, places = subject.in_order()
    blocks = [np.load(block, mmap_mode="r")[:, -len(head.labels) :] for block in sorted(work.glob("[0-9]*.npy"))]
    write_predictions(path, head, names, np.concatenate(blocks)[places])
    return path


def join(subject: Subject, work: Path, out: Path, metadata: dict[str, Any]) -> int:
    """All blocks as one file, in the order of the inputs; the length of a vector."""
    end = None if subject.head is None else -len(subject.head.labels)
    blocks = [np.load(path, mmap_mode="r")[:, :end] for path in sorted(work.glob("[0-9]*.npy"))]
    ends = np.cumsum([len(block) for block in blocks])
    names, places = subject.in_order()
    with VectorFileWriter(out, blocks[0].shape[1], metadata) as file:
        for first in range(0, len(names), ROWS):
            chosen = np.asarray(places[first : first + ROWS])
            numbers = np.searchsorted(ends, chosen, side="right")
            lines = chosen - np.concatenate([[0], ends])[numbers]
            rows = [blocks[number][line] for number, line in zip(numbers, lines, strict=True)]
            file.write(names[first : first + ROWS], np.stack(rows))
    return blocks[0].shape[1]
