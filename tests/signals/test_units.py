"""Answers are free of the unit: to the last bit for powers of two, to rounding for any other factor."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from linmap.signals.acm import ACMClassifier, TangentSpaceSVM, select_order_lag
from linmap.signals.gbwbn import SPDNetClassifier
from signals.acm.paths import opposite_memories

pytestmark = pytest.mark.filterwarnings("ignore:GBWBatchNorm")
X, Y = opposite_memories(30, 60)
FEW = settings(max_examples=4)
powers = st.integers(-40, 40)  # of two: 1e-12 to 1e12
METHODS = ["mdop", "afnn", "aic", "bic"]


def covariances(X: np.ndarray) -> np.ndarray:
    return X @ X.mT / X.shape[-1]


@FEW
@given(powers)
@pytest.mark.parametrize("method", METHODS)
def test_order_and_lag_are_chosen_alike_in_every_unit(method: Any, power: int) -> None:
    found, again = (select_order_lag(a * X[:6, :, :40], method, max_delay=8) for a in (1.0, 2.0**power))
    assert np.array_equal(found.per_epoch, again.per_epoch)
    assert found[:2] == again[:2]


@FEW
@given(powers)
@pytest.mark.parametrize(
    "options",
    [
        {"method": (2, 1)},
        {"method": (2, 1), "classifier": "mdm"},
        {"orders": (1, 2), "lags": (1, 2), "inner_cv": 2},
        {"method": (2, 1), "estimator": "lwf"},
    ],
    ids=["svm", "mdm", "grid", "lwf"],
)
def test_classifiers_of_epochs_answer_alike_bit_for_bit(options: dict, power: int) -> None:
    one, other = (ACMClassifier(**options).fit(a * X, Y).predict_proba(a * X) for a in (1.0, 2.0**power))
    assert np.array_equal(one, other)


@FEW
@given(powers)
@pytest.mark.parametrize("front", ["matrices", "augmented"])
def test_networks_answer_alike_bit_for_bit(front: Any, power: int) -> None:
    samples = covariances(X) if front == "matrices" else X
    one, other = (
        SPDNetClassifier((2,), front=front, epochs=1).fit(data, Y).predict_proba(data)
        for data in (samples, 2.0**power * samples)
    )
    assert np.array_equal(one, other)


@pytest.mark.parametrize("a", [1e-12, 1e-6, 1e6, 1e12])
@pytest.mark.parametrize(
    ("make", "tolerance"),
    [
        (lambda: ACMClassifier((2, 1)), 1e-4),  # libsvm stops at 1e-3
        (lambda: ACMClassifier((2, 1), "mdm"), 1e-7),
        (lambda: SPDNetClassifier((2,), front="augmented", epochs=1), 1e-7),
    ],
    ids=["svm", "mdm", "network"],
)
def test_any_other_factor_changes_answers_by_rounding_alone(make: Callable, tolerance: float, a: float) -> None:
    one, other = (make().fit(b * X, Y) for b in (1.0, a))
    np.testing.assert_allclose(other.predict_proba(a * X), one.predict_proba(X), atol=tolerance)
    assert np.array_equal(other.predict(a * X), one.predict(X))


def test_matrices_in_a_tangent_space_have_no_unit() -> None:
    C = covariances(X)
    one, other = (TangentSpaceSVM().fit(a * C, Y).predict_proba(a * C) for a in (1.0, 2.0**-80))
    assert np.array_equal(one, other)


def test_single_precision_keeps_signals_on_a_large_offset() -> None:
    one, other = (
        SPDNetClassifier((2,), front="augmented", epochs=1, dtype="float32").fit(data, Y).predict_proba(data)
        for data in (X, X + 1e8)
    )
    np.testing.assert_allclose(other, one, atol=1e-3)
