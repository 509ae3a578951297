"""Against NumPy's dense algebra, and on the HiPPO-LegS matrix."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from linmap.errors import SingularMapError
from linmap.maps import DiagonalPlusLowRank
from maps.cases import Case
from typed import present

sizes = st.tuples(st.integers(1, 9), st.integers(1, 3)).map(lambda pair: (pair[0], min(pair)))
dtypes = st.sampled_from([torch.float64, torch.complex128])


def drawn(n, rank, dtype) -> Any:
    return Case("", lambda **o: DiagonalPlusLowRank(n, rank, **{**o, "dtype": dtype}))()


@given(sizes, dtypes)
def test_matrix_inverse_and_determinant_are_numpy_s(size, dtype):
    map = drawn(size[0], size[1], dtype)
    diagonal, P, Q = (part.detach().numpy() for part in (map.diagonal, map.P, map.Q))
    M = np.diag(diagonal) - P @ Q.conj().T
    np.testing.assert_allclose(map.matrix().detach(), M, atol=1e-12)
    np.testing.assert_allclose(map.T.matrix().detach(), M.T, atol=1e-12)
    np.testing.assert_allclose(map.inverse().matrix().detach(), np.linalg.inv(M), atol=1e-8 * np.linalg.cond(M))
    np.testing.assert_allclose(map.logabsdet().detach(), np.linalg.slogdet(M)[1], atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64], ids=str)
def test_starts_stable(dtype):
    for n in (1, 4, 33):
        eigenvalues = torch.linalg.eigvals(DiagonalPlusLowRank(n, min(n, 2), dtype=dtype).matrix().detach())
        assert eigenvalues.real.max() < 0
    start = DiagonalPlusLowRank(3, dtype=torch.complex64).diagonal.detach()
    np.testing.assert_allclose(start, -0.5 + 1j * np.pi * np.arange(3), rtol=1e-6)


def legs(n):
    """The HiPPO-LegS matrix A, and P with A + P P^T normal."""
    k = np.arange(n)
    A = -np.sqrt(np.outer(2 * k + 1, 2 * k + 1))
    return np.where(k[:, None] > k, A, np.where(k[:, None] == k, np.diag(-(k + 1.0)), 0)), np.sqrt(k + 0.5)


def test_represents_hippo_legs_in_its_normal_basis():
    A, P = legs(16)
    normal = A + np.outer(P, P)
    skew = normal + 0.5 * np.eye(16)
    frequencies, V = np.linalg.eigh(-1j * skew)
    diagonal, low_rank = torch.from_numpy(-0.5 + 1j * frequencies), torch.from_numpy(V.conj().T @ P).unsqueeze(-1)
    map = DiagonalPlusLowRank.from_factors(diagonal, low_rank, low_rank)
    np.testing.assert_allclose(V @ map.matrix().detach().numpy() @ V.conj().T, A, atol=1e-11)
    assert float(map.logabsdet().detach()) == pytest.approx(sum(np.log(np.arange(1, 17))))  # eigenvalues -1..-16


def test_a_zero_on_the_diagonal_does_not_break_the_inverse():
    """Woodbury divides by the diagonal; the map is invertible all the same."""
    map = DiagonalPlusLowRank.from_factors(
        torch.tensor([0.0, 1.0, 2.0]), torch.tensor([[1.0], [1.0], [0.0]]), torch.tensor([[-1.0], [0.0], [1.0]])
    )
    M = map.matrix().detach()
    torch.testing.assert_close(map.inverse().matrix().detach(), torch.linalg.inv(M))
    torch.testing.assert_close(map.T.inverse().matrix().detach(), torch.linalg.inv(M.T))
    torch.testing.assert_close(map.logabsdet().detach(), torch.linalg.slogdet(M).logabsdet)


def test_complex_parameters_are_kept_as_real_pairs():
    map = DiagonalPlusLowRank(5, 2, dtype=torch.complex64)
    assert {tuple(p.shape) for p in map.parameters()} == {(5, 2), (5, 2, 2)}
    assert all(p.dtype == torch.float32 for p in map.parameters())
    before = map.matrix().detach()
    torch.testing.assert_close(map.double().matrix().detach(), before.to(torch.complex128), atol=1e-6, rtol=0)
    assert map.dtype == torch.complex128


def test_from_matrix_improves_on_the_diagonal_alone(generator):
    M = torch.randn(8, 8, generator=generator, dtype=torch.float64)
    off_diagonal = float((M - M.diag().diag()).norm() / M.norm())
    residuals = [present(DiagonalPlusLowRank.from_matrix(M, rank=rank).residual) for rank in (1, 2, 4, 8)]
    assert off_diagonal > residuals[0] > residuals[1] > residuals[2] > residuals[3]
    assert residuals[3] < 1e-12


def test_costs_are_linear_in_n():
    assert DiagonalPlusLowRank(100, 2).flops(3) == 3 * (2 * 100 + 4 * 100 * 2)


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="rank must be an integer from 1 to"):
        DiagonalPlusLowRank(3, 4)
    with pytest.raises(ValueError, match="must be square"):
        DiagonalPlusLowRank.from_matrix(torch.ones(2, 3))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.complex64], ids=str)
def test_a_large_map_is_inverted_without_its_matrix(dtype, generator, monkeypatch):
    """Λ from -1 to -4000 is no reason for the dense way, whose singular values took more than a minute."""
    map = DiagonalPlusLowRank(4000, 4, dtype=dtype, generator=generator)
    monkeypatch.setattr(DiagonalPlusLowRank, "matrix", lambda _: pytest.fail("the matrix was built"))
    x = torch.randn(3, 4000, dtype=dtype, generator=generator)
    inverse = map.inverse()
    tolerance = 1e-4 if dtype != torch.float64 else 1e-12
    torch.testing.assert_close(inverse(map(x)), x, rtol=0, atol=tolerance)
    torch.testing.assert_close(map.T.inverse()(map.T(x)), x, rtol=0, atol=tolerance)
    assert torch.isfinite(map.logabsdet()).all()


@given(st.integers(2, 12), st.integers(1, 3), st.integers(0, 99), dtypes)
def test_what_the_singular_values_call_singular_the_capacitance_does_too(n, rank, seed, dtype):
    """With Q* Λ^-1 P of the eigenvalue 1, M = Λ - P Q* takes Λ^-1 P z to zero."""
    drawn = torch.Generator().manual_seed(seed)
    diagonal = torch.randn(n, dtype=dtype, generator=drawn)
    diagonal = diagonal / diagonal.abs() * torch.logspace(0, 3, n, dtype=torch.float64)
    P, Q = torch.randn(2, n, min(rank, n), dtype=dtype, generator=drawn)
    eigenvalue = torch.linalg.eigvals(Q.mH @ (P / diagonal.unsqueeze(-1)))[0]
    if not dtype.is_complex and eigenvalue.imag.abs() > 1e-12 * eigenvalue.abs():
        return
    P = P / (eigenvalue if dtype.is_complex else eigenvalue.real)
    map = DiagonalPlusLowRank.from_factors(diagonal, P, Q)
    values = torch.linalg.svdvals(map.matrix().detach())
    if values[-1] <= n * torch.finfo(torch.float64).eps * values[0]:  # beyond the rounding of this construction
        with pytest.raises(SingularMapError, match="its smallest singular value is"):
            map.inverse()
    else:
        map.inverse()


@given(st.integers(2, 12), st.integers(0, 99), dtypes, st.sampled_from([1.0, 1e4, 1e7]))
def test_a_wide_diagonal_costs_no_digits(n, seed, dtype, width):
    drawn = torch.Generator().manual_seed(seed)
    diagonal = torch.logspace(0, np.log10(width), n, dtype=torch.float64).to(dtype)
    P, Q = 0.3 * torch.randn(2, n, 1, dtype=dtype, generator=drawn)
    x = torch.randn(2, n, dtype=dtype, generator=drawn)
    map = DiagonalPlusLowRank.from_factors(diagonal, P, Q)
    capacitance = (1 - Q.mH @ (P / diagonal.unsqueeze(-1))).abs().item()
    torch.testing.assert_close(map.inverse()(map(x)), x, rtol=0, atol=1e-11 / min(1, capacitance) ** 2)
