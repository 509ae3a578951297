"""Against Bone's definitions, written out block by block."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from linmap.maps import BlockAffine
from linmap.maps.block_affine import fold, tile
from typed import other

sizes = st.integers(1, 9)


def drawn(n_in, n_out, block_in, block_out=None):
    generator = torch.Generator().manual_seed(0)
    return BlockAffine(n_in, n_out, block_in, block_out, init="normal", generator=generator, dtype=torch.float64)


@given(sizes, sizes, st.data())
def test_entry_o_i_is_the_block_s_entry_by_residue(n_in, n_out, data):
    block_in, block_out = data.draw(st.integers(1, n_in)), data.draw(st.integers(1, n_out))
    map = drawn(n_in, n_out, block_in, block_out)
    M, D = map.matrix().tolist(), map.D.tolist()
    assert all(M[o][i] == D[i % block_in][o % block_out] for o in range(n_out) for i in range(n_in))


def test_one_block_for_all_is_a_kronecker_product_with_ones():
    map = drawn(6, 9, 3)
    expected = np.kron(np.ones((3, 2)), map.D.detach().numpy().T)
    np.testing.assert_array_equal(map.matrix().detach().numpy(), expected)


@pytest.mark.parametrize("n_in", [12, 13, 14, 5])
def test_mode_add_pools_the_chunks_of_a_padded_input(n_in, generator):
    r, n_out = 4, 10
    map = drawn(n_in, n_out, r, n_out)
    x = torch.randn(3, n_in, generator=generator, dtype=torch.float64)
    padded = np.zeros((3, -(-n_in // r) * r))
    padded[:, :n_in] = x.numpy()
    pooled = sum(padded[:, start : start + r] for start in range(0, padded.shape[1], r))
    np.testing.assert_allclose(map(x).detach().numpy(), pooled @ map.D.detach().numpy(), atol=1e-14)


def test_mini_with_the_full_width_is_add():
    mini, add = drawn(8, 6, 4, 3), drawn(8, 6, 4, 6)
    with torch.no_grad():
        add.D.copy_(mini.D.repeat(1, 2))
    assert torch.equal(mini.matrix(), add.matrix())


def test_bat_row_tiles_the_sum_of_the_blocks_products(generator):
    """y_a = sum_b x_b D_b^T for every block row a, with one r x r block D_b a block column."""
    r, n_in, n_out = 3, 6, 9
    map = drawn(n_in, n_out, n_in, r)
    blocks = map.D.detach().reshape(n_in // r, r, r).mT  # D_b, out x in
    x = torch.randn(n_in, generator=generator, dtype=torch.float64)
    y_a = torch.stack([D_b @ x_b for D_b, x_b in zip(blocks, x.split(r), strict=True)]).sum(0)
    torch.testing.assert_close(map(x).detach(), y_a.repeat(n_out // r))


@given(sizes, sizes, st.data())
def test_from_matrix_is_the_least_squares_block(n_in, n_out, data):
    block_in, block_out = data.draw(st.integers(1, n_in)), data.draw(st.integers(1, n_out))
    M = torch.randn(n_out, n_in, dtype=torch.float64, generator=torch.Generator().manual_seed(7))
    basis = []  # the matrices of the unit blocks
    for unit in torch.eye(block_in * block_out, dtype=torch.float64):
        map = BlockAffine(n_in, n_out, block_in, block_out, dtype=torch.float64)
        map.D.data.copy_(unit.reshape(block_in, block_out))
        basis.append(map.matrix().detach().flatten().numpy())
    best = np.linalg.lstsq(np.stack(basis, axis=1), M.flatten().numpy(), rcond=None)[0]
    found = BlockAffine.from_matrix(M, block_in=block_in, block_out=block_out)
    np.testing.assert_allclose(found.D.detach().numpy().flatten(), best, atol=1e-12)


@given(st.integers(1, 12), st.integers(1, 12))
def test_tile_is_the_adjoint_of_fold(n, length):
    x, s = torch.arange(1.0, n + 1), torch.arange(1.0, length + 1)
    assert torch.dot(fold(x, length), s) == torch.dot(x, tile(s, n))


def test_starts_at_zero():
    assert not BlockAffine(6, 4, 2, 2).matrix().any()


def test_costs_the_block_not_the_matrix():
    assert BlockAffine(1000, 500, 4).flops(3) == 3 * (1000 + 2 * 16)


@pytest.mark.usefixtures("annotations_unchecked")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((5, 4, 8), "block_in must be an integer from 1 to n_in = 5, got 8"),
        ((5, 4, 5), "block_out must be an integer from 1 to n_out = 4, got 5"),
        ((5, 4, 2, 0), "block_out must be an integer from 1 to n_out = 4, got 0"),
        ((5, 4, 2.0), "block_in must be an integer"),
    ],
)
def test_bad_blocks_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        BlockAffine(*arguments)


@pytest.mark.usefixtures("annotations_unchecked")
def test_unknown_init_is_refused():
    with pytest.raises(ValueError, match="init must be"):
        BlockAffine(5, 4, 2, init=other("ones"))
