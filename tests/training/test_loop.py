import itertools
import json
import math
from typing import Any, cast

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from linmap.errors import DivergenceError
from linmap.training import TrainingConfig, mean_loss, train
from linmap.training.batches import epoch_order
from linmap.training.config import learning_rate
from training.problem import make_data, make_model, squared_error


def by_hand(config: TrainingConfig, optimizer: torch.optim.Optimizer, model: nn.Module, data: TensorDataset) -> None:
    """The loop as one writes it without a library."""
    model.train()
    for epoch in range(config.epochs):
        batches = epoch_order(len(data), config.seed, epoch).split(config.batch_size)
        for step, batch in enumerate(batches, start=epoch * len(batches)):
            optimizer.param_groups[0]["lr"] = learning_rate(config, step, epoch, len(batches))
            optimizer.zero_grad()
            squared_error(model, data[batch]).backward()
            if config.clip_norm is not None:
                nn.utils.clip_grad_norm_(model.parameters(), config.clip_norm)
            optimizer.step()


@pytest.mark.parametrize(
    ("settings", "optimizer"),
    [
        ({"optimizer": "adam", "weight_decay": 0.1, "schedule": "halving"}, torch.optim.Adam),
        ({"optimizer": "adamw", "weight_decay": 0.1, "schedule": "linear", "warmup_steps": 5}, torch.optim.AdamW),
        ({"optimizer": "adam", "betas": (0.5, 0.9), "clip_norm": 0.05}, torch.optim.Adam),
        ({"optimizer": "sgd", "momentum": 0.8, "weight_decay": 0.1, "schedule": "cosine"}, torch.optim.SGD),
    ],
)
def test_training_is_the_loop_written_by_hand(settings, optimizer) -> None:
    config = TrainingConfig(epochs=3, batch_size=8, lr=0.02, **settings)
    model, data = make_model(dropout=0.0), make_data()
    options = {key: settings[key] for key in ("weight_decay", "betas", "momentum") if key in settings}
    expected = make_model(dropout=0.0)
    by_hand(config, optimizer(expected.parameters(), lr=0.02, **options), expected, data)
    history = train(model, squared_error, data, config=config)
    assert history.steps == 3 * 7
    for ours, theirs in zip(model.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)  # fused kernels round differently


@pytest.mark.parametrize("accumulation", [2, 4, 8])
@pytest.mark.parametrize("samples", [48, 53, 41])
def test_accumulation_does_not_change_the_result(accumulation, samples) -> None:
    def trained(parts: int) -> tuple[nn.Module, list[float]]:
        model = make_model(dropout=0.0)
        config = TrainingConfig(epochs=2, batch_size=8, lr=0.1, accumulation=parts, optimizer="sgd")
        history = train(model, squared_error, make_data(samples), config=config)
        return model, [record.loss for record in history.epochs]

    (one, losses), (several, losses_in_parts) = trained(1), trained(accumulation)
    assert losses_in_parts == pytest.approx(losses, rel=1e-12)
    for ours, theirs in zip(one.parameters(), several.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-13)


def test_it_finds_the_least_squares_solution() -> None:
    x = torch.randn(40, 3, dtype=torch.float64)
    y = torch.randn(40, 1, dtype=torch.float64)
    model = nn.Linear(3, 1, bias=False).double()
    config = TrainingConfig(epochs=300, batch_size=40, lr=0.3, optimizer="sgd", momentum=0.5)
    train(model, squared_error, TensorDataset(x, y), config=config)
    torch.testing.assert_close(model.weight.T, torch.linalg.lstsq(x, y).solution, rtol=1e-8, atol=1e-10)


class Scripted:
    """Validation values from a list; remembers the weights it saw."""

    def __init__(self, values: list[float]) -> None:
        self.values, self.seen = values, []

    def __call__(self, model: nn.Module) -> float:
        assert not model.training
        assert not torch.is_grad_enabled()
        self.seen.append([parameter.clone() for parameter in model.parameters()])
        return self.values[len(self.seen) - 1]


def test_the_model_ends_with_the_weights_of_the_best_epoch() -> None:
    model, validate = make_model(), Scripted([3.0, 1.0, 2.0, 1.0])
    history = train(model, squared_error, make_data(), config=TrainingConfig(epochs=4), validate=validate)
    assert (history.best_epoch, history.best_value, history.ended) == (2, 1.0, "epochs")
    assert [record.val for record in history.epochs] == validate.values
    assert not model.training
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), validate.seen[1], strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(model.parameters(), validate.seen[3], strict=True))


