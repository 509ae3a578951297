import math
import warnings

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from linmap.compress.flatquant.transforms import (
    cayley,
    factor_pairs,
    kronecker_apply,
    kronecker_factors,
)

seeds = st.integers(0, 2**16)


def product(factors):
    P = factors[0]
    for factor in factors[1:]:
        P = torch.kron(P, factor)
    return P


def random(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


# -- Sizes -------------------------------------------------------------------------------------------------------------


def test_the_factors_have_the_smallest_sum_for_every_n():
    for n in range(1, 5001):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            n1, n2 = kronecker_factors(n)
        assert n1 <= n2
        assert n1 * n2 == n
        assert not any(n % d == 0 for d in range(n1 + 1, math.isqrt(n) + 1))


@pytest.mark.parametrize(
    ("n", "factors"),
    [
        (576, (24, 24)),
        (1536, (32, 48)),
        (4096, (64, 64)),
        (11008, (86, 128)),
        (12, (3, 4)),
        (28, (4, 7)),
        (60, (6, 10)),
        (9, (3, 3)),
        (21, (3, 7)),  # three times a prime is none that degenerates
    ],
)
def test_known_factors(n, factors):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert kronecker_factors(n) == factors


@pytest.mark.parametrize(("n", "factors"), [(7, (1, 7)), (14, (2, 7)), (4099, (1, 4099)), (10, (2, 5)), (6, (2, 3))])
def test_a_prime_or_twice_a_prime_degenerates(n, factors):
    with pytest.warns(UserWarning, match=rf"size {n} degenerates to the factors \({factors[0]}, {factors[1]}\).*pad"):
        assert kronecker_factors(n) == factors


@pytest.mark.usefixtures("annotations_unchecked")
@pytest.mark.parametrize("n", [0, -4, 2.0, True])
def test_only_positive_integers_have_factors(n):
    with pytest.raises(ValueError, match="n must be a positive integer"):
        kronecker_factors(n)


# -- Orthogonal matrices -----------------------------------------------------------------------------------------------


@given(st.integers(1, 9), seeds, st.floats(0.1, 100))
def test_cayley_solves_its_equation_and_is_a_rotation(n, seed, size):
    raw = random(2, n, n, seed=seed) * size
    U, A, eye = cayley(raw), raw.tril() - raw.tril().mT, torch.eye(n, dtype=torch.float64)
    torch.testing.assert_close((eye - A / 2) @ U, eye + A / 2, rtol=1e-9, atol=1e-9 * size)
    torch.testing.assert_close(U @ U.mT, eye.expand(2, n, n), rtol=0, atol=1e-9)
    torch.testing.assert_close(torch.linalg.det(U), torch.ones(2, dtype=torch.float64))
    assert torch.equal(cayley(raw.tril(-1)), U)


def test_cayley_is_the_trivial_parametrisation_of_torch(generator):
    linear = torch.nn.Linear(6, 6, bias=False, dtype=torch.float64)
    torch.nn.utils.parametrizations.orthogonal(linear, orthogonal_map="cayley", use_trivialization=False)
    torch.testing.assert_close(cayley(linear.get_parameter("parametrizations.weight.original")), linear.weight)


@pytest.mark.parametrize("shape", [(1, 1), (4, 4), (2, 3, 3)], ids=str)
def test_gradients_of_cayley(shape):
    assert torch.autograd.gradcheck(cayley, random(*shape).requires_grad_())


@pytest.mark.parametrize("size", [1.0, 100.0])
def test_cayley_is_in_float32_at_least(size, generator):
    raw = torch.randn(24, 24, generator=generator) * size
    with torch.autocast("cpu", torch.bfloat16):
        U = cayley(raw.clone().requires_grad_())
    assert torch.equal(U, cayley(raw))
    assert U.dtype == torch.float32
    assert (U.mT @ U - torch.eye(24)).abs().max() < 5e-6
    assert cayley(raw.bfloat16()).dtype == torch.float32


def test_the_gradient_of_cayley_under_autocast_is_in_float32(generator):
    raw = torch.randn(8, 8, generator=generator).requires_grad_()
    target = torch.randn(8, 8, generator=generator)
    (expected,) = torch.autograd.grad((cayley(raw) * target).sum(), raw)
    with torch.autocast("cpu", torch.bfloat16):
        (found,) = torch.autograd.grad((cayley(raw) * target).sum(), raw)
    torch.testing.assert_close(found, expected)


def test_cayley_of_what_is_not_square_is_refused():
    with pytest.raises(ValueError, match=r"square matrices, got the shape \(2, 3\)"):
        cayley.__wrapped__(torch.ones(2, 3))


# -- Application -------------------------------------------------------------------------------------------------------


sizes = st.lists(st.integers(1, 6), min_size=1, max_size=3)


@given(sizes, st.lists(st.integers(0, 3), max_size=3), seeds)
def test_it_is_the_product_with_the_kronecker_product(sizes, leading, seed):
    factors = [random(n, n, seed=seed + i) for i, n in enumerate(sizes)]
    x = random(*leading, math.prod(sizes), seed=seed)
    torch.testing.assert_close(kronecker_apply(x, factors), x @ product(factors), rtol=1e-12, atol=1e-12)


@given(st.integers(1, 6), st.integers(1, 6), seeds)
def test_the_left_factor_acts_on_rows_transposed(n1, n2, seed):
    L, R, X = random(n1, n1, seed=seed), random(n2, n2, seed=seed + 1), random(n1, n2, seed=seed + 2)
    torch.testing.assert_close(kronecker_apply(X.flatten(), [L, R]), (L.mT @ X @ R).flatten(), rtol=1e-12, atol=1e-12)


@given(st.integers(1, 5), st.integers(1, 5), seeds)
def test_activation_and_weight_transforms_cancel(n1, n2, seed):
    """(x P)(W P^-T)^T = x W^T, where P^-T of U diag(s) V^T is U diag(1/s) V^T."""
    x, W = random(4, n1 * n2, seed=seed), random(3, n1 * n2, seed=seed + 1)
    pairs = []
    for i, n in enumerate((n1, n2)):
        U, V = cayley(random(2, n, n, seed=seed + 2 + i))
        s = random(n, seed=seed + 4 + i).exp()
        pairs.append(((U * s) @ V.mT, (U / s) @ V.mT))
    for P, P_inv_T in pairs:
        torch.testing.assert_close(P_inv_T @ P.mT, torch.eye(len(P), dtype=torch.float64), rtol=0, atol=1e-10)
    x_P = kronecker_apply(x, [P for P, _ in pairs])
    W_P = kronecker_apply(W, [P_inv_T for _, P_inv_T in pairs])
    torch.testing.assert_close(x_P @ W_P.mT, x @ W.mT, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("sizes", [(2, 3), (3, 2, 2), (1, 4), (5,)], ids=str)
def test_gradients_of_the_application(sizes):
    factors = [random(n, n, seed=i).requires_grad_() for i, n in enumerate(sizes)]
    x = random(2, 3, math.prod(sizes), seed=9).requires_grad_()
    assert torch.autograd.gradcheck(lambda x, *factors: kronecker_apply(x, factors), (x, *factors))


def test_factors_of_another_size_are_refused_with_the_pairs_that_fit():
    with pytest.raises(ValueError, match=r"\(2, 3\) do not multiply to n = 12; .* \(1, 12\), \(2, 6\), \(3, 4\)"):
        kronecker_apply(torch.ones(2, 12), [torch.eye(2), torch.eye(3)])
    with pytest.raises(ValueError, match=r"square matrices, got \(2, 3\)"):
        kronecker_apply(torch.ones(2, 6), [torch.ones(2, 3)])
    assert factor_pairs(12) == [(1, 12), (2, 6), (3, 4)]
