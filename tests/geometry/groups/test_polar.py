"""The polar decomposition against scipy's, its gradients where they are delicate, and what it refuses."""

import math
import warnings
from typing import Any

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from linmap.geometry.groups import SLn, inverse_pair, polar, riemannian_exp, rotation, rotation_angle
from linmap.geometry.groups.rotations import rotation_log

sizes = st.integers(2, 7)
seeds = st.integers(0, 2**31 - 1)


def matrices(n: int, seed: int, count: int = 4, dtype: torch.dtype = torch.float64) -> Tensor:
    """Of positive determinant."""
    generator = torch.Generator().manual_seed(seed)
    g = torch.randn(count, n, n, generator=generator, dtype=torch.float64) + 0.3 * torch.eye(n)
    g[torch.linalg.det(g) < 0, 0] *= -1
    return g.to(dtype)


def rotations(n: int, seed: int, count: int = 3) -> Tensor:
    Q = torch.linalg.qr(matrices(n, seed, count)).Q
    Q[torch.linalg.det(Q) < 0, 0] *= -1
    return Q


@given(sizes, seeds)
def test_agrees_with_scipys_and_with_its_own_definition(n: int, seed: int) -> None:
    g = matrices(n, seed)
    log_P, R = polar(g)
    for one, of_log, turn in zip(g.numpy(), log_P.numpy(), R.numpy(), strict=True):
        theirs, P = scipy.linalg.polar(one, side="left")
        np.testing.assert_allclose(turn, theirs, atol=1e-9)
        np.testing.assert_allclose(scipy.linalg.expm(of_log), P, atol=1e-9)
    assert torch.equal(log_P, log_P.mT)
    torch.testing.assert_close(R @ R.mT, torch.eye(n, dtype=g.dtype).expand_as(R), atol=1e-12, rtol=0)
    torch.testing.assert_close(torch.linalg.det(R), torch.ones(len(R), dtype=g.dtype))


@given(sizes, seeds)
def test_each_factor_is_recognised(n: int, seed: int) -> None:
    R = rotations(n, seed)
    log_P, turn = polar(R)
    assert float(log_P.abs().max()) < 1e-12
    torch.testing.assert_close(turn, R, atol=1e-12, rtol=0)
    X = matrices(n, seed)
    X = (X + X.mT) / 2
    log_P, turn = polar(torch.linalg.matrix_exp(X))
    torch.testing.assert_close(log_P, X, atol=1e-7, rtol=1e-7)
    torch.testing.assert_close(turn, torch.eye(n, dtype=X.dtype).expand_as(turn), atol=1e-7, rtol=0)


@given(sizes, seeds)
def test_float32_and_half_precision(n: int, seed: int) -> None:
    g = matrices(n, seed, dtype=torch.float32)
    wide = polar(g.double())
    for ours, exact in zip(polar(g), wide, strict=True):
        assert ours.dtype == torch.float32
        torch.testing.assert_close(ours.double(), exact, atol=1e-6, rtol=1e-6)
    assert polar(torch.eye(n, dtype=torch.bfloat16))[0].dtype == torch.float32


def test_leading_dimensions_and_scales() -> None:
    g = matrices(3, 0, 24).reshape(2, 3, 4, 3, 3)
    log_P, R = polar(g)
    assert log_P.shape == R.shape == g.shape
    torch.testing.assert_close(polar(g[1, 2, 3])[1], R[1, 2, 3])
    assert polar(g[:0])[0].shape == (0, 3, 4, 3, 3)
    for scale in (1e-200, 1e200):
        for n in (2, 3):
            one = matrices(n, 1, 1)
            torch.testing.assert_close(polar(one * scale)[1], polar(one)[1])
            shift = math.log(scale) * torch.eye(n, dtype=torch.float64)
            torch.testing.assert_close(polar(one * scale)[0], polar(one)[0] + shift)


@pytest.mark.parametrize("n", [2, 3, 5])
def test_an_ill_conditioned_matrix(n: int) -> None:
    U, W = rotations(n, 1, 1)[0], rotations(n, 2, 1)[0]
    s = torch.logspace(0, -7, n, dtype=torch.float64)
    log_P, R = polar(U @ s.diag() @ W.mT)
    torch.testing.assert_close(R, U @ W.mT, atol=1e-6, rtol=0)
    torch.testing.assert_close(log_P, U @ s.log().diag() @ U.mT, atol=1e-6, rtol=0)


POINTS = {
    "identity": lambda n: torch.eye(n, dtype=torch.float64),
    "multiple of the identity": lambda n: 1.7 * torch.eye(n, dtype=torch.float64),
    "rotation": lambda n: rotations(n, 3, 1)[0],
    "close to a rotation": lambda n: rotations(n, 3, 1)[0] + 1e-5 * matrices(n, 4, 1)[0],
    "any": lambda n: matrices(n, 5, 1)[0],
}


