"""The augmented covariance and vector autoregressive models: closed forms, least squares, statsmodels."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.linalg import solve_discrete_lyapunov

from linmap.geometry.delays import embed
from linmap.signals.acm import (
    AugmentedCovariance,
    block_toeplitz,
    information_criteria,
    lagged_covariances,
    yule_walker,
)
from linmap.signals.acm.autoregression import regress_newest
from signals.acm.paths import var1
from typed import other

A = np.array([[0.6, 0.2, 0.0], [-0.1, 0.5, 0.2], [0.0, -0.3, 0.4]])
S = np.array([[1.0, 0.3, 0.0], [0.3, 1.0, -0.2], [0.0, -0.2, 0.5]])
GAMMA_0 = solve_discrete_lyapunov(A, S)


def exact(max_lag: int) -> np.ndarray:
    return np.stack([np.linalg.matrix_power(A, k) @ GAMMA_0 for k in range(max_lag + 1)])


@pytest.mark.parametrize("toeplitz", [False, True])
def test_the_covariance_of_a_long_path_holds_the_lagged_covariances(toeplitz: bool) -> None:
    path = var1(A, S, 100_000)
    measured = AugmentedCovariance(3, 2, estimator="cov", toeplitz=toeplitz).transform(path[None])[0]
    expected = block_toeplitz(exact(4), 3, 2)
    assert np.abs(measured - expected).max() < 0.03 * np.abs(expected).max()


@pytest.mark.parametrize("method", ["covariance", "toeplitz"])
def test_yule_walker_returns_the_model(method: Any) -> None:
    found = yule_walker(var1(A, S, 100_000), method=method)
    np.testing.assert_allclose(found.A[0], A, atol=0.02)
    np.testing.assert_allclose(found.S, S, atol=0.02)


@given(st.integers(1, 4), st.integers(1, 3))
def test_yule_walker_is_least_squares_on_the_embedded_signal(order: int, lag: int) -> None:
    path = var1(A, S, 400)
    found = yule_walker(path, order, lag)
    z = embed(path, order + 1, lag, drop="tight")
    past, now = z[:-3], z[-3:]
    latest_first = past.reshape(order, 3, -1)[::-1].reshape(3 * order, -1)
    design = np.vstack([latest_first, np.ones(z.shape[-1])])
    weights = np.linalg.lstsq(design.T, now.T, rcond=None)[0].T
    np.testing.assert_allclose(np.concatenate(found.A, 1), weights[:, :-1], atol=1e-10)
    residual = now - weights @ design
    np.testing.assert_allclose(found.S, residual @ residual.T / z.shape[-1], atol=1e-10)


def test_yule_walker_agrees_with_statsmodels() -> None:
    VAR = pytest.importorskip("statsmodels.tsa.api").VAR
    path = var1(A, S, 2000)
    theirs = VAR(path.T).fit(2, trend="c")
    found = yule_walker(path, 2)
    np.testing.assert_allclose(found.A, theirs.coefs, atol=1e-8)
    np.testing.assert_allclose(found.S, theirs.sigma_u_mle, atol=1e-8)
    np.testing.assert_allclose(yule_walker(path, 2, method="toeplitz").A, theirs.coefs, atol=1e-2)


@given(st.integers(1, 5))
def test_determinants_of_successive_orders_have_the_innovation_as_their_ratio(order: int) -> None:
    gamma = lagged_covariances(var1(A, S, 500)[None], order)[0]
    smaller, larger = (np.linalg.slogdet(block_toeplitz(gamma, o))[1] for o in (order, order + 1))
    innovation = regress_newest(block_toeplitz(gamma, order + 1), order).S
    assert larger - smaller == pytest.approx(np.linalg.slogdet(innovation)[1], abs=1e-8)


@given(st.integers(1, 6), st.integers(1, 4), st.integers(0, 100))
def test_toeplitz_matrices_of_sums_over_all_samples_are_positive_definite(order: int, lag: int, seed: int) -> None:
    x = np.random.default_rng(seed).standard_normal((1, 2, 30))
    G = block_toeplitz(lagged_covariances(x, order * lag)[0], order, lag)
    assert np.linalg.eigvalsh(G).min() > 0
    for p in range(order - 1):
        np.testing.assert_array_equal(G[2 * p : 2 * p + 2, 2 * p : 2 * p + 2], G[:2, :2])


def test_criteria_find_the_order() -> None:
    A1, A2 = np.array([[0.4, 0.2], [0.0, 0.3]]), np.array([[-0.4, 0.0], [0.2, -0.4]])
    companion, noise = np.block([[A1, A2], [np.eye(2), np.zeros((2, 2))]]), np.diag([1, 1, 1e-9, 1e-9])
    X = np.stack([var1(companion, noise, 500, seed)[:2] for seed in range(10)])
    for criterion in ("aic", "aicc", "bic", "hq"):
        values = information_criteria(X, (1, 2, 3, 4), (1, 2), criterion).mean(0)
        assert np.unravel_index(values.argmin(), values.shape) == (1, 0)
    first = information_criteria(X, (1,), criterion="bic")[0, 0, 0]
    gamma = lagged_covariances(X[:1], 1)[0]
    innovation = gamma[0] - gamma[1] @ np.linalg.solve(gamma[0], gamma[1].T)
    assert first == pytest.approx(np.log(np.linalg.det(innovation)) + 4 * np.log(500) / 500)


@pytest.mark.usefixtures("annotations_unchecked")
def test_bad_input_is_explained() -> None:
    x = np.random.default_rng(0).standard_normal((2, 30))
    with pytest.raises(ValueError, match="singular: channels"):
        yule_walker(np.zeros((2, 30)))
    with pytest.raises(ValueError, match="T = 30"):
        yule_walker(x, 5, 6)
    with pytest.raises(ValueError, match="'covariance' or 'toeplitz'"):
        yule_walker(x, method=other("burg"))
    with pytest.raises(ValueError, match="Gamma up to 4, got 3"):
        block_toeplitz(exact(3), 3, 2)
