import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from linmap.maps import LowRank
from typed import gradient_of, other


def test_starts_at_zero_and_yet_learns():
    map = LowRank(5, 3, 2)
    assert not map.matrix().any()
    map(torch.ones(5)).sum().backward()
    assert gradient_of(map.B).any()
    assert LowRank(5, 3, 2, init="normal").matrix().any()


@given(st.integers(1, 8), st.integers(1, 8), st.data())
def test_from_matrix_is_the_truncated_svd(n_in, n_out, data):
    rank = data.draw(st.integers(1, min(n_in, n_out)))
    M = torch.randn(n_out, n_in, dtype=torch.float64, generator=torch.Generator().manual_seed(n_in * 9 + n_out))
    tail = np.linalg.svd(M.numpy(), compute_uv=False)[rank:]
    map = LowRank.from_matrix(M, rank=rank)
    assert map.residual == pytest.approx(np.linalg.norm(tail) / np.linalg.norm(M), abs=1e-12)
    assert np.linalg.matrix_rank(map.matrix().detach().numpy()) == rank
    torch.testing.assert_close(map.A @ map.A.T, map.B.T @ map.B)  # the factors share the singular values


def test_costs_the_factors_only():
    assert LowRank(100, 50, 3).flops(2) == 2 * 2 * 3 * 150


@pytest.mark.parametrize("rank", [0, 4, -1, 1.0, True])
@pytest.mark.usefixtures("annotations_unchecked")
def test_rank_out_of_range_is_refused(rank):
    with pytest.raises(ValueError, match=rf"rank must be an integer from 1 to min\(n_in, n_out\) = 3, got {rank!r}"):
        LowRank(5, 3, rank)


@pytest.mark.usefixtures("annotations_unchecked")
def test_unknown_init_is_refused():
    with pytest.raises(ValueError, match="init must be 'zero' or 'normal', got 'ones'"):
        LowRank(5, 3, 2, init=other("ones"))
