import json
import os
import random
import shutil
import subprocess

import numpy as np
import pytest
import torch
from torch import nn

from linmap.errors import ArtifactError
from linmap.training import checkpoint
from linmap.training.checkpoint import Checkpoint


def make_checkpoint(value: float = 1.0) -> Checkpoint:
    shared = torch.full((3, 2), value)
    tensors = {
        "tied.a": shared,
        "tied.b": shared,
        "part": shared[:, 0],
        "half": torch.tensor([value]).bfloat16(),
        "count": torch.tensor(3),
        "empty": torch.zeros(0),
    }
    return Checkpoint({"step": value, "none": None}, tensors, {"a/exp_avg": shared}, {"torch": torch.get_rng_state()})


def test_a_checkpoint_reads_back_bit_for_bit(tmp_path) -> None:
    written = make_checkpoint(0.1)
    read = checkpoint.read(checkpoint.write(tmp_path, written))
    assert read.state == written.state
    for name in ("model", "optimizer", "random", "best"):
        before, after = getattr(written, name), getattr(read, name)
        assert before.keys() == after.keys()
        assert all(torch.equal(before[key], after[key]) and before[key].dtype == after[key].dtype for key in before)


def test_files_are_safetensors_and_json(tmp_path) -> None:
    path = checkpoint.write(tmp_path, make_checkpoint())
    assert {file.suffix for file in path.iterdir()} == {".safetensors", ".json", ""}
    subprocess.run(["sha256sum", "--check", "--strict", "SHA256SUMS"], cwd=path, check=True, capture_output=True)
    json.loads((path / "state.json").read_text())


def test_a_new_checkpoint_takes_the_place_of_the_last(tmp_path) -> None:
    for value in (1.0, 2.0, 3.0):
        path = checkpoint.write(tmp_path, make_checkpoint(value))
        assert [path] == list(tmp_path.iterdir())
        assert checkpoint.latest(tmp_path) == path
    assert checkpoint.read(path).state["step"] == 3.0


@pytest.mark.parametrize("call", ["save_file", "rename", "fsync"])
def test_a_checkpoint_that_fails_leaves_the_last_one(tmp_path, monkeypatch, call) -> None:
    path = checkpoint.write(tmp_path, make_checkpoint(1.0))

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(checkpoint if call == "save_file" else os, call, fail)
    with pytest.raises(OSError, match="disk full"):
        checkpoint.write(tmp_path, make_checkpoint(2.0))
    monkeypatch.undo()
    assert checkpoint.latest(tmp_path) == path
    assert checkpoint.read(path).state["step"] == 1.0
    assert checkpoint.read(checkpoint.write(tmp_path, make_checkpoint(3.0))).state["step"] == 3.0


@pytest.mark.parametrize("file", ["state.json", "model.safetensors"])
@pytest.mark.parametrize("damage", ["truncated", "missing"])
def test_a_damaged_checkpoint_is_named(tmp_path, file, damage) -> None:
    path = checkpoint.write(tmp_path, make_checkpoint())
    if damage == "missing":
        (path / file).unlink()
    else:
        (path / file).write_bytes((path / file).read_bytes()[:20])
    with pytest.raises(ArtifactError, match=f"checkpoint-000001 .*{file}.*; train again"):
        checkpoint.read(path)


@pytest.mark.parametrize(("written", "which"), [(99, "newer"), (1, "older")])
def test_a_checkpoint_of_another_format_is_refused(tmp_path, written, which) -> None:
    path = checkpoint.write(tmp_path, make_checkpoint())
    (path / "state.json").write_text(f'{{"format": {written}}}')
    sums = path / "SHA256SUMS"
    sums.write_text("".join(checkpoint._sums(path)))
    with pytest.raises(ArtifactError, match=f"{which} linmap"):
        checkpoint.read(path)


