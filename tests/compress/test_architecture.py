"""Finding the parts of decoders."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from compress.flatquant.models import FAMILIES, MODULE_MAP, RenamedModel, tiny
from linmap.compress.architecture import BlockSizes, block_paths, block_sizes, decoder_blocks, replace


@pytest.mark.parametrize("family", FAMILIES)
def test_families_are_found(family: str) -> None:
    model = tiny(family)
    path, blocks = decoder_blocks(model)
    assert (path, len(blocks)) == ("model.layers", 2)
    paths = block_paths(blocks[0])
    assert (paths.attention, paths.mlp, paths.attention_norm) == ("self_attn", "mlp", "input_layernorm")
    four_norms = family in ("gemma2", "gemma3")
    assert paths.mlp_norm == ("pre_feedforward_layernorm" if four_norms else "post_attention_layernorm")
    head_dim = model.config.head_dim if hasattr(model.config, "head_dim") else 6
    assert block_sizes(blocks[0], paths) == BlockSizes(24, 4, 2, head_dim or 6, 40)


def test_other_names_by_a_map() -> None:
    model = RenamedModel(tiny().config)
    with pytest.raises(TypeError, match=r"no self_attn.q_proj \(its q\); it has attn.wq.*module_map"):
        decoder_blocks(model)
    path, blocks = decoder_blocks(model, MODULE_MAP)
    assert decoder_blocks(model, MODULE_MAP | {"blocks": "model.layers"}) == (path, blocks)
    paths = block_paths(blocks[0], MODULE_MAP)
    assert (paths.attention, paths.mlp, paths.attention_norm, paths.mlp_norm) == ("attn", "ffn", "norm1", "norm2")
    with pytest.raises(TypeError, match=r"'model.norm' is no list of blocks"):
        decoder_blocks(model, MODULE_MAP | {"blocks": "model.norm"})
    with pytest.raises(ValueError, match="module_map has query"):
        block_paths(blocks[0], {"query": "attn.wq"})
    with pytest.raises(TypeError, match=r"attn\.nothing"):
        block_paths(blocks[0], MODULE_MAP | {"q": "attn.nothing"})


def test_no_decoder() -> None:
    with pytest.raises(TypeError, match=r"Linear has no list of blocks.*module_map"):
        decoder_blocks(nn.Linear(2, 2))


@pytest.mark.parametrize("name", ["gpt2", "opt", "bloom", "phi3", "mamba", "mixtral"])
def test_whoever_is_not_recognised_is_told_of_the_map(name: str) -> None:
    sizes = {"vocab_size": 64, "hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 4}
    more = {"pad_token_id": 0, "intermediate_size": 24, "num_key_value_heads": 4}
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(name, **sizes, **more))
    with pytest.raises(TypeError, match=r"decoder blocks are not recognised.*module_map="):
        decoder_blocks(model)


def test_one_block_of_the_kind_is_enough() -> None:
    model = tiny()
    model.model.layers[0].mlp = nn.Identity()
    assert decoder_blocks(model)[0] == "model.layers"


def test_adapters_are_to_be_merged_first() -> None:
    model = get_peft_model(tiny(), LoraConfig(target_modules=["v_proj"]))
    with pytest.raises(TypeError, match=r"v_proj carries an adapter of PEFT; merge it first.*merge_and_unload"):
        decoder_blocks(model)
    assert decoder_blocks(model.merge_and_unload())[0] == "model.layers"


def test_a_layer_at_two_places() -> None:
    block = tiny().model.layers[0]
    block.mlp.gate_proj = block.mlp.up_proj
    with pytest.raises(ValueError, match="two places"):
        block_paths(block)


def test_other_layers_than_linear_ones() -> None:
    block = tiny().model.layers[0]
    block.self_attn.k_proj = nn.Conv1d(2, 2, 1)
    with pytest.raises(TypeError, match="k_proj is a Conv1d"):
        block_paths(block)


def test_projections_must_be_inside_modules() -> None:
    block = tiny().model.layers[0]
    block.query = block.self_attn.q_proj
    with pytest.raises(TypeError, match="inside two modules"):
        block_paths(block, {"q": "query"})


def test_the_head_dimension_is_needed() -> None:
    block = tiny().model.layers[0]
    del block.self_attn.head_dim
    with pytest.raises(TypeError, match="head_dim"):
        block_sizes(block, block_paths(block))


def test_replace() -> None:
    block = tiny().model.layers[0]
    new = nn.Linear(3, 3)
    replace(block, "mlp.up_proj", new)
    assert block.mlp.up_proj is new
    replace(block, "input_layernorm", new)
    assert block.input_layernorm is new
    assert torch.is_tensor(new.weight)
