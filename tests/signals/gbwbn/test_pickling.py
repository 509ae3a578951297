"""What was fitted survives pickle, joblib, torch.save and other processes, bit for bit."""

import copy
import io
import pickle
from collections.abc import Callable
from typing import Any

import joblib
import numpy as np
import pytest
import torch
from sklearn.model_selection import cross_validate
from torch import nn

from geometry.spd.matrices import spd
from linmap.signals.gbwbn import GBWBatchNorm, SPDNet, SPDNetClassifier
from typed import gradient_of

pytestmark = pytest.mark.filterwarnings("ignore:GBWBatchNorm")
X, Y = spd(12, n=5).numpy(), np.arange(12) % 2


def by_joblib(value):
    buffer = io.BytesIO()
    joblib.dump(value, buffer)
    buffer.seek(0)
    return joblib.load(buffer)


def by_torch(value):
    buffer = io.BytesIO()
    torch.save(value, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=False)


WAYS = {
    "pickle": lambda value: pickle.loads(pickle.dumps(value)),
    "joblib": by_joblib,
    "torch": by_torch,
    "deepcopy": copy.deepcopy,
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("norm", ["gbw", "aim", "lem", None])
def test_a_fitted_classifier_answers_the_same_and_can_be_trained_on(way: str, norm) -> None:
    fitted = SPDNetClassifier((3,), norm, epochs=1).fit(X, Y)
    again = WAYS[way](fitted)
    assert np.array_equal(again.predict_proba(X), fitted.predict_proba(X))
    assert again.get_params() == fitted.get_params()
    again.fit(X, Y)
    assert np.array_equal(again.predict_proba(X), fitted.predict_proba(X))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    "make",
    [
        lambda: GBWBatchNorm(4),
        lambda: GBWBatchNorm(4, parametrization="logm"),
        lambda: SPDNet((4, 3, 2), 2),
    ],
    ids=["manifold", "logm", "network"],
)
def test_modules_keep_their_parameters_and_go_on_learning(way: str, make: Callable[[], nn.Module]) -> None:
    module = make()
    again = WAYS[way](module)
    state, kept = module.state_dict(), again.state_dict()
    assert state.keys() == kept.keys()
    assert all(torch.equal(state[name], kept[name]) for name in state)
    gradients = []
    for one in (module, again):
        (one(spd(8)).sum() if isinstance(one, SPDNet) else (one(spd(8)) * spd(8, seed=1)).sum()).backward()
        gradients.append([p.grad for p in one.parameters()])
        assert any(bool(gradient_of(p).any()) for p in one.parameters())
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


RAISE: Any = "raise"  # scikit-learn declares a float


def test_cross_validation_returns_its_estimators() -> None:
    found = cross_validate(SPDNetClassifier((3,), epochs=1), X, Y, cv=2, return_estimator=True, error_score=RAISE)
    assert all(pickle.loads(pickle.dumps(one)).predict(X).shape == (12,) for one in found["estimator"])


def numbers() -> np.ndarray:
    """The state of NumPy's global generator."""
    state: Any = np.random.get_state()  # noqa: NPY002
    return state[1]


def test_global_generators_are_neither_read_nor_set() -> None:
    answers = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        np.random.seed(seed)  # noqa: NPY002
        before = torch.get_rng_state(), numbers().copy()
        fitted = SPDNetClassifier((3,), epochs=1).fit(X, Y)
        assert torch.equal(torch.get_rng_state(), before[0])
        assert np.array_equal(numbers(), before[1])
        answers.append(fitted.predict_proba(X))
    assert np.array_equal(*answers)
