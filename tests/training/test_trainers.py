"""Every trainer of linmap gives in two and four processes what it gives in one: weights, losses, one checkpoint.

Tolerances are of float32, whose sums over processes round in another order; Adam divides by the size of a gradient, so
that where that is near nothing, a rounding moves a weight by a visible part of a step. `DRAWN` are those whose every
process draws for itself (dropout, augmentation), as documentation says: their runs are other runs of the same kind.
"""

from __future__ import annotations

import ast
import json
import math
from pathlib import Path
from statistics import fmean

import pytest
import torch
from safetensors.torch import load_file

import linmap
from training.problem import newest
from training.test_processes import FSDP2
from training.trainers import TRAINERS
from two_processes import launch

SCRIPT = Path(__file__).with_name("trainers.py")
SOURCE = Path(linmap.__file__).parent
ALONE = {
    "spd aim": "norms.0: the affine-invariant batch norm takes its statistics from the batch of one process; train it",
    "spd lem": "norms.0: the log-Euclidean batch norm takes its statistics from the batch of one process; train it",
}
REFUSED = {
    **ALONE,
    "pool": "pool tuning runs in one process",
    "students": "batch_size=1 cannot be split evenly over",
}
UNSHARDED = {
    **{name: "FSDP cannot shard norms.0.s, which is a single number" for name in TRAINERS if name.startswith("spd")},
    "students": "input_max, which is a single number",
}
LARGE = {"language", "classification"}
"""What FSDP leaves in parts."""
DRAWN = {"diffusion", "meshes"}
EQUAL = sorted(TRAINERS.keys() - REFUSED.keys() - DRAWN)
CALLS = {
    "adapt/finetuning/training.py": "language, classification",
    "adapt/segmentation/training.py": "segmenter",
    "compress/flatquant/distillation.py": "students",
    "compress/learngene_pool/distillation.py": "distilled",
    "compress/learngene_pool/tuning.py": "pool",
    "interpret/householder_projector/finetuning.py": "generator both, generator images",
    "recipes/finetuning/arms.py": "batches of one row, which one process takes",
    "recipes/learngene_pool/compare.py": "the call of ancestry",
    "recipes/learngene_pool/making.py": "ancestry",
    "recipes/lie_decomposition/making.py": "plain cnn",
    "retrieve/bt2/frozen.py": "bt2",
    "sequence/olinear/fitting.py": "olinear",
    "sequence/s4/estimators.py": "s4, s4 batch, s4 ragged",
    "shapes/lie_decomposition/classifier.py": "lie",
    "shapes/tinvnn/classifier.py": "pointnet, edgeconv, edgeconv drawn, raw turned",
    "shapes/tinvnn/tour_solver.py": "tours",
    "shapes/tooth_arrangement/arranger.py": "diffusion",
    "shapes/tooth_arrangement/autoencoder.py": "meshes",
    "signals/acm/shallow.py": "shallow",
    "signals/gbwbn/classifier.py": "spd",
}
"""Where the loop is called, and by which of `TRAINERS` that is tested."""


def test_every_call_of_the_loop_is_tested() -> None:
    found = set()
    for path in SOURCE.rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        if "linmap.training import" in text and "train(" in text:
            calls = [node.func for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Call)]
            if any(isinstance(function, ast.Name) and function.id == "train" for function in calls):
                found.add(path.relative_to(SOURCE).as_posix())
    assert found == CALLS.keys()


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return ran(tmp_path_factory.mktemp("one"), 1)


@pytest.fixture(scope="module", params=[2, 4])
def several(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int]:
    return ran(tmp_path_factory.mktemp("several"), request.param), request.param


@pytest.fixture(scope="module", params=[2, 4])
def sharded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int]:
    """Under FSDP2."""
    return ran(tmp_path_factory.mktemp("sharded"), request.param, **FSDP2), request.param


