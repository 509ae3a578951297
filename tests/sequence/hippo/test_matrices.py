import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.linalg import expm
from scipy.special import eval_legendre

from linmap.sequence.hippo import MEASURES, basis, hippo_matrices, low_rank

WEIGHTS = {
    "legs": lambda t: np.exp(-t),
    "lagt": np.ones_like,
    "tlagt": lambda t: np.exp(-t),
    "glagt": lambda t: 0.01 * np.exp(-0.01 * t),
}


def kernels(measure: str, N: int, t: np.ndarray, **options) -> np.ndarray:
    A, B = hippo_matrices(measure, N, **options)
    return np.stack([expm(A.numpy() * s) @ B.numpy() for s in t])


@pytest.mark.parametrize("N", [1, 2, 8, 32])
@pytest.mark.parametrize("measure", WEIGHTS)
def test_kernels_of_exact_measures_are_the_basis_times_the_weight(measure: str, N: int) -> None:
    t = np.linspace(0, 4, 9)
    expected = basis(measure, N, t).numpy() * WEIGHTS[measure](t)[:, None]
    np.testing.assert_allclose(kernels(measure, N, t), expected, atol=1e-10)


def test_legs_is_warped_legendre() -> None:
    t, n = np.linspace(0, 5, 11), np.arange(32)
    expected = np.exp(-t)[:, None] * np.sqrt(2 * n + 1) * eval_legendre(n, 2 * np.exp(-t)[:, None] - 1)
    np.testing.assert_allclose(kernels("legs", 32, t), expected, atol=1e-10)


@pytest.mark.parametrize("measure", ["legt", "fout"])
def test_windowed_kernels_come_near_the_basis_as_states_are_added(measure: str) -> None:
    t = np.linspace(0.1, 1.9, 37)
    few, many = (
        np.abs(kernels(measure, N, t)[:, :8] - basis(measure, N, t).numpy()[:, :8] / 2).max() for N in (16, 64)
    )
    assert many < 0.5 * few < 0.25


@given(st.sampled_from(["legs", "legt", "fout", "lagt"]), st.sampled_from([2, 6, 12]))
def test_bases_are_orthonormal(measure: str, N: int) -> None:
    x, w = np.polynomial.legendre.leggauss(200)
    end = {"legt": 2.0, "fout": 2.0, "legs": 1.0, "lagt": 120.0}[measure]
    u, w = (x + 1) / 2 * end, w / 2 * end
    t, density = (-np.log(u), w) if measure == "legs" else (u, w / end if end == 2 else w)
    p = basis(measure, N, t).numpy()
    gram = np.eye(N)
    gram[1, 1] = measure != "fout"  # the sine of frequency 0
    np.testing.assert_allclose(p.T @ (density[:, None] * p), gram, atol=1e-8)


@given(st.integers(1, 16))
def test_legs_has_the_eigenvalues_minus_one_to_minus_N(N: int) -> None:
    A, B = hippo_matrices("legs", N)
    assert torch.equal(torch.triu(A, 1), torch.zeros(N, N))
    np.testing.assert_allclose(torch.diagonal(A), -np.arange(1.0, N + 1))
    np.testing.assert_allclose(A[:, 0], -B)


@pytest.mark.parametrize("measure", ["legs", "legt", "fout", "lmu"])
def test_a_constant_input_has_the_state_e0(measure: str) -> None:
    A, B = hippo_matrices(measure, 16)
    np.testing.assert_allclose(A[:, 0], -B, atol=1e-12)  # so ||A^-1 B|| = 1


@given(st.sampled_from(["legt", "fout", "lmu"]), st.floats(0.1, 50))
def test_the_window_scales_time(measure: str, window: float) -> None:
    A, B = hippo_matrices(measure, 8, 1.0)
    A_W, B_W = hippo_matrices(measure, 8, window)
    np.testing.assert_allclose(A_W * window, A, atol=1e-10)
    np.testing.assert_allclose(B_W * window, B, atol=1e-10)
    np.testing.assert_allclose(basis(measure, 8, 0.3 * window, window), basis(measure, 8, 0.3, 1.0), atol=1e-10)


