"""Bases and global coordinates of GL+(n), SL(n) and SO(2)."""

# what is refused has the wrong type on purpose
# pyright: reportArgumentType=false

import math

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given
from hypothesis import strategies as st

from linmap.geometry.groups import SO2, GLnPlus, PolarGroup, SLn, rotation

alphas = st.sampled_from([0.5, 1.0, 2.0])
seeds = st.integers(0, 2**31 - 1)
S = math.sqrt(0.5)


def group(kind: str, n: int, alpha: float) -> PolarGroup:
    return SO2(alpha) if kind == "SO" else (GLnPlus if kind == "GL" else SLn)(n, alpha)


groups = st.builds(group, st.sampled_from(["GL", "SL", "SO"]), st.integers(2, 5), alphas)


@given(groups)
def test_bases_are_orthonormal(G: PolarGroup) -> None:
    B = G.basis
    assert B.dtype == torch.float64
    gram = G.metric_alpha * torch.einsum("aij,bij->ab", B, B)
    torch.testing.assert_close(gram, torch.eye(G.dim, dtype=torch.float64), atol=1e-12, rtol=0)
    assert G.dim == {"GL": G.n**2, "SL": G.n**2 - 1, "SO": 1}[G.name[:2]]
    if not isinstance(G, GLnPlus):
        assert float(B.diagonal(dim1=1, dim2=2).sum(1).abs().max()) < 1e-12


def test_bases_of_the_plane_in_their_order() -> None:
    sym, skew = [[0, S], [S, 0]], [[0, -S], [S, 0]]
    for G, expected in (
        (GLnPlus(2), [[[1, 0], [0, 0]], sym, [[0, 0], [0, 1]], skew]),
        (SLn(2), [sym, skew, [[S, 0], [0, -S]]]),
        (SO2(), [skew]),
    ):
        torch.testing.assert_close(G.basis, torch.tensor(expected, dtype=torch.float64))


