"""Every kind of long job, small: a fit of every system that has one, and each other verb."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from faults.harness import Command, contents
from faults.own_files import OWN, book, classes, pairs, photos
from faults.test_comparisons import outcome
from linmap.data.vectors import open_store
from recipes.finetuning.tiny import save_llama, sums, write_jsonl

RNG = np.random.default_rng(0)
DATABASES = ("lance", "qdrant")
Made = Callable[[Path], Command]


def fit(system: str, flags: str, own: Callable | None = None) -> Made:
    """`linmap fit` on a small file."""
    file = own or OWN[system]

    def made(folder: Path) -> Command:
        data = [] if file is None else ["--data", str(file(folder, np.random.default_rng(0)))]
        return Command(["fit", system, *data, "--out", "run", *flags.split()], forked=True)

    return made


def fit_texts(system: str, flags: str) -> Made:
    """`linmap fit` of an adapter for a small language model."""

    def made(folder: Path) -> Command:
        write_jsonl(folder / "sums.jsonl", sums(8))
        given = ["--model", str(save_llama(folder / "llama")), "--data", str(folder / "sums.jsonl")]
        words = ["fit", system, *given, "--out", "run", "--max-steps", "4", "--checkpoint-every", "1", "--batch-size"]
        return Command([*words, "2", "--max-length", "32", *flags.split()], forked=True)

    return made


def fit_flatquant(folder: Path) -> Command:
    given = ["--model", str(save_llama(folder / "llama")), "--data", str(book(folder, RNG))]
    flags = "--windows 2 --batch-size 2 --length 16 --epochs 2 --weights rtn"
    return Command(["fit", "flatquant", *given, "--out", "run", *flags.split()], forked=True)


def fit_at_once(system: str, flags: str = "") -> Made:
    """A fit that is done in a second and keeps nothing on its way: the same command again."""

    def made(folder: Path) -> Command:
        file = OWN[system]
        assert file is not None
        data = file(folder, np.random.default_rng(0))
        return Command(["fit", system, "--data", str(data), "--out", "run", *flags.split()], resume=(), forked=True)

    return made


def record_files(folder: Path, files: int = 6, records: int = 400) -> Path:
    (folder / "records").mkdir()
    for number in range(files):
        rows = [{"id": f"{number}/{i}", "doc": {"x": i * 0.37, "tags": [f"t{i % 7}"]}} for i in range(records)]
        (folder / "records" / f"{number}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder / "records"


def apply_with(*flags: str) -> Made:
    """A folder of records, encoded by workers, a shard each file."""

    def made(folder: Path) -> Command:
        words = ["apply", "mbat", "--data", str(record_files(folder)), "--dim", "256", "--out", "v.npy", *flags]
        return Command(words)

    return made


def apply_to_photos(folder: Path) -> Command:
    data = photos(folder, np.random.default_rng(0))
    words = ["apply", "token_transforming", "--data", str(data), "--size", "56", "--keep", ".5", "--out", "v.npy"]
    return Command([*words, "--batch-size", "1"], forked=True)


def map_by(engine: str, workers: int) -> Made:
    """What the verb apply does with a folder, without a system."""

    def made(folder: Path) -> Command:
        words = [str(record_files(folder, 3, 20)), engine, str(workers)]
        return Command(words, entry="faults.mapped:mapped", forked=workers == 1)

    return made


def index_into(kind: str) -> Made:
    def made(folder: Path) -> Command:
        np.save(folder / "vectors.npy", RNG.standard_normal((500, 16)).astype(np.float32))
        words = ["index", str(folder / "vectors.npy"), "--into", f"{kind}:store"]
        return Command(words, resume=(), outcome=partial(stored, kind), forked=kind not in DATABASES)

    return made


def stored(kind: str, place: Path) -> dict[str, object]:
    """All vectors of a store; and how many files of each kind there are, whose names count its flushes.

    What a database keeps of earlier versions of its tables is its own affair.
    """
    with open_store(f"{kind}:{place / 'store'}") as store:
        found: dict[str, object] = {
            name: row.tobytes() for ids, X in store.iterate() for name, row in zip(ids, X, strict=True)
        }
    files = [*place.iterdir(), *(place / "store").iterdir()] if kind in DATABASES else place.rglob("*.*")
    counts = Counter(path.suffix or path.name for path in files)
    return found | {f"{count} x {name}": True for name, count in counts.items()}


def compare_bt2(folder: Path) -> Command:
    words = ["compare", "bt2", "--data", str(pairs(folder, RNG)), "--out", "run"]
    return Command(words, outcome=compared, forked=True)


def compared(place: Path) -> dict[str, object]:
    """The names of all files, and what the comparison says; its files tell how long each run took."""
    found: dict[str, object] = {name: None for name in contents(place)}  # noqa: C420 (its type)
    return found | {"said": outcome(place / "run")}


def tour(folder: Path) -> Command:
    words = [str(pairs(folder, RNG)), "--out", "run"]
    return Command(words, entry="faults.toured:toured", outcome=toured, forked=True)


def toured(place: Path) -> dict[str, object]:
    found: dict[str, object] = {name: None for name in contents(place)}  # noqa: C420 (its type)
    return found | {"said": [outcome(path.parent) for path in sorted(place.glob("run/*/result.json"))]}


def study(folder: Path) -> Command:
    words = ["bt2", "backfill", "--tiny", "--out", "runs", "--results", "results"]
    return Command(words, resume=(), entry="studies.__main__:main", forked=True)


QUICK: dict[str, Made] = {"map": map_by("local", 1), "index": index_into("array")}
JOBS: dict[str, Made] = QUICK | {
    "fit acm": fit_at_once("acm", "--order 2 --lag 1 --classifier mdm"),
    "fit bt2": fit_at_once("bt2"),
    "fit hippo": fit("hippo", "--epochs 3 --d-model 8 --d-state 8 --layers 1"),
    "fit gbwbn": fit("gbwbn", "--epochs 3"),
    "fit lie_decomposition": fit(
        "lie_decomposition", "--size 14 --epochs 2 --channels 4 --hidden 4 --head 8 --num-samples 2"
    ),
    "fit olinear": fit("olinear", "--horizon 6 --lookback 12 --d-model 8 --embed 2 --layers 1 --epochs 2"),
    "fit tinvnn": fit("tinvnn", "--points 16 --n-points 16 --epochs 2"),
    "fit tooth_arrangement": fit(
        "tooth_arrangement", "--cases 6 --sampling-steps 3 --points 12 --width 8 --blocks 1 --epochs 2 --batch-size 3"
    ),
    "fit learngene_pool": fit(
        "learngene_pool",
        "--size 28 --patch 7 --widths 8 16 --heads 2 2 --depth 1 --epochs 1 --ancestry-epochs 1 --tune-epochs 1",
        classes,
    ),
    "fit salt": fit("salt", "--size 32 --epochs 2"),
    "fit householder_projector": fit(
        "householder_projector",
        "--steps 2 --batch-size 2 --warmup 0 --rank 3 --measured 0 --feature-side 28 --checkpoint-every 1",
    ),
    "fit bone": fit_texts("bone", "--r 4"),
    "fit triadaptlora": fit_texts("triadaptlora", ""),
    "fit flatquant": fit_flatquant,
    "map by processes": map_by("local", 2),
    "apply by processes": apply_with("--n-jobs", "2"),
    "apply by Ray": apply_with("--n-jobs", "2", "--engine", "ray"),
    "apply to photos": apply_to_photos,
    "index faiss": index_into("faiss"),
    "index usearch": index_into("usearch"),
    "index lance": index_into("lance"),
    "index qdrant": index_into("qdrant"),
    "compare": compare_bt2,
    "tour": tour,
    "study": study,
}
