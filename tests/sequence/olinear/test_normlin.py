"""NormLin: a row-stochastic mixing of tokens, and its place in other people's transformers."""

import itertools
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from linmap.sequence.olinear import CorrelationMixing, NormLin, NormLinAttention, replace_attention
from typed import of_class


def with_weight(W: torch.Tensor, **options: Any) -> NormLin:
    mixing = NormLin(len(W), 4, **options)
    with torch.no_grad():
        mixing.weight.copy_(W)
    return mixing


@given(n=st.integers(1, 9), size=st.sampled_from([0.1, 1.0, 50.0, 1000.0]), seed=st.integers(0, 99))
def test_rows_are_averages(n: int, size: float, seed: int) -> None:
    A = with_weight(torch.randn(n, n, generator=torch.Generator().manual_seed(seed)) * size).matrix()
    assert bool((A >= 0).all())
    torch.testing.assert_close(A.sum(1), torch.ones(n))


def test_it_is_softplus_over_its_row_sums() -> None:
    W = torch.randn(5, 5)
    torch.testing.assert_close(with_weight(W).matrix(), F.normalize(F.softplus(W), p=1, dim=-1))


def test_zero_weights_give_the_mean_and_large_diagonals_the_identity() -> None:
    torch.testing.assert_close(with_weight(torch.zeros(4, 4)).matrix(), torch.full((4, 4), 0.25))
    torch.testing.assert_close(with_weight(1e6 * torch.eye(4)).matrix(), torch.eye(4), atol=1e-5, rtol=0)
    torch.testing.assert_close(with_weight(torch.randn(1, 1)).matrix(), torch.ones(1, 1))


@pytest.mark.parametrize("w", [-60.0, -200.0])
def test_rows_of_very_negative_weights_stay_stochastic_with_a_gradient(w: float) -> None:
    W = torch.zeros(3, 3)
    W[1] = torch.tensor([w, w - 1, w])
    mixing = with_weight(W)
    A = mixing.matrix()
    torch.testing.assert_close(A[1], F.softmax(torch.tensor([0.0, -1.0, 0.0]), dim=0))
    A[1, 0].backward()
    assert mixing.weight.grad is not None
    assert bool(torch.isfinite(mixing.weight.grad).all())
    assert float(mixing.weight.grad[1, 1]) != 0


def test_tokens_mix_and_batches_do_not() -> None:
    torch.manual_seed(0)
    mixing, h = NormLin(3, 4), torch.randn(2, 3, 4)
    expected = mixing.output(torch.einsum("ij,bjd->bid", mixing.matrix(), mixing.value(h)))
    torch.testing.assert_close(mixing(h), expected)
    other = h.clone()
    other[1] = 0
    torch.testing.assert_close(mixing(other)[0], mixing(h)[0])


@given(order=st.permutations(range(4)))
def test_permuting_tokens_and_weights_permutes_the_output(order: list[int]) -> None:
    torch.manual_seed(0)
    mixing, h = NormLin(4, 6), torch.randn(2, 4, 6)
    before = mixing(h)[:, order]
    with torch.no_grad():
        mixing.weight.copy_(mixing.weight[order][:, order].clone())
    torch.testing.assert_close(mixing(h[:, order]), before)


TRANSFORMS = {
    "softplus": F.softplus,
    "softmax": lambda W: W.softmax(-1),
    "sigmoid": torch.sigmoid,
    "relu": F.relu,
    "identity": lambda W: W,
}
NORMS = {
    "l1": lambda A: A / A.abs().sum(-1, keepdim=True),
    "l2": lambda A: A / A.norm(dim=-1, keepdim=True),
    "softmax": lambda A: A.softmax(-1),
    "none": lambda A: A,
}


@pytest.mark.parametrize(("weight", "norm", "prior"), list(itertools.product(TRANSFORMS, NORMS, [False, True])))
def test_general_form(weight: str, norm: str, prior: bool) -> None:
    torch.manual_seed(0)
    W, P = torch.randn(5, 5), torch.rand(5, 5) + 0.1
    A = with_weight(W, weight_transform=weight, norm=norm, prior=P if prior else None).matrix()
    torch.testing.assert_close(A, NORMS[norm](TRANSFORMS[weight](W) + (P if prior else 0)))


def test_a_constant_correlation_is_mean_pooling() -> None:
    torch.manual_seed(0)
    mixing, h = CorrelationMixing(torch.ones(4, 4), 6), torch.randn(2, 4, 6)
    torch.testing.assert_close(mixing(h), mixing.output(mixing.value(h).mean(1, keepdim=True)).expand(-1, 4, -1))
    assert not any(name == "A" for name, _ in mixing.named_parameters())


