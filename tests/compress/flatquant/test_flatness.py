import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from linmap.compress.flatquant.measures import flatness, smooth_scale
from linmap.compress.flatquant.quantizer import fake_quantize
from linmap.compress.flatquant.transforms import kronecker_apply
from linmap.maps.hadamard import hadamard_factors

seeds = st.integers(0, 2**16)


# -- Flatness ----------------------------------------------------------------------------------------------------------


def test_known_answers():
    flat = flatness(torch.tensor([[3.0, 0.0], [4.0, 1.0], [0.0, 0.0]]))
    assert flat.norms.tolist() == [5.0, 1.0]
    assert flat.max_to_mean == pytest.approx(5 / 3)
    torch.testing.assert_close(flat.token_peak, torch.tensor([3 / 4.5**0.5, 4 / 8.5**0.5, 1.0]))
    x = torch.tensor([[1.0, -1.0], [-1.0, 1.0]])
    assert flatness(x).max_to_mean == pytest.approx(1.0)
    assert flatness(x).kurtosis == pytest.approx(1.0)
    assert flatness(x).token_peak.tolist() == [1.0, 1.0]


@given(seeds)
def test_a_gaussian_has_kurtosis_3_and_its_norms_fall(seed):
    x = torch.randn(50, 20, 16, generator=torch.Generator().manual_seed(seed))
    flat = flatness(x)
    assert flat.kurtosis == pytest.approx(3, abs=0.35)
    assert (flat.norms.diff() <= 0).all()
    assert flat.norms.square().sum().item() == pytest.approx(x.square().sum().item(), rel=1e-4)
    assert flat.token_peak.shape == (1000,)


@given(seeds, st.floats(0.01, 100))
def test_order_and_size_change_only_the_norms(seed, factor):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(30, 8, dtype=torch.float64, generator=generator)
    flat, other = flatness(x), flatness(x[:, torch.randperm(8, generator=generator)] * factor)
    torch.testing.assert_close(other.norms, flat.norms * factor)
    assert other[1:3] == pytest.approx(flat[1:3])
    torch.testing.assert_close(other.token_peak, flat.token_peak)


def test_a_hadamard_matrix_flattens_an_outlier(generator):
    x = torch.randn(200, 48, dtype=torch.float64, generator=generator)
    x[:, 5] *= 50
    before, after = flatness(x), flatness(kronecker_apply(x, hadamard_factors(48)))
    assert before.max_to_mean > 20
    assert after.max_to_mean < 1.5
    assert after.kurtosis < before.kurtosis / 10
    assert after.token_peak.mean() < before.token_peak.mean() / 2


def test_tensors_of_zeros_are_flat_and_empty_ones_are_refused():
    flat = flatness(torch.zeros(3, 4))
    assert (flat.max_to_mean, flat.kurtosis, flat.token_peak.tolist()) == (1.0, 1.0, [1.0] * 3)
    assert flatness(torch.ones(2, 3, dtype=torch.bfloat16)).norms.dtype == torch.float32
    with pytest.raises(ValueError, match=r"at least one token and one channel, got x of shape \(0, 4\)"):
        flatness(torch.ones(0, 4))


# -- The per-channel scale ---------------------------------------------------------------------------------------------


def test_known_scales():
    w_max, x_max = torch.tensor([1.0, 16.0, 1.0, 0.0]), torch.tensor([1.0, 4.0, 100.0, 1.0])
    assert smooth_scale(w_max, x_max, 0.5).tolist() == pytest.approx([1.0, 2.0, 0.1, 1e-5])
    assert smooth_scale(w_max, x_max, 0.0).tolist() == pytest.approx([1.0, 16.0, 1.0, 1e-5])
    assert smooth_scale(w_max, x_max, 1.0).tolist() == pytest.approx([1.0, 0.25, 0.01, 1.0])
    assert smooth_scale(torch.ones(1), torch.zeros(1), 1.0).item() == pytest.approx(1e5)


maximum = st.floats(0.1, 10)


@given(maximum, maximum, maximum, maximum)
def test_the_scale_moves_steadily_from_flat_weights_to_flat_activations(a, b, u, v):
    """Two channels: alpha = 0 equalises the weights, 1/2 gives both the same maxima, 1 equalises the activations."""
    x, w = torch.tensor([a, b], dtype=torch.float64), torch.tensor([u, v], dtype=torch.float64)
    alphas = [i / 8 for i in range(9)]
    c = torch.stack([smooth_scale(w, x, alpha) for alpha in alphas])
    activations, weights = ((m[:, 0] / m[:, 1]).log() for m in (x * c, w / c))
    for ratios in (activations, weights):
        torch.testing.assert_close(ratios.diff(), ratios.diff()[:1].expand(8), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(torch.stack([weights[0], activations[8]]), torch.zeros(2, dtype=torch.float64))
    torch.testing.assert_close((x * c)[4], (w / c)[4])


@pytest.mark.parametrize("seed", range(3))
def test_an_outlier_channel_is_scaled_away(seed):
    """W4A4 output errors of Gaussian activations with one channel x 50: c alone, and before a Hadamard matrix."""
    generator = torch.Generator().manual_seed(seed)
    x, W = torch.randn(512, 64, generator=generator), torch.randn(64, 64, generator=generator) / 8
    x[:, 7] *= 50

    def error(x_new, W_new):
        x_new, W_new = fake_quantize(x_new, 4, True)[0], fake_quantize(W_new, 4, True, per="row")[0]
        return (x_new @ W_new.mT - x @ W.mT).square().mean()

    c = smooth_scale(W.abs().amax(0), x.abs().amax(0), 0.5)
    H = [factor.float() for factor in hadamard_factors(64)]
    nearest = error(x, W)
    assert error(x * c, W / c) <= nearest / 3
    assert error(kronecker_apply(x * c, H), kronecker_apply(W / c, H)) <= nearest / 10


@pytest.mark.usefixtures("annotations_unchecked")
def test_wrong_arguments_are_refused():
    one = torch.ones(2)
    for alpha in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match="alpha must be between 0"):
            smooth_scale(one, one, alpha)
    with pytest.raises(ValueError, match="one entry a channel each, got 2 and 3"):
        smooth_scale(one, torch.ones(3), 0.5)
    with pytest.raises(ValueError, match="x_max must hold finite maxima"):
        smooth_scale(one, one / 0, 0.5)
    with pytest.raises(ValueError, match="w_max must hold finite maxima"):
        smooth_scale(-one, one, 0.5)
