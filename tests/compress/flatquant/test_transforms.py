"""Transforms at a place of the block: laws of the factors, and what is known of them."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.linalg import hadamard

from linmap.compress.flatquant.transforms import (
    FixedFactor,
    InverseFactor,
    OnlineTransform,
    SiteTransform,
    factor,
    scaled_and_transformed,
    transformed,
)
from linmap.maps.hadamard import hadamard_factors
from typed import gradient_of

PARAMETRIZATIONS = ["svd", "exponential", "inverse"]
seeds = st.integers(0, 2**16)


def drawn(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random_factor(n: int, parametrization: str, seed: int) -> torch.nn.Module:
    """Away from its orthogonal start, and well conditioned; in float64."""
    generator = drawn(seed)
    new = factor(n, parametrization, generator).double()
    with torch.no_grad():
        for name, p in new.named_parameters():
            noise = 0.3 * torch.randn(p.shape, generator=generator, dtype=p.dtype)
            if isinstance(new, InverseFactor):
                p.copy_(p @ (torch.eye(n, dtype=p.dtype) + noise / n))
            else:
                p.copy_(p * noise.exp() if name == "diagonal" and parametrization == "svd" else p + noise)
    return new


def random_site(sizes: tuple[int, ...], parametrization: str, scale: bool, seed: int) -> SiteTransform:
    factors = [random_factor(n, parametrization, seed + i) for i, n in enumerate(sizes)]
    site = SiteTransform(factors, math.prod(sizes), scale).double()
    if site.scale is not None:
        site.scale.data = (0.3 * torch.randn(site.n, generator=drawn(seed), dtype=torch.float64)).exp()
    site.refresh()
    return site


# -- factors -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("parametrization", PARAMETRIZATIONS)
@given(st.integers(1, 12), seeds)
@torch.no_grad()
def test_a_pair_is_a_matrix_and_its_inverse_transposed(parametrization, n, seed):
    P, P_inv_T = random_factor(n, parametrization, seed)()
    torch.testing.assert_close(P_inv_T.mT @ P, torch.eye(n, dtype=torch.float64), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("parametrization", PARAMETRIZATIONS)
@given(st.integers(1, 12), seeds)
@torch.no_grad()
def test_training_starts_orthogonal(parametrization, n, seed):
    P, P_inv_T = factor(n, parametrization, drawn(seed))()
    torch.testing.assert_close(P.mT @ P, torch.eye(n), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(P_inv_T, P, rtol=1e-4, atol=1e-5)


@given(st.integers(1, 12), seeds)
@torch.no_grad()
def test_singular_values_are_the_diagonal(n, seed):
    for parametrization, value in (("svd", torch.Tensor.abs), ("exponential", torch.Tensor.exp)):
        new = random_factor(n, parametrization, seed)
        expected = value(new.get_parameter("diagonal")).sort(descending=True).values
        torch.testing.assert_close(torch.linalg.svdvals(new()[0]), expected, rtol=1e-9, atol=1e-9)


def test_a_fixed_factor_trains_nothing_and_is_its_own_inverse_transposed():
    fixed = FixedFactor(hadamard_factors(8)[0])
    assert not list(fixed.parameters())
    P, P_inv_T = fixed()
    torch.testing.assert_close(P_inv_T.mT @ P, torch.eye(len(P)))


# -- sites -------------------------------------------------------------------------------------------------------------

shapes = st.sampled_from([(1, 5), (2, 3), (4, 4), (2, 3, 4), (7,)])


@given(shapes, st.sampled_from(PARAMETRIZATIONS), st.booleans(), seeds)
@torch.no_grad()
def test_scale_and_matrices_cancel_between_input_and_weight(sizes, parametrization, scale, seed):
    """((x * c) P) ((W / c) P^-T)^T = x W^T."""
    site = random_site(sizes, parametrization, scale, seed)
    generator = drawn(seed + 1)
    x, W = (torch.randn(*s, site.n, generator=generator, dtype=torch.float64) for s in ((2, 3), (5,)))
    torch.testing.assert_close(site(x) @ site.weight(W).mT, x @ W.mT, rtol=1e-8, atol=1e-8)
    assert not torch.allclose(site(x), x)


@pytest.mark.parametrize("frozen", [True, False])
@given(st.integers(1, 5), st.integers(1, 5), st.integers(1, 4), seeds)
def test_scaled_products_and_their_gradients_are_those_of_the_dense_matrix(frozen, a, b, rows, seed):
    """Of weights, which are not trained, and of activations."""
    generator = drawn(seed)
    x, s, L, R, grad = (
        torch.randn(*shape, generator=generator, dtype=torch.float64)
        for shape in ((rows, a * b), (a * b,), (a, a), (b, b), (rows, a * b))
    )
    wanted = [s, L, R] if frozen else [x, s, L, R]
    for tensor in wanted:
        tensor.requires_grad_()
    fast, plain = scaled_and_transformed(x, s, [L, R]), (x * s) @ torch.kron(L, R)
    torch.testing.assert_close(fast, plain)
    torch.testing.assert_close(torch.autograd.grad(fast, wanted, grad), torch.autograd.grad(plain, wanted, grad))


@given(shapes, st.booleans(), seeds)
@torch.no_grad()
def test_the_quantised_model_transforms_as_training_does(sizes, scale, seed):
    site = random_site(sizes, "svd", scale, seed)
    online = OnlineTransform(sizes, site.n, scale, torch.float64)
    x = torch.randn(4, site.n, generator=drawn(seed), dtype=torch.float64)
    assert torch.equal(online(x), x)  # identities, until it is filled
    for i, pair in enumerate(site.pairs):
        online.get_buffer(f"factor_{i}").copy_(pair.P)
    if online.scale is not None and site.scale is not None:
        online.scale.copy_(site.scale)
    assert torch.equal(online(x), site(x))


@given(st.integers(1, 5), st.integers(1, 5), seeds)
def test_an_identity_fills_up_what_the_matrices_leave(n, rest, seed):
    """P ⊗ I: heads are mixed, what is in them is not."""
    generator = drawn(seed)
    P, x = (torch.randn(*s, generator=generator, dtype=torch.float64) for s in ((n, n), (3, n * rest)))
    expected = x @ torch.kron(P, torch.eye(rest, dtype=torch.float64))
    torch.testing.assert_close(transformed(x, [P]), expected)
    torch.testing.assert_close(transformed(x, []), x)


def test_the_wider_dtype_is_computed_in():
    P = torch.eye(4, dtype=torch.float64)
    assert transformed(torch.ones(2, 4), [P]).dtype == torch.float64
    assert transformed(torch.ones(2, 4, dtype=torch.float16), [P.float()]).dtype == torch.float32
    for dtype in (torch.float16, torch.float64):
        x, pair = torch.ones(2, 8, dtype=dtype, requires_grad=True), [torch.eye(2), torch.eye(4)]
        y = scaled_and_transformed(x, torch.ones(8), pair)
        y.sum().backward()
        assert (y.dtype, gradient_of(x).dtype) == (torch.promote_types(dtype, torch.float32), dtype)


# -- QuaRot's online rotation (oracle 4) -------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [8, 64, 128])
@torch.no_grad()
def test_hadamard_factors_are_the_rotation_of_quarot(n):
    """x H / sqrt(n) with Sylvester's matrix, in training and in the quantised model."""
    factors = hadamard_factors(n)
    site = SiteTransform([FixedFactor(H) for H in factors], n, scale=False)
    site.refresh()
    online = OnlineTransform([len(H) for H in factors], n, scale=False)
    for i, H in enumerate(factors):
        online.get_buffer(f"factor_{i}").copy_(H)
    x = torch.randn(16, n, generator=drawn(n))
    expected = (x.double() @ torch.from_numpy(hadamard(n)).double() / math.sqrt(n)).float()
    for rotate in (site, online):
        torch.testing.assert_close(rotate(x), expected, rtol=1e-5, atol=1e-5)
    W = torch.randn(5, n, generator=drawn(n + 1))
    torch.testing.assert_close(expected @ site.weight(W).mT, x @ W.mT, rtol=1e-4, atol=1e-4)
