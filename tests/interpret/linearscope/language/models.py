"""Tiny decoders of several families with the tokenizer of bytes, their weights large enough to matter."""

from typing import Any

import torch
import transformers

from linmap.interpret.linearscope import LinearScope
from linmap.interpret.linearscope.language import LanguageReading
from recipes.finetuning.tiny import language_tokenizer

SIZES: dict[str, Any] = {
    "vocab_size": 258, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 64, "bos_token_id": 0, "eos_token_id": 1,
    "pad_token_id": 1,
}  # fmt: skip
GPT2: dict[str, Any] = {
    "vocab_size": 258,
    "n_embd": 16,
    "n_layer": 3,
    "n_head": 2,
    "n_positions": 64,
    "bos_token_id": 0,
    "eos_token_id": 1,
}
FAMILIES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "llama": ("LlamaForCausalLM", "LlamaConfig", SIZES),
    "qwen3": ("Qwen3ForCausalLM", "Qwen3Config", SIZES),
    "gemma2": ("Gemma2ForCausalLM", "Gemma2Config", SIZES | {"attn_implementation": "eager"}),
    "gpt2": ("GPT2LMHeadModel", "GPT2Config", GPT2),
}
TEXT = "One, two"


def decoder(family: str = "llama", dtype: torch.dtype = torch.float64, **settings: Any) -> Any:
    """In eval mode."""
    model_class, config_class, sizes = FAMILIES[family]
    model = getattr(transformers, model_class)(getattr(transformers, config_class)(**(sizes | settings)))
    model = model.to(dtype).eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(0)
    for weight in model.parameters():
        weight.add_(torch.randn(weight.shape, generator=generator, dtype=dtype) / 4)
    return model


def read(family: str = "llama", text: str = TEXT, **options: Any) -> LanguageReading:
    return LinearScope(decoder(family), **options).text(text, language_tokenizer())