def test_dropout_thins_the_matrix_without_renormalising() -> None:
    torch.manual_seed(0)
    mixing = NormLin(50, 1, dropout=0.5)
    with torch.no_grad():
        for linear in (mixing.value, mixing.output):
            linear.weight.fill_(1.0)
            linear.bias.zero_()
    sums = mixing(torch.ones(1, 50, 1))[0, :, 0]
    assert float(sums.detach().std()) > 0.01
    torch.testing.assert_close(mixing.eval()(torch.ones(1, 50, 1))[0, :, 0], torch.ones(50))


def test_wrong_arguments_are_explained() -> None:
    with pytest.raises(ValueError, match=r"weight_transform must be one of 'softplus', .*, got 'tanh'"):
        NormLin(3, 4, weight_transform="tanh")
    with pytest.raises(ValueError, match="norm must be one of"):
        NormLin(3, 4, norm="l3")
    with pytest.raises(ValueError, match=r"prior must have shape \(3, 3\), got \(2, 2\)"):
        NormLin(3, 4, prior=torch.eye(2))
    with pytest.raises(ValueError, match=r"mixes 3 tokens of width 4, \(batch, 3, 4\); got \(1, 2, 4\)"):
        NormLin(3, 4)(torch.zeros(1, 2, 4))


@pytest.mark.parametrize("training", [False, True])
def test_a_transformer_runs_with_normlin_in_place_of_attention(training: bool) -> None:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(8, 2, dim_feedforward=16, dropout=0.0, batch_first=True)
    encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).train(training)
    value = layer.self_attn.in_proj_weight[16:].clone()
    replace_attention(encoder, n_tokens=5)
    assert not any(isinstance(module, nn.MultiheadAttention) for module in encoder.modules())
    first = of_class(nn.TransformerEncoderLayer, encoder.layers[0])
    mixing = of_class(NormLinAttention, first.self_attn).mixing
    torch.testing.assert_close(mixing.value.weight, value)
    x = torch.randn(2, 5, 8)
    h = first.norm1(x + mixing(x))
    torch.testing.assert_close(first(x), first.norm2(h + first.linear2(F.relu(first.linear1(h)))))
    assert encoder(x).shape == x.shape


def test_uniform_attention_equals_normlin_with_zero_weights() -> None:
    torch.manual_seed(0)
    attention = nn.MultiheadAttention(8, 2, batch_first=True)
    plugged = NormLinAttention.from_attention(attention, 5)
    with torch.no_grad():
        attention.in_proj_weight[:16] = 0  # equal scores: attention averages
        of_class(NormLin, plugged.mixing).weight.zero_()
    x = torch.randn(2, 5, 8)
    mixed, none = plugged(x, x, x)  # as many as of an nn.MultiheadAttention
    assert none is None
    torch.testing.assert_close(mixed, attention(x, x, x)[0])


@pytest.mark.parametrize(
    ("projections", "kernel"),
    [
        (("v_proj", "out_proj"), ""),
        (("value_projection", "out_projection"), "inner_attention"),
        (("W_V", "to_out"), "sdp_attn"),
    ],
)
def test_attentions_of_others_keep_their_projections_and_their_dropout(projections, kernel) -> None:
    attention, value, output = nn.Module(), nn.Linear(8, 8), nn.Linear(8, 8)
    for name, layer in zip(projections, (value, output), strict=True):
        attention.add_module(name, layer)
    assert of_class(NormLin, NormLinAttention.from_attention(attention, 5).mixing).dropout.p == 0
    if kernel:
        attention.add_module(kernel, nn.Sequential(nn.Identity(), nn.Dropout(0.3)))
    else:
        vars(attention)["dropout"] = 0.3
    mixing = of_class(NormLin, NormLinAttention.from_attention(attention, 5).mixing)
    assert (mixing.value, mixing.output, mixing.dropout.p) == (value, output, 0.3)
    for scores, outputs in ((False, 2), (True, 3)):
        vars(attention)["res_attention"] = scores
        x = torch.randn(2, 5, 8)
        assert len(NormLinAttention.from_attention(attention, 5)(x, x, x)) == outputs


def test_nothing_to_replace_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"Linear has no attention to replace: no nn\.MultiheadAttention"):
        replace_attention(nn.Linear(2, 2), 3)
    with pytest.raises(ValueError, match="batch_first=True"):
        NormLinAttention.from_attention(nn.MultiheadAttention(8, 2), 5)
