"""Several processes compute what one does: gloo on CPU, data parallel (DDP) and sharded (FSDP2)."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from linmap.training import TrainingConfig, train
from training.broken import CASES as BREAKS
from training.broken import CONFIG, model_of
from training.problem import make_data, newest, squared_error, train_case
from two_processes import launch

PROBLEM, BROKEN = (Path(__file__).with_name(name) for name in ("problem.py", "broken.py"))
FSDP2 = {
    "ACCELERATE_USE_FSDP": "true",
    "FSDP_VERSION": "2",
    "FSDP_AUTO_WRAP_POLICY": "NO_WRAP",
    "FSDP_RESHARD_AFTER_FORWARD": "true",
    "FSDP_CPU_RAM_EFFICIENT_LOADING": "false",
}
CASES = [
    {"name": "uneven", "schedule": "halving"},  # a last batch of 5
    {"name": "single", "samples": 41, "optimizer": "sgd", "momentum": 0.5},  # a last batch of 1: one process has none
    {"name": "accumulated", "accumulation": 4, "clip_norm": 0.05},
    {"name": "accumulated single", "accumulation": 2, "samples": 41, "optimizer": "adamw", "weight_decay": 0.1},
    # statistics of the batch of both; a bias before them has no gradient but rounding, which Adam would enlarge
    {"name": "normalised", "normalised": True, "optimizer": "sgd", "momentum": 0.9},
    {"name": "normalised single", "normalised": True, "optimizer": "sgd", "samples": 41, "accumulation": 2},
]
INTERRUPTED = [{"name": "interrupted", "interrupt": [1, 5]}, {"name": "interrupted", "resume": True}]
RESUMED = [{"name": "resumed", "resume": True}]
REFUSED = [{"name": "odd", "batch_size": 7}, {"name": "idle", "idle": True}]


@pytest.fixture(scope="module")
def one(tmp_path_factory) -> Path:
    """The runs of one process."""
    out = tmp_path_factory.mktemp("one")
    for case in CASES:
        train_case(out / case["name"], **{key: value for key, value in case.items() if key != "name"})
    train_case(out / "interrupted")
    train_case(out / "resumed")
    return out


@pytest.fixture(scope="module", params=[{}, pytest.param(FSDP2, marks=pytest.mark.slow)], ids=["ddp", "fsdp2"])
def two(tmp_path_factory, request) -> Path:
    """The runs of two processes; "resumed" was begun by one."""
    out = tmp_path_factory.mktemp("two")
    train_case(out / "resumed", max_steps=9)
    cases = json.dumps({"script": {"cases": CASES + INTERRUPTED + RESUMED + REFUSED}})
    launch(PROBLEM, str(out), cases, environment=request.param, torchrun=not request.param)
    return out


def losses(out: Path) -> dict[tuple, float]:
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    keys = [(line["step"], "val" in line) for line in lines]
    assert len(set(keys)) == len(keys)
    return dict(zip(keys, (line.get("val", line["loss"]) for line in lines), strict=True))


def assert_same_state(out: Path, expected: Path) -> None:
    for name in ("model", "optimizer", "best"):
        ours = load_file(newest(out) / f"{name}.safetensors")
        theirs = load_file(newest(expected) / f"{name}.safetensors")
        assert ours.keys() == theirs.keys()
        for key in theirs:
            torch.testing.assert_close(ours[key], theirs[key], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", [case["name"] for case in CASES] + ["interrupted"])
def test_two_processes_have_the_loss_curve_of_one(one, two, name) -> None:
    assert losses(two / name) == pytest.approx(losses(one / name), rel=1e-10)
    assert_same_state(two / name, one / name)


def test_the_processes_stop_together_at_a_control_c_in_one(two) -> None:
    for process in range(2):
        message = (two / f"interrupted {process}.txt").read_text()
        assert message == f"training stopped after step 7; resume=True goes on from {two / 'interrupted'}."
    # an epoch before, two after; a run begun anew would have numbered its three from 2 on
    assert newest(two / "interrupted").name == "checkpoint-000003"


def test_two_processes_go_on_with_the_run_of_one(one, two) -> None:
    found = losses(two / "resumed")
    assert found.pop((9, True))  # where max_steps had ended it
    assert found == pytest.approx(losses(one / "resumed"), rel=1e-10)
    assert_same_state(two / "resumed", one / "resumed")


def test_one_process_goes_on_with_the_run_of_two(one, two, tmp_path) -> None:
    for name, folder in (("one", one), ("two", two)):
        shutil.copytree(folder / "accumulated", tmp_path / name)
        done = train_case(tmp_path / name, accumulation=4, clip_norm=0.05, epochs=4, resume=True)
        assert done is not None
        assert done[1].steps == 28
    assert_same_state(tmp_path / "two", tmp_path / "one")


def test_a_weight_without_a_gradient_is_named_before_anyone_waits(two, request) -> None:
    if "fsdp2" in request.node.callspec.id:
        pytest.skip("FSDP2 does not wait for it")
    for process in range(2):
        said = (two / f"idle {process}.txt").read_text()
        assert said.startswith("idle had no part in the loss of the first step, and several processes wait for all")


def test_a_batch_that_cannot_be_split_over_the_processes_is_named(two) -> None:
    message = "batch_size=7 cannot be split evenly over 2 processes x accumulation=1; make it a multiple of 2."
    assert (two / "odd 0.txt").read_text() == message


@pytest.fixture(scope="module")
def broken(tmp_path_factory) -> Path:
    """Models after an error under FSDP2."""
    out = tmp_path_factory.mktemp("broken")
    launch(BROKEN, str(out), environment=FSDP2)
    return out


def trained(weights: Path | None = None, **config: Any) -> dict[str, torch.Tensor]:
    """In one process, from these weights or from the first ones."""
    model = model_of()
    if weights is not None:
        model.load_state_dict(load_file(weights))
    train(model, squared_error, make_data(), config=TrainingConfig(**CONFIG | config))
    return model.state_dict()


@pytest.mark.slow
@pytest.mark.parametrize("name", [*BREAKS, "one"])
def test_after_an_error_in_shards_each_process_has_a_whole_model_of_the_same_weights(name, broken) -> None:
    """What the loop ends by itself leaves the last weights, any other error those that were whole before."""
    known = {"diverged": "DivergenceError", "control c": "Stopped", "other groups": "ArgumentError"}
    known |= {"twice control c": "KeyboardInterrupt"}
    assert (broken / f"{name} 1.txt").read_text().startswith(known.get(name, "OddError"))
    ours, theirs = (load_file(broken / f"{name} broken {rank}.safetensors") for rank in (0, 1))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0, equal_nan=True)
    if name in ("control c", "other groups"):
        expected = load_file(newest(broken / name) / "model.safetensors")
    else:
        expected = trained(epochs=2) if name == "validation" else dict(model_of().state_dict())
    if name != "diverged":
        torch.testing.assert_close(ours, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(BREAKS.keys() - {"diverged"}))
def test_a_model_that_was_put_together_is_trained_once_more(name, broken) -> None:
    expected = trained(broken / f"{name} broken 0.safetensors")
    torch.testing.assert_close(load_file(broken / f"{name} again 0.safetensors"), expected, rtol=1e-9, atol=1e-12)
