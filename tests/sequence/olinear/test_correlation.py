"""The correlation of the steps: the recursion against the lagged windows, and processes whose answer is known."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from linmap.data.timeseries import load_time_series
from linmap.sequence.olinear import temporal_correlation, variate_correlation
from typed import other


def lagged(x: np.ndarray, t: int) -> np.ndarray:
    return np.stack([x[i : len(x) - t + 1 + i] for i in range(t)])


def dense(X: np.ndarray, t: int) -> np.ndarray:
    return np.mean([np.atleast_2d(np.corrcoef(lagged(x, t))) for x in X.T], axis=0)


def dense_official(X: np.ndarray, t: int) -> np.ndarray:
    covariances = [np.atleast_2d(np.cov(lagged(x, t))) for x in X.T]
    return np.mean([covariance / np.diag(covariance) for covariance in covariances], axis=0)


@given(
    n=st.integers(4, 60), t=st.integers(1, 12), N=st.integers(1, 3), level=st.floats(-1e3, 1e3), seed=st.integers(0, 99)
)
def test_recursion_equals_the_lagged_windows(n: int, t: int, N: int, level: float, seed: int) -> None:
    n = max(n, t + 2)
    X = np.random.default_rng(seed).standard_normal((n, N)).cumsum(0) + level
    np.testing.assert_allclose(temporal_correlation(X, t), dense(X, t), atol=1e-10)
    if min(np.var(lagged(x, t), axis=1, ddof=1).min() for x in X.T) > 1e-3:
        np.testing.assert_allclose(temporal_correlation(X, t, corr="official"), dense_official(X, t), atol=1e-10)


@pytest.mark.parametrize("t", [96, 336])
def test_recursion_equals_the_lagged_windows_on_etth1(t: int) -> None:
    X = load_time_series("etth1").values[:8640]
    R = temporal_correlation(X, t)
    np.testing.assert_allclose(R, dense(X, t), atol=1e-10)
    assert np.array_equal(R, R.T)


@given(seed=st.integers(0, 99))
def test_units_do_not_matter(seed: int) -> None:
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((80, 3)).cumsum(0)
    scale, shift = np.exp(rng.uniform(-20, 20, 3)), rng.standard_normal(3) * 10
    np.testing.assert_allclose(
        temporal_correlation(X * scale + shift * scale, 7), temporal_correlation(X, 7), atol=1e-9
    )


def test_an_autoregression_correlates_as_a_power_of_the_lag() -> None:
    rho, rng = 0.7, np.random.default_rng(0)
    noise, x = rng.standard_normal(200_000), np.zeros(200_000)
    for i in range(1, len(x)):
        x[i] = rho * x[i - 1] + noise[i]
    lag = np.abs(np.subtract.outer(np.arange(8), np.arange(8)))
    np.testing.assert_allclose(temporal_correlation(x, 8), rho**lag, atol=0.02)
    np.testing.assert_allclose(temporal_correlation(noise, 8), np.eye(8), atol=0.02)


def test_a_sinusoid_has_two_equal_eigenvalues() -> None:
    t = 24
    eigenvalues = np.linalg.eigvalsh(temporal_correlation(np.sin(np.arange(24_000) * 2 * np.pi / 24), t))
    np.testing.assert_allclose(eigenvalues[-2:], t / 2, rtol=1e-2)
    np.testing.assert_allclose(eigenvalues[:-2], 0, atol=1e-6)


def test_official_keeps_its_asymmetry() -> None:
    R = temporal_correlation(load_time_series("etth1").values[:10452], 96, corr="official")
    assert np.abs(R - R.T).max() == pytest.approx(3e-3, abs=1e-3)
    np.testing.assert_allclose(np.diag(R), 1, atol=1e-12)


def test_each_variate_counts_once_whatever_its_scale() -> None:
    rng = np.random.default_rng(0)
    smooth, rough = rng.standard_normal(300).cumsum() * 1e6, rng.standard_normal(300)
    both = temporal_correlation(np.stack([smooth, rough], 1), 5)
    np.testing.assert_allclose(both, (temporal_correlation(smooth, 5) + temporal_correlation(rough, 5)) / 2, atol=1e-12)


def test_too_few_rows() -> None:
    with pytest.raises(ValueError, match="need at least 12 training rows to estimate a 10-step correlation, got 11"):
        temporal_correlation(np.random.default_rng(0).standard_normal((11, 2)), 10)
    temporal_correlation(np.random.default_rng(0).standard_normal((12, 2)), 10)


def test_missing_values_name_the_columns_and_their_counts() -> None:
    table = pd.DataFrame({"a": [1.0, np.nan, 3, 4, 5, np.inf], "b": np.arange(6.0)})
    with pytest.raises(ValueError, match=r"NaN or infinite values in a \(2\)"):
        temporal_correlation(table, 2)


def test_constant_variates_are_left_out_with_a_warning() -> None:
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"flat": np.full(50, 0.1), "tiny": rng.standard_normal(50) * 1e-9})
    with pytest.warns(UserWarning, match="left out of the correlation: flat"):
        R = temporal_correlation(table, 4)
    np.testing.assert_allclose(R, temporal_correlation(table["tiny"], 4), atol=1e-12)
    with pytest.raises(ValueError, match="all 1 variates are constant"):
        temporal_correlation(table["flat"], 4)


def test_official_drops_variates_of_tiny_units() -> None:
    X = np.random.default_rng(0).standard_normal((50, 2)) * [1.0, 1e-3]
    with pytest.warns(UserWarning, match="variate 1"):
        R = temporal_correlation(X, 3, corr="official")
    np.testing.assert_allclose(R, dense_official(X[:, :1], 3), atol=1e-12)


def test_unknown_correlation_is_refused() -> None:
    with pytest.raises(ValueError, match="corr must be one of 'pearson', 'official', got 'spearman'"):
        temporal_correlation(np.ones((9, 1)), 2, corr=other("spearman"))


@given(seed=st.integers(0, 99))
def test_variates_correlate_as_numpy_says(seed: int) -> None:
    X = np.random.default_rng(seed).standard_normal((30, 4)).cumsum(0) + 100
    np.testing.assert_allclose(variate_correlation(X), np.corrcoef(X.T), atol=1e-12)


def test_a_constant_variate_correlates_with_nothing() -> None:
    X = np.stack([np.arange(9.0), np.full(9, 0.1)], 1)
    np.testing.assert_array_equal(variate_correlation(X), np.eye(2))
