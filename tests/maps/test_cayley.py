import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from linmap.maps import Cayley, Exponential

sizes, seeds = st.integers(1, 9), st.integers(0, 2**16)


@given(sizes, seeds)
def test_it_is_the_cayley_transform_of_a_skew_matrix(n, seed):
    map = Cayley(n, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    A, eye = map.skew_matrix(), torch.eye(n, dtype=torch.float64)
    assert torch.equal(A, -A.mT)
    assert torch.equal(A[tuple(torch.tril_indices(n, n, -1))], map.lower)
    torch.testing.assert_close((eye - A / 2) @ map.matrix(), eye + A / 2)


def test_a_plane_turns_by_twice_the_arc_tangent():
    map = Cayley(2, dtype=torch.float64)
    with torch.no_grad():
        map.lower.fill_(3.0)
    turn = 2 * math.atan(3 / 2)
    expected = [[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]]
    torch.testing.assert_close(map.matrix(), torch.tensor(expected, dtype=torch.float64))


@pytest.mark.parametrize("batch_shape", [(), (2,)], ids=str)
def test_second_derivatives(batch_shape, generator):
    map = Cayley(4, batch_shape=batch_shape, dtype=torch.float64, generator=generator)
    x = torch.randn(3, 4, dtype=torch.float64, generator=generator, requires_grad=True)

    def evaluate(lower, x):
        return torch.func.functional_call(map, {"lower": lower}, (x,))

    assert torch.autograd.gradgradcheck(evaluate, (map.lower.detach().requires_grad_(), x))


@pytest.mark.parametrize("structure", [Cayley, Exponential])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float64, 1e-12)], ids=str)
@pytest.mark.parametrize("size_of_A", [1.0, 1e3])
def test_it_stays_orthogonal_however_large_the_skew_matrix_becomes(structure, dtype, tolerance, size_of_A, generator):
    map = structure(33, dtype=dtype, generator=generator)
    with torch.no_grad():
        map.lower.mul_(size_of_A)
    M = map.matrix().detach().double()
    assert (M @ M.mT - torch.eye(33)).abs().max() < tolerance


@pytest.mark.parametrize("structure", [Cayley, Exponential])
@pytest.mark.parametrize("n", [1, 2, 5, 8])
def test_every_orthogonal_matrix_is_represented_and_can_be_trained(structure, n, generator):
    """Also those with eigenvalue -1, which no Cayley transform has, and of determinant -1."""
    eye = torch.eye(n, dtype=torch.float64)
    random, _ = torch.linalg.qr(torch.randn(n, n, dtype=torch.float64, generator=generator))
    for Q in (eye, -eye, eye.flip(0), eye.roll(1, 0), random, random.flip(0)):
        map = structure.from_matrix(Q)
        assert map.residual < 1e-14
        (map.matrix() * torch.randn(n, n, dtype=torch.float64, generator=generator)).sum().backward()
        assert n == 1 or (map.lower.grad.abs() > 0).any()


@pytest.mark.parametrize("structure", [Cayley, Exponential])
def test_the_base_travels_with_the_state(structure, generator):
    plain = structure(4, generator=generator)
    based = structure.from_matrix(-torch.eye(4))
    for source, target in [(based, structure(4)), (plain, structure.from_matrix(-torch.eye(4)))]:
        target.load_state_dict(source.state_dict())
        assert torch.equal(target.matrix(), source.matrix())
        assert (target.base is None) == (source.base is None)


@pytest.mark.parametrize("structure", [Cayley, Exponential])
def test_a_base_of_another_shape_is_refused(structure):
    with pytest.raises(ValueError, match=r"base must have the shape \(3, 3\), got \(2, 2\)"):
        structure(3, base=torch.eye(2))
    with pytest.raises(ValueError, match="M must be a real square matrix"):
        structure.from_matrix(torch.randn(3, 2))
