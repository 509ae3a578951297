import math

import pytest
import scipy.linalg
import torch
from hypothesis import given
from hypothesis import strategies as st

from linmap.maps import Exponential
from linmap.maps.exponential import skew_exponential


@given(st.integers(1, 9), st.integers(0, 2**16), st.sampled_from([0.0, 1e-9, 0.1, 1.0, 10.0, 100.0]))
def test_it_is_the_exponential_of_a_skew_matrix(n, seed, size_of_A):
    map = Exponential(n, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        map.lower.mul_(size_of_A)
    A = map.skew_matrix().detach()
    assert torch.equal(A, -A.mT)
    expected = torch.from_numpy(scipy.linalg.expm(A.numpy()))
    torch.testing.assert_close(map.matrix().detach(), expected, rtol=0, atol=1e-12 * max(1.0, size_of_A))


def test_a_plane_turns_by_its_angle():
    map = Exponential(2, dtype=torch.float64)
    with torch.no_grad():
        map.lower.fill_(3.0)
    expected = [[math.cos(3), -math.sin(3)], [math.sin(3), math.cos(3)]]
    torch.testing.assert_close(map.matrix(), torch.tensor(expected, dtype=torch.float64))


def test_the_members_of_a_batch_may_differ_in_size(generator):
    A = torch.randn(3, 5, 5, dtype=torch.float64, generator=generator) * torch.tensor([1e-3, 1, 50])[:, None, None]
    A = A - A.mT
    torch.testing.assert_close(skew_exponential(A), torch.matrix_exp(A), rtol=0, atol=1e-11)


def test_second_derivatives(generator):
    map = Exponential(3, dtype=torch.float64, generator=generator)
    x = torch.randn(2, 3, dtype=torch.float64, generator=generator, requires_grad=True)

    def evaluate(lower, x):
        return torch.func.functional_call(map, {"lower": lower}, (x,))

    assert torch.autograd.gradgradcheck(evaluate, (map.lower.detach().requires_grad_(), x))


@pytest.mark.usefixtures("annotations_unchecked")
def test_the_compiled_map_is_right_far_from_where_it_was_compiled(generator):
    map = Exponential(4, dtype=torch.float64, generator=generator)
    x = torch.randn(3, 4, dtype=torch.float64, generator=generator)
    compiled = torch.compile(map, backend="aot_eager", fullgraph=True)
    compiled(x)
    with torch.no_grad():
        map.lower.mul_(30)  # more squarings now
    torch.testing.assert_close(compiled(x), map(x))
