"""What numbers a map takes, and that no unit of a matrix matters: laws over the cases of tests/maps/cases.py."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from linmap import maps
from maps.cases import CASES
from properties.test_map_laws import assert_near, every_map, every_map_found_from_its_matrix, over, vectors
from typed import present

ORTHOGONAL = (maps.Householder, maps.Exponential, maps.Cayley, maps.Permutation, maps.Identity)
OF_ONE_SIZE = (*ORTHOGONAL, maps.Rigid, maps.RowStochastic)  # of which a multiple is another structure
scaled_cases = over([c for c in CASES if c.from_matrix is not None and not isinstance(c(), OF_ONE_SIZE)])
fixed_cases = over([c for c in CASES if c.from_matrix is not None and isinstance(c(), OF_ONE_SIZE)])


# -- what goes in ----------------------------------------------------------------------------------------------------


@every_map
def test_integers_and_booleans_are_read_as_numbers_of_the_maps_dtype(case):
    for dtype in (torch.float32, torch.float64):
        map = case(dtype)
        for view in (map, map.T):
            n = view.in_features
            for kind in (torch.int64, torch.int8, torch.uint8, torch.bool):
                x = (torch.arange(2 * n).view(2, n) % 5 - (0 if kind in (torch.uint8, torch.bool) else 2)).to(kind)
                for whole in (x, x[0]):
                    y = view(whole)
                    assert y.dtype == view.dtype
                    assert torch.equal(y, view(whole.to(view.dtype)))


@every_map
def test_complex_numbers_keep_both_parts(case):
    map = case()
    x = torch.complex(*torch.randn(2, 3, map.in_features, dtype=torch.float64))
    for whole in (x, x[0]):
        assert_near(map(whole), whole @ map.matrix().mT.to(whole.dtype))
    y = torch.complex(*torch.randn(2, 3, map.out_features, dtype=torch.float64))
    assert_near(map.T(y), y @ map.matrix().to(y.dtype))


@every_map
def test_real_numbers_go_into_a_complex_map(case):
    map = case()
    x = torch.randn(3, map.in_features, dtype=torch.float64)
    assert_near(map(x), x.to(map.dtype) @ map.matrix().mT)


@every_map_found_from_its_matrix
def test_from_matrix_represents_a_complex_matrix_or_refuses_it(case):
    map = case()
    M = map.matrix().detach() * (0.6 - 0.8j)
    M = M + 0.1j * vectors(*M.shape, like=map, seed=3)
    try:
        found = type(map).from_matrix(M, **case.from_matrix)
    except ValueError as error:
        assert "M must be" in str(error)  # noqa: PT017
        assert "real" in str(error)  # noqa: PT017
        assert map.orthogonal or type(map).real
        return
    assert found.dtype == torch.complex128
    error = torch.linalg.vector_norm(M - found.matrix().detach()) / torch.linalg.vector_norm(M)
    assert found.residual == pytest.approx(float(error), rel=1e-9)
    assert present(found.residual) < 0.5 or isinstance(map, ORTHOGONAL)


@settings(max_examples=20)
@given(st.integers(1, 3), st.integers(1, 3), st.integers(1, 3), st.integers(1, 3), st.integers(0, 9))
def test_kronecker_finds_complex_factors(a, b, c, d, seed):
    drawn = torch.Generator().manual_seed(seed)
    A, B = (torch.randn(n, m, dtype=torch.complex128, generator=drawn) for m, n in ((a, b), (c, d)))
    found = maps.Kronecker.from_matrix(torch.kron(A, B), sizes=[(a, b), (c, d)])
    assert present(found.residual) < 1e-12


@every_map_found_from_its_matrix
def test_from_matrix_refuses_whole_numbers_by_name(case):
    with pytest.raises(ValueError, match=r"M must be floating point, got torch.int64"):
        type(case()).from_matrix(case().matrix().real.detach().long(), **case.from_matrix)


# -- the unit of a matrix --------------------------------------------------------------------------------------------


def noisy(case, dtype=torch.float64):
    """A matrix near the structure's, with largest entry below 1."""
    map = case(dtype)
    M = map.matrix().detach()
    M = M + 0.3 * vectors(*M.shape, like=map, seed=5)
    return M / 2 ** math.ceil(math.log2(float(M.abs().amax())))


@scaled_cases
@settings(max_examples=2)
@given(st.integers(-990, 990))
def test_the_residual_does_not_know_the_unit(case, exponent):
    M = noisy(case)
    expected = type(case()).from_matrix(M, **case.from_matrix).residual
    for scaled in (M * 2.0**exponent, M * 1e-300, M * 1e300):
        assert type(case()).from_matrix(scaled, **case.from_matrix).residual == pytest.approx(expected, abs=1e-9)


@scaled_cases
@pytest.mark.parametrize("unit", [1e-26, 1e20])
def test_the_residual_does_not_know_the_unit_in_float32(case, unit):
    M = noisy(case, torch.float32)
    expected = type(case()).from_matrix(M, **case.from_matrix).residual
    assert type(case()).from_matrix(M * unit, **case.from_matrix).residual == pytest.approx(expected, abs=1e-4)


@fixed_cases
@pytest.mark.parametrize("unit", [1e-300, 1e20, 1e300])
def test_a_structure_of_one_size_states_its_error_in_any_unit(case, unit):
    M = noisy(case) * unit
    found = type(case()).from_matrix(M, **case.from_matrix)
    N = found.matrix().detach()
    assert torch.isfinite(N).all()
    largest = max(1.0, float(N.abs().amax() / unit))
    difference = largest * torch.linalg.vector_norm((M / unit - N / unit) / largest)
    assert found.residual == pytest.approx(float(difference / torch.linalg.vector_norm(M / unit)), rel=1e-6)
