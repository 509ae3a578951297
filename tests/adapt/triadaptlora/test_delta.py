"""The definition of dW."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from linmap.adapt import triadapt_delta
from linmap.adapt.triadaptlora.delta import scaling_factor
from typed import other

N_IN, N_OUT = 6, 5


def drawn(max_rank, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shapes = ((max_rank, N_IN), (N_OUT, max_rank), (max_rank, max_rank), (max_rank, max_rank))
    return [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]


@given(st.integers(1, 5), st.integers(0, 3), st.floats(0.5, 32))
def test_it_is_the_dense_formula_on_the_first_pieces(rank, spare, alpha):
    A, B, L, U = (tensor.numpy() for tensor in drawn(rank + spare))
    expected = B[:, :rank] @ (np.tril(L[:rank, :rank]) + np.triu(U[:rank, :rank])) @ A[:rank] * alpha / (rank + 1e-5)
    delta = triadapt_delta(*drawn(rank + spare), alpha=alpha, rank=rank)
    np.testing.assert_allclose(delta.numpy(), expected, rtol=1e-10, atol=1e-10)
    assert np.linalg.matrix_rank(delta.numpy()) <= rank


def test_rank_one_is_an_outer_product():
    A, B, L, U = drawn(1)
    expected = 16 / (1 + 1e-5) * (L[0, 0] + U[0, 0]) * torch.outer(B[:, 0], A[0])
    torch.testing.assert_close(triadapt_delta(A, B, L, U, 16.0, 1), expected)


def test_the_growth_of_rank_shrinks_the_published_scale_and_not_the_fixed_one():
    assert scaling_factor(16, 2) / scaling_factor(16, 1) == pytest.approx(0.5, abs=1e-5)
    assert scaling_factor(16, 1, "fixed", 4) == scaling_factor(16, 2, "fixed", 4) == 4
    A, B, L, U = drawn(2)
    fixed = triadapt_delta(A, B, L, U, 16.0, 2, scaling="fixed", reference_rank=4)
    torch.testing.assert_close(fixed, 4 * B @ (L.tril() + U.triu()) @ A)


@pytest.mark.usefixtures("annotations_unchecked")
def test_bad_ranks_and_scalings_are_refused():
    for rank in (0, 3):
        with pytest.raises(ValueError, match=f"rank must be from 1 to 2, the number of rows of A, got {rank}"):
            triadapt_delta(*drawn(2), alpha=16.0, rank=rank)
    with pytest.raises(ValueError, match=r"scaling=.* must be 'fixed' or 'rank'"):
        scaling_factor(16, 1, other("none"))


@pytest.mark.usefixtures("annotations_unchecked")
@given(st.lists(st.integers(1, 4), min_size=6, max_size=6))
def test_pieces_whose_ranks_disagree_are_refused_and_neither_cut_nor_broadcast(sizes):
    rows, columns, *core = sizes
    A, B, L, U = torch.ones(rows, 5), torch.ones(6, columns), torch.ones(core[:2]), torch.ones(core[2:])
    if set(sizes) == {rows}:
        assert triadapt_delta(A, B, L, U, 16.0, rows).shape == (6, 5)
        return
    with pytest.raises(ValueError, match="with one max_rank; got A"):
        triadapt_delta(A, B, L, U, 16.0, 1)
