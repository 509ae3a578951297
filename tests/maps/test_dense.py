import pytest
from torch import nn

from linmap.maps import Dense


def test_starts_as_a_linear_layer_does(generator):
    dense = Dense(100, 50, generator=generator)
    bound = nn.Linear(100, 50).weight.detach().abs().max()
    assert 0.095 < dense.weight.detach().abs().max() <= 0.1
    assert float(dense.weight.detach().abs().max()) == pytest.approx(float(bound), rel=0.02)


def test_is_square_when_one_size_is_given():
    assert Dense(4).matrix().shape == (4, 4)


def test_flops_count_multiplications_and_additions():
    assert Dense(3, 5).flops(7) == 2 * 3 * 5 * 7
