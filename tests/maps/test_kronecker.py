from functools import reduce

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from linmap.errors import SingularMapError
from linmap.maps import Cayley, Dense, Householder, Kronecker
from maps.allocation import largest_tensor
from typed import present

pairs = st.tuples(st.integers(1, 4), st.integers(1, 4))
seeds = st.integers(0, 2**16)


def make(*factors, seed: int = 0) -> Kronecker:
    return Kronecker(*factors, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@given(st.lists(pairs, min_size=1, max_size=3), seeds)
def test_it_is_the_kronecker_product_with_the_first_factor_slowest(sizes, seed):
    map = make(*sizes, seed=seed)
    product = reduce(torch.kron, [factor.matrix() for factor in map.parts])
    torch.testing.assert_close(map.matrix(), product)
    x = torch.randn(3, map.in_features, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    torch.testing.assert_close(map(x), x @ product.mT)
    torch.testing.assert_close(map.T(map(x)), x @ product.mT @ product)


def test_two_factors_act_from_the_left_and_from_the_right(generator):
    map = make((3, 2), (4, 5))
    A, B = (factor.matrix() for factor in map.parts)
    X = torch.randn(3, 4, dtype=torch.float64, generator=generator)
    torch.testing.assert_close(map(X.flatten()), (A @ X @ B.mT).flatten())


def test_maps_and_sizes_mix_and_share_their_parameters(generator):
    turn = Householder(3, dtype=torch.float64, generator=generator)
    map = Kronecker(turn, 2, Cayley(2, dtype=torch.float64, generator=generator).T, dtype=torch.float64)
    factors = [factor.matrix().contiguous() for factor in map.parts]
    torch.testing.assert_close(map.matrix(), reduce(torch.kron, factors))
    assert map.parts[0] is turn
    assert not map.orthogonal
    x = torch.randn(5, 12, dtype=torch.float64, generator=generator)
    torch.testing.assert_close(map(x), x @ map.matrix().mT)
    torch.testing.assert_close(map.inverse()(map(x)), x)


def test_orthogonal_factors_make_an_orthogonal_product(generator):
    map = Kronecker(Householder(3, generator=generator), Cayley(2, generator=generator))
    assert map.orthogonal
    assert torch.equal(map.logabsdet(), torch.tensor(0.0))
    torch.testing.assert_close(map.inverse().matrix(), map.matrix().mT)


def test_a_batched_factor_makes_a_batched_product(generator):
    batched = Dense(3, batch_shape=(2,), dtype=torch.float64, generator=generator)
    for map in (Kronecker(batched, 2, dtype=torch.float64), Kronecker((2, 3), batched, dtype=torch.float64)):
        assert map.batch_shape == (2,)
        for i in range(2):
            single = reduce(torch.kron, [f.matrix()[i] if f.batch_shape else f.matrix() for f in map.parts])
            torch.testing.assert_close(map.matrix()[i], single)
        for shape in [(), (4,), (2, 4), (5, 1, 4)]:
            x = torch.randn(*shape, 6, dtype=torch.float64, generator=generator)
            torch.testing.assert_close(map(x), x @ map.matrix().mT)


@pytest.mark.parametrize("sizes", [((4, 3), (2, 3)), ((3, 9), (5, 2)), ((6, 5), (1, 1))], ids=str)
def test_second_derivatives_in_both_ways_of_summing(sizes, generator):
    """The gradient of a factor is summed from small products, or as one long one: narrow and wide axes take both."""
    map = make(*sizes)
    x = torch.randn(2, map.in_features, dtype=torch.float64, generator=generator, requires_grad=True)

    def evaluate(A, B, x):
        return torch.func.functional_call(map, {"factors.0.weight": A, "factors.1.weight": B}, (x,))

    weights = [factor.matrix().detach().requires_grad_() for factor in map.parts]
    assert torch.autograd.gradcheck(evaluate, (*weights, x))
    assert torch.autograd.gradgradcheck(evaluate, (*weights, x))


def test_a_forward_makes_nothing_of_the_size_of_the_matrix(generator):
    map, x = Kronecker(16, 16, generator=generator), torch.randn(2, 256, generator=generator)
    assert largest_tensor(lambda: map(x).sum().backward()) <= 2 * 256


@given(pairs, pairs, seeds)
def test_from_matrix_finds_the_nearest_product(a, b, seed):
    """The residual is what the singular values of the rearranged matrix leave beside the largest one."""
    (n_1, m_1), (n_2, m_2) = a, b
    generator = torch.Generator().manual_seed(seed)
    M = torch.randn(m_1 * m_2, n_1 * n_2, dtype=torch.float64, generator=generator)
    blocks = torch.stack([block.flatten() for row in M.split(m_2, 0) for block in row.split(n_2, 1)])
    S = torch.linalg.svdvals(blocks)
    best = float(((S[1:] ** 2).sum() / (S**2).sum()).sqrt())
    assert Kronecker.from_matrix(M, sizes=(a, b)).residual == pytest.approx(best, abs=1e-7)


def test_from_matrix_is_exact_for_three_factors_and_for_zero():
    M = make(2, (3, 1), (2, 4)).matrix().detach()
    assert present(Kronecker.from_matrix(M, sizes=(2, (3, 1), (2, 4))).residual) < 1e-14
    assert Kronecker.from_matrix(torch.zeros(6, 6), sizes=(2, 3)).residual == 0


def test_a_product_without_an_inverse_names_the_factor():
    flat = make((2, 3), (3, 2))
    assert flat.square
    with pytest.raises(SingularMapError, match=r"factor Dense\(2, 3\) is not square"):
        flat.inverse()
    assert flat.logabsdet() == -torch.inf
    singular = Kronecker(Dense.from_matrix(torch.ones(2, 2)), 2)
    with pytest.raises(SingularMapError, match=r"Dense\(2, 2\) has no inverse"):
        singular.inverse()


@pytest.mark.usefixtures("annotations_unchecked")
@pytest.mark.parametrize("factors", [(0,), (2.5,), ((2, 3, 4),), (True,), ("2",), ((2, -1),)], ids=repr)
def test_wrong_sizes_are_refused(factors):
    with pytest.raises(ValueError, match="a factor must be a LinearMap, a size n or sizes"):
        Kronecker(*factors)


def test_wrong_factors_are_refused():
    with pytest.raises(ValueError, match="no factors came"):
        Kronecker()
    with pytest.raises(ValueError, match=r"one dtype and device, got torch\.float32 on cpu, torch\.float64 on cpu"):
        Kronecker(Dense(2), Dense(2, dtype=torch.float64))
    for sizes in [(2, 2), ()]:
        with pytest.raises(ValueError, match=r"make a matrix of shape .*, but M has \(6, 6\)"):
            Kronecker.from_matrix(torch.eye(6), sizes=sizes)
