"""Every kind of long job, killed anywhere and resumed, ends as one that ran through, and nothing is left."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from faults.harness import Command, Tally, contents, killed_anywhere
from faults.own_files import OWN, classes, matrices, pairs, sales, waves
from faults.test_comparisons import outcome
from linmap.data.engines import map_records
from linmap.data.vectors import open_store

POINTS = int(os.environ.get("LINMAP_FAULTS", "50"))
"""Kills of each job in the slow tests."""
RNG = np.random.default_rng(0)


def fit(system: str, flags: str, own: Callable | None = None) -> Callable[[Path], Command]:
    """`linmap fit` on a small file."""

    def made(folder: Path) -> Command:
        path = (own or OWN[system])(folder, np.random.default_rng(0))
        return Command(["fit", system, "--data", str(path), "--out", "run", *flags.split()])

    return made


def fit_bt2(folder: Path) -> Command:
    """It is done in a second and keeps nothing on its way: the same command again."""
    return Command(["fit", "bt2", "--data", str(pairs(folder, RNG)), "--out", "run"], resume=())


def record_files(folder: Path, files: int = 6, records: int = 400) -> Path:
    (folder / "records").mkdir()
    for number in range(files):
        rows = [{"id": f"{number}/{i}", "doc": {"x": i * 0.37, "tags": [f"t{i % 7}"]}} for i in range(records)]
        (folder / "records" / f"{number}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder / "records"


def apply_by_processes(folder: Path) -> Command:
    """A folder of records, encoded by two worker processes, a shard each file."""
    words = ["apply", "mbat", "--data", str(record_files(folder)), "--dim", "256", "--n-jobs", "2", "--out", "v.npy"]
    return Command(words)


def map_here(folder: Path) -> Command:
    """What the verb apply does with a folder, without a system."""
    return Command([str(record_files(folder, 3, 20))], entry="faults.test_killed:mapped")


def mapped(words: list[str]) -> int:
    def function(records: list) -> np.ndarray:
        return np.array([[record.document["x"]] for record in records])

    try:
        map_records(words[0], "v.npy", function, resume="--resume" in words)
    except KeyboardInterrupt:
        return 130
    return 0


def index_into(kind: str) -> Callable[[Path], Command]:
    def made(folder: Path) -> Command:
        np.save(folder / "vectors.npy", RNG.standard_normal((500, 16)).astype(np.float32))
        words = ["index", str(folder / "vectors.npy"), "--into", f"{kind}:store"]
        return Command(words, resume=(), outcome=stored)

    return made


def stored(place: Path) -> dict[str, object]:
    """All vectors of a store, whose files count its flushes; and how many files those are."""
    with open_store(str(place / "store")) as store:
        found: dict[str, object] = {
            name: row.tobytes() for ids, X in store.iterate() for name, row in zip(ids, X, strict=True)
        }
    return found | {f"file {path.suffix or path.name} {n}": True for n, path in enumerate(sorted(place.rglob("*.*")))}


def compare_bt2(folder: Path) -> Command:
    return Command(["compare", "bt2", "--data", str(pairs(folder, RNG)), "--out", "run"], outcome=compared)


def compared(place: Path) -> dict[str, object]:
    """The names of all files, and what the comparison says; its files tell how long each run took."""
    found: dict[str, object] = {name: None for name in contents(place)}  # noqa: C420 (its type)
    return found | {"said": outcome(place / "run")}


def tour(folder: Path) -> Command:
    return Command(["tour", "--systems", "linearscope", "bt2", "--out", "run"])


def study(folder: Path) -> Command:
    words = ["acm", "--tiny", "--out", "runs", "--results", "results"]
    return Command(words, resume=(), entry="studies.__main__:main")


QUICK = {"map": map_here, "index": index_into("array")}
JOBS = QUICK | {
    "fit bt2": fit_bt2,
    "fit hippo": fit("hippo", "--epochs 3 --d-model 8 --d-state 8 --layers 1", waves),
    "fit gbwbn": fit("gbwbn", "--epochs 3", matrices),
    "fit lie_decomposition": fit("lie_decomposition", "--size 14 --epochs 2", classes),
    "fit olinear": fit("olinear", "--horizon 6 --lookback 12 --d-model 8 --embed 2 --layers 1 --epochs 2", sales),
    "apply by processes": apply_by_processes,
    "index faiss": index_into("faiss"),
    "index usearch": index_into("usearch"),
    "compare": compare_bt2,
    "tour": tour,
    "study": study,
}


def check(tally: Tally) -> None:
    print(tally)
    assert tally.kills
    assert not tally.different
    assert not tally.leftovers


@pytest.mark.parametrize("job", QUICK)
def test_killed_anywhere(job: str, tmp_path: Path) -> None:
    made = QUICK[job](tmp_path)
    check(killed_anywhere(replace(made, forked=True), tmp_path, 3))


@pytest.mark.slow
@pytest.mark.parametrize("job", JOBS)
def test_killed_anywhere_in_fifty_points(job: str, tmp_path: Path) -> None:
    check(killed_anywhere(JOBS[job](tmp_path), tmp_path, POINTS))