def test_no_flipped_bit_is_accepted(tmp_path) -> None:
    path = checkpoint.write(tmp_path, make_checkpoint())
    rng = np.random.default_rng(0)
    for file in sorted(path.iterdir()):
        whole = file.read_bytes()
        for bit in rng.integers(0, 8 * len(whole), 20):
            damaged = bytearray(whole)
            damaged[bit // 8] ^= 1 << bit % 8
            file.write_bytes(damaged)
            with pytest.raises(ArtifactError, match=r"checkpoint-000001 .*; train again without resume"):
                checkpoint.read(path)
        file.write_bytes(whole)
    checkpoint.read(path)


@pytest.mark.parametrize("first", ["model", "optimizer", "random", "best"])
def test_files_that_have_changed_places_are_refused(tmp_path, first) -> None:
    path = checkpoint.write(tmp_path, make_checkpoint())
    second = "optimizer" if first == "model" else "model"
    for source, target in ((first, "x"), (second, first), ("x", second)):
        os.rename(path / f"{source}.safetensors", path / f"{target}.safetensors")
    with pytest.raises(ArtifactError, match=f"{first}.safetensors"):
        checkpoint.read(path)


@pytest.mark.parametrize("sums", ["kept", "missing"])
def test_a_checkpoint_of_the_format_without_checksums_is_read_with_a_line(tmp_path, sums, logged) -> None:
    path = checkpoint.write(tmp_path, make_checkpoint(0.1))
    (path / "SHA256SUMS").unlink()
    if sums == "missing":  # of a format that has them
        with pytest.raises(ArtifactError, match="SHA256SUMS is missing"):
            checkpoint.read(path)
        return
    state = json.loads((path / "state.json").read_text())
    (path / "state.json").write_text(json.dumps(state | {"format": 2}))
    assert checkpoint.read(path).state["step"] == 0.1
    (told,) = logged
    assert "kept no checksums" in told


@pytest.mark.parametrize("state", ["[]", "3", "null", '{"format": "3"}', '{"format": 3, "groups": {}}', "{" * 100_000])
def test_a_state_of_another_type_is_refused(tmp_path, state) -> None:
    path = checkpoint.write(tmp_path, make_checkpoint())
    (path / "state.json").write_text(state)
    (path / "SHA256SUMS").write_text("".join(checkpoint._sums(path)))
    with pytest.raises(ArtifactError, match="checkpoint-000001"):
        checkpoint.read(path)


def test_what_a_killed_process_left_goes_and_the_newest_stays(tmp_path) -> None:
    path = checkpoint.write(tmp_path, make_checkpoint(1.0))
    shutil.copytree(path, tmp_path / "checkpoint-000002")
    shutil.copytree(path, tmp_path / ".checkpoint.partial")
    (tmp_path / "checkpoint-of-mine").mkdir()
    checkpoint.tidy(tmp_path)
    assert {child.name for child in tmp_path.iterdir()} == {"checkpoint-000002", "checkpoint-of-mine"}


@pytest.mark.parametrize("draws", [0, 1, 2])  # normal numbers come in pairs, of which one may be kept
def test_random_generators_go_on_where_they_were(draws) -> None:
    def draw() -> tuple[list[float], list[float], torch.Tensor]:
        python = [random.gauss(0, 1) for _ in range(3)] + [random.random()]
        numpy = [*np.random.normal(size=3), *np.random.rand(2)]  # noqa: NPY002
        return python, numpy, torch.randn(20)

    for _ in range(draws):
        _ = random.gauss(0, 1), np.random.normal(), torch.randn(3)  # noqa: NPY002
    state = checkpoint.random_state(torch.device("cpu"))
    python, numpy, pytorch = draw()
    stacked = {name: torch.stack([value, value])[1] for name, value in state.items()}  # as rows of several processes
    checkpoint.set_random_state(stacked, torch.device("cpu"))
    again = draw()
    assert (python, numpy) == again[:2]
    assert torch.equal(pytorch, again[2])


@pytest.mark.parametrize(
    "make",
    [
        lambda p: torch.optim.Adam(p, amsgrad=True),
        lambda p: torch.optim.AdamW(p, fused=True),
        lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
        lambda p: torch.optim.SGD(p, lr=0.1),
        lambda p: torch.optim.Rprop(p),
    ],
    ids=["adam", "adamw", "momentum", "sgd", "rprop"],
)
def test_the_optimiser_goes_on_where_it_was(make) -> None:
    def trained(steps: int, saved=None) -> tuple[nn.Linear, tuple]:
        model = nn.Linear(3, 2)
        with torch.no_grad():
            for i, parameter in enumerate(model.parameters()):
                parameter.copy_(torch.arange(parameter.numel()).reshape(parameter.shape) / 7 + i)
        optimizer, names = make(model.parameters()), ["weight", "bias"]
        if saved is not None:
            model.load_state_dict(saved[0])
            checkpoint.load_optimizer_state(optimizer, names, *saved[1])
        for _ in range(steps):
            optimizer.zero_grad()
            model(torch.ones(1, 3)).square().sum().backward()
            optimizer.step()
        return model, checkpoint.optimizer_state(optimizer, names, keep=True)

    half, state = trained(3)
    model, (tensors, numbers) = trained(3, (half.state_dict(), state))
    whole, (expected, expected_numbers) = trained(6)
    assert torch.equal(model.weight, whole.weight)
    assert numbers == expected_numbers
    assert tensors.keys() == expected.keys()
    assert all(torch.equal(tensors[key], expected[key]) for key in expected)
