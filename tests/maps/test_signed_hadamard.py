import pytest
import scipy.linalg
import torch

from linmap.maps import SignedHadamard
from linmap.maps.hadamard import hadamard
from maps.allocation import largest_tensor


@pytest.mark.parametrize("n", [1, 2, 8, 128, 256, 2048])
def test_a_power_of_two_is_the_hadamard_matrix_after_signs(n, generator):
    map = SignedHadamard(n, dtype=torch.float64, generator=generator)
    expected = torch.from_numpy(scipy.linalg.hadamard(n)).double() * map.signs[0] / n**0.5
    torch.testing.assert_close(map.matrix(), expected)


@pytest.mark.parametrize("n", [3, 7, 12, 31, 33, 100, 257, 1000])
def test_it_is_orthogonal_at_every_size(n, generator):
    for dtype, tolerance in [(torch.float32, 1e-6), (torch.float64, 1e-14)]:
        M = SignedHadamard(n, dtype=dtype, generator=generator).matrix().double()
        assert (M @ M.mT - torch.eye(n)).abs().max() < tolerance
        assert (M - torch.eye(n)).abs().max() > 0.5


@pytest.mark.parametrize("n", [3, 5, 7, 13, 31, 33])
def test_two_rounds_spread_every_entry_over_all(n, generator):
    """E M_ij² is the share of input j in output i; over 4,000 maps its estimate is within a tenth."""
    M = SignedHadamard(n, batch_shape=(4000,), generator=generator).matrix()
    share = n * M.square().mean(0)
    assert share.min() > 0.75 * 0.9
    assert share.max() < 1.5 * 1.1


def test_the_signs_come_from_the_generator_and_are_balanced():
    def draw(seed):
        return SignedHadamard(300, generator=torch.Generator().manual_seed(seed)).signs

    assert torch.equal(draw(1), draw(1))
    assert not torch.equal(draw(1), draw(2))
    assert set(draw(1).unique().tolist()) == {-1.0, 1.0}
    assert draw(1).mean().abs() < 0.15


def test_rounds_repeat_with_new_signs(generator):
    map = SignedHadamard(8, rounds=3, dtype=torch.float64, generator=generator)
    H = hadamard(8).double() / 8**0.5
    a, b, c = map.signs
    assert not torch.equal(a, b)
    torch.testing.assert_close(map.matrix(), (H * c) @ (H * b) @ (H * a))


def test_a_forward_makes_nothing_of_the_size_of_the_matrix(generator):
    for n in (512, 600):
        map, x = SignedHadamard(n, generator=generator), torch.randn(2, n, generator=generator, requires_grad=True)
        assert largest_tensor(lambda map=map, x=x: map(x).sum().backward()) <= 2 * n


def test_nothing_is_trained():
    assert not list(SignedHadamard(5).parameters())
    assert list(SignedHadamard(5).state_dict()) == ["signs"]


@pytest.mark.parametrize("rounds", [0, -2, True])
def test_a_wrong_number_of_rounds_is_refused(rounds):
    with pytest.raises(ValueError, match="rounds must be a positive integer or None, got"):
        SignedHadamard(4, rounds=rounds)


def test_there_is_no_map_to_find_from_a_matrix():
    with pytest.raises(TypeError, match="SignedHadamard has no from_matrix"):
        SignedHadamard.from_matrix(torch.eye(4))
