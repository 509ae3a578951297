"""Order and lag without labels: MDOP, averaged false neighbours, criteria."""

import math

import numpy as np
import pytest
from scipy.integrate import solve_ivp

from linmap.signals.acm import beta_statistic, mdop, select_order_lag
from linmap.signals.acm.afnn import cao_ratios, first_extremum
from linmap.signals.acm.mdop import false_neighbours, joined, theiler_window
from linmap.signals.acm.neighbours import first_minimum, nearest, self_mutual_information

rng = np.random.default_rng(0)


@pytest.fixture(scope="module")
def lorenz() -> np.ndarray:
    def flow(_: float, u: np.ndarray) -> list[float]:
        return [10 * (u[1] - u[0]), u[0] * (28 - u[2]) - u[1], u[0] * u[1] - 8 / 3 * u[2]]

    return solve_ivp(flow, (0, 40), [1.0, 1, 1], t_eval=np.arange(20, 40, 0.02), rtol=1e-9).y


def literal_beta(Y: np.ndarray, s: np.ndarray, max_delay: int, w: int) -> list[float]:
    """The definition, point by point."""
    n = len(Y) - max_delay
    values = []
    for tau in range(max_delay + 1):
        logarithms = []
        for j in range(n):
            far = [k for k in range(n) if abs(j - k) > w]
            distances = [float(np.linalg.norm(Y[j] - Y[k])) for k in far]
            k = far[int(np.argmin(distances))]
            logarithms.append(math.log10(abs(s[j + tau] - s[k + tau]) / min(distances)))
        values.append(sum(logarithms) / n)
    return values


def test_beta_is_its_definition() -> None:
    S = rng.standard_normal((2, 60))
    Y = joined(S[0][:, None], S[1], 3)
    beta = beta_statistic(Y, S, 10, 2)
    for channel in range(2):
        np.testing.assert_allclose(beta[channel], literal_beta(Y, S[channel], 10, 2), atol=1e-12)


def test_a_channel_is_not_torn_from_itself() -> None:
    S = rng.standard_normal((2, 200))
    assert beta_statistic(S[0][:, None], S, 20, 5)[0, 0] == 0


def test_coinciding_points_do_not_count() -> None:
    coarse = np.round(rng.standard_normal((2, 300)) * 2)
    beta = beta_statistic(coarse[0][:, None], coarse, 20, 3)
    assert not np.isnan(beta).any()
    assert mdop(coarse).order < 50


def test_neighbours_keep_the_theiler_window() -> None:
    points = rng.standard_normal((1500, 2))
    index, distance = nearest(points, 7)
    assert (np.abs(index - np.arange(1500)) > 7).all()
    for j in (0, 700, 1499):
        far = np.abs(np.arange(1500) - j) > 7
        assert distance[j] == pytest.approx(np.linalg.norm(points[far] - points[j], axis=1).min())


def test_false_neighbours_are_those_that_part() -> None:
    assert false_neighbours(np.array([0.1, 0.2, 0.4, 0.9]), np.array([0.3, 0.3, 0.5, 9.0])) == pytest.approx(1 / 3)
    assert false_neighbours(np.array([0.1, 0.2]), np.array([0.1, 0.2])) == 1


@pytest.mark.parametrize(("period", "n_times"), [(71.3, 640), (64 * math.sqrt(2), 1000)])
def test_a_clean_sine_has_two_coordinates_a_quarter_period_apart(period: float, n_times: int) -> None:
    found = mdop(np.sin(2 * np.pi * np.arange(n_times) / period)[None])
    assert found.order == 2
    assert abs(found.delays[1] - period / 4) < 1.5
    assert found.lag == round(found.delays[1] / 2)


def test_lorenz_takes_a_few_coordinates(lorenz: np.ndarray) -> None:
    found = mdop(lorenz[:1])
    assert 3 <= found.order <= 5
    shares = found.false_neighbours
    assert len(shares) == found.order
    assert shares[-1] <= 0.05 or shares[-1] > shares[-2]


