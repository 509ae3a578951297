"""What `LinearMap` gives to every structure."""

import math

import pytest
import torch
from torch import nn

from linmap.errors import LinmapError, SingularMapError
from linmap.maps import Dense, Diagonal, LinearMap, Permutation
from typed import other


class Doubling(LinearMap):
    """A structure that writes nothing but its forward."""

    def __init__(self, n: int) -> None:
        super().__init__(n, n, dtype=torch.float64)
        self.factor = nn.Parameter(torch.tensor(2.0, dtype=torch.float64))

    def forward(self, x):
        return x * self.factor


def test_a_forward_alone_makes_a_whole_map():
    double = Doubling(3)
    x = torch.arange(6.0, dtype=torch.float64).reshape(2, 3)
    two = 2 * torch.eye(3, dtype=torch.float64)
    assert torch.equal(double.matrix(), two)
    assert torch.equal(double.T(x), 2 * x)
    assert torch.equal(double.inverse()(x), x / 2)
    assert torch.equal(double.T.inverse()(x), x / 2)
    assert float(double.logabsdet().detach()) == pytest.approx(3 * math.log(2))
    assert double.flops(5) == 2 * 3 * 3 * 5


@pytest.mark.parametrize("size", [0, -1, 2.0, True, "3"])
@pytest.mark.usefixtures("annotations_unchecked")
def test_sizes_are_positive_integers(size):
    with pytest.raises(ValueError, match=rf"in_features must be a positive integer, got {size!r}"):
        LinearMap(size, 3)
    with pytest.raises(ValueError, match="out_features must be"):
        LinearMap(3, size)


def test_the_inverse_of_a_rectangle_is_refused_by_name():
    with pytest.raises(SingularMapError, match=r"Dense\(3, 5\) has no inverse: it maps 3 features to 5"):
        Dense(3, 5).inverse()
    with pytest.raises(SingularMapError, match=r"Dense\(3, 5\) has no determinant"):
        Dense(3, 5).T.logabsdet()
    assert issubclass(SingularMapError, ValueError)
    assert issubclass(SingularMapError, LinmapError)


def test_the_inverse_of_a_singular_square_names_the_ratio():
    singular = Dense.from_matrix(torch.ones(4, 4))
    with pytest.raises(
        SingularMapError, match=r"Dense\(4, 4\) has no inverse: its smallest singular value is .*float32"
    ):
        singular.inverse()
    with pytest.raises(NotImplementedError, match="has no inverse"):  # what parametrize understands
        singular.right_inverse(torch.ones(4, 4))


def test_near_singularity_is_judged_in_the_maps_own_precision():
    M = torch.diag(torch.tensor([1.0, 1e-9], dtype=torch.float64))
    torch.testing.assert_close(Dense.from_matrix(M).inverse()(M).detach(), torch.eye(2, dtype=torch.float64))
    with pytest.raises(SingularMapError, match="float32"):
        Dense.from_matrix(M.float()).inverse()


def test_a_map_multiplies_maps_only(annotations_unchecked):
    with pytest.raises(TypeError, match="unsupported operand"):
        _ = Dense(3) @ other(torch.eye(3))


def test_a_structure_without_from_matrix_says_so():
    with pytest.raises(TypeError, match="Doubling has no from_matrix"):
        Doubling.from_matrix(torch.eye(3))


def test_the_residual_is_the_relative_error_and_survives_a_zero_matrix():
    M = torch.tensor([[3.0, 4.0], [0.0, 0.0]])
    assert Diagonal.from_matrix(M).residual == pytest.approx(4 / 5)
    assert Diagonal.from_matrix(torch.zeros(2, 2)).residual == 0
    assert Dense(2).residual is None


def test_repr_gives_sizes_and_batch():
    assert repr(Dense(3, 5)) == "Dense(3, 5)"
    assert repr(Dense(3, 3).T) == "Dense(3, 3).T"
    assert repr(Diagonal(3).T.inverse()) == "Diagonal(3, 3).inverse()"
    assert repr(Permutation(4, batch_shape=(2,))) == "Permutation(4, 4, batch_shape=(2,))"