@pytest.mark.parametrize("n", [2, 3, 4])
@pytest.mark.parametrize("point", POINTS)
def test_gradients_are_exact_where_eigenvalues_coincide_too(point: str, n: int) -> None:
    g = POINTS[point](n).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: polar(x), g, atol=1e-6)
    weights = [matrices(n, seed, 1)[0] for seed in (6, 7)]
    gradients = []
    for dtype in (torch.float64, torch.float32):
        x = g.detach().to(dtype).requires_grad_()
        total = torch.stack([(part * w.to(dtype)).sum() for part, w in zip(polar(x), weights, strict=True)]).sum()
        gradients.append(torch.autograd.grad(total, x)[0].double())
    torch.testing.assert_close(gradients[1], gradients[0], atol=1e-5, rtol=1e-5)


def test_second_derivatives_in_the_plane() -> None:
    for point in ("identity", "rotation", "any"):
        assert torch.autograd.gradgradcheck(lambda x: polar(x), POINTS[point](2).requires_grad_(), atol=1e-6)


@pytest.mark.usefixtures("annotations_unchecked")
@pytest.mark.parametrize(
    ("g", "error", "message"),
    [
        (torch.randn(3, 2, 3), ValueError, r"g must be square .* \(3, 2, 3\)"),
        (torch.randn(3), ValueError, "g must be square"),
        (torch.ones(1, 1), ValueError, "n >= 2"),
        (torch.eye(2).int(), TypeError, "g must be .*int32"),
        (torch.eye(2) * 1j, TypeError, "g must be .*complex"),
        (torch.full((2, 2), math.nan), ValueError, "g must be finite"),
        (torch.stack([torch.eye(3), torch.eye(3) / 0]), ValueError, r"finite; matrix \[1\]"),
        (torch.tensor([[1.0, 0], [0, -2]]), ValueError, "det = -2.*reflect"),
        (torch.zeros(2, 2), ValueError, "det = 0"),
        (torch.ones(4, 3, 3), ValueError, "det = 0"),
        (torch.eye(2) - 2 * torch.eye(2)[:1].mT @ torch.eye(2)[:1], ValueError, r"det = -1 .*not in GL\+\(n\)"),
    ],
)
def test_what_is_refused(g: Tensor, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        polar(g)


@pytest.mark.parametrize("n", [2, 3])
def test_float32_warns_where_the_condition_hides_the_rotation(n: int) -> None:
    g = torch.eye(n)
    g[0, 0] = 1e-8
    with pytest.warns(UserWarning, match="condition.*unreliable"):
        polar(g)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        polar(g.double())
        g[0, 0] = 1e-6
        polar(g)


# -- exponentials and rotations ----------------------------------------------------------------------------------------


@given(sizes, seeds)
def test_pairs_are_inverse_to_each_other(n: int, seed: int) -> None:
    X = matrices(n, seed) / 2
    X, R = (X + X.mT) / 2, rotations(n, seed, 4)
    g, g_inv = inverse_pair(X, R)
    torch.testing.assert_close(g, torch.linalg.matrix_exp(X / 2) @ R)
    torch.testing.assert_close(g @ g_inv, torch.eye(n, dtype=g.dtype).expand_as(g), atol=1e-12, rtol=0)


@given(sizes, seeds)
def test_the_riemannian_exponential(n: int, seed: int) -> None:
    V = matrices(n, seed, 1)[0] / 2
    expected = scipy.linalg.expm(V.mT.numpy()) @ scipy.linalg.expm((V - V.mT).numpy())
    np.testing.assert_allclose(riemannian_exp(V).numpy(), expected, atol=1e-9)


@given(st.floats(-20, 20))
def test_rotations_of_the_plane(theta: float) -> None:
    R = rotation(torch.tensor(theta, dtype=torch.float64))
    expected = [[math.cos(theta), -math.sin(theta)], [math.sin(theta), math.cos(theta)]]
    torch.testing.assert_close(R, torch.tensor(expected, dtype=torch.float64))
    angle = float(rotation_angle(R))
    assert -math.pi < angle <= math.pi
    assert math.isclose(math.cos(angle - theta), 1)


def test_a_half_turn_is_pi_whatever_the_sign_of_its_zero() -> None:
    assert float(rotation_angle(torch.tensor([[-1.0, 0.0], [-0.0, -1.0]]))) == pytest.approx(math.pi)


@given(st.integers(3, 7), seeds)
def test_logarithms_of_rotations(n: int, seed: int) -> None:
    X = matrices(n, seed, 2)
    X = X - X.mT
    X = X / torch.linalg.matrix_norm(X, 2)[:, None, None] * 3.0  # angles below pi
    R = torch.linalg.matrix_exp(X)
    torch.testing.assert_close(rotation_log(R), X, atol=1e-9, rtol=0)


@given(st.integers(3, 7), seeds, st.lists(st.floats(0, 12), min_size=3, max_size=3), st.sampled_from([32, 64]))
def test_logarithms_lead_back_close_to_half_turns_in_the_precision_of_the_rotation(
    n: int, seed: int, digits: list[float], bits: int
) -> None:
    Q = rotations(n, seed, 1)[0]
    turns = [rotation(torch.tensor(math.pi - 10.0**-d, dtype=torch.float64)) for d in digits[: n // 2]]
    R = Q @ torch.block_diag(*turns, torch.eye(n % 2, dtype=torch.float64)) @ Q.mT
    R = R.to(torch.float32 if bits == 32 else torch.float64)
    log = rotation_log(R)
    torch.testing.assert_close(log, -log.mT)
    assert torch.linalg.matrix_norm(log.double(), 2) <= math.pi * (1 + 1e-6)
    torch.testing.assert_close(
        torch.linalg.matrix_exp(log.double()), R.double(), atol=1e-6 if bits == 32 else 1e-11, rtol=0
    )
    angles = SLn(n).coords(R)
    torch.testing.assert_close(SLn(n).from_coords(angles), R, atol=3e-6 if bits == 32 else 1e-11, rtol=0)


@given(st.integers(3, 6), seeds, st.floats(1, 7))
def test_gradients_of_logarithms_close_to_half_turns(n: int, seed: int, digits: float) -> None:
    Q, step = rotations(n, seed, 1)[0], 0.1 * 10.0**-digits
    turn = rotation(torch.tensor(math.pi - 10.0**-digits, dtype=torch.float64))
    R = (Q @ torch.block_diag(turn, torch.eye(n - 2, dtype=torch.float64)) @ Q.mT).requires_grad_()
    X, of_log = matrices(n, seed + 1, 2)
    ahead, back = (torch.linalg.matrix_exp(t * step * (X - X.mT)) for t in (1, -1))
    (gradient,) = torch.autograd.grad((rotation_log(R) * of_log).sum(), R)
    with torch.no_grad():
        measured = ((rotation_log(R @ ahead) - rotation_log(R @ back)) * of_log).sum() / (2 * step)
        torch.testing.assert_close((gradient * (R @ (X - X.mT))).sum(), measured, rtol=1e-2, atol=1e-5)


@pytest.mark.parametrize("n", [3, 4])
@pytest.mark.parametrize("point", POINTS)
def test_gradients_of_logarithms_along_rotations(point: str, n: int) -> None:
    g = POINTS[point](n).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: rotation_log(polar(x)[1]), g, atol=1e-5)


@pytest.mark.parametrize("n", [3, 4, 5])
def test_half_turns_have_one_of_their_two_logarithms(n: int) -> None:
    for count in range(2, n + 1, 2):
        signs = torch.ones(n, dtype=torch.float64)
        signs[:count] = -1
        Q = rotations(n, count, 1)[0]
        R = Q @ signs.diag() @ Q.mT
        log = rotation_log(R)
        torch.testing.assert_close(log, -log.mT)
        torch.testing.assert_close(torch.linalg.matrix_exp(log), R, atol=1e-9, rtol=0)


@pytest.mark.usefixtures("annotations_unchecked")
def test_exponentials_and_angles_refuse_by_name() -> None:
    with pytest.raises(ValueError, match=r"log_S must be .* \(2, 3\)"):
        inverse_pair(torch.ones(2, 3), torch.eye(2))
    with pytest.raises(ValueError, match="one n, got 2 and 3"):
        inverse_pair(torch.eye(2), torch.eye(3))
    with pytest.raises(ValueError, match="V must be"):
        riemannian_exp(torch.ones(2, 3))
    with pytest.raises(ValueError, match="R must be rotations"):
        rotation_angle(torch.eye(3))
    array: Any = np.eye(2)
    for name, call in (
        ("g", lambda: polar(array)),
        ("log_S", lambda: inverse_pair(array, torch.eye(2))),
        ("R", lambda: inverse_pair(torch.eye(2), torch.eye(2).int())),
        ("V", lambda: riemannian_exp(array)),
        ("R", lambda: rotation_angle(array)),
        ("R", lambda: rotation_angle(torch.eye(2) * 1j)),
    ):
        with pytest.raises(TypeError, match=f"^{name} must be a (floating-point|real) tensor, got"):
            call()
    with pytest.raises(TypeError, match="theta must be real"):
        rotation(torch.ones(2) * 1j)
