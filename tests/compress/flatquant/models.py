"""Tiny decoders of every family, with random weights."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma3TextConfig,
    GemmaConfig,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    Qwen2Config,
    Qwen3Config,
)
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.llama.modeling_llama import LlamaRMSNorm, apply_rotary_pos_emb, eager_attention_forward

from linmap.compress.flatquant.pretrained import Decoder
from typed import present

SIZES: dict[str, Any] = {
    "vocab_size": 64, "hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 128, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
}  # fmt: skip
WIDE: dict[str, Any] = {"head_dim": 8}  # heads * head_dim is not the hidden size
LAYERS = ["sliding_attention", "full_attention"]
CONFIGS: dict[str, Any] = {
    "llama": lambda: LlamaConfig(**SIZES),
    "llama_biased": lambda: LlamaConfig(**SIZES, attention_bias=True, mlp_bias=True, tie_word_embeddings=True),
    "mistral": lambda: MistralConfig(**SIZES, sliding_window=6),
    "qwen2": lambda: Qwen2Config(**SIZES),
    "qwen3": lambda: Qwen3Config(**SIZES, **WIDE),
    "gemma": lambda: GemmaConfig(**SIZES, **WIDE),
    "gemma2": lambda: Gemma2Config(
        **SIZES, **WIDE, sliding_window=6, layer_types=LAYERS, attn_logit_softcapping=2.0, query_pre_attn_scalar=8
    ),
    "gemma3": lambda: Gemma3TextConfig(**SIZES, **WIDE, sliding_window=6, layer_types=LAYERS, query_pre_attn_scalar=8),
}
FAMILIES = list(CONFIGS)


def tiny(family: str = "llama", seed: int = 0, **kwargs: Any) -> Any:
    """A model of a family, its biases, norms and all else random too."""
    config = CONFIGS[family]()
    for name in [name for name in kwargs if hasattr(config, name)]:
        setattr(config, name, kwargs.pop(name))
    return randomised(AutoModelForCausalLM.from_config(config, **kwargs), seed)


@torch.no_grad()
def randomised(model: Decoder, seed: int = 0) -> Decoder:
    generator = torch.Generator().manual_seed(seed)
    for p in model.parameters():
        noise = torch.randn(p.shape, generator=generator).to(p.dtype)
        p.copy_(p + 0.3 * noise if p.dim() == 1 else 1.5 * noise / p.shape[-1] ** 0.5)
    model.generation_config.eos_token_id = None  # a generation has the length that is asked for
    return model.eval()


def tokens(batch: int = 2, length: int = 12, seed: int = 0) -> Tensor:
    return torch.randint(3, 64, (batch, length), generator=torch.Generator().manual_seed(seed))


class RenamedAttention(nn.Module):
    def __init__(self, config: LlamaConfig, layer_idx: int) -> None:
        super().__init__()
        self.config, self.layer_idx, self.head_dim = config, layer_idx, present(config.head_dim)
        self.num_key_value_groups = config.num_attention_heads // present(config.num_key_value_heads)
        n, width = config.hidden_size, config.num_attention_heads * self.head_dim
        self.wq, self.wo = nn.Linear(n, width, bias=False), nn.Linear(width, n, bias=False)
        self.wk, self.wv = (nn.Linear(n, width // self.num_key_value_groups, bias=False) for _ in range(2))

    def forward(self, x: Tensor, position_embeddings: Any, attention_mask: Any, past_key_values: Any) -> Tensor:
        heads = (*x.shape[:-1], -1, self.head_dim)
        q, k, v = (w(x).view(heads).transpose(1, 2) for w in (self.wq, self.wk, self.wv))
        q, k = apply_rotary_pos_emb(q, k, *position_embeddings)
        if past_key_values is not None:
            k, v = past_key_values.update(k, v, self.layer_idx)
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(
            present(self.config._attn_implementation), eager_attention_forward
        )
        y, _ = attend(self, q, k, v, attention_mask, scaling=self.head_dim**-0.5)
        return self.wo(y.flatten(-2))


class RenamedFeedForward(nn.Module):
    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        n, width = config.hidden_size, config.intermediate_size
        self.w1, self.w3, self.w2 = nn.Linear(n, width), nn.Linear(n, width), nn.Linear(width, n)

    def forward(self, x: Tensor) -> Tensor:
        return self.w2(nn.functional.silu(self.w1(x)) * self.w3(x))


class RenamedBlock(nn.Module):
    def __init__(self, config: LlamaConfig, layer_idx: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = LlamaRMSNorm(config.hidden_size), LlamaRMSNorm(config.hidden_size)
        self.attn, self.ffn = RenamedAttention(config, layer_idx), RenamedFeedForward(config)

    def forward(
        self, x: Tensor, position_embeddings: Any, attention_mask: Any, past_key_values: Any, **_: Any
    ) -> Tensor:
        x = x + self.attn(self.norm1(x), position_embeddings, attention_mask, past_key_values=past_key_values)
        return x + self.ffn(self.norm2(x))


class RenamedModel(LlamaForCausalLM):
    """Llama whose blocks name their parts in another way."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__(config)
        self.model.layers = nn.ModuleList([RenamedBlock(config, i) for i in range(config.num_hidden_layers)])


MODULE_MAP = {
    "q": "attn.wq",
    "k": "attn.wk",
    "v": "attn.wv",
    "o": "attn.wo",
    "gate": "ffn.w1",
    "up": "ffn.w3",
    "down": "ffn.w2",
    "attention_norm": "norm1",
    "mlp_norm": "norm2",
}
