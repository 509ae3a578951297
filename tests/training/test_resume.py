"""A run that was interrupted and resumed is the run that was not, bit for bit."""

import json
import os
import random
import shutil
import signal
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.utils.data import Dataset, Subset, TensorDataset

from fresh import Fresh
from linmap.errors import ArgumentError, ArtifactError, LinmapError
from linmap.training import TrainingConfig, checkpoint, train
from linmap.training.fingerprint import data_fingerprint
from linmap.training.metrics import MetricsLog
from training.problem import make_data, make_model, newest, run, squared_error

PROBLEM = Path(__file__).with_name("problem.py")
STEPS = 21  # 3 epochs of 7


class Killed(Exception):
    pass


def stop_at(last: int):
    def stop(model: torch.nn.Module, step: int) -> None:
        if step == last:
            raise Killed

    return stop


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("whole")
    run(out)
    return out


def assert_same_run(out: Path, expected: Path) -> None:
    """Same weights, optimiser state, generators, best weights and history, in every bit."""
    ours, theirs = newest(out), newest(expected)
    for name in ("model", "optimizer", "random", "best"):
        found, wanted = load_file(ours / f"{name}.safetensors"), load_file(theirs / f"{name}.safetensors")
        assert found.keys() == wanted.keys()
        for key in wanted:
            assert found[key].numpy().tobytes() == wanted[key].numpy().tobytes(), f"{name}: {key}"
    assert untimed(ours / "state.json") == untimed(theirs / "state.json")
    assert untimed_lines(out / "metrics.jsonl") == untimed_lines(expected / "metrics.jsonl")


def untimed(path: Path) -> dict:
    state = json.loads(path.read_text())
    for record in (state["position"], *state["position"]["epochs"]):
        del record["seconds"]
    for name in ("metrics_bytes", "run"):
        del state["position"][name]
    return state


def untimed_lines(path: Path) -> list[dict]:
    return [{k: v for k, v in json.loads(line).items() if k != "seconds"} for line in path.read_text().splitlines()]


def start(out: Path, **config) -> Fresh:
    return Fresh(PROBLEM, str(out), json.dumps(config))


@pytest.mark.parametrize("step", range(1, STEPS + 1))
def test_a_run_that_stops_after_any_step_resumes_bit_for_bit(tmp_path, whole, step) -> None:
    with pytest.raises(Killed):
        run(tmp_path, callbacks=(stop_at(step),))
    torch.rand(step)
    model, history = run(tmp_path, resume=True)
    assert_same_run(tmp_path, whole)
    assert history.steps == STEPS
    best = load_file(newest(whole) / "best.safetensors")
    assert all(torch.equal(best[name], value) for name, value in model.state_dict().items())


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd"])
def test_weights_that_lie_in_memory_by_columns_resume_bit_for_bit(tmp_path, optimizer) -> None:
    def trained(out: Path, last: int, resume: bool = False) -> torch.nn.Sequential:
        model = make_model(dropout=0.0)
        weight = next(model.parameters())
        weight.data = weight.data.mT.contiguous().mT
        assert not weight.is_contiguous()
        config = TrainingConfig(epochs=2, batch_size=8, lr=0.1, optimizer=optimizer, checkpoint_every=1)
        train(model, squared_error, make_data(), config=config, out=out, resume=resume, callbacks=(stop_at(last),))
        return model

    expected = trained(tmp_path / "whole", -1).state_dict()
    with pytest.raises(Killed):
        trained(tmp_path / "killed", 4)
    resumed = trained(tmp_path / "killed", -1, resume=True).state_dict()
    assert all(torch.equal(resumed[name], expected[name]) for name in expected)


def test_a_killed_process_resumes_bit_for_bit(tmp_path) -> None:
    step = random.SystemRandom().choice((9, 10, 11))  # in the second epoch, between two checkpoints
    assert start(tmp_path, script={"kill_at": step}).wait(60) == -signal.SIGKILL
    assert untimed(newest(tmp_path / "killed") / "state.json")["position"]["step"] == 8
    assert start(tmp_path / "killed", script={"resume": True}).wait(60) == 0
    assert_same_run(tmp_path / "killed", tmp_path / "whole")


