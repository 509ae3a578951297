import math

import pytest
import scipy.linalg
import torch
from hypothesis import given
from hypothesis import strategies as st

from linmap.maps.hadamard import hadamard, hadamard_factors, hadamard_transform, transform_factors
from linmap.maps.kronecker import kronecker_product
from linmap.maps.orthogonal import haar_orthogonal


@pytest.mark.parametrize("bits", range(13))
def test_the_transform_is_sylvesters_matrix_and_its_own_inverse(bits, generator):
    n = 2**bits
    x = torch.randn(3, n, dtype=torch.float64, generator=generator)
    y = hadamard_transform(x)
    torch.testing.assert_close(y, x @ torch.from_numpy(scipy.linalg.hadamard(n) / math.sqrt(n)), rtol=0, atol=1e-12)
    torch.testing.assert_close(hadamard_transform(y), x)
    torch.testing.assert_close(hadamard_transform(x, [H.double() for H in transform_factors(n)]), y)


@pytest.mark.parametrize("bits", range(21))
def test_small_factors_make_up_the_size(bits):
    sizes = [len(H) for H in transform_factors(2**bits)]
    assert math.prod(sizes) == 2**bits
    assert max(sizes, default=1) <= 128
    assert max(sizes, default=1) <= 4 * min(sizes, default=1)


def test_gradients_are_the_transform_of_gradients(generator):
    x, g = (torch.randn(2, 256, dtype=torch.float64, generator=generator) for _ in range(2))
    (found,) = torch.autograd.grad(hadamard_transform(x.requires_grad_()), x, g)
    torch.testing.assert_close(found, hadamard_transform(g))


@pytest.mark.parametrize("n", [3, 12, 1000])
def test_other_sizes_have_no_transform(n):
    with pytest.raises(ValueError, match=f"power of two as its order, got {n}; pad with zeros"):
        hadamard_transform(torch.ones(n))


@given(st.lists(st.integers(1, 5), min_size=1, max_size=3), st.integers(0, 2**16))
def test_a_kronecker_product_acts_as_the_matrix(sizes, seed):
    draws = torch.Generator().manual_seed(seed)
    factors = [torch.randn(n, n, dtype=torch.float64, generator=draws) for n in sizes]
    x = torch.randn(2, 3, math.prod(sizes), dtype=torch.float64, generator=draws)
    M = factors[0]
    for A in factors[1:]:
        M = torch.kron(M, A)
    torch.testing.assert_close(kronecker_product(factors, x), x @ M.mT, rtol=1e-12, atol=1e-12)


# -- matrices of other orders --------------------------------------------------------------------------------------


@given(st.integers(1, 700))
def test_hadamard_factors_are_orthogonal_and_of_size_n(n):
    factors = hadamard_factors(n)
    assert math.prod(map(len, factors)) == n
    for H in factors:
        torch.testing.assert_close(H @ H.mT, torch.eye(len(H), dtype=torch.float64))


@pytest.mark.parametrize(
    ("n", "sizes"),
    [
        (1, [1]), (2, [2]), (12, [12]), (20, [20]), (28, [28]), (36, [36]), (60, [60]), (64, [64]), (9, [9]),
        (576, [12, 12, 4]), (1536, [12, 128]), (4096, [64, 64]), (92, [23, 4]), (11008, [43, 16, 16]),
    ],
)  # fmt: skip
def test_known_hadamard_sizes(n, sizes):
    assert sorted(map(len, hadamard_factors(n))) == sorted(sizes)


@pytest.mark.parametrize("n", [2, 4, 12, 20, 24, 28, 36, 44, 60, 76, 148, 576, 1536])
def test_hadamard_matrices_spread_every_channel_evenly(n):
    for H in hadamard_factors(n):
        torch.testing.assert_close(H.abs(), torch.full_like(H, len(H) ** -0.5))


def test_the_factor_without_a_hadamard_matrix_is_always_the_same():
    assert torch.equal(hadamard_factors(92)[0], hadamard_factors(46)[0])


@pytest.mark.usefixtures("annotations_unchecked")
@pytest.mark.parametrize("n", [0, -4, 2.0, True])
def test_only_positive_integers_have_factors(n):
    with pytest.raises(ValueError, match="n must be a positive integer"):
        hadamard_factors(n)


def test_rows_of_sylvesters_matrix_are_orthogonal():
    H = hadamard(16)
    assert torch.equal(H @ H.mT, 16 * torch.eye(16))
    assert set(H.unique().tolist()) == {-1.0, 1.0}


def test_haar_matrices_are_orthogonal_uniform_and_seeded():
    draws = torch.stack([haar_orthogonal(3, torch.Generator().manual_seed(seed)) for seed in range(2000)])
    assert torch.equal(draws[7], haar_orthogonal(3, torch.Generator().manual_seed(7)))
    torch.testing.assert_close(draws @ draws.mT, torch.eye(3, dtype=torch.float64).expand(2000, 3, 3))
    assert draws.mean(0).abs().max() < 0.06  # without the signs, the diagonal leans to one side
    assert (draws.square().mean(0) - 1 / 3).abs().max() < 0.03
    assert abs((torch.linalg.det(draws) > 0).double().mean() - 0.5) < 0.05
