"""Every comparison on a file of the user's own, killed by SIGKILL halfway and resumed, against one that ran through."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from faults.own_files import OWN
from linmap.recipes import SYSTEMS

FLAGS = {
    "bone": "--shots 4 --validation-per-class 2 --test-per-class 4 --steps 3 --seeds 2 --rates .002",
    "triadaptlora": "--shots 4 --validation-per-class 2 --test-per-class 4 --steps 8 --seeds 2 --rates .002",
    "salt": "--size 32 --epochs 1 --images 6 --seeds 2 --rates .003",
    "flatquant": "--windows 4 --length 32 --epochs 1 --blocks 1 --methods flatquant-rtn hadamard rtn"
    " --test-windows 3 --test-length 64",
    "token_transforming": "--size 56 --keep .5 --repeats 1",
    "learngene_pool": "--size 28 --patch 7 --widths 8 16 --heads 2 2 --depth 2 --epochs 1 --ancestry-epochs 1"
    " --tune-epochs 1",
    "bt2": "",
    "mbat": "--dim 64",
    "hippo": "--epochs 3 --d-model 8 --d-state 8 --layers 1 --seeds 2",
    "olinear": "--horizon 6 --lookback 12 --d-model 8 --embed 2 --layers 1 --epochs 1 --baseline-epochs 1",
    "acm": "--network-epochs 3 --orders 1 2 --lags 1 2",
    "gbwbn": "--epochs 3",
    "lie_decomposition": "--size 14 --epochs 1",
    "tinvnn": "--points 32 --n-points 16 --epochs 1",
    "tooth_arrangement": "--cases 6 --test-cases 3 --samples 2 --epochs 1",
    "linearscope": "",
    "householder_projector": "--steps 2 --batch-size 2 --warmup 0 --rank 3 --ranks 2 --samples 8 --codes 4"
    " --feature-side 28",
}


def finished(out: Path) -> dict[Path, int]:
    """The runs of a comparison that are on disk, and when each was written."""
    return {path: path.stat().st_mtime_ns for path in (out / "runs").glob("[!.]*.json")}


def outcome(out: Path) -> tuple[object, str]:
    """The rows and the verdict; of what was timed, which is another each time, only that it is there."""
    result = json.loads((out / "result.json").read_text())
    rows = [
        (row["name"], {name: None if "speed" in name else row["values"][name] for name in row["values"]})
        for row in result["rows"]
    ]
    return rows, result["verdict"]


def test_every_system_is_killed_here():
    assert {system.slug for system in SYSTEMS.values() if system.ready} == FLAGS.keys() == OWN.keys()


@pytest.mark.slow
@pytest.mark.parametrize("slug", FLAGS)
def test_killed_halfway_and_resumed_it_ends_as_one_that_ran_through(slug, tmp_path):
    own = OWN[slug]
    data = [] if own is None else ["--data", str(own(tmp_path, np.random.default_rng(0)))]
    start = [sys.executable, "-m", "linmap", "compare", slug, *data, *FLAGS[slug].split()]
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    subprocess.run([*start, "--out", str(whole)], check=True, capture_output=True)

    half = max(1, len(finished(whole)) // 2)
    process = subprocess.Popen([*start, "--out", str(cut)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while len(finished(cut)) < half and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    kept = finished(cut)
    assert half <= len(kept) < len(finished(whole)), "it was not killed in the middle"

    subprocess.run([*start, "--out", str(cut), "--resume"], check=True, capture_output=True)
    after = finished(cut)
    assert {path: after[path] for path in kept} == kept, "a finished run was made again"
    (rows, verdict), (expected, through) = outcome(cut), outcome(whole)
    assert rows == expected
    assert verdict
    if slug != "token_transforming":  # which says how fast its ways are
        assert verdict == through