def test_mutual_information_is_that_of_the_joint_counts() -> None:
    n = 4096
    independent = self_mutual_information(rng.standard_normal(n), 20)
    assert independent.max() < 0.15
    wave = self_mutual_information(np.sin(2 * np.pi * np.arange(n) / 60.7), 40)
    assert wave[29] > wave[14] + 1  # half a period tells all, a quarter least


def test_the_first_minimum_is_where_the_next_value_is_not_smaller() -> None:
    assert first_minimum([3, 2, 1, 1, 0]) == 2
    assert first_minimum([3, 2, 1]) == 2
    assert first_extremum(np.array([0.1, 0.5, 0.3, 0.9]), 1) == 1
    assert first_extremum(np.array([3.0, 1.0, 2.0, np.nan]), -1) == 1


def test_cao_saturates_at_the_dimension(lorenz: np.ndarray) -> None:
    ratios = cao_ratios(lorenz[0], 8, 6)
    assert ratios[0] < 0.6
    assert ratios[3] > 0.85
    assert np.isnan(cao_ratios(lorenz[0][:100], 8, 12)[-1])


@pytest.mark.parametrize("lag", [1, 3])
def test_cao_ratios_are_those_of_his_paper_written_out(lag: int) -> None:
    """E(d) = 1 / (N - d lag) sum_i ||y_i(d + 1) - y_n(d + 1)|| / ||y_i(d) - y_n(d)||, n the neighbour of i."""
    x = np.random.default_rng(lag).standard_normal(60)
    means = []
    for d in range(1, 6):
        y = np.stack([x[i : i + d * lag + 1 : lag] for i in range(len(x) - d * lag)])  # a coordinate more than d
        growth = []
        for i in range(len(y)):
            near = min((k for k in range(len(y)) if k != i), key=lambda k: np.linalg.norm((y[i] - y[k])[:d]))
            growth.append(np.linalg.norm(y[i] - y[near]) / np.linalg.norm((y[i] - y[near])[:d]))
        means.append(np.mean(growth))
    np.testing.assert_allclose(cao_ratios(x, lag, 4), np.divide(means[1:], means[:-1]))


def test_the_means_over_epochs_are_rounded(lorenz: np.ndarray) -> None:
    X = np.stack([lorenz[:, start : start + 300] for start in (0, 200, 400)])
    found = select_order_lag(X, theiler=10)
    each = [mdop(epoch, theiler=10) for epoch in X]
    assert found.per_epoch.tolist() == [[e.order, e.lag] for e in each]
    assert found[:2] == tuple(round(float(mean)) for mean in found.per_epoch.mean(0))
    drawn = select_order_lag(X, theiler=10, n_epochs=1, random_state=0)
    assert len(drawn.per_epoch) == 1
    for method in ("afnn", "aic", "aicc", "bic", "hq"):
        other = select_order_lag(X, method)
        assert other.order >= 1
        assert other.lag >= 1
        assert other.per_epoch.shape == (3, 2)


def test_lag_zero_is_order_one_with_a_warning() -> None:
    X = np.stack([rng.standard_normal((3, 150))])
    with pytest.warns(UserWarning, match="lag 0, which delays nothing"):
        assert select_order_lag(X, max_delay=0, theiler=5)[:2] == (1, 1)


@pytest.mark.usefixtures("annotations_unchecked")
@pytest.mark.parametrize(
    ("X", "options", "message"),
    [
        (np.zeros((1, 2, 100)), {}, "channel 0 is constant"),
        (rng.standard_normal((1, 2, 30)), {"theiler": 10}, "too short for delays up to 15 and a Theiler window of 10"),
        (rng.standard_normal((1, 2, 9)), {"method": "afnn"}, "too short for averaged false neighbours"),
        (rng.standard_normal((1, 2, 30)), {"method": "aic", "orders": [40]}, "none of the orders"),
        (rng.standard_normal((1, 2, 30)), {"method": "fnn"}, "method must be one of"),
        (rng.standard_normal((2, 2, 30)), {"n_epochs": 0}, "n_epochs"),
    ],
)
def test_bad_input_is_explained(X: np.ndarray, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        select_order_lag(X, **options)


def test_the_theiler_window_fits_short_epochs() -> None:
    assert 1 <= theiler_window(rng.standard_normal((2, 80))) <= 20
