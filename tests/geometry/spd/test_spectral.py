import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import gradcheck

from geometry.spd.matrices import spd, sym
from linmap.geometry.spd import (
    SymmetricEigen,
    sym_exp,
    sym_invsqrt,
    sym_log,
    sym_pow,
    sym_rectified_log,
    sym_rectify,
    sym_sqrt,
)
from linmap.geometry.spd.spectral import congruence

FEW = settings(max_examples=10)
FUNCTIONS = {
    "sqrt": sym_sqrt,
    "invsqrt": sym_invsqrt,
    "log": sym_log,
    "exp": sym_exp,
    "pow 0.3": lambda A: sym_pow(A, 0.3),
    "pow -2": lambda A: sym_pow(A, -2.0),
    "pow 4": lambda A: sym_pow(A, 4.0),
    "rectify": lambda A: sym_rectify(A, 1.5),
    "rectified log": lambda A: sym_rectified_log(A, 1.5),
}
POINTS = {
    "generic": spd(2),
    "identity": torch.eye(4, dtype=torch.float64).expand(2, 4, 4).clone(),
    "ties": torch.diag(torch.tensor([1.0, 1.0, 2.0, 2.0], dtype=torch.float64)),
    "near ties": torch.diag(torch.tensor([1.0, 1.0 + 1e-9, 2.0, 2.0 + 1e-13], dtype=torch.float64)),
}


@FEW
@given(st.integers(1, 6), st.integers(0, 99))
def test_functions_agree_with_scipy(n: int, seed: int) -> None:
    A = spd(n=n, seed=seed)
    for ours, theirs in (
        (sym_sqrt(A), scipy.linalg.sqrtm(A.numpy())),
        (sym_log(A), scipy.linalg.logm(A.numpy())),
        (sym_exp(A), scipy.linalg.expm(A.numpy())),
        (sym_pow(A, 0.3), scipy.linalg.fractional_matrix_power(A.numpy(), 0.3)),
    ):
        np.testing.assert_allclose(ours.numpy(), theirs, rtol=1e-9, atol=1e-9 * np.abs(theirs).max())


@FEW
@given(st.floats(-2, 2), st.floats(-2, 2), st.integers(0, 99))
def test_powers_add(p: float, q: float, seed: int) -> None:
    A = spd(3, seed=seed, condition=100.0)
    torch.testing.assert_close(sym_pow(A, p) @ sym_pow(A, q), sym_pow(A, p + q), rtol=1e-8, atol=1e-8 * 100**4)


def test_inverses_undo_each_other() -> None:
    A = spd(5)
    torch.testing.assert_close(sym_exp(sym_log(A)), A)
    torch.testing.assert_close(sym_sqrt(A) @ sym_invsqrt(A), torch.eye(4, dtype=A.dtype).expand(5, 4, 4))
    torch.testing.assert_close(SymmetricEigen(A).inverse().sqrt(), sym_invsqrt(A))


def test_rectify_raises_eigenvalues_and_its_log_is_the_log_of_that() -> None:
    A = spd(5) - 2 * torch.eye(4, dtype=torch.float64)
    raised = sym_rectify(A, 0.1)
    assert float(torch.linalg.eigvalsh(raised).amin()) == pytest.approx(0.1)
    torch.testing.assert_close(sym_rectified_log(A, 0.1), sym_log(raised))


@pytest.mark.parametrize("point", POINTS)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_gradients_are_true_also_at_ties(name: str, point: str) -> None:
    A = POINTS[point].clone().requires_grad_()
    assert gradcheck(lambda A: FUNCTIONS[name](sym(A)), A)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_gradients_stay_finite_when_ill_conditioned_singular_or_zero(name: str, dtype: torch.dtype) -> None:
    F = torch.randn(3, 4, 2, dtype=dtype)
    points = [spd(3, condition=1e12, dtype=dtype), sym(F @ F.mT)]
    if name not in ("invsqrt", "pow -2"):
        points.append(torch.zeros(1, 4, 4, dtype=dtype))
    for A in points:
        A = A.clone().requires_grad_()
        value = FUNCTIONS[name](A)
        (gradient,) = torch.autograd.grad(value.sum(), A)
        assert value.dtype == dtype
        assert torch.isfinite(gradient).all()


def test_at_condition_1e12_the_gradient_of_the_root_is_the_solution_of_its_sylvester_equation() -> None:
    A = spd(condition=1e12).requires_grad_()
    R = spd(seed=5)
    (gradient,) = torch.autograd.grad(sym_sqrt(A), A, R)
    root = np.real(scipy.linalg.sqrtm(A.detach().numpy()))
    expected = scipy.linalg.solve_continuous_lyapunov(root, R.numpy())
    np.testing.assert_allclose(gradient.numpy(), expected, rtol=1e-4, atol=1e-6 * np.abs(expected).max())


def test_congruence_and_its_gradients() -> None:
    A, X = torch.randn(3, 4, dtype=torch.float64, requires_grad=True), spd(5).requires_grad_()
    torch.testing.assert_close(congruence(A, X), torch.einsum("ij,bjk,lk->bil", A, X, A))
    assert gradcheck(lambda A, X: congruence(A, sym(X)), (A, X))
