import math

import pytest
import torch

from linmap.errors import SingularMapError
from linmap.maps import Diagonal


def test_starts_as_the_identity():
    assert torch.equal(Diagonal(3).matrix(), torch.eye(3))


def test_scales_each_feature():
    assert torch.equal(
        Diagonal.from_matrix(torch.diag(torch.tensor([2.0, -3.0])))(torch.ones(2)), torch.tensor([2.0, -3.0])
    )


def test_tiny_entries_are_invertible_and_zeros_are_not():
    tiny = Diagonal.from_matrix(torch.diag(torch.tensor([1.0, 1e-30])))
    assert torch.equal(tiny.inverse()(torch.tensor([1.0, 1e-30])), torch.ones(2))
    with pytest.raises(SingularMapError, match="1 of its 2 diagonal entries are zero"):
        Diagonal.from_matrix(torch.diag(torch.tensor([1.0, 0.0]))).inverse()


def test_from_matrix_needs_a_square():
    with pytest.raises(ValueError, match=r"must be square, got shape \(2, 3\)"):
        Diagonal.from_matrix(torch.ones(2, 3))


def test_logabsdet_is_of_the_absolute_value():
    assert float(Diagonal.from_matrix(torch.diag(torch.tensor([-2.0, 3.0]))).logabsdet().detach()) == pytest.approx(
        math.log(6)
    )
