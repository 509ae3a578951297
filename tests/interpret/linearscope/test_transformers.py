"""Transformers' encoders and decoders from their own classes, against frozen networks written here by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from linmap.interpret.linearscope import (
    AffineInterpreter,
    LinearScope,
    UnknownOperationError,
    attention_maps,
    block,
    part,
    rollout,
    token_contributions,
    token_shares,
)

transformers = pytest.importorskip("transformers")

SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 24}
TEXT = {**SIZES, "vocab_size": 50, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
DECODER = {**TEXT, "num_key_value_heads": 2, "max_position_embeddings": 64}
GPT2 = {
    "vocab_size": 50,
    "n_embd": 16,
    "n_layer": 2,
    "n_head": 2,
    "n_positions": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
MOE = {**DECODER, "head_dim": 8, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 8}
MOE |= {"experts_implementation": "eager"}
VISION = {**SIZES, "image_size": 16, "patch_size": 4}
SWIGLU = {**VISION, "use_swiglu_ffn": True}
ONE = {"num_hidden_layers": 1}

MODELS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "llama": ("LlamaForCausalLM", "LlamaConfig", DECODER),
    "qwen2": ("Qwen2ForCausalLM", "Qwen2Config", DECODER),
    "qwen3": ("Qwen3ForCausalLM", "Qwen3Config", {**DECODER, "head_dim": 8}),
    "gemma": ("GemmaForCausalLM", "GemmaConfig", {**DECODER, **ONE, "head_dim": 8}),
    "gemma2": ("Gemma2ForCausalLM", "Gemma2Config", {**DECODER, "head_dim": 8, "sliding_window": 3}),
    "gemma3": ("Gemma3ForCausalLM", "Gemma3TextConfig", {**DECODER, "head_dim": 8, "sliding_window": 3}),
    "gpt2": ("GPT2LMHeadModel", "GPT2Config", GPT2),
    "qwen3 moe": ("Qwen3MoeForCausalLM", "Qwen3MoeConfig", {**MOE, **ONE}),
    "bert": ("BertForMaskedLM", "BertConfig", {**TEXT, **ONE}),
    "vit": ("ViTForImageClassification", "ViTConfig", {**VISION, **ONE}),
    "deit": ("DeiTForImageClassification", "DeiTConfig", {**VISION, **ONE}),
    "dinov2": ("Dinov2ForImageClassification", "Dinov2Config", VISION),
    "dinov2 registers": ("Dinov2WithRegistersForImageClassification", "Dinov2WithRegistersConfig", {**SWIGLU, **ONE}),
}
ONLY_EAGER = ("gemma2",)


def tiny(name: str, attention: str = "sdpa", dtype: torch.dtype = torch.float64) -> tuple[Any, Tensor]:
    """A model with random weights (biases and norms among them) and its input, token ids or pixels."""
    model_class, config_class, settings = MODELS[name]
    config = getattr(transformers, config_class)(**settings, attn_implementation=attention)
    model = getattr(transformers, model_class)(config).to(dtype).eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(0)
    for weight in model.parameters():
        weight.add_(torch.randn(weight.shape, generator=generator, dtype=dtype) / 5)
    if "patch_size" in settings:
        return model, torch.randn(1, 3, 16, 16, generator=generator, dtype=dtype)
    return model, torch.tensor([[3, 1, 4, 1, 5, 9, 2]])


def misses(interp: AffineInterpreter, row: int) -> float:
    """Largest error of F x + r, and of one row of F, relative to the largest output."""
    y = interp.output.flatten()
    whole = interp.matvec(interp.input.flatten()) + interp.residual.flatten()
    one = interp.row(row) @ interp.input.flatten() + interp.residual.flatten()[row]
    return float(torch.maximum((whole - y).abs().max(), (one - y[row]).abs()) / y.abs().max())


@pytest.mark.parametrize("name", MODELS)
def test_a_model_is_read_exactly(name: str):
    readings: list[tuple[str, torch.dtype, Any, float]] = [
        ("sdpa", torch.float32, "value", 1e-5),
        ("eager", torch.float64, "full", 1e-12),
    ]
    for attention, dtype, softmax, bar in readings:
        model, x = tiny(name, "eager" if name in ONLY_EAGER else attention, dtype)
        interp = LinearScope(model, softmax=softmax).at(x)
        assert misses(interp, 1) < bar
        torch.testing.assert_close(interp.output, model(x).logits, rtol=1e-4, atol=1e-4)


def test_token_ids_and_their_embeddings_give_the_same_map():
    model, ids = tiny("gemma3")
    scope, vectors = LinearScope(model), model.get_input_embeddings()(ids)
    by_ids, by_vectors = scope.at(ids, logits_to_keep=1), scope.at(vectors, logits_to_keep=1)
    torch.testing.assert_close(by_ids.input, vectors)
    assert by_ids.output.shape == (1, 1, 50)
    torch.testing.assert_close(by_ids.row(3), by_vectors.row(3))


class Sine(torch.nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.sin(x)


def test_an_unknown_activation_is_refused_by_name():
    model, ids = tiny("llama")
    model.model.layers[1].mlp.act_fn = Sine().eval()
    with pytest.raises(
        UnknownOperationError, match=r"sin.* in model\.layers\.1\.mlp\.act_fn \(.*test_transformers\.py:\d+\)"
    ):
        LinearScope(model).at(ids)


# -- against a network that is frozen by hand --------------------------------------------------------------------------


class FrozenLlama:
    """A second reading of a Llama: its layers written out, with norms and gates (and attention) as constants of x0."""

    def __init__(self, model: Any, hold_attention: bool) -> None:
        self.model, self.hold_attention = model, hold_attention

    def norm(self, layer: Any, x: Tensor) -> Tensor:
        scale = (x.float().square().mean(-1, keepdim=True) + layer.variance_epsilon).rsqrt()
        return x * scale.detach() * layer.weight

    def rotated(self, x: Tensor) -> Tensor:
        half = x.shape[-1] // 2
        config = self.model.config
        angles = torch.arange(x.shape[-2])[:, None] / config.rope_parameters["rope_theta"] ** (
            torch.arange(half) / half
        )
        cos, sin = angles.cos().float(), angles.sin().float()
        a, b = x[..., :half], x[..., half:]
        return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)

    def attention(self, layer: Any, x: Tensor) -> Tensor:
        heads, groups = self.model.config.num_attention_heads, self.model.config.num_key_value_heads
        q, k, v = (
            projection(x).reshape(len(x), count, -1).transpose(0, 1)
            for projection, count in ((layer.q_proj, heads), (layer.k_proj, groups), (layer.v_proj, groups))
        )
        k, v = (part.repeat_interleave(heads // groups, 0) for part in (k, v))
        scores = self.rotated(q) @ self.rotated(k).mT / q.shape[-1] ** 0.5
        later = torch.ones(len(x), len(x)).triu(1).bool()
        a = scores.masked_fill(later, -torch.inf).softmax(-1)
        mixed = (a.detach() if self.hold_attention else a) @ v
        return layer.o_proj(mixed.transpose(0, 1).reshape(len(x), -1))

    def __call__(self, x: Tensor) -> Tensor:
        """Embeddings (tokens, features) to the logits of the last token."""
        for layer in self.model.model.layers:
            x = x + self.attention(layer.self_attn, self.norm(layer.input_layernorm, x))
            z = self.norm(layer.post_attention_layernorm, x)
            gate = torch.nn.functional.silu(layer.mlp.gate_proj(z)).detach()
            x = x + layer.mlp.down_proj(gate * layer.mlp.up_proj(z))
        return self.model.lm_head(self.norm(self.model.model.norm, x)[-1])


@pytest.mark.parametrize("softmax", ["value", "full"])
def test_the_map_of_a_llama_is_the_jacobian_of_its_frozen_parts(softmax: Any):
    model, ids = tiny("llama")
    interp = LinearScope(model, softmax=softmax).at(ids, logits_to_keep=1)
    frozen, x = FrozenLlama(model, softmax == "value"), interp.input[0]
    torch.testing.assert_close(interp.output.flatten(), frozen(x), rtol=1e-6, atol=1e-6)
    expected = torch.autograd.functional.jacobian(frozen, x).flatten(1)
    torch.testing.assert_close(interp.dense(), expected, rtol=1e-5, atol=1e-6)
    dense = interp.columns(range(interp.in_features))
    torch.testing.assert_close(dense, interp.dense(), rtol=0, atol=1e-12)
    if softmax == "value":  # no biases: the rounding of Transformers' norms is all that is left
        assert interp.bias_share() < 1e-6


class Attention(torch.nn.Module):
    """Four heads of queries on two of keys and values, or four on four, by PyTorch's own function."""

    def __init__(self, groups: int, **settings: Any) -> None:
        super().__init__()
        self.groups, self.settings = groups, settings
        self.q, self.kv = torch.nn.Linear(8, 8), torch.nn.Linear(8, 4 * groups)

    def forward(self, x: Tensor) -> Tensor:
        q = self.q(x).unflatten(-1, (4, 2)).transpose(1, 2)
        k, v = self.kv(x).unflatten(-1, (2 * self.groups, 2)).transpose(1, 2).chunk(2, 1)
        mixed = torch.nn.functional.scaled_dot_product_attention(q, k, v, **self.settings)
        return mixed.transpose(1, 2).flatten(2)


