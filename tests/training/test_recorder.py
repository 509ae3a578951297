"""What is noted of a training."""

import math

import torch
from torch import nn
from torch.utils.data import TensorDataset

from linmap.training import TrainingConfig, train
from linmap.training.recorder import Recorder


def test_every_loss_is_noted_without_the_penalty_and_what_changes_when_it_does() -> None:
    model, states = nn.Linear(1, 1, bias=False), iter([{"a": 1}, {"a": 1}, {"a": 1}, {"a": 2}, {"a": 2}])
    weight = nn.init.constant_(model.weight, 1.0)
    recorder = Recorder(
        lambda m, batch: (m(batch[0]) - 3).square().mean(),
        lambda m: float(weight.detach()),
        at={2, 4},
        penalty=lambda m: 5 + 0 * weight.sum(),
        state=lambda: next(states),
    )
    config = TrainingConfig(epochs=4, batch_size=4, lr=0.5, optimizer="sgd")
    train(model, recorder.loss, TensorDataset(torch.ones(4, 1)), config=config, callbacks=[recorder])
    assert recorder.losses == [4.0, 0.0, 0.0, 0.0]  # one step of gradient descent lands at 3
    assert recorder.validation == [(2, 3.0), (4, 3.0)]
    assert recorder.states == [(0, {"a": 1}), (3, {"a": 2})]
    assert (recorder.last_loss(4, 2), math.isnan(recorder.last_loss(5, 2))) == (0.0, True)
    details = recorder.details(list(model.parameters()))
    assert details["memory"] >= 4 * 4
    assert len(recorder.times) == 4
