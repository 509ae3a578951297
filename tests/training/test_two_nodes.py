"""Two machines under torchrun compute what one process does: two groups of processes, on loopback and, where that is
allowed, in two network namespaces that see each other through a cable of their own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from training.problem import newest, train_case
from two_processes import free_port

pytestmark = pytest.mark.slow
PROBLEM = Path(__file__).with_name("problem.py")
CASES = [{"name": "uneven", "schedule": "halving"}, {"name": "accumulated", "accumulation": 2, "clip_norm": 0.05}]


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("one")
    for case in CASES:
        train_case(out / str(case["name"]), **{key: value for key, value in case.items() if key != "name"})  # type: ignore[arg-type]
    return out


@contextmanager
def cable() -> Iterator[list[list[str]]]:
    """What to put before a command to run it in one of two network namespaces, at 10.98.0.1 and 10.98.0.2."""
    if not (shutil.which("unshare") and shutil.which("nsenter") and shutil.which("ip")):
        pytest.skip("unshare, nsenter and ip are not installed")
    nodes: list[subprocess.Popen[bytes]] = []
    try:
        nodes = [subprocess.Popen(["unshare", "-n", "sleep", "600"]) for _ in range(2)]
        for node in nodes:
            while os.readlink(f"/proc/{node.pid}/ns/net") == os.readlink("/proc/self/ns/net"):
                if node.poll() is not None:
                    pytest.skip("a network namespace is not allowed here")
        enter = [["nsenter", "-t", str(node.pid), "-n"] for node in nodes]
        made = ["ip", "link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "netns", str(nodes[1].pid)]
        if subprocess.run([*enter[0], *made], capture_output=True, check=False).returncode:
            pytest.skip("a pair of network devices is not allowed here")
        for number, inside in enumerate(enter, start=1):
            for words in (f"addr add 10.98.0.{number}/24 dev eth0", "link set eth0 up", "link set lo up"):
                subprocess.run([*inside, "ip", *words.split()], check=True)
        yield enter
    finally:
        for node in nodes:
            node.kill()
            node.wait()


def torchrun(out: Path, before: list[list[str]], address: str, interface: str) -> None:
    """Two machines of two processes each."""
    port = free_port()
    cases = json.dumps({"script": {"cases": CASES}})
    environment = os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": interface, "TP_SOCKET_IFNAME": interface}
    started = [
        subprocess.Popen(
            [
                *inside,
                sys.executable,
                "-m",
                "torch.distributed.run",
                "--nnodes",
                "2",
                "--node-rank",
                str(rank),
                "--nproc_per_node",
                "2",
                "--master-addr",
                address,
                "--master-port",
                port,
                str(PROBLEM),
                str(out),
                cases,
            ],
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank, inside in enumerate(before)
    ]
    said = [node.communicate(timeout=240)[1] for node in started]
    assert [node.returncode for node in started] == [0, 0], "\n".join(said)


def check(out: Path, one: Path) -> None:
    for case in CASES:
        name = str(case["name"])
        for kind in ("model", "optimizer", "best"):
            ours, theirs = (load_file(newest(folder / name) / f"{kind}.safetensors") for folder in (out, one))
            assert ours.keys() == theirs.keys()
            for key in theirs:
                torch.testing.assert_close(ours[key], theirs[key], rtol=1e-9, atol=1e-12)
        assert len(list((out / name).glob("checkpoint-*"))) == 1


def test_two_groups_on_loopback(one: Path, tmp_path: Path) -> None:
    torchrun(tmp_path, [[], []], "127.0.0.1", "lo")
    check(tmp_path, one)


def test_two_network_namespaces(one: Path, tmp_path: Path) -> None:
    with cable() as enter:
        torchrun(tmp_path, enter, "10.98.0.1", "eth0")
    check(tmp_path, one)