MASK = torch.tensor([[True, False, True], [False, True, False], [True, True, False]])


@pytest.mark.parametrize(
    ("groups", "settings"),
    [
        (4, {}),
        (4, {"is_causal": True, "scale": 0.3}),
        (2, {"is_causal": True, "enable_gqa": True}),
        (4, {"attn_mask": MASK}),
        (2, {"attn_mask": torch.where(MASK, 0.7, -torch.inf).double(), "enable_gqa": True}),
        (4, {"attn_mask": torch.where(MASK, -0.2, torch.finfo(torch.float32).min).double()}),
    ],
)
def test_attention_that_is_followed_whole_is_its_jacobian(groups: int, settings: dict[str, Any]):
    torch.manual_seed(0)
    net, x = Attention(groups, **settings).double().eval(), torch.randn(1, 3, 8).double()
    held, full = LinearScope(net).at(x), LinearScope(net, softmax="full").at(x)
    jacobian = torch.autograd.functional.jacobian(net, x).reshape(24, 24)
    torch.testing.assert_close(full.dense(), jacobian, rtol=0, atol=1e-12)
    assert max(held.exactness(), full.exactness()) < 1e-12
    a = attention_maps(held)[0].weights
    values = net.kv(torch.eye(8).double())[:, 2 * groups :] - net.kv(torch.zeros(8).double())[2 * groups :]
    values = values.unflatten(-1, (groups, 2)).repeat_interleave(4 // groups, 1)  # from feature to head and feature
    torch.testing.assert_close(held.dense(), torch.einsum("hij,khd->ihdjk", a, values).reshape(24, 24))


# -- tokens ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["qwen2", "gpt2"])
def test_tokens_contribute_exactly_and_never_to_earlier_ones(name: str):
    model, ids = tiny(name)
    last = "model.layers.1" if name == "qwen2" else "transformer.h.1"
    interp = LinearScope(model, to=last).at(ids)
    parts, shares = token_contributions(interp, batch_size=3), token_shares(interp)
    assert parts.shape == (7, 7, 16)
    torch.testing.assert_close(parts.sum(0) + interp.residual[0], interp.output[0], rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(shares.sum(1), torch.ones(7).double())
    for earlier, later in ((0, 1), (2, 6), (4, 5)):
        assert not parts[later, earlier].any()
        assert not shares[earlier, later]
    assert parts[1, 2].any()
    with pytest.raises(ValueError, match=r"token_shares needs an output \(1, tokens, features\)"):
        token_shares(LinearScope(model, output=lambda o: o.logits[:, -1]).at(ids))


def test_what_comes_later_changes_nothing_earlier():
    model, ids = tiny("qwen3")
    whole, prefix = (LinearScope(model, to="model.layers.1").at(part) for part in (ids, ids[:, :3]))
    F, G = whole.dense().reshape(7, 16, 7, 16), prefix.dense().reshape(3, 16, 3, 16)
    torch.testing.assert_close(F[:3, :, :3], G, rtol=0, atol=1e-12)
    assert not F[:3, :, 3:].any()


def test_the_attention_maps_are_those_of_the_model():
    for name, attention in (("gemma2", "eager"), ("qwen3", "sdpa"), ("dinov2", "sdpa")):
        model, x = tiny(name, attention)
        maps = attention_maps(LinearScope(model).at(x))
        model.set_attn_implementation("eager")
        expected = model(x, output_attentions=True).attentions
        assert [one.module.split(".")[-2] for one in maps] == ["0", "1"]
        for one, a in zip(maps, expected, strict=True):
            torch.testing.assert_close(one.weights, a[0])
        eye = torch.eye(len(maps[0].weights[0]), dtype=torch.float64)
        first, second = (0.5 * eye + 0.5 * a[0].mean(0) for a in expected)
        torch.testing.assert_close(rollout(maps), second @ first)
    with pytest.raises(ValueError, match="no attention"):
        attention_maps(LinearScope(torch.nn.Linear(2, 2).eval()).at(torch.ones(1, 2)))


# -- parts of a reading ------------------------------------------------------------------------------------------------


def test_parts_of_one_reading_are_readings_of_the_parts():
    model, ids = tiny("gemma3")
    whole = LinearScope(model).at(ids, logits_to_keep=1)
    lower, upper = part(whole, to="model.layers.0"), part(whole, from_="model.layers.1")
    torch.testing.assert_close(lower.output, upper.input)
    torch.testing.assert_close(upper.dense() @ lower.dense(), whole.dense(), rtol=0, atol=1e-9)
    scopes = LinearScope(model, to="model.layers.0"), LinearScope(model, from_="model.layers.1")
    for one, scope in zip((lower, upper), scopes, strict=True):
        again = scope.at(ids, logits_to_keep=1)
        assert one.exactness() < 1e-12
        torch.testing.assert_close(one.dense(), again.dense(), rtol=0, atol=1e-9)
        torch.testing.assert_close(one.residual, again.residual, rtol=0, atol=1e-9)
    with pytest.raises(ValueError, match=r"to='model.layers.0.self_attn.q_proj': the reading does not go through"):
        part(whole, to="model.layers.0.self_attn.q_proj")
    with pytest.raises(ValueError, match=r"does not depend on what goes into from_='lm_head'"):
        part(whole, from_="lm_head", to="model.layers.0")


def test_a_part_holds_what_goes_around_it():
    model, ids = tiny("llama")
    inner = "model.layers.0.mlp"
    whole = LinearScope(model, mode="parallel").at(ids)
    one, again = part(whole, from_=inner), LinearScope(model, from_=inner).at(ids)
    assert one.exactness() < 1e-12
    torch.testing.assert_close(one.dense(), again.dense(), rtol=0, atol=1e-9)
    torch.testing.assert_close(one.residual, again.residual, rtol=0, atol=1e-9)


def test_a_block_is_a_block_of_the_matrix_and_has_its_singular_vectors():
    model, ids = tiny("llama")
    interp = LinearScope(model, to="model.layers.1").at(ids)
    F = interp.dense().reshape(7, 16, 7, 16)
    token = block(interp, input=2, output=-1)
    torch.testing.assert_close(token.dense(), F[6, :, 2])
    torch.testing.assert_close(token.rmatvec(torch.eye(16).double()), F[6, :, 2])
    torch.testing.assert_close(block(interp, output=(6, 3)).dense()[0], F[6, 3].flatten())
    torch.testing.assert_close(token.svd(3).S, torch.linalg.svdvals(F[6, :, 2])[:3], rtol=1e-6, atol=0)
    assert not block(interp, input=3, output=1).dense().any()
    with pytest.raises(IndexError, match=r"input=7 lies outside the input of shape \(7, 16\)"):
        block(interp, input=7)
