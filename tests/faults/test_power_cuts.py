"""Whatever is written atomically is, after a power cut at any moment, what it was before or what it is to be."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from faults.disk import Disk, recorded
from linmap import artifacts
from linmap.data.engines import map_records
from linmap.data.vectors import open_store
from linmap.training import checkpoint
from linmap.training.checkpoint import Checkpoint


def text(root: Path, value: int) -> None:
    artifacts.write_text(root / "deep" / "x.txt", f"{value}" * 100)


def table(root: Path, value: int) -> None:
    artifacts.write_table(root / "x.parquet", pd.DataFrame({"a": [value]}))


def tensors(root: Path, value: int) -> None:
    artifacts.write_tensors(root / "x.safetensors", {"a": torch.full((9,), value)})


def run(root: Path, value: int) -> None:
    artifacts.save(root / "run", "acm", {"value": value}, {"a": torch.full((9,), value)})


def whole_folder(root: Path, value: int) -> None:
    with artifacts.staged(root / "model", whole=True) as partial:
        (partial / "deep").mkdir()
        for path in (partial / "x", partial / "deep" / "y"):
            path.write_text(f"{value}")


def in_folder(root: Path, value: int) -> None:
    artifacts.make_folder(root / "model")
    with artifacts.staged(root / "model") as partial:
        (partial / "x").write_text(f"{value}")


def checkpoints(root: Path, value: int) -> None:
    checkpoint.write(
        root / "run", Checkpoint({"value": value}, {"a": torch.full((9,), value)}, {}, {"torch": torch.zeros(1)})
    )


def store(root: Path, value: int) -> None:
    with open_store(f"array:{root / 'store'}", 2) as opened:
        opened.upsert(["a"], np.full((1, 2), value, np.float32))


def vectors(root: Path, value: int) -> None:
    source = root.with_name("r.jsonl")
    source.write_text('{"a": 1}\n')
    map_records(source, root / "v.npy", lambda records: np.full((len(records), 1), value))


def held(root: Path, name: str) -> object:
    """The value that is there; None where there is nothing, which only the first write may leave."""
    if name == "checkpoints":
        found = checkpoint.latest(root / "run")
        return found and checkpoint.read(found).state["value"]
    if name == "store":
        if not (root / "store" / "store.json").exists():
            return None
        with open_store(f"array:{root / 'store'}") as opened:
            return next(int(block[0, 0]) for _, block in opened.iterate()) if opened.count() else None
    if name == "run":  # its configuration is written last
        return (
            artifacts.read_config(root / "run")["config"]["value"] if (root / "run" / "config.json").exists() else None
        )
    if name == "vectors":
        return (root / "v.npy").read_bytes() if (root / "v.npy").exists() else None
    names = [path.relative_to(root) for path in root.rglob("*") if path.is_file()]
    found = {name: (root / name).read_bytes() for name in names if not any(part[0] == "." for part in name.parts)}
    return found or None


WRITERS = {
    "text": text, "table": table, "tensors": tensors, "run": run, "in_folder": in_folder,
    "checkpoints": checkpoints, "store": store, "vectors": vectors, "whole_folder": whole_folder,
}  # fmt: skip


@pytest.mark.parametrize("names_at_once", [False, True])
@pytest.mark.parametrize("name", WRITERS)
def test_a_power_cut_leaves_the_old_or_the_new(name: str, names_at_once: bool, tmp_path: Path, monkeypatch) -> None:
    root, cut = tmp_path / "root", tmp_path / "cut"
    root.mkdir()
    write = WRITERS[name]
    write(root, 1)
    old, seen = held(root, name), []
    assert old is not None

    def check(disk: Disk) -> None:
        if not busy:
            busy.append(1)
            seen.append(held(disk.after_a_cut(cut, names_at_once), name))
            busy.pop()

    busy: list[int] = []
    with recorded(root, monkeypatch, check) as disk:
        write(root, 2)
    new = held(root, name)
    assert new not in (None, old)
    assert held(disk.after_a_cut(cut, names_at_once), name) == new, "it was not on the disk when the call came back"
    between = [value for value in seen if value not in (old, new)]
    assert between == ([None] * len(between) if name == "whole_folder" else []), "neither the old nor the new"
