"""Every calibration first proves that its blocks keep their function, or refuses them with the name of the part."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig, PreTrainedModel
from transformers.models.llama.modeling_llama import LlamaAttention

from compress.flatquant.models import SIZES, randomised, tiny, tokens
from linmap.compress.flatquant import FlatQuantConfig, calibrate, calibrate_folder
from linmap.compress.flatquant.linear import QuantizedLinear

MORE_PARTS: dict[str, dict[str, Any]] = {
    "afmoe": {"num_dense_layers": 2, "head_dim": 6, "moe_intermediate_size": 8, "num_experts": 2},
    "bitnet": {},
    "doge": {"head_dim": 6},
    "laguna": {"head_dim": 6, "mlp_layer_types": ["dense"] * 2, "moe_intermediate_size": 8, "num_experts": 2},
    "diffllama": {},
    "cohere": {},
    "olmo2": {},
}
"""Families whose blocks have more parts than the seven layers, or other paths between them."""


def family(name: str, seed: int = 0) -> Any:
    config = AutoConfig.for_model(name, **{**SIZES, **MORE_PARTS[name]})
    return randomised(AutoModelForCausalLM.from_config(config, dtype=torch.float32), seed)


def gentle(**kwargs: Any) -> FlatQuantConfig:
    """Weights in 8 bits behind transforms that are trained until they are far from orthogonal."""
    return FlatQuantConfig(w_bits=8, a_bits=16, epochs=1, lr=0.1, clip=False, batch_size=3, **kwargs)


@torch.no_grad()
def error(model: PreTrainedModel, expected: Tensor) -> float:
    logits = model(tokens(3, 20, seed=9), use_cache=False).logits
    return float((logits - expected).norm() / expected.norm())


@torch.no_grad()
def logits_of(model: PreTrainedModel) -> Tensor:
    return model(tokens(3, 20, seed=9), use_cache=False).logits


@pytest.mark.parametrize("name", MORE_PARTS)
def test_blocks_with_more_parts_keep_their_function(name: str) -> None:
    model = family(name)
    expected = logits_of(model)
    calibrate(model, tokens(6, 12), gentle())
    assert error(model, expected) < 0.06  # of 8-bit weights; the wrong function of a part is .08 to .9


@pytest.mark.parametrize(
    ("name", "readers", "left_out", "online"),
    [
        ("afmoe", {"attention": ("self_attn.gate_proj",)}, ("value",), ("mlp",)),
        ("bitnet", None, ("value",), ("down",)),
        ("doge", {"value": ("self_attn.dt_proj",)}, (), ()),
        ("laguna", {"attention": ("self_attn.g_proj",)}, (), ()),
        ("diffllama", None, ("value",), ()),
        ("cohere", None, (), ("attention", "mlp")),
    ],
)
def test_what_takes_part_is_found(name: str, readers: Any, left_out: Any, online: Any) -> None:
    model = family(name)
    calibrate(model, tokens(6, 12), FlatQuantConfig(epochs=0, clip=False, batch_size=3))
    config: Any = model.config.quantization_config
    assert (config.readers, config.left_out, config.online_scales) == (readers, left_out, online)


@pytest.mark.parametrize("name", ["afmoe", pytest.param("doge", marks=pytest.mark.slow)])
def test_saved_and_streamed_models_are_the_calibrated_one(name: str, tmp_path: Path) -> None:
    model = family(name)
    model.save_pretrained(tmp_path / "original")
    config = FlatQuantConfig(k_bits=8, v_bits=8, weights="gptq", epochs=0, clip=False, batch_size=3)
    calibrate_folder(tmp_path / "original", tmp_path / "streamed", tokens(6, 12), config)
    calibrate(model, tokens(6, 12), config)
    expected = logits_of(model)
    model.save_pretrained(tmp_path / "saved")
    for folder in ("saved", "streamed"):
        torch.testing.assert_close(logits_of(AutoModelForCausalLM.from_pretrained(tmp_path / folder)), expected)


def test_the_proof_needs_no_text() -> None:
    model = family("afmoe")
    expected = logits_of(model)
    calibrate(
        model, None, FlatQuantConfig(w_bits=8, a_bits=16, transform="hadamard", scale=False, clip=False, epochs=0)
    )
    assert error(model, expected) < 0.06


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_models_of_half_precision_are_proven_in_float32(dtype: torch.dtype) -> None:
    model = family("doge").to(dtype)
    calibrate(model, tokens(6, 12), FlatQuantConfig(epochs=0, clip=False, batch_size=3))
    assert {p.dtype for p in model.parameters()} == {dtype}
    assert isinstance(model.model.layers[0].self_attn.dt_proj, nn.Linear)


# -- refusals ----------------------------------------------------------------------------------------------------------


class Gain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(24))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight


class MixingAttention(LlamaAttention):
    """With a gain of its own that reads what the projections read, and is no linear layer."""

    def __init__(self, config: LlamaConfig, layer_idx: int) -> None:
        super().__init__(config, layer_idx)
        self.mix = Gain()

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Any]:
        y, weights = super().forward(hidden_states, *args, **kwargs)
        return y + self.mix(hidden_states), weights


def test_a_part_that_reads_what_is_transformed_is_refused_by_name() -> None:
    model = tiny()
    model.model.layers[1].self_attn = MixingAttention(model.config, 1)
    with pytest.raises(TypeError, match=r"block 1: self_attn\.mix \(Gain\) uses the inputs of the attention"):
        calibrate(model, tokens(6, 12), gentle())
    assert isinstance(model.model.layers[0].mlp.up_proj, nn.Linear)  # nothing was begun
    calibrate(model, tokens(6, 12), gentle(blocks=[0]))
    assert isinstance(model.model.layers[0].mlp.up_proj, QuantizedLinear)


def test_an_attention_that_uses_its_keys_elsewhere_is_refused() -> None:
    with pytest.raises(RuntimeError, match=r"block 0: queries came without keys.*k_bits=16"):
        calibrate(family("diffllama"), tokens(6, 12), gentle(k_bits=4))


def test_a_block_that_is_not_run_once_is_refused() -> None:
    config = AutoConfig.for_model("hrm_text", **SIZES)
    with pytest.raises(TypeError, match=r"block 0 \(HrmTextDecoderLayer\) is run \d+ times"):
        calibrate(randomised(AutoModelForCausalLM.from_config(config)), tokens(6, 12), gentle())


def test_a_block_that_receives_more_of_the_tokens_is_refused() -> None:
    sizes = {**SIZES, "head_dim": 8, "hidden_size_per_layer_input": 4, "vocab_size_per_layer_input": 64}
    config = AutoConfig.for_model("gemma3n_text", **sizes, num_kv_shared_layers=0, laurel_rank=4)
    with pytest.raises(TypeError, match=r"block 0 \(Gemma3nTextDecoderLayer\) receives per_layer_input"):
        calibrate(randomised(AutoModelForCausalLM.from_config(config)), tokens(6, 12), gentle())


def test_a_block_of_another_kind_can_be_left_out() -> None:
    model = tiny()
    model.model.layers[0].mlp = nn.Sequential(nn.Linear(24, 24), nn.SiLU())
    with pytest.raises(TypeError, match=r"block 0: a block of class LlamaDecoderLayer has no mlp.gate_proj"):
        calibrate(model, tokens(6, 12), gentle())
    expected = logits_of(model)
    calibrate(model, tokens(6, 12), gentle(blocks=[1], weights="gptq"))
    assert error(model, expected) < 0.06


@torch.no_grad()
def test_what_overflows_float16_is_calibrated_in_float32() -> None:
    model = tiny()
    for block in model.model.layers:
        block.mlp.up_proj.weight *= 3e4
        block.mlp.gate_proj.weight *= 30
        block.mlp.down_proj.weight /= 1e6
    half = copy.deepcopy(model).to(torch.float16)
    assert not logits_of(half).isfinite().all()
    config = FlatQuantConfig(epochs=1, batch_size=3, weights="gptq", scale=False, clip=False)
    reports: Any = [calibrate(m, tokens(6, 12), config).flatquant.blocks for m in (half, model)]
    for ours, expected in zip(*(report.values() for report in reports), strict=True):
        assert ours.stopped is None
        assert ours.losses == pytest.approx(expected.losses, rel=0.1)
    assert {p.dtype for p in half.parameters()} == {torch.float16}
