"""Complex Hermitian matrices: pyRiemann's and SciPy's answers, gradients, and the real ones as a special case."""

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pyriemann.geometry.distance import distance_wasserstein
from pyriemann.geometry.geodesic import geodesic_wasserstein
from pyriemann.geometry.mean import mean_wasserstein
from pyriemann.geometry.tangentspace import exp_map_wasserstein, log_map_wasserstein
from torch import Tensor
from torch.autograd import gradcheck

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
    sym_exp,
    sym_invsqrt,
    sym_log,
    sym_pow,
    sym_rectified_log,
    sym_rectify,
    sym_sqrt,
)

FEW = settings(max_examples=8)
seeds, sizes = st.integers(0, 999), st.integers(1, 5)


def hpd(*shape: int, n: int = 4, seed: int = 0) -> Tensor:
    """Random Hermitian positive definite matrices (*shape, n, n)."""
    generator = torch.Generator().manual_seed(seed)
    A = torch.randn(*shape, n, 2 * n, generator=generator, dtype=torch.complex128)
    return hermitian(A @ A.mH / n)


def hermitian(A: Tensor) -> Tensor:
    return (A + A.mH) / 2


@FEW
@given(seeds, sizes)
def test_distances_geodesics_logs_and_exponentials_are_pyriemanns(seed: int, n: int) -> None:
    A, B = hpd(2, n=n, seed=seed)
    a, b = A.numpy(), B.numpy()
    assert float(bw_dist2(A, B)) == pytest.approx(distance_wasserstein(a, b, squared=True), rel=1e-9)
    np.testing.assert_allclose(bw_geodesic(A, B, 0.3).numpy(), geodesic_wasserstein(a, b, 0.3), atol=1e-9)
    log = log_map_wasserstein(b, a)
    np.testing.assert_allclose(bw_log(A, B).numpy(), log, atol=1e-9)
    np.testing.assert_allclose(
        bw_exp(A, torch.from_numpy(0.1 * log)).numpy(), exp_map_wasserstein(0.1 * log, a), atol=1e-9
    )


@FEW
@given(seeds, st.booleans())
def test_means_are_pyriemanns(seed: int, weighted: bool) -> None:
    X = hpd(5, seed=seed)
    w = np.random.default_rng(seed).uniform(0.1, 1, 5) if weighted else None
    theirs = mean_wasserstein(X.numpy(), sample_weight=w, tol=1e-12, maxiter=500)
    ours = bw_mean(X, None if w is None else torch.from_numpy(w), n_iter=500)
    np.testing.assert_allclose(ours.numpy(), theirs, atol=1e-9)


@FEW
@given(seeds, sizes)
def test_functions_are_scipys(seed: int, n: int) -> None:
    A, B = hpd(2, n=n, seed=seed)
    for ours, theirs in (
        (sym_sqrt(A), scipy.linalg.sqrtm(A.numpy())),
        (sym_invsqrt(A), np.linalg.inv(scipy.linalg.sqrtm(A.numpy()))),
        (sym_log(A), scipy.linalg.logm(A.numpy())),
        (sym_exp(hermitian(A - B)), scipy.linalg.expm((A - B).numpy())),
        (sym_pow(A, 0.7), scipy.linalg.fractional_matrix_power(A.numpy(), 0.7)),
        (lyapunov(A, B), scipy.linalg.solve_continuous_lyapunov(A.numpy(), B.numpy())),
    ):
        np.testing.assert_allclose(ours.numpy(), theirs, atol=1e-9 * max(1, np.abs(theirs).max()))


@FEW
@given(seeds)
def test_a_unitary_change_of_basis_changes_nothing(seed: int) -> None:
    A, B, M = hpd(3, seed=seed)
    U = torch.linalg.qr(hpd(seed=seed + 1))[0]
    turned = [hermitian(U @ X @ U.mH) for X in (A, B, M)]
    torch.testing.assert_close(gbw_dist2(*turned, theta=0.5), gbw_dist2(A, B, M, theta=0.5))
    torch.testing.assert_close(bw_transport_map(*turned[:2]), U @ bw_transport_map(A, B) @ U.mH)
    torch.testing.assert_close(bw_transport_from_identity(A, bw_transport_to_identity(A, B)), B)
    torch.testing.assert_close(
        bw_transport(A, sym_sqrt(A), B), bw_transport_from_identity(sym_sqrt(A), bw_transport_to_identity(A, B))
    )


def test_real_matrices_are_those_without_an_imaginary_part() -> None:
    X = hpd(6).real.contiguous()
    X = (X + X.mT) / 2 + 4 * torch.eye(4, dtype=X.dtype)
    C = X.to(torch.complex128)
    torch.testing.assert_close(bw_mean(C), bw_mean(X).to(torch.complex128))
    torch.testing.assert_close(bw_dist2(C[0], C[1]), bw_dist2(X[0], X[1]))


DIFFERENTIABLE = {
    "dist2": bw_dist2,
    "log": bw_log,
    "map": bw_transport_map,
    "exp": lambda A, B: bw_exp(A, 0.1 * B),
    "geodesic": lambda A, B: bw_geodesic(A, B, 0.3),
    "mean": lambda A, B: bw_mean(torch.stack([A, B]), n_iter=2, tol=1),
    "transport": bw_transport_to_identity,
    "lyapunov": lyapunov,
    "logm": lambda A, B: sym_log(A),
    "rectified": lambda A, B: sym_rectified_log(A, 0.5) + sym_rectify(B, 0.5),
}


@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_gradients_are_true(name: str) -> None:
    A, B = (X.clone().requires_grad_() for X in hpd(2, n=3))
    assert gradcheck(lambda A, B: DIFFERENTIABLE[name](hermitian(A), hermitian(B)), (A, B), atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([1.0, 2.0], r"one number for each of 3 matrices, got shape \(2,\)"),
        ([[1.0, 1.0, 1.0]], r"got shape \(1, 3\)"),
        ([1.0, -0.5, 1.0], "finite and not negative, got -0.5 at 1"),
        ([1.0, 1.0, float("nan")], "got nan at 2"),
        ([float("inf"), 1.0, 1.0], "got inf at 0"),
        ([0.0, 0.0, 0.0], "must not all be zero"),
    ],
)
@pytest.mark.usefixtures("annotations_unchecked")
def test_wrong_weights_are_named(weights: list, message: str, dtype: torch.dtype) -> None:
    X = hpd(3).to(dtype) if dtype.is_complex else torch.eye(4, dtype=dtype).expand(3, 4, 4)
    with pytest.raises(ValueError, match=message):
        bw_mean(X, torch.tensor(weights))


def test_a_weight_of_zero_leaves_a_matrix_out_and_integers_count() -> None:
    X = hpd(3)
    torch.testing.assert_close(bw_mean(X, torch.tensor([2, 0, 2])), bw_mean(X[[0, 2]]))
