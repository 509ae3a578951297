"""Every family of causal language models in the installed Transformers keeps its function, or is refused by name."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from compress.flatquant.models import SIZES, randomised, tokens
from linmap.compress.flatquant import FlatQuantConfig, calibrate

LAYERS = ["full_attention"] * 2
MORE: dict[str, Any] = {
    "head_dim": 6, "num_experts": 4, "num_local_experts": 4, "n_routed_experts": 4, "moe_num_experts": 4,
    "moe_topk": 2, "num_experts_per_tok": 2, "n_group": 1, "topk_group": 1, "moe_intermediate_size": 8,
    "n_shared_experts": 1, "shared_expert_intermediate_size": 8, "first_k_dense_replace": 2, "num_dense_layers": 2,
    "mlp_only_layers": [0, 1], "mlp_layer_types": ["dense"] * 2, "moe_layer_start_index": 9, "q_lora_rank": 8,
    "kv_lora_rank": 8, "qk_rope_head_dim": 6, "qk_nope_head_dim": 6, "v_head_dim": 6, "d_model": 24, "n_embd": 24,
    "n_head": 4, "n_layer": 2, "ffn_dim": 40, "decoder_layers": 2, "decoder_attention_heads": 4,
    "decoder_ffn_dim": 40, "encoder_layers": 2, "encoder_attention_heads": 4, "encoder_ffn_dim": 40,
    "is_decoder": True, "sliding_window": 8, "laurel_rank": 4, "hidden_size_per_layer_input": 4,
    "vocab_size_per_layer_input": 64, "num_kv_shared_layers": 0, "n_positions": 128, "index_n_heads": 2,
    "index_head_dim": 6, "index_topk": 8, "linear_num_key_heads": 2, "linear_num_value_heads": 4,
    "linear_key_head_dim": 6, "linear_value_head_dim": 6, "max_seq_len": 128,
}  # fmt: skip
"""Sizes that only some families have."""
HYBRID = ("qwen3_5_text", "qwen3_next", "granitemoehybrid", "lfm3")
"""Families whose layers are of several kinds: here all attend."""
LARGEST = 5_000_000  # parameters: what stays larger has sizes of its own that are not set here


def made(name: str) -> Any:
    """A tiny model of a family; None if its config asks for more than is known here."""
    config_class = CONFIG_MAPPING[name]
    try:
        fields = set(vars(config_class())) | set(config_class.__annotations__)
        sizes = SIZES | {field: value for field, value in MORE.items() if field in fields}
        sizes |= {"layer_types": LAYERS} if name in HYBRID else {}
        config = config_class(**sizes)
        with torch.device("meta"):
            if sum(p.numel() for p in AutoModelForCausalLM.from_config(config).parameters()) > LARGEST:
                return None
        model = randomised(AutoModelForCausalLM.from_config(config, dtype=torch.float32))
        return model if bool(logits_of(model).isfinite().all()) else None
    except Exception:
        return None


@torch.no_grad()
def logits_of(model: PreTrainedModel) -> torch.Tensor:
    return model(input_ids=tokens(2, 20, seed=9), use_cache=False).logits


@pytest.mark.slow
@pytest.mark.parametrize("name", MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
def test_a_family_keeps_its_function_or_is_refused_by_name(name: str) -> None:
    model = made(name)
    if model is None:
        pytest.skip("no tiny model of this family")
    expected = logits_of(model)
    config = FlatQuantConfig(w_bits=8, a_bits=16, epochs=2, lr=0.05, clip=False, batch_size=3)
    try:
        calibrate(model, tokens(6, 12), config)
    except TypeError as error:
        message = str(error)
        assert "module_map=" in message or message.startswith("block 0"), message
        return
    error = float((logits_of(model) - expected).norm() / expected.norm())
    assert error < 0.06
