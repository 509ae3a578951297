"""A network with a private generator is drawn as from the global one, which it neither reads nor sets."""

import copy
import random
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from linmap.training import Dropout, TrainingConfig, private, train
from training.problem import make_data, newest, squared_error
from training.test_resume import Killed, stop_at, untimed


def network(dropout: type[nn.Module] = Dropout) -> nn.Module:
    layers = nn.Linear(5, 8), nn.BatchNorm1d(8), dropout(0.3), nn.Tanh(), nn.Linear(8, 1), dropout(0.0)
    return nn.Sequential(*layers).double()


def drawn() -> list[Tensor]:
    """What networks are initialised from, and the random operations of PyTorch that libraries call besides."""
    modules = (nn.Conv1d(3, 4, 5), nn.LSTM(3, 4), nn.MultiheadAttention(8, 2), nn.Embedding(4, 5))
    weights = [weight for module in modules for weight in module.parameters()]
    ones, like = torch.ones(9), torch.zeros(4, 4)
    initialised = nn.init.orthogonal_(like.clone()), nn.init.trunc_normal_(like.clone()), nn.init.sparse_(like, 0.5)
    uniform = torch.rand(3), torch.rand_like(ones), torch.randperm(7), torch.empty(3).exponential_()
    normal = (
        torch.randn(3, dtype=torch.complex64),
        torch.randn_like(ones),
        torch.normal(ones, ones),
        torch.normal(0.0, 1.0, (3,)),
    )
    integers = torch.randint(5, (4,)), torch.randint(2, 9, (4,)), torch.randint_like(ones, 9), torch.poisson(ones)
    choices = torch.bernoulli(ones / 2), torch.multinomial(ones, 3), F.dropout(ones), F.gumbel_softmax(ones)
    return [*weights, *initialised, *uniform, *normal, *integers, *choices]


def global_state() -> tuple:
    numpy = cast("dict[str, Any]", np.random.get_state(legacy=False))  # noqa: NPY002
    return torch.get_rng_state().tolist(), numpy["state"]["key"].tolist()


def trained(out=None, *, last: int = -1, resume: bool = False, seed: int = 3) -> nn.Module:
    with private(seed):
        model = network()
    config = TrainingConfig(epochs=3, batch_size=8, lr=0.01, seed=seed, checkpoint_every=2)
    how = {"out": out, "resume": resume, "callbacks": (stop_at(last),), "seed_globally": False}
    train(model, squared_error, make_data(), config=config, **how)
    return model


def assert_same_weights(a: nn.Module, b: nn.Module) -> None:
    assert all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def test_all_that_is_drawn_inside_is_what_the_global_generator_would_have_given() -> None:
    torch.manual_seed(7)
    expected = drawn()
    torch.manual_seed(1)
    before = global_state()
    with private(7):
        found = drawn()
    assert global_state() == before
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_given_generators_evaluation_mode_and_the_meta_device_are_left_as_they_are() -> None:
    with private(0):
        own = torch.rand(3, generator=torch.Generator().manual_seed(5))
        assert torch.equal(F.dropout(torch.ones(4), training=False), torch.ones(4))
        assert nn.Linear(3, 3, device="meta").weight.is_meta
    assert torch.equal(own, torch.rand(3, generator=torch.Generator().manual_seed(5)))


def test_training_leaves_the_global_generators_alone_and_does_not_depend_on_them() -> None:
    torch.manual_seed(11)
    before = global_state()
    first = trained()
    assert global_state() == before
    torch.rand(5)
    assert_same_weights(first, trained())
    assert any(not torch.equal(a, b) for a, b in zip(first.parameters(), trained(seed=4).parameters(), strict=True))


def test_private_training_is_what_the_global_generator_gave() -> None:
    torch.manual_seed(3)
    model = network(nn.Dropout)
    train(model, squared_error, make_data(), config=TrainingConfig(epochs=3, batch_size=8, lr=0.01, seed=3))
    assert_same_weights(model, trained())


def test_threads_do_not_disturb_each_other() -> None:
    expected = [trained(seed=seed) for seed in range(4)]
    with ThreadPoolExecutor(4) as pool:
        found = pool.map(lambda seed: trained(seed=seed), range(4))
        for a, b in zip(found, expected, strict=True):
            assert_same_weights(a, b)


@pytest.mark.parametrize("step", [1, 5, 10, 20])
def test_a_run_with_a_private_generator_resumes_bit_for_bit(tmp_path, step) -> None:
    whole = trained(tmp_path / "whole")
    with pytest.raises(Killed):
        trained(tmp_path / "killed", last=step)
    torch.rand(step)
    assert_same_weights(trained(tmp_path / "killed", resume=True), whole)
    ours, theirs = (newest(tmp_path / name) for name in ("killed", "whole"))
    assert untimed(ours / "state.json") == untimed(theirs / "state.json")
    assert (ours / "random.safetensors").read_bytes() == (theirs / "random.safetensors").read_bytes()


def test_a_run_that_was_seeded_globally_goes_on_with_its_draws(tmp_path) -> None:
    torch.manual_seed(3)
    model, config = network(nn.Dropout), TrainingConfig(epochs=3, batch_size=8, lr=0.01, seed=3, checkpoint_every=2)
    with pytest.raises(Killed):
        train(model, squared_error, make_data(), config=config, out=tmp_path, callbacks=(stop_at(5),))
    assert_same_weights(trained(tmp_path, resume=True), trained())


def test_a_private_run_is_not_resumed_with_global_generators(tmp_path) -> None:
    trained(tmp_path)
    config = TrainingConfig(epochs=3, batch_size=8, lr=0.01, seed=3)
    with pytest.raises(ValueError, match="seed_globally=False"):
        train(network(), squared_error, make_data(), config=config, out=tmp_path, resume=True)


def test_a_dropout_that_draws_globally_is_refused_by_name() -> None:
    with pytest.raises(TypeError, match=r"2 is a Dropout, which draws from PyTorch's global generator"):
        train(network(nn.Dropout), squared_error, make_data(), config=TrainingConfig(), seed_globally=False)


@pytest.mark.parametrize("p", [0.0, 0.4, 1.0])
def test_dropout_keeps_the_mean_and_drops_its_share(p) -> None:
    dropped, source = Dropout(p), torch.ones(20_000, dtype=torch.float64)
    y = dropped(source)
    assert float((y == 0).double().mean()) == pytest.approx(p, abs=0.02)
    assert set(y.unique().tolist()) <= {0.0, 1 / (1 - p) if p < 1 else 0.0}
    assert torch.equal(dropped.eval()(source), source)


def test_a_copy_of_a_network_holds_nothing_that_was_lent() -> None:
    copies: list[nn.Module] = []

    def keep(model: nn.Module, step: int) -> None:
        copies.append(copy.deepcopy(model))

    with private(0):
        model = network()
    config = TrainingConfig(epochs=1, max_steps=2)
    train(model, squared_error, make_data(), config=config, callbacks=(keep,), seed_globally=False)
    dropouts = [module for part in (*copies, model) for module in part.children() if isinstance(module, Dropout)]
    assert all(module.source is None for module in dropouts)


def test_pythons_generator_is_left_alone_too(monkeypatch) -> None:
    monkeypatch.setattr(random, "seed", lambda *_: pytest.fail("random.seed was called"))
    trained()
