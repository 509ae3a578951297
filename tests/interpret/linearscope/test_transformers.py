"""Transformers' encoders and decoders from their own classes, against frozen networks written here by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from linmap.interpret.linearscope import AffineInterpreter, LinearScope

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
VISION = {**SIZES, "image_size": 16, "patch_size": 4}

MODELS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "llama": ("LlamaForCausalLM", "LlamaConfig", DECODER),
    "qwen2": ("Qwen2ForCausalLM", "Qwen2Config", DECODER),
    "qwen3": ("Qwen3ForCausalLM", "Qwen3Config", {**DECODER, "head_dim": 8}),
    "gemma": ("GemmaForCausalLM", "GemmaConfig", {**DECODER, "head_dim": 8}),
    "gemma2": ("Gemma2ForCausalLM", "Gemma2Config", {**DECODER, "head_dim": 8, "sliding_window": 3}),
    "gemma3": ("Gemma3ForCausalLM", "Gemma3TextConfig", {**DECODER, "head_dim": 8, "sliding_window": 3}),
    "gpt2": ("GPT2LMHeadModel", "GPT2Config", GPT2),
    "bert": ("BertForMaskedLM", "BertConfig", TEXT),
    "vit": ("ViTForImageClassification", "ViTConfig", VISION),
    "deit": ("DeiTForImageClassification", "DeiTConfig", VISION),
    "dinov2": ("Dinov2ForImageClassification", "Dinov2Config", VISION),
    "dinov2 swiglu": ("Dinov2ForImageClassification", "Dinov2Config", {**VISION, "use_swiglu_ffn": True}),
    "dinov2 registers": ("Dinov2WithRegistersForImageClassification", "Dinov2WithRegistersConfig", VISION),
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
        ("sdpa", torch.float64, "full", 1e-12),
        ("eager", torch.float64, "value", 1e-12),
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
