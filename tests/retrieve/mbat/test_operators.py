import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given
from hypothesis import strategies as st

from linmap.retrieve.mbat import Codebook, DenseOrthogonal, HadamardDiagonal, SignedPermutation
from linmap.retrieve.mbat.operators import as_operator

STRUCTURES = ("signed_permutation", "hadamard", "dense")


def operators(structure, *tokens: str) -> list:
    codebook = Codebook(128, operators=structure)
    return [codebook.operator("key", token) for token in tokens]


@pytest.mark.parametrize("structure", STRUCTURES)
def test_laws_of_every_structure(structure) -> None:
    a, b = operators(structure, "a", "b")
    x, y = np.random.default_rng(0).normal(size=(2, 3, 128))
    np.testing.assert_allclose((a.apply(x) * y).sum(), (x * a.transpose(y)).sum(), rtol=1e-11)  # adjoint
    np.testing.assert_allclose(a.transpose(a.apply(x)), x, atol=1e-12)
    np.testing.assert_allclose(a.transpose().apply(y), a.transpose(y), atol=1e-12)
    np.testing.assert_allclose(a.transpose().transpose().apply(x), a.apply(x), atol=1e-12)
    np.testing.assert_allclose(a.compose(b).apply(x), a.apply(b.apply(x)), atol=1e-12)
    np.testing.assert_allclose(a.compose(b).transpose(y), b.transpose(a.transpose(y)), atol=1e-12)
    np.testing.assert_allclose(a.compose(b).compose(a).apply(x), a.apply(b.apply(a.apply(x))), atol=1e-12)
    np.testing.assert_allclose(a.transpose().compose(b).transpose(y), b.transpose(a.apply(y)), atol=1e-12)


@pytest.mark.parametrize("structure", STRUCTURES)
def test_operators_do_not_commute(structure) -> None:
    a, b = operators(structure, "a", "b")
    x = np.random.default_rng(0).normal(size=128)
    ab, ba = a.apply(b.apply(x)), b.apply(a.apply(x))
    assert abs(ab @ ba) / (x @ x) < 5 / np.sqrt(128)


@given(st.integers(1, 99), st.integers(0, 9))
def test_signed_permutation_is_exact_and_keeps_the_dtype(dim: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    operator = SignedPermutation(rng.permutation(dim), rng.choice(np.array([-1, 1], np.int8), dim))
    x = rng.integers(-9, 9, size=(2, dim)).astype(np.int32)
    y = operator.apply(x)
    assert y.dtype == np.int32
    expected = [[operator.signs[i] * row[operator.permutation[i]] for i in range(dim)] for row in x]
    assert y.tolist() == expected
    assert np.array_equal(operator.transpose(y), x)
    assert np.array_equal(operator.transpose().apply(y), x)


def test_signed_permutation_as_a_map() -> None:
    (operator,) = operators("signed_permutation", "a")
    x = torch.randn(5, 128, generator=torch.Generator().manual_seed(0))
    np.testing.assert_array_equal(operator.as_map()(x).detach().numpy(), operator.apply(x.numpy()))
    np.testing.assert_array_equal(operator.as_map().T(x).detach().numpy(), operator.transpose(x.numpy()))


@pytest.mark.parametrize("dim", [1, 2, 64, 512])
def test_hadamard_rounds_equal_the_dense_formula(dim: int) -> None:
    H = scipy.linalg.hadamard(dim) / np.sqrt(dim)
    rng = np.random.default_rng(0)
    signs = rng.choice(np.array([-1, 1], np.int8), (3, dim))
    dense = np.linalg.multi_dot([H, np.diag(signs[2]), H, np.diag(signs[1]), H, np.diag(signs[0])])
    x = rng.normal(size=(4, dim))
    np.testing.assert_allclose(HadamardDiagonal(signs).apply(x), x @ dense.T, atol=1e-12)
    one_round = HadamardDiagonal(np.ones((1, dim), np.int8))  # H / sqrt(n) is its own inverse
    np.testing.assert_allclose(one_round.apply(one_round.apply(x)), x, atol=1e-12)


def test_haar_matrices_have_the_moments_of_the_uniform_distribution() -> None:
    # E tr(M)^2 = 1 for Haar; without the sign fix of QR the trace is biased by about -sqrt(2 n / pi)
    rng = np.random.default_rng(0)
    traces = np.array([np.trace(DenseOrthogonal.haar(rng.normal(size=(16, 16))).matrix) for _ in range(400)])
    assert abs(traces.mean()) < 0.2
    assert abs((traces**2).mean() - 1) < 0.3


def test_operators_of_other_codebooks_are_taken() -> None:
    matrix = np.arange(9.0).reshape(3, 3)
    x = np.array([1.0, 2.0, 4.0])

    class WithApply:
        def apply(self, x):
            return matrix @ x

        def transpose(self):
            return as_operator(matrix.T)

    class AppliesTranspose(WithApply):
        def transpose(self, y):  # pyright: ignore[reportIncompatibleMethodOverride]
            return matrix.T @ y

    for theirs in (matrix, torch.from_numpy(matrix), WithApply(), AppliesTranspose()):
        operator = as_operator(theirs)
        np.testing.assert_array_equal(operator.apply(x), matrix @ x)
        np.testing.assert_array_equal(operator.transpose(x), matrix.T @ x)
        np.testing.assert_array_equal(operator.transpose().apply(x), matrix.T @ x)
        np.testing.assert_array_equal(operator.compose(operator).apply(x), matrix @ matrix @ x)
    with pytest.raises(TypeError, match="expected an operator"):
        as_operator("M")


def test_wrong_operators_are_refused() -> None:
    ones = np.ones(3, np.int8)
    with pytest.raises(ValueError, match=r"permutation must hold each of 0\.\.2 once"):
        SignedPermutation(np.array([0, 0, 2]), ones)
    with pytest.raises(ValueError, match="signs must hold 3 entries"):
        SignedPermutation(np.arange(3), np.zeros(3, np.int8))
    with pytest.raises(ValueError, match="pad to dim=4"):
        HadamardDiagonal(ones[None])
    with pytest.raises(ValueError, match="vectors of 3 coordinates"):
        SignedPermutation(np.arange(3), ones).apply(np.ones(4))
    with pytest.raises(ValueError, match="compose needs"):
        SignedPermutation(np.arange(3), ones).compose(SignedPermutation(np.arange(1), ones[:1]))
