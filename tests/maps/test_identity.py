import pytest
import torch

from linmap.maps import Identity


def test_returns_its_input_itself():
    x = torch.randn(2, 3)
    assert Identity(3)(x) is x
    assert Identity(3).inverse()(x) is x


def test_costs_nothing():
    assert Identity(3).flops(100) == 0
    assert not list(Identity(3).parameters())


def test_from_matrix_tells_how_far_the_identity_is():
    assert Identity.from_matrix(torch.eye(2) * 2).residual == pytest.approx(0.5)
    with pytest.raises(ValueError, match="must be square"):
        Identity.from_matrix(torch.ones(2, 3))
