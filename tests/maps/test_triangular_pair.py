"""Against the dense formula B (tril(L) + triu(U)) A of the method, and the promises about growth."""

from typing import cast

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from linmap.maps import LowRank, TriangularPair
from linmap.maps.triangular_pair import new_piece
from maps.cases import Case
from typed import gradient_of, other

N_IN, N_OUT = 9, 7


def drawn(rank, max_rank=None) -> TriangularPair:
    case = Case("", lambda **o: TriangularPair(N_IN, N_OUT, rank, max_rank=max_rank, **o))
    return cast(TriangularPair, case())


def numpy_matrix(map):
    A, B, L, U = (getattr(map, name).detach().numpy() for name in ("A", "B", "lower", "upper"))
    R = map.rank
    return B[:, :R] @ (np.tril(L[:R, :R]) + np.triu(U[:R, :R])) @ A[:R]


@given(st.integers(1, 7), st.integers(0, 3))
def test_matrix_is_the_dense_formula(rank, spare):
    map = drawn(rank, min(rank + spare, 7))
    np.testing.assert_allclose(map.matrix().detach().numpy(), numpy_matrix(map), atol=1e-12)
    assert np.linalg.matrix_rank(map.matrix().detach().numpy()) <= rank


def test_rank_one_counts_both_triangles():
    map = drawn(1)
    c = map.lower[0, 0] + map.upper[0, 0]
    torch.testing.assert_close(map.matrix(), c * map.B @ map.A)


