"""NormLin and OrthoTrans inside other libraries' forecasters: iTransformer, PatchTST and DLinear."""

import pytest
import torch
from studies.olinear.plugins import Library, itransformer, patchtst
from torch import nn
from transformers import PatchTSTConfig, PatchTSTForPrediction

from linmap.sequence.olinear import NormLinAttention, OrthoTransWrapper, basis, replace_attention
from linmap.sequence.olinear.baselines import DLinear

SEQ, PRED, N = 24, 8, 3
PATCHES = {"hugging face": 6, "PatchTST": 12}  # of 4 steps; the second half a patch apart


def hugging_face() -> nn.Module:
    config = PatchTSTConfig(
        num_input_channels=N,
        context_length=SEQ,
        prediction_length=PRED,
        patch_length=4,
        patch_stride=4,
        d_model=16,
        num_attention_heads=2,
        num_hidden_layers=2,
        ffn_dim=32,
        use_cls_token=False,
        scaling=None,
    )
    return Library(PatchTSTForPrediction(config), lambda model, x: model(past_values=x).prediction_outputs)


def build(name: str) -> tuple[nn.Module, int]:
    """A small forecaster of a library and the number of its tokens."""
    torch.manual_seed(0)
    if name == "hugging face":
        return hugging_face(), PATCHES[name]
    pytest.importorskip("neuralforecast")
    if name == "iTransformer":
        return itransformer(SEQ, PRED, N, d_model=16, d_ff=32, heads=2, seed=0), N
    return patchtst(SEQ, PRED, d_model=16, d_ff=32, heads=2, patch=4, seed=0), PATCHES[name]


LIBRARIES = ["hugging face", "iTransformer", "PatchTST"]


def attentions(model: nn.Module) -> list[NormLinAttention]:
    return [module for module in model.modules() if isinstance(module, NormLinAttention)]


@pytest.mark.parametrize("name", LIBRARIES)
def test_normlin_takes_the_place_of_every_attention_and_keeps_its_projections(name: str) -> None:
    model, tokens = build(name)
    before = dict(model.named_parameters())
    x = torch.randn(2, SEQ, N)
    replace_attention(model, tokens)
    found = attentions(model)
    assert len(found) >= 2
    kept = {id(parameter) for parameter in before.values()}
    for attention in found:
        assert id(attention.mixing.value.weight) in kept
        assert all(id(parameter) in kept for parameter in attention.mixing.output.parameters())
    assert not any("query" in key or "q_proj" in key or "W_Q" in key for key, _ in model.named_parameters())
    y = model(x)
    assert y.shape == (2, PRED, N)
    y.square().sum().backward()
    for attention in found:
        assert attention.mixing.weight.grad is not None  # pyright: ignore
        assert float(attention.mixing.weight.grad.abs().sum()) > 0  # pyright: ignore


@pytest.mark.parametrize("name", LIBRARIES)
def test_the_plugged_model_loads_its_state(name: str) -> None:
    one, tokens = build(name)
    two, _ = build(name)
    for model in (one, two):
        replace_attention(model, tokens).eval()
    with torch.no_grad():
        for parameter in one.parameters():
            parameter.add_(0.01 * torch.randn_like(parameter))
    two.load_state_dict(one.state_dict())
    x = torch.randn(2, SEQ, N)
    torch.testing.assert_close(two(x), one(x))


@pytest.mark.parametrize("name", LIBRARIES)
def test_equal_scores_are_normlin_with_zero_weights(name: str) -> None:
    """Attention whose keys are zero averages its tokens, and so does A of W = 0."""
    attended, tokens = build(name)
    plugged, _ = build(name)
    replace_attention(plugged, tokens)
    with torch.no_grad():
        for key, parameter in attended.named_parameters():
            if any(part in key for part in ("k_proj", "key_projection", "W_K")):
                parameter.zero_()
        for attention in attentions(plugged):
            attention.mixing.weight.zero_()  # pyright: ignore
    x = torch.randn(2, SEQ, N)
    torch.testing.assert_close(plugged.eval()(x), attended.eval()(x), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", [*LIBRARIES, "DLinear"])
def test_orthotrans_with_identity_bases_is_the_bare_model(name: str) -> None:
    model = DLinear(SEQ, PRED) if name == "DLinear" else build(name)[0]
    x = torch.randn(2, SEQ, N)
    wrapped = OrthoTransWrapper(model, torch.eye(SEQ), torch.eye(PRED), normalise=False).eval()
    torch.testing.assert_close(wrapped(x), model(x))
    moved = OrthoTransWrapper(model, basis("dct", SEQ), basis("dct", PRED)).eval()
    assert float((moved(x) - model(x)).detach().abs().max()) > 1e-3
    shift = torch.tensor([3.0, -2.0, 100.0])  # instance normalisation: what is added to a window comes back
    torch.testing.assert_close(moved(x + shift), moved(x) + shift, atol=1e-3, rtol=1e-3)


def test_two_sequences_are_refused() -> None:
    plugged = NormLinAttention.from_attention(nn.MultiheadAttention(8, 2, batch_first=True), 5)
    x, y = torch.randn(2, 5, 8), torch.randn(2, 5, 8)
    with pytest.raises(ValueError, match="query, key and value must be the same tensor"):
        plugged(x, y, y)
    with pytest.raises(ValueError, match="Linear is no attention that NormLin knows how to replace"):
        NormLinAttention.from_attention(nn.Linear(2, 2), 5)


@pytest.mark.parametrize("name", ["hugging face", "iTransformer"])
def test_plugged_models_compile_with_the_same_result(name: str, annotations_unchecked: None) -> None:
    model, tokens = build(name)
    wrapped = OrthoTransWrapper(replace_attention(model, tokens), basis("dct", SEQ), basis("dct", PRED)).eval()
    x = torch.randn(2, SEQ, N)
    torch.testing.assert_close(torch.compile(wrapped, backend="eager")(x), wrapped(x), atol=1e-5, rtol=1e-5)
