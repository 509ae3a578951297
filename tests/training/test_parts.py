"""Training a part of a model: groups of parameters, frozen parameters, callbacks that remember."""

from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from linmap.training import TrainingConfig, checkpoint, train
from training.problem import make_data, make_model, squared_error


def in_two_groups(model: nn.Module) -> list[dict[str, Any]]:
    first, *_, last = model.children()
    return [{"params": last.parameters(), "lr": 0.5, "weight_decay": 0.2}, {"params": first.parameters()}]


def plain_model() -> nn.Sequential:
    return make_model(dropout=0.0)


def test_each_group_has_its_own_rate_under_one_schedule() -> None:
    config = TrainingConfig(epochs=2, batch_size=53, lr=0.1, optimizer="sgd", schedule="linear", weight_decay=0.1)
    model, expected, data = plain_model(), plain_model(), make_data()
    train(model, squared_error, data, config=config, parameter_groups=in_two_groups)
    optimizer = torch.optim.SGD(in_two_groups(expected), lr=0.1, weight_decay=0.1)
    for factor in (1.0, 0.5):
        for group, lr in zip(optimizer.param_groups, (0.5, 0.1), strict=True):
            group["lr"] = lr * factor
        optimizer.zero_grad()
        squared_error(expected, data[:]).backward()
        optimizer.step()
    for ours, theirs in zip(model.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        (lambda model: [{"params": model[0].parameters()}], "leaves out 4.weight"),
        (lambda model: [{"params": [*model.parameters(), model[0].weight]}], "5 parameters, the model has 4"),
        (lambda model: [{"params": model.parameters(), "momentum": 0.9}], "got \\['momentum'\\]"),
    ],
)
def test_groups_that_do_not_fit_are_refused(groups, message) -> None:
    with pytest.raises(ValueError, match=message):
        train(plain_model(), squared_error, make_data(), config=TrainingConfig(), parameter_groups=groups)


def with_frozen_start(value: float | None = None) -> nn.Sequential:
    model = make_model()
    model[0].requires_grad_(False)
    if value is not None:
        next(model.parameters()).data[0, 0] = value
    return model


def test_a_checkpoint_holds_what_is_trained_and_the_buffers(tmp_path) -> None:
    config = TrainingConfig(epochs=1, batch_size=8)
    train(with_frozen_start(), squared_error, make_data(), config=config, out=tmp_path, validate=lambda model: 1.0)
    folder = checkpoint.latest(tmp_path)
    assert folder is not None
    expected = {name for name in make_model().state_dict() if not name.startswith("0.")}
    assert load_file(folder / "model.safetensors").keys() == expected
    assert load_file(folder / "best.safetensors").keys() == expected


def test_other_frozen_parameters_are_refused_on_resume(tmp_path) -> None:
    config = TrainingConfig(epochs=1, batch_size=8)
    train(with_frozen_start(), squared_error, make_data(), config=config, out=tmp_path)
    train(with_frozen_start(), squared_error, make_data(), config=config, out=tmp_path, resume=True)
    with pytest.raises(ValueError, match="frozen parameters"):
        train(with_frozen_start(1e-3), squared_error, make_data(), config=config, out=tmp_path, resume=True)


def test_other_groups_are_refused_on_resume(tmp_path) -> None:
    config = TrainingConfig(epochs=1, batch_size=8)
    train(plain_model(), squared_error, make_data(), config=config, out=tmp_path, parameter_groups=in_two_groups)
    with pytest.raises(ValueError, match="parameter groups"):
        train(plain_model(), squared_error, make_data(), config=config, out=tmp_path, resume=True)


class Killed(Exception):
    pass


class Counter:
    """Remembers what it saw; stops the run once, if asked to."""

    def __init__(self, stop_at: int | None = None) -> None:
        self.seen, self.stop_at, self.rates = 0, stop_at, 0

    def attach(self, optimizer: torch.optim.Optimizer) -> None:
        self.rates = len(optimizer.param_groups)

    def __call__(self, model: nn.Module, step: int) -> None:
        self.seen += step
        if step == self.stop_at:
            raise Killed

    def state_dict(self) -> dict[str, int]:
        return {"seen": self.seen}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.seen = state["seen"]


def test_what_a_callback_remembers_survives_a_killed_run(tmp_path) -> None:
    config = TrainingConfig(epochs=2, batch_size=8, checkpoint_every=3)

    def run(callback: Counter, resume: bool) -> None:
        train(
            plain_model(),
            squared_error,
            make_data(),
            config=config,
            out=tmp_path,
            resume=resume,
            callbacks=[lambda model, step: None, callback],
            parameter_groups=in_two_groups,
        )

    with pytest.raises(Killed):
        run(Counter(stop_at=11), resume=False)
    after = Counter()
    run(after, resume=True)
    assert after.seen == sum(range(1, 15))
    assert after.rates == 2