def test_with_the_identity_as_core_it_is_low_rank():
    M = torch.randn(N_OUT, N_IN, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    map, low_rank = TriangularPair.from_matrix(M, rank=3), LowRank.from_matrix(M, rank=3)
    assert torch.equal(map.core, torch.eye(3, dtype=torch.float64))
    torch.testing.assert_close(map.matrix(), low_rank.matrix())


def test_gradients_are_the_triangles_of_the_core_s_gradient():
    map = drawn(4)
    x = torch.randn(5, N_IN, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    C = map.core.detach().clone().requires_grad_()
    (x @ map.A.detach().T @ C.T @ map.B.detach().T).square().sum().backward()
    map(x).square().sum().backward()
    torch.testing.assert_close(gradient_of(map.lower), gradient_of(C).tril())
    torch.testing.assert_close(gradient_of(map.upper), gradient_of(C).triu())


def test_starts_at_zero_and_one_step_changes_it(generator):
    map = TriangularPair(N_IN, N_OUT, 3, generator=generator)
    x = torch.randn(4, N_IN, generator=generator)
    assert not map.matrix().any()
    (map(x) - 1).square().sum().backward()
    torch.optim.SGD(map.parameters(), lr=0.1).step()
    assert map(x).any()
    assert TriangularPair(N_IN, N_OUT, 3, init="normal").matrix().any()


def trained(map, steps=5, seed=0):
    """A few Adam steps on a fixed target, so that nothing is at its start."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(16, N_IN, generator=generator, dtype=torch.float64)
    y = torch.randn(16, N_OUT, generator=generator, dtype=torch.float64)
    optimiser = torch.optim.AdamW(map.parameters(), lr=0.05, weight_decay=0.1)
    for _ in range(steps):
        optimiser.zero_grad()
        (map(x) - y).square().mean().backward()
        optimiser.step()
    return map, x, optimiser


@given(st.integers(1, 4), st.integers(0, 3), st.integers(0, 3))
def test_growth_keeps_the_function_and_the_old_entries(rank, spare, growth):
    map, x, _ = trained(TriangularPair(N_IN, N_OUT, rank, max_rank=rank + spare, dtype=torch.float64))
    before, output = {name: p.detach().clone() for name, p in map.named_parameters()}, map(x)
    map.grow(rank + growth)
    torch.testing.assert_close(map(x), output, rtol=0, atol=1e-14)
    assert map.rank == map.rank_bound == rank + growth
    for name, parameter in map.named_parameters():
        old = tuple(slice(rank if size == rank + spare else None) for size in before[name].shape)
        assert torch.equal(parameter[tuple(slice(n) for n in before[name][old].shape)], before[name][old]), name
    assert np.linalg.matrix_rank(trained(map)[0].matrix().detach().numpy()) == rank + growth  # the new pieces learn


def test_growth_within_the_reserve_is_invisible_to_the_optimiser():
    map, x, optimiser = trained(TriangularPair(N_IN, N_OUT, 2, max_rank=5, dtype=torch.float64))
    parameters = list(map.parameters())
    assert not gradient_of(map.A)[2:].any(), "the reserve has no gradient"
    assert not map.B[:, 2:].any()
    map.grow(4)
    assert all(a is b for a, b in zip(parameters, map.parameters(), strict=True))
    optimiser.zero_grad()
    map(x).square().sum().backward()
    optimiser.step()
    assert map.B[:, 2:4].any()
    assert not map.B[:, 4:].any()


def test_growth_beyond_the_reserve_keeps_the_parameters_in_kind():
    map = TriangularPair(N_IN, N_OUT, 2, dtype=torch.float64)
    map.A.requires_grad_(False)
    parameters = list(map.parameters())
    loss = map(torch.ones(1, N_IN, dtype=torch.float64)).sum()
    loss.backward()
    map.grow(4)
    map(torch.ones(1, N_IN, dtype=torch.float64)).sum().backward()  # although the old graph knows the old shapes
    assert all(a is b for a, b in zip(parameters, map.parameters(), strict=True))
    assert gradient_of(map.B).shape == (N_OUT, 4)
    assert map.max_rank == 4
    assert {name: p.requires_grad for name, p in map.named_parameters()} == {
        "A": False,
        "B": True,
        "lower": True,
        "upper": True,
    }


def test_the_rank_travels_in_the_state_dict(tmp_path):
    map = drawn(2, max_rank=5)
    map.grow(4)
    save_file(map.state_dict(), tmp_path / "map.safetensors")
    fresh = TriangularPair(N_IN, N_OUT, 1, max_rank=5, dtype=torch.float64)
    fresh.load_state_dict(load_file(tmp_path / "map.safetensors"))
    assert fresh.rank == 4
    assert torch.equal(fresh.matrix(), map.matrix())


def test_pieces_load_into_a_map_with_other_room():
    map = drawn(3)
    pieces = {name: tensor for name, tensor in map.state_dict().items() if name != "_extra_state"}
    for room in (1, 3, 6):
        other = TriangularPair(N_IN, N_OUT, 1, max_rank=room, dtype=torch.float64)
        other.load_state_dict(pieces, strict=False)
        assert (other.rank, other.max_rank) == (3, max(room, 3))
        assert torch.equal(other.matrix(), map.matrix())


def test_pieces_are_born_as_they_are_asked_for(generator):
    a, b, l, u = new_piece(2, N_IN, N_OUT, generator=generator)
    assert a.all()
    assert not b.any()
    assert l.all()
    assert u.bool().tolist() == [False, False, True]
    assert all(part.all() for part in new_piece(2, N_IN, N_OUT, init="normal", generator=generator))
    map = TriangularPair(N_IN, N_OUT, 2, core="identity")
    map.grow(4, core="identity")
    assert torch.equal(map.core, torch.eye(4))
    assert torch.equal(map.lower, map.upper)


def test_flops_are_those_of_the_three_products_at_the_rank_in_use():
    for rank in (3, 5):
        map = TriangularPair(100, 50, rank, max_rank=8)
        products = rank * 100 + rank * rank + 50 * rank
        assert map.flops(2) == 2 * 2 * products


@pytest.mark.usefixtures("annotations_unchecked")
def test_bad_ranks_are_refused():
    with pytest.raises(ValueError, match="rank must be an integer from 1 to"):
        TriangularPair(5, 3, 4)
    with pytest.raises(ValueError, match="max_rank = 1 is below rank = 2"):
        TriangularPair(5, 3, 2, max_rank=1)
    with pytest.raises(ValueError, match="init must be"):
        TriangularPair(5, 3, 2, init=other("ones"))
    with pytest.raises(ValueError, match="core must be"):
        TriangularPair(5, 3, 2, core=other("ones"))
    map = TriangularPair(5, 3, 2)
    with pytest.raises(ValueError, match="rank must be at least the present 2, got 1"):
        map.grow(1)
    with pytest.raises(ValueError, match="rank must be an integer from 1 to"):
        map.grow(4)