def test_every_step_is_in_training_mode_and_every_validation_is_not() -> None:
    modes = []

    def loss(model: nn.Module, batch: tuple) -> torch.Tensor:
        modes.append(model.training)
        return squared_error(model, batch)

    model = make_model().eval()
    config = TrainingConfig(epochs=3, batch_size=53)
    train(model, loss, make_data(), config=config, validate=lambda model: modes.append(model.training) or 1.0)
    assert modes == [True, False] * 3


@pytest.mark.parametrize(("patience", "epochs"), [(1, 3), (2, 6), (9, 7)])
def test_training_ends_when_patience_does(patience, epochs) -> None:
    validate = Scripted([5.0, 4.0, 4.5, 3.0, 3.0, 3.5, 2.0])
    config = TrainingConfig(epochs=7, patience=patience)
    history = train(make_model(), squared_error, make_data(), config=config, validate=validate)
    assert len(history.epochs) == epochs
    assert history.ended == ("patience" if epochs < 7 else "epochs")


def test_max_steps_ends_within_an_epoch_and_validates_there() -> None:
    validate = Scripted([2.0, 1.0])
    config = TrainingConfig(epochs=5, batch_size=8, max_steps=10)
    history = train(make_model(), squared_error, make_data(), config=config, validate=validate)
    assert (history.steps, history.ended, history.best_epoch) == (10, "max_steps", 2)
    assert [record.step for record in history.epochs] == [7, 10]


def test_metrics_hold_every_step_and_epoch_once(tmp_path) -> None:
    validate = Scripted([2.0, 1.0])
    config = TrainingConfig(epochs=2, batch_size=8, lr=0.5, schedule="cosine")
    history = train(make_model(), squared_error, make_data(), config=config, validate=validate, out=tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    steps, epochs = [[line for line in lines if ("val" in line) == wanted] for wanted in (False, True)]
    assert [line["step"] for line in steps] == list(range(1, 15))
    assert [line["lr"] for line in steps] == [0.5] * 7 + [0.25] * 7
    assert [(line["epoch"], line["step"], line["val"]) for line in epochs] == [(1, 7, 2.0), (2, 14, 1.0)]
    for number, record in enumerate(history.epochs):
        own = zip([8] * 6 + [5], steps[7 * number : 7 * number + 7], strict=True)
        mean = sum(samples * line["loss"] for samples, line in own) / 53
        assert epochs[number]["loss"] == record.loss == pytest.approx(mean)
    assert all(a["seconds"] <= b["seconds"] for a, b in itertools.pairwise(steps))


def test_the_seed_decides_everything() -> None:
    def trained(seed: int) -> torch.Tensor:
        model = make_model()
        train(model, squared_error, make_data(), config=TrainingConfig(epochs=2, batch_size=8, lr=0.1, seed=seed))
        return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])

    first = trained(3)
    torch.rand(5)
    assert torch.equal(first, trained(3))
    assert not torch.equal(first, trained(4))


def test_callbacks_see_every_step_with_its_gradients() -> None:
    seen = []

    def callback(model: nn.Module, step: int) -> None:
        assert all(parameter.grad is not None and bool(parameter.grad.any()) for parameter in model.parameters())
        seen.append(step)

    train(make_model(), squared_error, make_data(), config=TrainingConfig(epochs=2, batch_size=8), callbacks=[callback])
    assert seen == list(range(1, 15))


def test_frozen_weights_stay() -> None:
    model = make_model()
    weight = next(model.parameters()).requires_grad_(False)
    before = weight.clone()
    train(model, squared_error, make_data(), config=TrainingConfig(epochs=1, weight_decay=0.1))
    assert torch.equal(weight, before)
    assert weight.grad is None


