"""What an `Implicit` map has beyond the laws of every map: rows, columns, spectrum, a cap on the dense matrix."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from linmap.errors import SingularMapError
from linmap.maps import Implicit
from typed import other


def matrix(m: int, n: int, seed: int = 0) -> Tensor:
    return torch.randn(m, n, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def implicit(M: Tensor) -> Implicit:
    return Implicit(M.shape[1], M.shape[0], lambda x: x @ M.mT, lambda y: y @ M, dtype=M.dtype)


@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 4))
def test_rows_and_columns_are_those_of_the_matrix(m: int, n: int, batch_size: int):
    M = matrix(m, n)
    map = implicit(M)
    idx = [n - 1, 0, -1]
    torch.testing.assert_close(map.columns(idx, batch_size), M[:, idx])
    torch.testing.assert_close(map.rows(range(m), batch_size), M)
    torch.testing.assert_close(map.row(m - 1), M[m - 1])
    torch.testing.assert_close(map.matrix(), M)
    torch.testing.assert_close(map.T.matrix(), M.mT)


@pytest.mark.parametrize(("m", "n", "k"), [(150, 120, 5), (90, 200, 7), (6, 4, 4), (5, 5, 1), (90, 60, 1)])
def test_svd_is_the_dense_one(m: int, n: int, k: int):
    M = matrix(m, n)
    U, S, Vh = implicit(M).svd(k)
    torch.testing.assert_close(S, torch.linalg.svdvals(M)[:k], rtol=1e-6, atol=0)
    torch.testing.assert_close(M @ Vh.mT, U * S, rtol=0, atol=1e-9)
    torch.testing.assert_close(M.mT @ U, Vh.mT * S, rtol=0, atol=1e-4)
    for vectors in (U.mT, Vh):
        torch.testing.assert_close(vectors @ vectors.mT, torch.eye(k).double(), rtol=0, atol=1e-9)
    assert (Vh.gather(1, Vh.abs().argmax(1, keepdim=True)) > 0).all()


@pytest.mark.parametrize(("n", "k"), [(130, 4), (5, 5)])
def test_eig_is_the_dense_one(n: int, k: int):
    M = matrix(n, n)
    L, V = implicit(M).eig(k)
    torch.testing.assert_close(M.to(V.dtype) @ V, V * L, rtol=0, atol=1e-4)
    torch.testing.assert_close(
        L.abs(), torch.linalg.eigvals(M).abs().sort(descending=True).values[:k], rtol=1e-6, atol=0
    )


def test_linear_operator_is_the_matrix_for_scipy():
    M = matrix(4, 7)
    operator: Any = implicit(M).as_linear_operator()
    assert operator.shape == (4, 7)
    assert operator.dtype == np.float64
    np.testing.assert_allclose(operator @ np.eye(7), M.numpy())
    np.testing.assert_allclose(operator.H @ np.ones(4), M.sum(0).numpy())
    np.testing.assert_allclose(operator.matvec(np.ones(7)), M.sum(1).numpy())


def test_from_matrix_holds_the_matrix():
    M = matrix(3, 5)
    map = Implicit.from_matrix(M)
    assert map.residual == 0
    torch.testing.assert_close(map.matrix(), M)
    with pytest.raises(ValueError, match="must be one matrix"):
        Implicit.from_matrix(M.expand(2, 3, 5))


@pytest.mark.usefixtures("annotations_unchecked")
def test_bad_requests():
    map = implicit(matrix(4, 7))
    with pytest.raises(ValueError, match=r"28 entries \(2.24e-07 GB\), more than max_elements = 27"):
        map.dense(max_elements=27)
    with pytest.raises(ValueError, match=r"k must be between 1 and min\(in_features, out_features\) = 4, got 5"):
        map.svd(5)
    with pytest.raises(ValueError, match="square map"):
        map.eig(1)
    with pytest.raises(ValueError, match="k must be between 1 and in_features = 3, got 0"):
        implicit(matrix(3, 3)).eig(0)
    with pytest.raises(IndexError, match="input index 7 is out of range"):
        map.columns([0, 7])
    with pytest.raises(ValueError, match="non-empty list of integers"):
        map.rows([])
    with pytest.raises(ValueError, match="batch_size must be at least 1"):
        map.columns([0], batch_size=0)
    with pytest.raises(TypeError, match="adjoint must be a function"):
        Implicit(3, 3, lambda x: x, other(None))
    with pytest.raises(SingularMapError, match="only square maps"):
        map.inverse()


def test_inverse_of_a_small_map():
    M = matrix(5, 5)
    torch.testing.assert_close(implicit(M).inverse().matrix(), torch.linalg.inv(M))


@pytest.mark.parametrize("unit", [1e-200, 1e-30, 1e30, 1e150])
def test_singular_vectors_do_not_know_the_unit(unit: float):
    M = matrix(150, 120)
    U, S, Vh = implicit(M * unit).svd(5)
    torch.testing.assert_close(S / unit, torch.linalg.svdvals(M)[:5], rtol=1e-6, atol=0)
    torch.testing.assert_close(M @ Vh.mT, U * (S / unit), rtol=0, atol=1e-9)


def test_products_read_numbers_as_the_map_does():
    M = matrix(3, 4)
    map = implicit(M)
    whole = torch.arange(4)
    torch.testing.assert_close(map.matvec(whole), M @ whole.double())
    torch.testing.assert_close(map.rmatvec(torch.arange(6).view(2, 3)), torch.arange(6.0).double().view(2, 3) @ M)
    torch.testing.assert_close(map.matvec(1j * whole.double()), 1j * (M @ whole.double()).to(torch.complex128))