@pytest.fixture(scope="module", params=[(1, 2), (2, 1)], ids=["one, then two", "two, then one"])
def resumed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("resumed")
    before, after = request.param
    ran(out, before, STOP="1")
    assert (out / "lie 0.txt").read_text() == "stopped"
    return ran(out, after, RESUME="1")


def ran(out: Path, processes: int, **environment: str) -> Path:
    launch(SCRIPT, str(out), processes=processes, environment=environment, timeout=900)
    return out


def losses(out: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (out / "metrics.jsonl").read_text().splitlines()]


def apart(ours: Path, theirs: Path) -> float:
    """The distance of all weights, in units of their own size."""
    a, b = load_file(ours), load_file(theirs)
    assert a.keys() == b.keys()
    assert a
    distance = sum(float((a[name].double() - b[name].double()).square().sum()) for name in b)
    return math.sqrt(distance / sum(float(value.double().square().sum()) for value in b.values()))


def check(name: str, out: Path, one: Path, processes: int, said: str = "done") -> None:
    for rank in range(processes):
        assert (out / f"{name} {rank}.txt").read_text() == said
    if (one / name / "metrics.jsonl").exists():
        assert losses(out / name) == pytest.approx(losses(one / name), rel=LOSS, abs=LOSS)
        assert len(list((out / name).glob("checkpoint-*"))) == 1
        for kind in ("model", "optimizer"):
            files = [newest(folder / name) / f"{kind}.safetensors" for folder in (out, one)]
            assert apart(*files) < STATE
    assert apart(*(folder / "final" / f"{name}.safetensors" for folder in (out, one))) < STATE


LOSS, STATE = 1e-5, 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("name", EQUAL)
def test_several_processes_train_as_one(name: str, one: Path, several: tuple[Path, int]) -> None:
    check(name, several[0], one, several[1])


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in EQUAL if name not in UNSHARDED])
def test_sharded_processes_train_as_one(name: str, one: Path, sharded: tuple[Path, int]) -> None:
    check(name, sharded[0], one, sharded[1], "done, in parts" if name in LARGE else "done")


@pytest.mark.slow
@pytest.mark.parametrize(("name", "why"), sorted((UNSHARDED | ALONE | {"pool": REFUSED["pool"]}).items()))
def test_what_cannot_be_sharded_says_so(name: str, why: str, sharded: tuple[Path, int]) -> None:
    refused(name, *sharded, why)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(DRAWN))
def test_what_draws_for_itself_trains_too(name: str, one: Path, several: tuple[Path, int]) -> None:
    drew(name, one, *several)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(DRAWN))
def test_what_draws_for_itself_trains_in_shards(name: str, one: Path, sharded: tuple[Path, int]) -> None:
    drew(name, one, *sharded)


def drew(name: str, one: Path, out: Path, processes: int) -> None:
    assert {(out / f"{name} {rank}.txt").read_text() for rank in range(processes)} == {"done"}
    ours, theirs = losses(out / name), losses(one / name)
    assert len(ours) == len(theirs)
    assert ours != theirs
    assert 0.2 < fmean(ours) / fmean(theirs) < 5  # other draws of noise for eight samples
    assert len(list((out / name).glob("checkpoint-*"))) == 1


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(REFUSED))
def test_what_needs_one_process_says_so(name: str, several: tuple[Path, int]) -> None:
    refused(name, *several, REFUSED[name])


def refused(name: str, out: Path, processes: int, why: str) -> None:
    for rank in range(processes):
        said = (out / f"{name} {rank}.txt").read_text()
        assert said.startswith("ArgumentError: ")
        assert why in said
        assert "\n" not in said


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in EQUAL if name not in ("bt2", "shallow")])
def test_another_number_of_processes_goes_on(name: str, one: Path, resumed: Path) -> None:
    check(name, resumed, one, 1)


def test_the_distance_of_weights_is_seen(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    for name, value in (("a", 1.0), ("b", 1.001)):
        save_file({"w": torch.full((3,), value)}, tmp_path / name)
    assert apart(tmp_path / "b", tmp_path / "a") == pytest.approx(1e-3, rel=1e-3)