def test_bf16_computes_in_bf16_and_leaves_the_model_as_it_was(tmp_path) -> None:
    seen = []

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(5, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            seen.append(self.linear(x).dtype)
            return self.linear(x)

    model = Model()
    data = TensorDataset(*(tensor.float() for tensor in make_data().tensors))
    for precision, dtype in (("bf16", torch.bfloat16), ("no", torch.float32), ("bf16", torch.bfloat16)):
        train(model, squared_error, data, config=TrainingConfig(epochs=1, precision=cast("Any", precision)))
        assert set(seen) == {dtype}
        assert model(torch.ones(2, 5)).dtype == torch.float32
        assert not {"forward", "_original_forward", "_is_accelerate_prepared"} & vars(model).keys()
        seen.clear()


def test_fp16_says_where_it_works() -> None:
    model = make_model().float()
    data = TensorDataset(*(tensor.float() for tensor in make_data().tensors))
    config = TrainingConfig(epochs=1, precision="fp16")
    if torch.cuda.is_available():
        assert math.isfinite(train(model, squared_error, data, config=config).epochs[0].loss)
    else:
        with pytest.raises(ValueError, match=r"precision='fp16' needs a GPU.*use precision='bf16' or precision='no'"):
            train(model, squared_error, data, config=config)


def test_nothing_is_printed_where_stderr_is_no_terminal(tmp_path, capfd) -> None:
    train(make_model(), squared_error, make_data(), config=TrainingConfig(epochs=1), out=tmp_path)
    assert capfd.readouterr() == ("", "")


# -- what goes wrong -----------------------------------------------------------------------------------------------


def test_a_loss_that_is_not_finite_stops_before_the_step(tmp_path) -> None:
    model, x = make_model(dropout=0.0), make_data().tensors[0].clone()
    bad = int(epoch_order(53, 0, 1)[3 * 8])  # in the 4th batch of the second epoch; never seen before in this data
    data, poisoned = make_data(), torch.zeros(53, 1, dtype=torch.float64)

    def loss(model: nn.Module, batch: tuple) -> torch.Tensor:
        return squared_error(model, batch[:2]) + batch[2].sum()

    def poison(model: nn.Module, step: int) -> None:
        if step == 7:
            poisoned[bad] = math.nan

    seen = {}
    keep = lambda model, step: seen.update({step: [p.detach().clone() for p in model.parameters()]})  # noqa: E731
    config = TrainingConfig(epochs=2, batch_size=8, lr=0.25, checkpoint_every=2)
    with pytest.raises(DivergenceError, match=rf"step 11 is nan \(learning rate 0.25\).*lower lr.*{tmp_path}"):
        train(
            model,
            loss,
            TensorDataset(x, data.tensors[1], poisoned),
            config=config,
            out=tmp_path,
            callbacks=[poison, keep],
        )
    assert max(seen) == 10
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), seen[10], strict=True))
    state = json.loads(next(tmp_path.glob("checkpoint-*/state.json")).read_text())
    assert state["position"]["step"] == 10


def test_weights_that_are_not_finite_are_not_saved(tmp_path) -> None:
    def spoil(model: nn.Module, step: int) -> None:
        if step == 4:
            next(model.parameters()).data[0, 0] = math.inf

    config = TrainingConfig(epochs=2, batch_size=8, checkpoint_every=2)
    with pytest.raises(DivergenceError, match=r"no longer finite after step 4: 0\.weight"):
        train(make_model(), squared_error, make_data(), config=config, out=tmp_path, callbacks=[spoil])
    state = json.loads(next(tmp_path.glob("checkpoint-*/state.json")).read_text())
    assert state["position"]["step"] == 2


def test_a_checkpoint_is_promised_only_where_this_run_has_one(tmp_path) -> None:
    run = {"model": make_model(), "loss": squared_error, "data": make_data()}
    train(**run, config=TrainingConfig(epochs=1, batch_size=8), out=tmp_path)
    for resume, promised in ((False, False), (True, True)):
        config = TrainingConfig(epochs=2, batch_size=8)
        with pytest.raises(DivergenceError) as error:
            train(**run, config=config, out=tmp_path, resume=resume, validate=lambda _: math.inf)
        assert (f"The last good checkpoint stays in {tmp_path}" in str(error.value)) == promised


def test_a_validation_value_that_is_not_finite_stops() -> None:
    with pytest.raises(DivergenceError, match="validation value after step 7 is inf"):
        train(
            make_model(), squared_error, make_data(), config=TrainingConfig(batch_size=8), validate=lambda _: math.inf
        )


def fit(**changes):
    given = {"model": make_model(), "loss": squared_error, "data": make_data(), "config": TrainingConfig(epochs=1)}
    given |= changes
    return train(given.pop("model"), given.pop("loss"), given.pop("data"), **given)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": TensorDataset(torch.zeros(0, 5), torch.zeros(0, 1))}, "data is empty"),
        ({"model": make_model().requires_grad_(False)}, "no parameter that requires a gradient"),
        ({"loss": lambda model, batch: model(batch[0]).square()}, r"scalar tensor.*shape \(32, 1\).*mean over"),
        ({"loss": lambda model, batch: torch.zeros(())}, "depends on the model's parameters"),
        ({"loss": lambda model, batch: 1.0}, "got float"),
        ({"validate": lambda model: {"mse": 1.0}}, r'key "loss"; got keys \[\'mse\'\]'),
        ({"config": TrainingConfig(patience=2)}, "patience=2 needs `validate`"),
        ({"resume": True}, "resume=True needs `out`"),
    ],
)
def test_wrong_use_is_named(changes, message) -> None:
    with pytest.raises(ValueError, match=message):
        fit(**changes)


def test_mean_loss_as_validation_is_what_it_says() -> None:
    model, held_out = make_model(), make_data(20)
    history = fit(model=model, validate=lambda model: mean_loss(model, squared_error, held_out))
    assert history.best_value == mean_loss(model, squared_error, held_out)
