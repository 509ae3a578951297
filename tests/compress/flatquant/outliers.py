"""A random Llama with outliers in its channels, small enough to be calibrated in a second."""

import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

VOCABULARY = 64


@torch.no_grad()
def planted(seed: int = 0) -> LlamaForCausalLM:
    """Outliers in a channel of the embedding, in two gains of the norms, and in a row of the up projection."""
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=48,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
    )
    model = LlamaForCausalLM(config).eval()
    generator = torch.Generator().manual_seed(seed)
    for weight in model.parameters():
        if weight.ndim == 2:
            weight.copy_(torch.randn(weight.shape, generator=generator) / weight.shape[1] ** 0.5)
    embedding = model.model.embed_tokens.weight
    embedding.copy_(torch.randn(embedding.shape, generator=generator) * 3 / embedding.shape[1] ** 0.5)
    embedding[:, 5] *= 12
    for block in model.model.layers:
        block.get_parameter("input_layernorm.weight")[7] = 6
        block.get_parameter("post_attention_layernorm.weight")[9] = 6
        block.get_parameter("mlp.up_proj.weight")[11] *= 8
    return model


def sequences(seed: int, n: int = 16, length: int = 32) -> Tensor:
    return torch.randint(VOCABULARY, (n, length), generator=torch.Generator().manual_seed(seed))
