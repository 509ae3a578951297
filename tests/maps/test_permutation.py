from itertools import permutations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from linmap.maps import Permutation


@given(st.permutations(range(6)))
def test_output_i_is_input_order_i(order):
    x = torch.arange(6.0) * 10
    assert Permutation(6, order)(x).tolist() == [10 * place for place in order]


@given(st.permutations(range(6)), st.permutations(range(6)))
def test_the_product_of_permutations_is_their_composition(left, right):
    M = (Permutation(6, left) @ Permutation(6, right)).matrix()
    assert torch.equal(M, Permutation(6, [right[place] for place in left]).matrix())


def test_random_orders_are_uniform(generator):
    orders = Permutation(3, batch_shape=(6000,), generator=generator).order
    _, counts = orders.unique(dim=0, return_counts=True)
    assert counts.shape == (6,)
    assert counts.min() > 850  # 1000 expected, standard deviation 29


def test_from_matrix_is_the_best_of_all_permutations(generator):
    for _ in range(10):
        M = torch.randn(4, 4, generator=generator)
        errors = [float((M - Permutation(4, order).matrix()).norm()) for order in permutations(range(4))]
        found = Permutation.from_matrix(M)
        assert float((M - found.matrix()).norm()) == pytest.approx(min(errors))


@pytest.mark.parametrize("order", [[0, 1, 1], [0, 1], [1, 2, 3], [-1, 0, 1]])
def test_what_is_no_permutation_is_refused(order):
    with pytest.raises(ValueError, match=r"order must hold each of 0\.\.2 once"):
        Permutation(3, order)


def test_an_order_is_taken_on_the_meta_device_too():
    with torch.device("meta"):
        assert Permutation(3, [2, 0, 1])(torch.empty(5, 3)).shape == (5, 3)


def test_from_matrix_needs_a_square():
    with pytest.raises(ValueError, match="must be square"):
        Permutation.from_matrix(torch.ones(2, 3))
