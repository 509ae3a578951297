"""Ray on a cluster of several nodes on this machine: a node that dies, and little memory."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from linmap.cli import main
from linmap.data.engines import map_records

pytestmark = pytest.mark.slow
STORE = 80 * 2**20  # bytes of a node's object store: the least that Ray takes, almost


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A head without processors, and two nodes of one."""
    import ray
    from ray.cluster_utils import Cluster

    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "object_store_memory": STORE})
    made.add_node(num_cpus=1, object_store_memory=STORE)
    made.wait_for_nodes()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_ADDRESS", str(made.address))
        yield made
    ray.shutdown()
    made.shutdown()


@pytest.fixture
def second(cluster: Any) -> Iterator[Any]:
    node = cluster.add_node(num_cpus=1, object_store_memory=STORE)
    cluster.wait_for_nodes()
    yield node
    if node in cluster.worker_nodes:
        cluster.remove_node(node)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "r.jsonl"
    path.write_text("".join(json.dumps({"id": f"r{i}", "x": i}) + "\n" for i in range(60)))
    return path


def slow(ballast: np.ndarray | None = None, seconds: float = 0.1) -> Any:
    """Defined inside a function, so that workers get it by value."""

    def function(records: list) -> np.ndarray:
        time.sleep(seconds)
        add = 0 if ballast is None else float(ballast[-1])
        return np.array([[r.document["x"] + add, os.getpid() * 0] for r in records], np.float32)

    function.fingerprint = "slow"
    return function


def kill_when_some_are_done(cluster: Any, node: Any, work: Path, done: list[int]) -> threading.Thread:
    """As soon as four shards are there, the node goes, without a farewell."""

    def watch() -> None:
        while len(list(work.glob("*.npy"))) < 4:
            time.sleep(0.02)
        done.append(len(list(work.glob("*.npy"))))
        cluster.remove_node(node, allow_graceful=False)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    return thread


def test_a_node_that_dies_costs_nothing_but_time(cluster: Any, second: Any, source: Path, tmp_path: Path) -> None:
    map_records(source, tmp_path / "one.npy", slow(seconds=0), shard_records=2)
    done: list[int] = []
    thread = kill_when_some_are_done(cluster, second, tmp_path / "ray.npy.work", done)
    mapped = map_records(source, tmp_path / "ray.npy", slow(), engine="ray", shard_records=2)
    thread.join(60)
    assert mapped.records == 60
    assert 4 <= done[0] < 30
    assert (tmp_path / "ray.npy").read_bytes() == (tmp_path / "one.npy").read_bytes()
    assert {path.name for path in tmp_path.iterdir()} == {"r.jsonl", "one.npy", "ray.npy"}


def test_a_node_dies_under_the_command(cluster: Any, second: Any, tmp_path: Path, monkeypatch: Any) -> None:
    from linmap.recipes.mbat import apply as mbat

    lines = mbat.PATIENTS.read_bytes().splitlines(keepends=True)
    (tmp_path / "r.jsonl").write_bytes(b"".join(lines[:100]) * 4)

    def small(*args: Any, shard_records: int = 0, **options: Any) -> Any:
        return map_records(*args, shard_records=8, **options)

    monkeypatch.setattr("linmap.retrieve.mbat.files.map_records", small)
    words = ["apply", "mbat", "--data", str(tmp_path / "r.jsonl"), "--dim", "2048", "--ids", "number"]
    assert main([*words, "--out", str(tmp_path / "one.npy")]) == 0
    done: list[int] = []
    thread = kill_when_some_are_done(cluster, second, tmp_path / "ray.npy.work", done)
    assert main([*words, "--out", str(tmp_path / "ray.npy"), "--engine", "ray"]) == 0
    thread.join(60)
    assert 4 <= done[0] < 50
    for name in ("npy", "json"):
        assert (tmp_path / f"ray.{name}").read_bytes() == (tmp_path / f"one.{name}").read_bytes()


def test_a_function_larger_than_the_object_store(cluster: Any, second: Any, source: Path, tmp_path: Path) -> None:
    """It is spilled to the disk."""
    ballast = np.arange(STORE // 8 + 2**20, dtype=np.float64)
    for engine in ("local", "ray"):
        map_records(source, tmp_path / f"{engine}.npy", slow(ballast, 0), engine=engine, shard_records=10)
    assert (tmp_path / "ray.npy").read_bytes() == (tmp_path / "local.npy").read_bytes()