@pytest.mark.slow
def test_kills_at_any_moment_resume_bit_for_bit(tmp_path) -> None:
    settings, chance = {"epochs": 12, "checkpoint_every": 1}, random.SystemRandom()
    assert start(tmp_path / "whole", **settings).wait(120) == 0
    out, kills = tmp_path / "killed", 0
    while True:
        process, last = start(out, **settings, script={"resume": True}), written(out) + chance.randint(2, 15)
        while process.poll() is None and written(out) < last:
            time.sleep(0.001)
        time.sleep(chance.uniform(0, 0.03))  # anywhere between two checkpoints, or within one
        process.kill()
        if process.wait(120) == 0:
            break
        kills += 1
    assert kills > 3
    assert_same_run(out, tmp_path / "whole")


def written(out: Path) -> int:
    """Checkpoints that a run has written."""
    path = checkpoint.latest(out)
    return checkpoint.number(path) if path else 0


def test_control_c_ends_the_step_and_saves_it(tmp_path, whole) -> None:
    def interrupt(model: torch.nn.Module, step: int) -> None:
        if step == 9:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt, match=f"after step 9; resume=True goes on from {tmp_path}"):
        run(tmp_path, callbacks=(interrupt,), checkpoint_every=None)
    assert untimed(newest(tmp_path) / "state.json")["position"]["step"] == 9
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    run(tmp_path, resume=True)
    assert_same_run(tmp_path, whole)


def test_control_c_during_validation_saves_the_epoch(tmp_path, whole) -> None:
    def validate(model: torch.nn.Module) -> float:
        signal.raise_signal(signal.SIGINT)
        return 1.0

    with pytest.raises(KeyboardInterrupt, match="after step 7"):
        train(
            make_model(),
            squared_error,
            make_data(),
            config=TrainingConfig(batch_size=8),
            validate=validate,
            out=tmp_path,
        )
    assert untimed(newest(tmp_path) / "state.json")["position"]["epoch"] == 1


def test_a_second_control_c_does_not_wait(tmp_path) -> None:
    def interrupt_twice(model: torch.nn.Module, step: int) -> None:
        if step == 9:
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)
            raise AssertionError("the second one interrupts")

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, callbacks=(interrupt_twice,))
    assert untimed(newest(tmp_path) / "state.json")["position"]["step"] == 8


def test_control_c_without_a_folder_says_that_nothing_was_saved() -> None:
    with pytest.raises(KeyboardInterrupt, match="after step 3; without `out`, nothing was saved"):
        run(None, callbacks=(lambda model, step: step == 3 and signal.raise_signal(signal.SIGINT),))


