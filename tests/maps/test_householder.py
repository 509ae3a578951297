import math
from itertools import pairwise

import pytest
import scipy.linalg
import torch
from hypothesis import given
from hypothesis import strategies as st

from linmap.maps import Householder, householder
from linmap.maps.householder import reflect
from maps.allocation import largest_tensor
from typed import gradient_of, present

sizes = st.integers(1, 9)
seeds = st.integers(0, 2**16)


def random_orthogonal(n: int, seed: int, sign: int = 1) -> torch.Tensor:
    Q, _ = torch.linalg.qr(torch.randn(n, n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64))
    Q[0] *= sign * torch.linalg.det(Q).sign()
    return Q


def explicit_product(vectors: torch.Tensor) -> torch.Tensor:
    n = vectors.shape[-1]
    M = torch.eye(n, dtype=vectors.dtype)
    for v in vectors:
        M = M @ (torch.eye(n, dtype=vectors.dtype) - 2 * torch.outer(v, v) / (v @ v))
    return M


@given(sizes, sizes, seeds, st.integers(1, 4))
def test_it_is_the_product_of_its_reflections_whatever_the_block(n, k, seed, block):
    map = Householder(n, k, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(householder, "BLOCK", block)
        torch.testing.assert_close(map.matrix(), explicit_product(map.vectors))
        torch.testing.assert_close(map.T.matrix(), explicit_product(map.vectors).mT)
        sign = torch.linalg.det(map.matrix()).round()
    assert sign == (-1) ** k


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_the_length_of_a_vector_does_not_matter(scale, generator):
    map = Householder(6, 3, generator=generator)
    before = map.matrix().detach()
    with torch.no_grad():
        map.vectors[1] *= scale
    torch.testing.assert_close(map.matrix(), before)


def test_a_zero_vector_is_the_identity_with_zero_gradient(generator):
    map = Householder(5, 3, dtype=torch.float64, generator=generator)
    with torch.no_grad():
        map.vectors[1] = 0
    torch.testing.assert_close(map.matrix(), explicit_product(map.vectors[[0, 2]]))
    map(torch.randn(4, 5, dtype=torch.float64, generator=generator)).square().mul(torch.arange(5)).sum().backward()
    assert torch.isfinite(gradient_of(map.vectors)).all()
    assert (gradient_of(map.vectors).abs().sum(-1) > 0).tolist() == [True, False, True]


def test_second_derivatives(generator):
    v = torch.randn(3, 4, dtype=torch.float64, generator=generator, requires_grad=True)
    x = torch.randn(2, 4, dtype=torch.float64, generator=generator, requires_grad=True)
    assert torch.autograd.gradgradcheck(reflect, (v, x))


@given(sizes, seeds, st.sampled_from([1, -1]))
def test_n_reflections_represent_every_orthogonal_matrix(n, seed, sign):
    Q = random_orthogonal(n, seed, sign)
    for k in (n, n + 1, n + 2):
        if k % 2 == 0 or n > 1 or sign < 0:
            found = Householder.from_matrix(Q, n_reflections=k)
            assert present(found.residual) < 1e-13
            torch.testing.assert_close(explicit_product(found.vectors[found.vectors.any(-1)]), Q)


@pytest.mark.parametrize("n", [1, 2, 5, 8])
def test_signed_permutations_are_represented_exactly(n):
    for Q in (torch.eye(n), -torch.eye(n), torch.eye(n).flip(0), torch.eye(n).roll(1, 0)):
        assert present(Householder.from_matrix(Q).residual) < 1e-6


def test_a_map_found_from_the_identity_can_be_trained(generator):
    map = Householder.from_matrix(torch.eye(6, dtype=torch.float64))
    (map.matrix() * torch.randn(6, 6, dtype=torch.float64, generator=generator)).sum().backward()
    assert (gradient_of(map.vectors).abs().amax(-1) > 1e-3).all()


@given(st.integers(2, 9), seeds, st.data())
def test_fewer_reflections_are_exact_where_they_suffice_and_never_worse_when_more(n, seed, data):
    k = data.draw(st.integers(1, n - 1))
    generator = torch.Generator().manual_seed(seed)
    M = Householder(n, k, dtype=torch.float64, generator=generator).matrix().detach()
    assert present(Householder.from_matrix(M, n_reflections=k).residual) < 1e-8
    Q = random_orthogonal(n, seed)
    residuals = [present(Householder.from_matrix(Q, n_reflections=j).residual) for j in range(1, n + 1)]
    assert all(more <= fewer + 1e-9 for fewer, more in pairwise(residuals))


def test_planes_of_one_angle_are_kept_two_reflections_each():
    """Without 2 j reflections, 3 - j planes of angle a stay unturned: an error of (2 - 2 cos a) per dimension."""
    a = 0.7
    turn = torch.tensor([[math.cos(a), -math.sin(a)], [math.sin(a), math.cos(a)]], dtype=torch.float64)
    Q = torch.block_diag(turn, turn, turn)
    for k in range(1, 7):
        unturned = 3 - k // 2
        expected = math.sqrt(2 * unturned * (2 - 2 * math.cos(a)) / 6)
        assert Householder.from_matrix(Q, n_reflections=k).residual == pytest.approx(expected, abs=1e-7)


def test_one_reflection_is_used_beyond_a_right_angle_only():
    for a, expected in [(1.5, 2 - 2 * math.cos(1.5)), (1.7, 2.0)]:  # the identity, or the best reflection
        turn = torch.tensor([[math.cos(a), -math.sin(a)], [math.sin(a), math.cos(a)]], dtype=torch.float64)
        residual = Householder.from_matrix(turn, n_reflections=1).residual
        assert residual == pytest.approx(math.sqrt(expected), abs=1e-9)


def test_another_matrix_is_replaced_by_the_nearest_orthogonal_one(generator):
    M = torch.randn(5, 5, dtype=torch.float64, generator=generator)
    U, _ = scipy.linalg.polar(M.numpy())
    torch.testing.assert_close(Householder.from_matrix(M).matrix(), torch.from_numpy(U))


def test_a_forward_makes_nothing_of_the_size_of_the_matrix(generator):
    map, x = Householder(512, 8, generator=generator), torch.randn(4, 512, generator=generator)
    assert largest_tensor(lambda: map(x).sum().backward()) <= 8 * 512


@pytest.mark.usefixtures("annotations_unchecked")
@pytest.mark.parametrize("k", [0, -1, 2.0, True])
def test_a_wrong_number_of_reflections_is_refused(k):
    with pytest.raises(ValueError, match="n_reflections must be a positive integer or None, got"):
        Householder(3, k)


@pytest.mark.usefixtures("annotations_unchecked")
@pytest.mark.parametrize("M", [torch.randn(3, 4), torch.eye(3, dtype=torch.complex64)])
def test_only_real_square_matrices_are_taken(M):
    with pytest.raises(ValueError, match="M must be a real square matrix, got"):
        Householder.from_matrix(M)
