"""Estimators neither read nor change the state that a whole program shares: generators, the default type, gradients."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.base import clone

from linmap.sequence.olinear import OLinearForecaster
from linmap.sequence.s4 import S4Classifier, S4Regressor
from linmap.signals.acm import ACMClassifier
from linmap.signals.gbwbn import SPDNetClassifier

RNG = np.random.default_rng(0)
TABLE = np.cumsum(RNG.standard_normal((80, 2)), 0)
SERIES, Y = RNG.standard_normal((16, 30, 2)), np.arange(16) % 2
EPOCHS = SERIES.mT * (1 + Y[:, None, None])
MATRICES = EPOCHS @ EPOCHS.mT
S4 = {"n_layers": 1, "d_model": 4, "d_state": 4, "epochs": 1, "dropout": 0.1}
ESTIMATORS: dict[str, tuple[Any, Callable[[Any], Any]]] = {
    "OLinear": (
        OLinearForecaster(h=2, lookback=6, d_model=8, embed=2, layers=1, epochs=1, dropout=0.1, calibration=0.1),
        lambda m: m.fit(TABLE).predict(TABLE),
    ),
    "S4": (S4Classifier(**S4), lambda m: m.fit(SERIES, Y).predict_proba(SERIES)),
    "S4 DPLR": (S4Regressor(layer="s4", **S4), lambda m: m.fit(SERIES, SERIES.std((1, 2))).predict(SERIES)),
    "ACM": (ACMClassifier((2, 1)), lambda m: m.fit(EPOCHS, Y).predict_proba(EPOCHS)),
    "ACM grid": (ACMClassifier(orders=(1, 2), lags=(1,)), lambda m: m.fit(EPOCHS, Y).decision_function(EPOCHS)),
    "SPDNet": (SPDNetClassifier((2,), epochs=1), lambda m: m.fit(MATRICES, Y).predict_proba(MATRICES)),
}
every = pytest.mark.parametrize(("estimator", "answer"), ESTIMATORS.values(), ids=ESTIMATORS)


@every
def test_global_generators_are_neither_read_nor_advanced(estimator: Any, answer: Callable) -> None:
    answers = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        np.random.seed(seed)  # noqa: NPY002
        answers.append(answer(clone(estimator)))
        drawn = float(torch.rand(())), float(np.random.rand())  # noqa: NPY002
        torch.manual_seed(seed)
        np.random.seed(seed)  # noqa: NPY002
        assert drawn == (float(torch.rand(())), float(np.random.rand()))  # noqa: NPY002
    assert np.array_equal(*answers)


@every
def test_answers_depend_neither_on_the_default_type_nor_on_gradients(estimator: Any, answer: Callable) -> None:
    expected = answer(clone(estimator))
    with torch.no_grad():
        assert np.array_equal(answer(clone(estimator)), expected)
    torch.set_default_dtype(torch.float64)
    try:
        assert np.array_equal(answer(clone(estimator)), expected)
    finally:
        torch.set_default_dtype(torch.float32)
