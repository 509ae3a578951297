from typing import Any

import pytest
import torch

from linmap.errors import SingularMapError
from linmap.maps import Compose, Dense, Diagonal, Identity, LinearMap, LowRank, Permutation


def parts(map: LinearMap) -> list[Any]:
    assert isinstance(map, Compose)
    return [*map.parts]


def test_the_last_map_acts_first():
    scale, turn = Diagonal.from_matrix(torch.diag(torch.tensor([2.0, 1.0]))), Permutation(2, [1, 0])
    x = torch.tensor([1.0, 10.0])
    assert (scale @ turn)(x).tolist() == [20.0, 1.0]
    assert (turn @ scale)(x).tolist() == [10.0, 2.0]


def test_compositions_are_flattened():
    a, b, c = Dense(3), Dense(3), Dense(3)
    assert parts((a @ b) @ c) == parts(a @ (b @ c)) == [a, b, c]


def test_the_transpose_and_inverse_reverse_the_parts():
    a, b = Dense(3, 5), Dense(5, 2)
    assert [part.base for part in parts((b @ a).T)] == [a, b]
    assert (b @ a).T.T.parts == [b, a]


def test_neighbours_must_fit():
    with pytest.raises(ValueError, match=r"Dense\(4, 2\) takes 4 features, but Dense\(3, 5\) before it gives 5"):
        _ = Dense(4, 2) @ Dense(3, 5)
    with pytest.raises(ValueError, match="at least one map"):
        Compose()


def test_orthogonal_when_all_the_parts_are():
    turn = Permutation(3)
    assert (turn @ Identity(3)).orthogonal
    assert not (turn @ Diagonal(3)).orthogonal


def test_a_singular_part_is_named():
    with pytest.raises(
        SingularMapError, match=r"Diagonal\(3, 3\) @ LowRank\(3, 3\) has no inverse: LowRank\(3, 3\) has"
    ):
        (Diagonal(3) @ LowRank(3, 3, 2)).inverse()


def test_a_narrow_middle_bounds_the_rank():
    narrow = Dense(2, 5) @ Dense(5, 2)
    assert narrow.rank_bound == 2
    assert float(narrow.logabsdet()) == -torch.inf


def test_flops_are_the_sum_and_each_part_counts_its_batch():
    assert (Dense(5, 3) @ Dense(2, 5)).flops(4) == 2 * 4 * (2 * 5 + 5 * 3)
    single, batch = Dense(2, 2), Dense(2, 2, batch_shape=(3,))
    assert (batch @ single).flops(4) == 4 * (8 + 3 * 8)  # the single map acts before there is a batch
    assert (single @ batch).flops(4) == 4 * (3 * 8 + 3 * 8)


def test_the_matrix_is_built_from_the_narrow_side():
    """From 2 outputs the chain carries 2 vectors, not 50; counted where they pass."""
    seen = []

    class Counting(Dense):
        def _transpose(self, y):
            seen.append(y.shape[-2])
            return super()._transpose(y)

    chain = Dense(50, 2) @ Counting(50)
    assert chain.matrix().shape == (2, 50)
    assert seen == [2]
