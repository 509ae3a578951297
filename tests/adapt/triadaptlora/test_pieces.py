"""The authors' layout against the one with room."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from linmap.adapt.triadaptlora.pieces import AppendedPieces
from linmap.maps import TriangularPair
from typed import other


def pieces(rank, seed=0):
    map = AppendedPieces(6, 5, rank).double()
    generator = torch.Generator().manual_seed(seed)
    for parameter in map.parameters():
        parameter.data.normal_(generator=generator)
    return map


@given(st.integers(1, 4), st.integers(0, 1))
def test_its_state_dict_is_that_of_a_triangular_pair(rank, spare):
    map = pieces(rank)
    pair = TriangularPair(6, 5, 1, max_rank=rank + spare, dtype=torch.float64)
    pair.load_state_dict(map.state_dict(), strict=False)
    assert pair.rank == rank
    torch.testing.assert_close(pair.matrix(), map.matrix())
    torch.testing.assert_close(pair.core, map.core)
    x = torch.randn(3, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(map(x), x @ pair.matrix().T)
    for other_rank in (1, 4):
        other = pieces(other_rank, seed=1)
        assert not other.load_state_dict(map.state_dict()).missing_keys
        torch.testing.assert_close(other.matrix(), map.matrix())


@given(st.integers(1, 3), st.integers(0, 2))
def test_growth_keeps_the_function_and_the_parameters(rank, growth):
    map = pieces(rank)
    before, M = list(map.parameters()), map.matrix()
    map.grow(rank + growth)
    torch.testing.assert_close(map.matrix(), M, rtol=0, atol=1e-14)
    new = [p for p in map.parameters() if not any(p is old for old in before)]
    assert len(new) == 4 * growth
    assert map.rank == map.rank_bound == rank + growth


@pytest.mark.parametrize("rank", [1, 4])
def test_the_tensors_of_a_file_may_be_set_one_after_the_other(rank):
    state = TriangularPair(6, 5, rank, init="normal").state_dict()
    map = AppendedPieces(6, 5, rank)
    kept = list(map.parameters())
    for name in ("A", "B", "lower", "upper"):
        setattr(map, name, nn.Parameter(state[name]))
    for name in ("A", "B"):
        assert torch.equal(getattr(map, name), state[name])
    assert torch.equal(map.core, state["lower"].tril() + state["upper"].triu())
    assert all(a is b for a, b in zip(map.parameters(), kept, strict=True))
    with pytest.raises(ValueError, match=r"AppendedPieces.A: shape \(\d, 6\) is expected"):
        other(map).A = nn.Parameter(torch.zeros(rank + 1, 6))