@given(groups, seeds)
def test_hat_and_vee_are_inverse(G: PolarGroup, seed: int) -> None:
    v = torch.randn(2, 3, G.dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    torch.testing.assert_close(G.vee(G.hat(v)), v)
    torch.testing.assert_close(G.vee(G.hat(v.float())), v.float())


@given(groups, seeds)
def test_coordinates_are_global(G: PolarGroup, seed: int) -> None:
    v = torch.randn(20, G.dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    g = G.from_coords(v)
    assert bool(G.belongs(g).all())
    w = G.coords(g)
    torch.testing.assert_close(G.from_coords(w), g, atol=1e-5, rtol=1e-5)
    log_P, R = G.polar(g)
    torch.testing.assert_close(torch.linalg.matrix_exp(log_P) @ R, g, atol=1e-8, rtol=1e-8)
    if G.n == 2:
        i = G.angle_index
        assert bool(((w[:, i] >= 0) & (w[:, i] < 2 * math.pi)).all())
        torch.testing.assert_close(torch.remainder(w[:, i] - v[:, i] + 1, 2 * math.pi), torch.ones(20).double())
        w[:, i] = v[:, i]
        torch.testing.assert_close(w, v, atol=1e-9, rtol=0)


def test_ten_thousand_elements_where_logm_fails() -> None:
    generator = torch.Generator().manual_seed(0)
    g = torch.randn(20_000, 2, 2, generator=generator, dtype=torch.float64)
    g = g[torch.linalg.det(g) > 1e-3][:10_000]
    for G, x in ((GLnPlus(2), g), (SLn(2), g / torch.linalg.det(g).sqrt()[:, None, None])):
        torch.testing.assert_close(G.from_coords(G.coords(x, project=True)), x, atol=1e-4, rtol=1e-6)
    far = torch.tensor([[-2.0, 0.0], [0.0, -0.5]], dtype=torch.float64)
    assert np.iscomplexobj(scipy.linalg.logm(far.numpy()))
    v = SLn(2).coords(far)
    torch.testing.assert_close(v, torch.tensor([0, math.pi, math.log(2) / S], dtype=torch.float64))
    torch.testing.assert_close(SLn(2).from_coords(v), far)


@pytest.mark.parametrize("alpha", [0.5, 2.0])
def test_the_angle_is_raw_whatever_the_metric(alpha: float) -> None:
    for G in (SO2(alpha), SLn(2, alpha), GLnPlus(2, alpha)):
        for theta in (0.3, 4.0, 2 * math.pi - 1e-3):
            v = G.coords(rotation(torch.tensor(theta, dtype=torch.float64)))
            assert float(v[G.angle_index]) == pytest.approx(theta)
    X = torch.tensor([[0.2, 0.1], [0.1, -0.2]], dtype=torch.float64)
    v = SLn(2, alpha).coords(torch.linalg.matrix_exp(X))
    expected = torch.tensor([0.1, 0, 0.2], dtype=torch.float64) * math.sqrt(2 * alpha)
    torch.testing.assert_close(v, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_identity_never_has_a_full_turn(dtype: torch.dtype) -> None:
    for sin in (0.0, -0.0, 1e-7, -1e-7, -9e-7):
        R = torch.tensor([[1.0, -sin], [sin, 1.0]], dtype=dtype)
        assert float(SO2().coords(R)) == 0
        assert float(SO2().coords(-R)) == pytest.approx(math.pi)
    assert float(SO2().coords(rotation(torch.tensor(-2e-6, dtype=dtype)))) == pytest.approx(2 * math.pi, abs=1e-5)


def test_gradients_of_coordinates_at_the_identity() -> None:
    for G in (SLn(2), GLnPlus(2), GLnPlus(3), SLn(4)):
        g = torch.eye(G.n, dtype=torch.float64).requires_grad_()
        jacobian = torch.autograd.functional.jacobian(lambda x, G=G: G.coords(x, project=True), g)
        v = torch.randn(G.dim, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        moved = torch.tensordot(jacobian, G.hat(v), 2)
        if G.n == 2:
            v[G.angle_index] *= S  # a raw angle
        torch.testing.assert_close(moved, v, atol=1e-9, rtol=0)


@given(st.integers(2, 6), seeds)
def test_traces_of_sl_vanish(n: int, seed: int) -> None:
    v = torch.randn(5, n * n - 1, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) / 2
    log_P, _ = SLn(n).polar(SLn(n).from_coords(v))
    assert float(log_P.diagonal(dim1=1, dim2=2).sum(1).abs().max()) < 1e-11
    assert float((torch.linalg.det(torch.linalg.matrix_exp(log_P)) - 1).abs().max()) < 1e-11


def test_project_divides_by_the_determinant() -> None:
    g = torch.tensor([[3.0, 1.0], [0.5, 2.0]], dtype=torch.float64)
    root = torch.linalg.det(g).sqrt()
    torch.testing.assert_close(SLn(2).coords(g, project=True), SLn(2).coords(g / root))
    torch.testing.assert_close(SLn(3).polar(2 * torch.eye(3), project=True)[0], torch.zeros(3, 3), atol=1e-6, rtol=0)
    torch.testing.assert_close(SO2().polar(g, project=True)[1], GLnPlus(2).polar(g)[1])


def test_belonging() -> None:
    g = torch.stack([torch.eye(2), 2 * torch.eye(2), torch.diag(torch.tensor([2.0, 0.5])), -torch.eye(2)])
    bad = torch.stack([torch.diag(torch.tensor([1.0, -1.0])), torch.zeros(2, 2), torch.full((2, 2), math.nan)])
    x = torch.cat([g, bad])
    assert GLnPlus(2).belongs(x).tolist() == [True, True, True, True, False, False, False]
    assert SLn(2).belongs(x).tolist() == [True, False, True, True, False, False, False]
    assert SO2().belongs(x).tolist() == [True, False, False, True, False, False, False]
    assert SLn(2).belongs(x, tol=5).tolist() == [True, True, True, True, False, False, False]


@given(st.integers(2, 6), seeds)
def test_the_haar_density(n: int, seed: int) -> None:
    Y = torch.randn(3, n, n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    Y = Y + Y.mT
    y = np.linalg.eigvalsh(Y.numpy())
    expected = np.ones(3)
    for i in range(n):
        for j in range(i):
            expected *= np.sinh(y[:, i] - y[:, j]) / (y[:, i] - y[:, j])
    np.testing.assert_allclose(GLnPlus(n).haar_density(Y).numpy(), expected, rtol=1e-9)
    assert float(GLnPlus(n).haar_density(3 * torch.eye(n))) == 1


@pytest.mark.usefixtures("annotations_unchecked")
@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: SLn(1), ValueError, "n must be at least 2, got 1"),
        (lambda: SLn(2.5), TypeError, "n must be an integer"),
        (lambda: GLnPlus(True), ValueError, "n must be"),
        (lambda: SO2(0.0), ValueError, "metric_alpha must be positive, got 0"),
        (lambda: GLnPlus(2, -1.0), ValueError, "metric_alpha"),
        (lambda: SLn(2, math.nan), ValueError, "metric_alpha"),
        (lambda: SLn(2).coords(2 * torch.eye(2)), ValueError, r"det = 4, not in SL\(2\).*project=True"),
        (lambda: SLn(2).polar(torch.diag(torch.tensor([1.0, -1]))), ValueError, r"det = -1.*not in GL\+\(n\)"),
        (lambda: GLnPlus(2).coords(torch.zeros(2, 2)), ValueError, "det = 0"),
        (lambda: SLn(2).coords(torch.eye(3)), ValueError, r"matrices \(\.\.\., 2, 2\) for SL\(2\).*\(3, 3\)"),
        (lambda: SLn(2).coords(torch.eye(2).int()), TypeError, "int32"),
        (lambda: SO2().coords(torch.eye(2) * 1.1), ValueError, "no rotation"),
        (lambda: SLn(2).from_coords(torch.zeros(4)), ValueError, r"v must have 3 coordinates.*\(4,\)"),
        (lambda: GLnPlus(3).hat(torch.zeros(2, 4)), ValueError, "v must have 9"),
        (lambda: SLn(3).vee(torch.eye(2)), ValueError, "X must be matrices"),
        (lambda: SLn(3).belongs(torch.eye(2)), ValueError, "g must be matrices"),
        (lambda: SLn(3).haar_density(torch.eye(2)), ValueError, "log_P must be matrices"),
        (lambda: SLn(2).hat(torch.zeros(3).int()), TypeError, "v must be"),
        (lambda: SLn(2).hat([1.0, 2.0, 3.0]), TypeError, "v must be a floating-point tensor, got list"),
        (lambda: SLn(2).coords(np.eye(2)), TypeError, "g must be a floating-point tensor, got ndarray"),
        (lambda: SLn(2).belongs(None), TypeError, "g must be a floating-point tensor, got NoneType"),
        (lambda: SLn(2).vee(np.eye(2)), TypeError, "X must be a floating-point tensor, got ndarray"),
        (lambda: SLn(2).haar_density(np.eye(2)), TypeError, "log_P must be a floating-point tensor, got ndarray"),
        (lambda: SO2("1"), TypeError, "metric_alpha must be a positive number, got '1'"),
    ],
)
def test_what_is_refused(call, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()
