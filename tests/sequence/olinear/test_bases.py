"""Bases that need no data."""

import numpy as np
import pytest
import pywt
from hypothesis import given
from hypothesis import strategies as st
from scipy import fft

from linmap.sequence.olinear import BASES, basis

NAMES = [*BASES, "db1", "db2", "db4", "sym8", "coif1", "random"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("length", [1, 2, 3, 8, 31, 96])
def test_bases_are_orthogonal(name: str, length: int) -> None:
    Q = basis(name, length)
    np.testing.assert_allclose(Q @ Q.T, np.eye(length), atol=1e-12)


@given(x=st.lists(st.floats(-9, 9), min_size=2, max_size=20))
def test_dct_coefficients_are_scipys(x: list[float]) -> None:
    np.testing.assert_allclose(basis("dct", len(x)) @ x, np.asarray(fft.dct(x, norm="ortho")), atol=1e-10)


def test_fourier_rows_are_cosines_and_sines() -> None:
    j = np.arange(12)
    Q = basis("fft", 12)
    np.testing.assert_allclose(Q[3], np.cos(2 * np.pi * 2 * j / 12) / np.sqrt(6), atol=1e-12)
    np.testing.assert_allclose(Q[4], np.sin(2 * np.pi * 2 * j / 12) / np.sqrt(6), atol=1e-12)
    np.testing.assert_allclose(Q[11], (-1.0) ** j / np.sqrt(12), atol=1e-12)


def test_haar_of_four_steps() -> None:
    half = 1 / np.sqrt(2)
    expected = [[0.5, 0.5, 0.5, 0.5], [0.5, 0.5, -0.5, -0.5], [half, -half, 0, 0], [0, 0, half, -half]]
    np.testing.assert_allclose(basis("haar", 4), expected, atol=1e-12)


@pytest.mark.parametrize("length", [1, 2, 8, 64])
def test_haar_is_the_first_daubechies_wavelet_where_blocks_halve(length: int) -> None:
    np.testing.assert_allclose(basis("haar", length), basis("db1", length), atol=1e-12)


@pytest.mark.parametrize(("name", "length", "level"), [("db1", 64, 6), ("db2", 96, 5), ("db4", 96, 4)])
@pytest.mark.filterwarnings("ignore:Level value")  # which speaks of boundaries; these are periodic
def test_wavelet_coefficients_are_those_of_the_library(name: str, length: int, level: int) -> None:
    x = np.random.default_rng(0).standard_normal(length)  # until the coarse part is shorter than the filter
    expected = np.concatenate(pywt.wavedec(x, name, mode="periodization", level=level))
    np.testing.assert_allclose(basis(name, length) @ x, expected, atol=1e-10)


@pytest.mark.parametrize("degree", [0, 1, 5])
def test_legendre_rows_hold_the_polynomials(degree: int) -> None:
    values = np.linspace(-1, 1, 40) ** degree
    coefficients = basis("legendre", 40) @ values
    np.testing.assert_allclose(coefficients[degree + 1 :], 0, atol=1e-10)
    assert abs(coefficients[degree]) > 1e-3


def test_the_polynomial_families_differ_by_their_weight() -> None:
    first = {name: basis(name, 50)[0] for name in ("legendre", "chebyshev", "laguerre")}
    assert np.ptp(first["legendre"]) < 1e-12
    assert first["chebyshev"][0] > first["chebyshev"][25] < first["chebyshev"][-1]
    assert np.all(np.diff(first["laguerre"]) > 0)  # the present counts most


def test_random_is_its_seeds() -> None:
    np.testing.assert_array_equal(basis("random", 5, seed=1), basis("random", 5, seed=1))
    assert np.abs(basis("random", 5, seed=1) - basis("random", 5, seed=2)).max() > 0.1


def test_wrong_names_and_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="no basis 'wavelet'; choose from identity"):
        basis("wavelet", 4)
    with pytest.raises(ValueError, match="PyWavelets has no wavelet 'db99'; it has coif1"):
        basis("db99", 4)
    with pytest.raises(ValueError, match="length must be a positive number"):
        basis("dct", 0)