def test_a_finished_run_returns_at_once(tmp_path) -> None:
    model, history = run(tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    again, history_again = run(tmp_path, resume=True, callbacks=(stop_at(STEPS),))
    assert history_again == history
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_a_run_that_patience_ended_stays_ended(tmp_path) -> None:
    _, history = run(tmp_path, lr=0.5, epochs=30, patience=2)
    assert history.ended == "patience"
    assert run(tmp_path, lr=0.5, epochs=30, patience=2, resume=True)[1] == history


def test_a_finished_run_can_be_made_longer(tmp_path, whole) -> None:
    run(tmp_path, epochs=2)
    run(tmp_path, epochs=3, resume=True)
    assert_same_run(tmp_path, whole)


def test_resume_without_a_checkpoint_starts(tmp_path, whole) -> None:
    run(tmp_path, resume=True)
    assert_same_run(tmp_path, whole)


@pytest.mark.parametrize(
    "change",
    [
        {"lr": 0.02},
        {"batch_size": 4},
        {"optimizer": "adamw"},
        {"weight_decay": 0.1},
        {"betas": (0.8, 0.9)},
        {"schedule": "halving"},
        {"warmup_steps": 3},
        {"accumulation": 2},
        {"clip_norm": 1.0},
        {"seed": 1},
        {"precision": "bf16"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_other_settings_than_the_checkpoint_are_named(whole, change) -> None:
    (name,) = change
    with pytest.raises(ValueError, match=f"was started with {name}=.*, now it is"):
        run(whole, resume=True, **change)


@pytest.mark.parametrize(("schedule", "fixed"), [("linear", ("epochs", "max_steps")), ("cosine", ("epochs",))])
def test_the_length_is_fixed_where_the_schedule_depends_on_it(tmp_path, schedule, fixed) -> None:
    run(tmp_path, schedule=schedule, epochs=2, max_steps=9)
    for name, value in (("epochs", 3), ("max_steps", 10)):
        settings: dict[str, Any] = {"schedule": schedule, "epochs": 2, "max_steps": 9, name: value}
        if name in fixed:
            with pytest.raises(ValueError, match=f"started with {name}="):
                run(tmp_path, resume=True, **settings)
        else:
            assert run(tmp_path, resume=True, **settings)[1].steps == 10


def test_other_data_than_the_checkpoint_are_named(tmp_path) -> None:
    config = TrainingConfig(epochs=1)
    train(make_model(), squared_error, make_data(), config=config, out=tmp_path)
    with pytest.raises(ValueError, match=r"len\(data\)=53, now it is 54"):
        train(make_model(), squared_error, make_data(54), config=config, out=tmp_path, resume=True)


class Items(Dataset):
    """Samples that are made when they are asked for."""

    def __init__(self, shift: float = 0.0, *, draws: bool = False) -> None:
        self.shift, self.draws = shift, draws

    def __len__(self) -> int:
        return 53

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        x = torch.sin(torch.arange(5, dtype=torch.float64) + index)
        return x + (torch.rand(()) if self.draws else 0), x.sum(0, keepdim=True) + self.shift


def changed_in_one_entry() -> TensorDataset:
    x, y = make_data().tensors
    y[40] += 1e-12
    return TensorDataset(x, y)


class Own(Items):
    """Cannot be told by its samples, and says what it holds."""

    def __init__(self, shift: float = 0.0) -> None:
        super().__init__(shift)
        self.generator = torch.Generator()

    def fingerprinted(self) -> tuple[str, float]:
        return "own", self.shift


@pytest.mark.parametrize(
    ("data", "other"),
    [
        (make_data(), changed_in_one_entry()),
        (Subset(make_data(), range(50)), Subset(make_data(), range(3, 53))),
        (Items(), Items(1.0)),
        (Items(draws=True), Items(1.0, draws=True)),
        (Own(), Own(1.0)),
    ],
    ids=["tensors", "subset", "samples", "augmented samples", "declared"],
)
def test_data_of_the_same_length_and_another_content_are_refused(tmp_path, data, other) -> None:
    config = TrainingConfig(epochs=1)
    torch.manual_seed(3)
    train(make_model(), squared_error, data, config=config, out=tmp_path)
    train(make_model(), squared_error, data, config=config, out=tmp_path, resume=True)
    refused = f"^the data are not those that the run in {tmp_path} was started with; resume with the same"
    with pytest.raises(ValueError, match=refused):
        train(make_model(), squared_error, other, config=config, out=tmp_path, resume=True)
    train(make_model(), squared_error, other, config=config, out=tmp_path)


def test_a_source_stands_for_the_data(tmp_path) -> None:
    def trained(source: object, *, resume: bool = True) -> None:
        data, config = (changed_in_one_entry() if resume else make_data()), TrainingConfig(epochs=1)
        train(make_model(), squared_error, data, config=config, out=tmp_path, resume=resume, source=source)

    trained([torch.ones(3), "raw"], resume=False)
    trained([torch.ones(3), "raw"])
    with pytest.raises(ValueError, match="the data are not those"):
        trained([torch.zeros(3), "raw"])


def test_reading_samples_for_a_fingerprint_draws_nothing(tmp_path) -> None:
    state = torch.get_rng_state()
    assert data_fingerprint(Items(draws=True)) == data_fingerprint(Items(draws=True))
    assert torch.equal(torch.get_rng_state(), state)
    assert data_fingerprint(RandomSamples()) is None
    data = RandomSamples()
    data_fingerprint(Subset(data, range(9)))
    assert torch.equal(data.generator.get_state(), torch.Generator().get_state())


class RandomSamples(Items):
    """With a generator of its own, whose state no checkpoint holds."""

    def __init__(self) -> None:
        super().__init__()
        self.generator = torch.Generator()

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return torch.rand(5, generator=self.generator, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)


def test_other_settings_of_the_loss_are_named(tmp_path) -> None:
    def trained(settings: dict[str, Any], *, resume: bool = True) -> None:
        config = TrainingConfig(epochs=1)
        train(make_model(), squared_error, make_data(), config=config, out=tmp_path, resume=resume, settings=settings)

    trained({"alpha": 0.5, "points": (1, 2), "epochs": 1}, resume=False)
    trained({"alpha": 0.5, "points": (1, 2), "epochs": 9, "new": 1})  # epochs are free here, and `new` was not known
    with pytest.raises(ValueError, match=r"started with alpha=0.5, now it is 0.6; resume with 0.5"):
        trained({"alpha": 0.6, "points": (1, 2)})


def test_a_checkpoint_without_a_fingerprint_resumes_with_a_warning(tmp_path, whole, logged) -> None:
    with pytest.raises(Killed):
        run(tmp_path, callbacks=(stop_at(10),))
    path = newest(tmp_path) / "state.json"
    state = json.loads(path.read_text())
    older = {name: value for name, value in state.items() if name not in ("data", "settings")} | {"format": 2}
    path.write_text(json.dumps(older))
    path.with_name("SHA256SUMS").unlink()
    run(tmp_path, resume=True)
    sums = f"{path.parent} is of an older linmap, which kept no checksums: damage would not be seen."
    why = "it cannot be told whether it was started with the same data, as it is of an older linmap."
    assert logged == [sums, f"{tmp_path}: {why}"]
    assert_same_run(tmp_path, whole)


KEYS = (*checkpoint.STATE, "data", "settings")


def sign(path: Path) -> None:
    (path / "SHA256SUMS").write_text("".join(checkpoint._sums(path)))


def test_whatever_a_checkpoint_holds_it_is_taken_or_refused_in_one_line(tmp_path, whole) -> None:
    """Wrong values, under checksums that fit them."""
    state = json.loads((newest(whole) / "state.json").read_text())
    position = state["position"]
    cases = [state | {name: value} for name in KEYS for value in (None, "x", [1])]
    cases += [state | {"position": position | {name: value}} for name in position for value in ("x", [1])]
    missing = [{key: value for key, value in state.items() if key != name} for name in ("config", "position", "groups")]
    for number, case in enumerate(cases + missing):
        out = tmp_path / f"{number}"
        shutil.copytree(whole, out)
        (newest(out) / "state.json").write_text(json.dumps(case))
        sign(newest(out))
        with pytest.raises(ArtifactError, match=r"checkpoint-\d+") if case in missing else suppress(LinmapError):
            run(out, resume=True)


@pytest.mark.parametrize("name", ["model", "optimizer", "random"])
def test_arrays_of_another_shape_or_name_are_refused(tmp_path, whole, name) -> None:
    shutil.copytree(whole, tmp_path / "run")
    path = newest(tmp_path / "run")
    file = path / f"{name}.safetensors"
    tensors = load_file(file)
    key = next(key for key in tensors if tensors[key].numel() > 1)
    shorter = {**tensors, key: tensors[key][:-1].clone()}
    renamed = {("x/y" if other == key else other): value for other, value in tensors.items()}
    for damaged in (shorter, renamed):
        save_file(damaged, file)
        sign(path)
        with pytest.raises((ArtifactError, ArgumentError)):
            run(tmp_path / "run", resume=True)


def test_data_that_cannot_be_told_resume_with_a_warning(tmp_path, logged) -> None:
    for resume in (False, True):
        assert logged == []
        config = TrainingConfig(epochs=1, batch_size=8)
        train(make_model(), squared_error, RandomSamples(), config=config, out=tmp_path, resume=resume)
    (told,) = logged
    assert "samples of the data set change from reading to reading" in told


def test_another_model_than_the_checkpoint_is_named(whole) -> None:
    config = TrainingConfig(epochs=3, batch_size=8, lr=0.01)
    with pytest.raises(ValueError, match="not the one that the checkpoint was written with"):
        train(torch.nn.Linear(5, 1).double(), squared_error, make_data(), config=config, out=whole, resume=True)


def test_a_fresh_run_replaces_another_only_once_it_has_a_checkpoint(tmp_path, whole, logged) -> None:
    with pytest.raises(Killed):
        run(tmp_path, callbacks=(stop_at(10),))
    assert logged == []
    with pytest.raises(Killed):
        run(tmp_path, seed=5, callbacks=(stop_at(3),))  # dies before its first checkpoint
    assert len(logged) == 1
    assert "holds an earlier run" in logged[0]
    run(tmp_path, resume=True)
    assert_same_run(tmp_path, whole)
    with pytest.raises(Killed):
        run(tmp_path, seed=5, callbacks=(stop_at(5),))
    with pytest.raises(ValueError, match="started with seed=5"):
        run(tmp_path, resume=True)


def test_metrics_follow_their_run_if_it_dies_while_taking_over(tmp_path, whole, monkeypatch) -> None:
    run(tmp_path, seed=5)

    def die(self: MetricsLog) -> None:
        os.sync()
        raise Killed

    monkeypatch.setattr(MetricsLog, "commit", die)
    with pytest.raises(Killed):
        run(tmp_path)
    monkeypatch.undo()
    run(tmp_path, resume=True)
    assert_same_run(tmp_path, whole)
