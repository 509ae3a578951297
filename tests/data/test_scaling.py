"""Standardising is free of unit and offset."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from linmap.data.scaling import Standardiser


def rows(seed: int, n: int = 50) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n, 3)) * [1, 20, 0.3] + [0, 5, -1]


def standardised(x: np.ndarray) -> np.ndarray:
    return Standardiser.fit(x).standardise(x)


@given(seed=st.integers(0, 99), power=st.integers(-900, 900))
def test_powers_of_two_change_nothing(seed: int, power: int) -> None:
    np.testing.assert_array_equal(standardised(rows(seed) * 2.0**power), standardised(rows(seed)))


@given(seed=st.integers(0, 99), exponent=st.floats(-12, 12), ratio=st.floats(0, 12), sign=st.sampled_from([-1, 1]))
def test_units_and_offsets_change_nothing_but_rounding(seed: int, exponent: float, ratio: float, sign: int) -> None:
    x, a = rows(seed), sign * 10.0**exponent
    shifted = a * x + abs(a) * 10.0**ratio
    digits = max(np.spacing(np.abs(shifted).max()) / (abs(a) * x.std(0).min()), 1e-15)
    np.testing.assert_allclose(standardised(shifted), sign * standardised(x), rtol=0, atol=20 * digits)


@pytest.mark.parametrize("x", [np.full((9, 1), 0.1), np.full((10_001, 1), -3.3e-12), 1e300 + np.zeros((5, 1))])
def test_a_constant_is_its_own_scale(x: np.ndarray) -> None:
    found = Standardiser.fit(x)
    np.testing.assert_array_equal(found.mean, x[0])
    np.testing.assert_array_equal(found.scale, np.abs(x[0]))
    noisy = x.copy()
    noisy[::2] = np.nextafter(noisy[::2], np.inf)
    np.testing.assert_allclose(Standardiser.fit(noisy).scale, np.abs(x[0]))


def test_zeros_have_the_scale_one() -> None:
    np.testing.assert_array_equal(Standardiser.fit(np.zeros((4, 2))).scale, 1.0)


@pytest.mark.parametrize(("offset", "deviation"), [(6_378_137, 2.0), (1e7, 1.0), (52.0, 1e-5), (1e9, 500.0)])
def test_what_float64_resolves_is_no_constant(offset: float, deviation: float) -> None:
    wave = np.sqrt(2) * np.sin(2 * np.pi * np.arange(160) / 16)[:, None]
    found = Standardiser.fit(offset + deviation * wave)
    np.testing.assert_allclose(found.scale, deviation, rtol=1e-6)
    np.testing.assert_allclose(found.mean, offset, rtol=1e-12)


def test_float32_rows_are_counted_in_float64() -> None:
    x = (rows(0) + 1e4).astype(np.float32)
    np.testing.assert_array_equal(standardised(x), standardised(x.astype(np.float64)))


@given(seed=st.integers(0, 99))
def test_restoring_undoes_standardising(seed: int) -> None:
    x = rows(seed).reshape(5, 10, 3)
    found = Standardiser.fit(x)
    np.testing.assert_allclose(found.restore(found.standardise(x)), x)
    np.testing.assert_allclose(found.mean, x.mean((0, 1)))
    np.testing.assert_allclose(found.scale, x.std((0, 1)))


@pytest.mark.parametrize("x", [np.zeros((0, 2)), np.array([[np.nan]]), np.array([[np.inf], [1.0]])])
def test_rows_that_have_no_statistics_are_refused(x: np.ndarray) -> None:
    with pytest.raises(ValueError, match="rows must hold finite numbers"):
        Standardiser.fit(x)


@pytest.mark.parametrize("name", ["mean", "scale"])
@pytest.mark.parametrize("wrong", [[1j], [float("nan")], [float("inf")], [1.0, 2.0], [[1.0]], [], [2]], ids=repr)
def test_a_saved_scaler_is_numbers_for_each_channel(name: str, wrong: list) -> None:
    kept = {"scaler.mean": torch.zeros(1).double(), "scaler.scale": torch.ones(1).double(), "other": torch.zeros(1)}
    assert Standardiser.take(dict(kept)).scale == [1]
    with pytest.raises(ValueError, match="its scaler"):
        Standardiser.take(kept | {f"scaler.{name}": torch.tensor(wrong)})
    with pytest.raises(ValueError, match="no positive scales"):
        Standardiser.take(kept | {"scaler.scale": torch.zeros(1).double()})