@given(st.sampled_from(["legs", "legt", "lagt", "foud"]), st.floats(-1, 1), st.floats(0.2, 5))
def test_tilting_and_a_change_of_state(measure: str, tilt: float, scale: float) -> None:
    """A + c I multiplies the kernels by e^ct; A / T stretches time; an orthogonal U turns the basis."""
    t, (A, B) = np.linspace(0, 2, 5), (x.numpy() for x in hippo_matrices(measure, 6))
    K = kernels(measure, 6, t)
    U = np.linalg.qr(np.random.default_rng(0).normal(size=(6, 6)))[0]
    for s, k in zip(t, K, strict=True):
        np.testing.assert_allclose(expm((A + tilt * np.eye(6)) * s) @ B, np.exp(tilt * s) * k, atol=1e-10)
        np.testing.assert_allclose(expm(A / scale * (scale * s)) @ (B / scale), k / scale, atol=1e-10)
        np.testing.assert_allclose(expm(U @ A @ U.T * s) @ (U @ B), U @ k, atol=1e-10)


def test_lmu_is_legt_in_other_units() -> None:
    n = np.arange(10)
    S = np.diag(np.sqrt(2 * n + 1) * (-1.0) ** n)
    A, B = hippo_matrices("legt", 10, 1.0)
    A_lmu, B_lmu = hippo_matrices("lmu", 10)
    np.testing.assert_allclose(S @ A.numpy() @ np.linalg.inv(S), A_lmu, atol=1e-10)
    np.testing.assert_allclose(S @ B.numpy(), B_lmu, atol=1e-10)


@pytest.mark.parametrize("measure", ["legs", "legt", "fout", "lagt", "foud"])
def test_with_its_low_rank_part_a_measure_is_normal(measure: str) -> None:
    A, _ = hippo_matrices(measure, 10)
    P = low_rank(measure, 10, 2)
    assert P.shape == (2, 10)
    S = A + P.T @ P
    np.testing.assert_allclose(S @ S.T, S.T @ S, atol=1e-10)
    diagonal = S.diagonal()
    np.testing.assert_allclose(S + S.T, 2 * torch.diag(diagonal), atol=1e-12)
    np.testing.assert_allclose(diagonal, diagonal[0].expand(10), atol=1e-12)


def test_known_entries() -> None:
    A, B = hippo_matrices("legs", 3)
    np.testing.assert_allclose(A, -np.array([[1, 0, 0], [3**0.5, 2, 0], [5**0.5, 15**0.5, 3]]))
    A, B = hippo_matrices("legt", 2, 1.0)
    np.testing.assert_allclose(A, -np.array([[1, -(3**0.5)], [3**0.5, 3]]))
    A, B = hippo_matrices("fout", 4)
    r = 2**0.5
    np.testing.assert_allclose(B, [1, 0, r, 0])
    np.testing.assert_allclose(A, [[-1, 0, -r, 0], [0] * 4, [-r, 0, -2, -np.pi], [0, 0, np.pi, 0]], atol=1e-15)
    A, B = hippo_matrices("fourier_decay", 4)
    np.testing.assert_allclose(B, [0.5, 0, r / 2, 0])
    np.testing.assert_allclose(A[2], [-r / 2, 0, -1, -np.pi])
    A, B = hippo_matrices("foud", 4)
    np.testing.assert_allclose(A[2:, 2:], [[-0.5, -2 * np.pi], [2 * np.pi, -0.5]])
    A, B = hippo_matrices("lagt", 2, beta=3.0)
    np.testing.assert_allclose(A, [[-0.5, 0], [-1, -0.5]])
    np.testing.assert_allclose(B, [3, 3])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("hermite", 4), "there is no measure 'hermite'; choose from legs"),
        (("fout", 7), "N must be even, got 7"),
        (("legs", 0), "N must be a positive number of states, got 0"),
        (("legs", 4, 2.0), "legs has no window"),
        (("legt", 4, -1.0), "window must be a positive length"),
    ],
)
def test_bad_input_is_told(arguments: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        hippo_matrices(*arguments)


def test_what_has_no_closed_form_says_so() -> None:
    with pytest.raises(ValueError, match="foud has no orthonormal functions"):
        basis("foud", 4, 0.0)
    with pytest.raises(ValueError, match="legt needs rank 2 or more, got 1"):
        low_rank("legt", 4)
    with pytest.raises(ValueError, match="tlagt is not normal plus low rank"):
        low_rank("tlagt", 4)
    assert len(MEASURES) == 10
