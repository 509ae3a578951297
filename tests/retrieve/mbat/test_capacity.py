import numpy as np
import pytest
import scipy.integrate
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from linmap.retrieve.mbat import capacity, dimension_for
from linmap.retrieve.mbat.capacity import smallest_significant_z


@pytest.mark.parametrize(
    ("arguments", "probability"),
    [((512, 30, 100), 0.934), ((1024, 60, 1000), 0.80), ((2048, 60, 1000), 0.993), ((2048, 120, 1000), 0.80)],
)
def test_known_capacities(arguments, probability) -> None:
    assert capacity(*arguments) == pytest.approx(probability, abs=2.5e-3)


@pytest.mark.parametrize("arguments", [(64, 5, 2), (512, 30, 100), (2048, 120, 1000), (300, 1, 50), (100, 900, 10**5)])
def test_integral_to_a_millionth(arguments) -> None:
    D, L, N = arguments
    s0, s1 = np.sqrt((L - 1) / D), np.sqrt(L / D)

    def integrand(z: float) -> float:
        return scipy.stats.norm.pdf(z) * scipy.stats.norm.cdf((1 + s0 * z) / s1) ** (N - 1)

    exact, _ = scipy.integrate.quad(integrand, -12, 12, points=[-2, 0, 2, 4], epsabs=1e-10, limit=500)
    assert capacity(D, L, N) == pytest.approx(exact, abs=1e-6)


def test_agrees_with_a_simulation_of_random_leaves() -> None:
    D, L, N, trials = 512, 30, 100, 400
    rng = np.random.default_rng(0)
    right = 0
    for _ in range(trials):
        codes = rng.choice([-1.0, 1.0], (N, D))
        vector = codes[0] + rng.choice([-1.0, 1.0], (L - 1, D)).sum(0)
        right += np.argmax(codes @ vector) == 0
    p = capacity(D, L, N)
    assert abs(right / trials - p) < 3 * np.sqrt(p * (1 - p) / trials)


@pytest.mark.parametrize(("leaves", "dim"), [(10, 248), (30, 763), (100, 2600), (300, 7700), (1000, 26_000)])
def test_dimension_for_99_percent(leaves: int, dim: int) -> None:
    found = dimension_for(leaves, 100, 0.99)
    assert found == pytest.approx(dim, rel=0.02)
    assert capacity(found, leaves, 100) >= 0.99 > capacity(found - 1, leaves, 100)


@given(dim=st.integers(30, 600), leaves=st.integers(2, 40), candidates=st.integers(2, 100))
def test_a_dimension_is_the_smallest_that_reaches_its_own_capacity(dim: int, leaves: int, candidates: int) -> None:
    reached = capacity(dim, leaves, candidates)
    if reached < 1 - 1e-9:  # where it still grows from one dimension to the next
        assert dimension_for(leaves, candidates, reached) == dim


def test_false_alarms_are_rare() -> None:
    rng = np.random.default_rng(0)
    best = rng.normal(size=(20_000, 50)).max(1)
    assert (best > smallest_significant_z(50)).mean() == pytest.approx(1e-3, abs=7e-4)


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(ValueError, match="leaves must be at least 1"):
        capacity(100, 0, 10)
    with pytest.raises(ValueError, match="probability must lie"):
        dimension_for(10, 10, 1.0)
