import math

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pyriemann.geometry.distance import distance_riemann, distance_wasserstein
from pyriemann.geometry.geodesic import geodesic_wasserstein
from pyriemann.geometry.mean import mean_wasserstein
from pyriemann.geometry.tangentspace import exp_map_wasserstein, log_map_wasserstein
from torch import Tensor
from torch.autograd import gradcheck

from geometry.spd.matrices import spd, sym, symmetric
from linmap.geometry.spd import (
    bw_dist2,
    bw_exp,
    bw_geodesic,
    bw_log,
    bw_mean,
    bw_transport,
    bw_transport_from_identity,
    bw_transport_map,
    bw_transport_to_identity,
    gbw_dist2,
    lyapunov,
    sym_pow,
    sym_sqrt,
)

I4 = torch.eye(4, dtype=torch.float64)
seeds = st.integers(0, 999)
FEW = settings(max_examples=10)


def inner(B: Tensor, U: Tensor, V: Tensor) -> Tensor:
    """The metric: tr(L_B^{-1}[U] V) / 2."""
    return (lyapunov(B, U) * V).sum((-2, -1)) / 2


@FEW
@given(seeds, st.integers(1, 5))
def test_all_agree_with_pyriemann(seed: int, n: int) -> None:
    A, B, V = spd(n=n, seed=seed), spd(6, n=n, seed=seed + 1), symmetric(6, n=n, seed=seed)
    As = A.expand_as(B)
    torch.testing.assert_close(bw_dist2(A, B), distance_wasserstein(B, As, squared=True), rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(bw_log(A, B), log_map_wasserstein(B, A), rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(bw_exp(A, V), exp_map_wasserstein(V, A), rtol=1e-8, atol=1e-9)
    torch.testing.assert_close(bw_geodesic(A, B, 0.3), geodesic_wasserstein(As, B, 0.3), rtol=1e-9, atol=1e-10)


def test_mean_agrees_with_pyriemann() -> None:
    X = I4 + spd(6)
    torch.testing.assert_close(bw_mean(X), mean_wasserstein(X, tol=1e-14, maxiter=500), rtol=1e-10, atol=1e-12)


@FEW
@given(seeds)
def test_log_and_exp_undo_each_other_and_measure_the_distance(seed: int) -> None:
    A, B = spd(5, seed=seed), spd(5, seed=seed + 1)
    V = bw_log(A, B)
    torch.testing.assert_close(bw_exp(A, V), B, rtol=1e-8, atol=1e-9)
    torch.testing.assert_close(inner(A, V, V), bw_dist2(A, B), rtol=1e-8, atol=1e-10)
    T = bw_transport_map(A, B)
    torch.testing.assert_close(T @ A @ T, B, rtol=1e-8, atol=1e-9)


def test_distance_of_diagonal_matrices() -> None:
    a, b = torch.rand(2, 7, 4, dtype=torch.float64)
    expected = (a.sqrt() - b.sqrt()).square().sum(-1)
    torch.testing.assert_close(bw_dist2(torch.diag_embed(a), torch.diag_embed(b)), expected)
    assert bw_dist2(spd(9, condition=1e9), spd(9, condition=1e9)).amin() >= 0


@FEW
@given(seeds, st.sampled_from((0.25, 0.5, 1.0, 2.0)))
def test_generalised_distance_is_that_of_the_images(seed: int, theta: float) -> None:
    P, Q, M = spd(3, seed=seed), spd(3, seed=seed + 1), spd(seed=seed + 2)
    if theta == 1:  # the closed form without images
        root, N = sym_sqrt(P), M.inverse()
        cross = torch.linalg.eigvalsh(root @ N @ Q @ N @ root).sqrt().sum(-1)
        expected = torch.einsum("ij,bji->b", N, P + Q) - 2 * cross
        torch.testing.assert_close(gbw_dist2(P, Q, M, theta), expected, rtol=1e-8, atol=1e-9)
    powers = sym_pow(P, theta), sym_pow(Q, theta)
    torch.testing.assert_close(gbw_dist2(P, Q, I4, theta), bw_dist2(*powers) / theta**2, rtol=1e-9, atol=1e-10)


def test_generalised_distance_near_the_metric_matrix_is_affine_invariant() -> None:
    P = spd()
    Q = P + 1e-4 * sym_sqrt(P) @ symmetric(scale=0.3) @ sym_sqrt(P)
    affine = float(distance_riemann(P, Q)) ** 2
    assert float(gbw_dist2(P, Q, P)) == pytest.approx(affine / 4, rel=1e-3)


def test_generalised_distance_refuses_theta() -> None:
    with pytest.raises(ValueError, match="theta must be positive, got 0"):
        gbw_dist2(I4, I4, I4, 0)


@FEW
@given(seeds)
def test_geodesic_has_constant_speed(seed: int) -> None:
    A, B = spd(seed=seed), spd(seed=seed + 1)
    torch.testing.assert_close(bw_geodesic(A, B, 0.0), A)
    torch.testing.assert_close(bw_geodesic(A, B, 1.0), B, rtol=1e-8, atol=1e-9)
    t = torch.tensor([0.2, 0.7], dtype=torch.float64)
    torch.testing.assert_close(bw_dist2(A, bw_geodesic(A, B, t)), t**2 * bw_dist2(A, B), rtol=1e-6, atol=1e-9)


@FEW
@given(seeds)
def test_transport_is_an_isometry_and_undoes_itself(seed: int) -> None:
    B, U, V = spd(seed=seed), symmetric(3, seed=seed), symmetric(3, seed=seed + 1)
    U_I, V_I = bw_transport_to_identity(B, U), bw_transport_to_identity(B, V)
    torch.testing.assert_close(inner(I4, U_I, V_I), inner(B, U, V), rtol=1e-8, atol=1e-10)
    torch.testing.assert_close(bw_transport_from_identity(B, U_I), U, rtol=1e-9, atol=1e-10)
    C = sym_pow(B, 0.3)
    moved = bw_transport(B, C, U)
    torch.testing.assert_close(inner(C, moved, moved), inner(B, U, U), rtol=1e-8, atol=1e-10)
    torch.testing.assert_close(bw_transport(B, C, bw_log(B, C)), -bw_log(C, B), rtol=1e-7, atol=1e-8)


def test_transport_between_matrices_that_do_not_commute_is_refused() -> None:
    with pytest.raises(ValueError, match="do not commute"):
        bw_transport(spd(), spd(seed=1), symmetric())


@FEW
@given(seeds)
def test_lyapunov_agrees_with_scipy(seed: int) -> None:
    B, C = spd(seed=seed), symmetric(seed=seed)
    expected = scipy.linalg.solve_continuous_lyapunov(B.numpy(), C.numpy())
    np.testing.assert_allclose(lyapunov(B, C).numpy(), expected, rtol=1e-8, atol=1e-10)


def test_mean_is_where_the_logs_cancel() -> None:
    X, w = I4 + spd(7), torch.rand(7, dtype=torch.float64)
    B = bw_mean(X, w, n_iter=5000)
    logs = torch.einsum("b,bij->ij", w / w.sum(), bw_log(B, X))
    assert float(logs.norm()) < 1e-9
    torch.testing.assert_close(bw_mean(X[:1]), X[0])


def test_mean_of_commuting_matrices_needs_one_step() -> None:
    x = torch.rand(9, 4, dtype=torch.float64)
    expected = torch.diag(x.sqrt().mean(0) ** 2)
    torch.testing.assert_close(bw_mean(torch.diag_embed(x), n_iter=1), expected)


def test_mean_warns_when_it_stops_early_and_refuses_nothing_to_average() -> None:
    with pytest.warns(UserWarning, match="the last of n_iter = 2 steps"):
        bw_mean(spd(5, condition=1e8), n_iter=2)
    with pytest.raises(ValueError, match="X must hold a matrix"):
        bw_mean(spd(0))


DIFFERENTIABLE = {
    "dist2 A": lambda A, B, V: bw_dist2(A, B),
    "dist2 B": lambda A, B, V: bw_dist2(B, A),
    "gbw_dist2 M": lambda A, B, V: gbw_dist2(B, spd(2, seed=9), A, 0.5),
    "log": lambda A, B, V: bw_log(A, B) + bw_log(B, A),
    "exp": lambda A, B, V: bw_exp(A, V),
    "geodesic": lambda A, B, V: bw_geodesic(A, B, 0.3),
    "lyapunov": lambda A, B, V: lyapunov(A, V),
    "to identity": lambda A, B, V: bw_transport_to_identity(A, V),
    "from identity": lambda A, B, V: bw_transport_from_identity(A, V),
    "one A": lambda A, B, V: bw_transport_to_identity(A[0], V) + bw_transport_from_identity(A[1], V),
    "two steps of the mean": lambda A, B, V: bw_mean(A, n_iter=2, tol=math.inf),
}


@pytest.mark.parametrize("point", ["generic", "identity", "ties"])
@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_gradients_are_true_also_at_the_identity(name: str, point: str) -> None:
    ties = torch.diag(torch.tensor([1.0, 1.0, 3.0, 3.0], dtype=torch.float64))
    A = {"generic": spd(2), "identity": I4.expand(2, 4, 4), "ties": ties.expand(2, 4, 4)}[point]
    A, B, V = A.clone().requires_grad_(), spd(2, seed=3), symmetric(2).requires_grad_()
    assert gradcheck(lambda A, V: DIFFERENTIABLE[name](sym(A), B, sym(V)) + 0 * V.sum(), (A, V))


def test_distance_from_a_matrix_to_itself_has_gradient_zero() -> None:
    A = spd(3).requires_grad_()
    (gradient,) = torch.autograd.grad(bw_dist2(A, A.detach()).sum(), A)
    torch.testing.assert_close(gradient, torch.zeros_like(gradient), rtol=0, atol=1e-7)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradients_are_finite_at_condition_1e12(dtype: torch.dtype) -> None:
    A, B = (spd(3, condition=1e12, seed=seed, dtype=dtype).requires_grad_() for seed in (0, 1))
    V = symmetric(3, scale=1e-3).to(dtype)
    for name, function in DIFFERENTIABLE.items():
        if name == "gbw_dist2 M":
            continue
        for gradient in torch.autograd.grad(function(A, B, V).sum(), (A, B), allow_unused=True):
            assert gradient is None or torch.isfinite(gradient).all(), name
