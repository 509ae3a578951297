"""The baselines: QuaRot leaves the function as it is, and every row of the comparison has its configuration."""

import copy
import math
import sys
import types
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedModel

from compress.flatquant.models import FAMILIES, tiny
from linmap.compress.architecture import block_paths, decoder_blocks
from linmap.compress.flatquant.baselines import BASELINES, SETTINGS, RandomHadamard, rotated, torchao_schemes
from linmap.compress.flatquant.block import StudentBlock, has_hadamard
from linmap.compress.flatquant.config import FlatQuantConfig
from linmap.compress.flatquant.linear import CalibratedLinear, LinearBits
from linmap.compress.flatquant.transforms import SiteTransform
from typed import of_class

ROTATABLE = [family for family in FAMILIES if family not in ("gemma2", "gemma3")]
IDS = torch.randint(0, 64, (2, 20), generator=torch.Generator().manual_seed(1))


def logits(model: nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=IDS, use_cache=False).logits


# -- the rotation ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 2, 12, 20, 24, 36, 48])
def test_the_rotation_is_orthogonal_and_spreads_every_channel(n: int, generator: torch.Generator) -> None:
    Q = RandomHadamard.draw(n, generator)(torch.eye(n))
    torch.testing.assert_close(Q @ Q.mT, torch.eye(n, dtype=torch.float64))
    assert has_hadamard(n) == (float(Q.abs().max()) < 1.01 / math.sqrt(n))


@pytest.mark.parametrize("family", ROTATABLE)
def test_a_rotated_model_has_the_logits_that_it_had(family: str) -> None:
    model = tiny(family).eval()
    expected = logits(model)
    gains = [copy.deepcopy(block.get_submodule("input_layernorm")) for block in decoder_blocks(model)[1]]
    assert rotated(model, seed=3) is model
    torch.testing.assert_close(logits(model), expected, rtol=1e-4, atol=1e-4)
    for block, before in zip(decoder_blocks(model)[1], gains, strict=True):
        norm = block.get_submodule("input_layernorm")
        x = torch.ones_like(before.get_parameter("weight"))
        torch.testing.assert_close(norm(x), x, rtol=1e-4, atol=1e-4)  # the gain is folded away
        assert not torch.allclose(before(x), x, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("family", ROTATABLE)
def test_the_rotation_is_exact_to_the_float32_of_the_norms(family: str) -> None:
    model = tiny(family).double().eval()
    expected = logits(model)
    torch.testing.assert_close(logits(rotated(model)), expected, rtol=1e-5, atol=1e-5)


def test_the_residual_stream_is_multiplied_by_the_rotation() -> None:
    model = tiny("llama").double().eval()
    with torch.no_grad():
        before = model(input_ids=IDS, output_hidden_states=True).hidden_states[1]
        Q = RandomHadamard.draw(before.shape[-1], torch.Generator().manual_seed(5))
        after = rotated(model, seed=5)(input_ids=IDS, output_hidden_states=True).hidden_states[1]
    torch.testing.assert_close(after, Q(before), rtol=1e-5, atol=1e-5)


def test_outlier_channels_are_spread() -> None:
    model = tiny("llama").eval()
    with torch.no_grad():
        model.get_input_embeddings().weight[:, 5] *= 100
        before = model(input_ids=IDS, output_hidden_states=True).hidden_states[0]
        after = rotated(model)(input_ids=IDS, output_hidden_states=True).hidden_states[0]
    ratios = [float(h.flatten(0, 1).norm(dim=0).max() / h.flatten(0, 1).norm(dim=0).mean()) for h in (before, after)]
    assert ratios[0] > 10
    assert ratios[1] < 2


def test_a_tied_head_gets_its_own_weight_and_the_model_is_saved_whole(tmp_path) -> None:
    model = tiny("llama_biased").eval()
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    expected = logits(rotated(model))
    assert model.get_output_embeddings().weight is not model.get_input_embeddings().weight
    model.save_pretrained(tmp_path)
    torch.testing.assert_close(logits(AutoModelForCausalLM.from_pretrained(tmp_path).eval()), expected)


@pytest.mark.parametrize("family", ["gemma2", "gemma3"])
def test_norms_behind_the_layers_of_a_block_cannot_be_rotated(family: str) -> None:
    with pytest.raises(TypeError, match="residual stream cannot be rotated"):
        rotated(tiny(family).eval())


def test_norms_with_a_mean_cannot_be_rotated() -> None:
    model = tiny("llama").eval()
    for block in decoder_blocks(model)[1]:
        block.input_layernorm = nn.LayerNorm(24, bias=False)
    with pytest.raises(TypeError, match="LlamaForCausalLM does not commute"):
        rotated(model)
    for block in decoder_blocks(model)[1]:
        block.input_layernorm = nn.LayerNorm(24)
    with pytest.raises(TypeError, match="LayerNorm does not commute"):
        rotated(model)


# -- what is computed online -------------------------------------------------------------------------------------------


def students(model: PreTrainedModel, config: FlatQuantConfig) -> list[StudentBlock]:
    """The blocks of a model with the transforms of the config, and with its quantisers off."""
    found = []
    _, blocks = decoder_blocks(model)
    for i, block in enumerate(list(blocks)):
        student = StudentBlock(block, config, torch.Generator().manual_seed(0))
        for module in student.modules():
            if isinstance(module, CalibratedLinear):
                module.bits = LinearBits(16, 16)
        if student.cache is not None:
            student.cache.bits = dict.fromkeys("qkv", 16)
        blocks[i] = student
        found.append(student)
    return found


@pytest.mark.parametrize("family", ["llama", "qwen3"])
@pytest.mark.parametrize("name", ["quarot", "hadamard", "random"])
def test_online_transforms_keep_the_function(family: str, name: str) -> None:
    baseline = BASELINES[name]
    model = tiny(family).eval()
    expected = logits(model)
    if baseline.rotates:
        rotated(model)
    students(model, baseline.config("W4A4KV4"))
    torch.testing.assert_close(logits(model), expected, rtol=1e-4, atol=1e-4)


def test_quarot_transforms_where_the_paper_does() -> None:
    config = BASELINES["quarot"].config("W4A4KV4")
    student = students(tiny("qwen3"), config)[0]  # heads of 8
    assert {site: len(of_class(SiteTransform, student.sites[site]).pairs) > 0 for site in student.sites} == {
        "attention": False,
        "mlp": False,
        "down": True,
        "output": True,
        "value": True,
    }
    assert [len(pair.P) for pair in of_class(SiteTransform, student.sites["output"]).pairs] == [4]  # across the heads
    assert student.cache is not None
    H = student.cache.pair[0]
    torch.testing.assert_close(H.abs(), torch.full_like(H, len(H) ** -0.5))


def test_heads_without_a_hadamard_matrix_are_not_mixed() -> None:
    model = tiny("llama", num_attention_heads=3, num_key_value_heads=3)
    student = students(model, BASELINES["quarot"].config("W4A4"))[0]
    assert student.sites["output"].pairs == []
    assert len(of_class(SiteTransform, student.sites["value"]).pairs) == 1
    assert student.cache is None


@pytest.mark.parametrize(("n", "there"), [(1, True), (9, False), (6, False), (12, True), (32, True), (40, True)])
def test_hadamard_matrices_are_told_from_others(n: int, there: bool) -> None:
    assert has_hadamard(n) == there


# -- the rows ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", BASELINES)
@pytest.mark.parametrize("setting", SETTINGS)
def test_every_row_has_a_configuration_at_every_setting(name: str, setting: str) -> None:
    config = BASELINES[name].config(setting, n_samples=8, epochs=3, seed=2)
    assert (config.w_bits, config.a_bits) == (4, 16 if setting == "W4A16" else 4)
    assert config.quantises_cache == (setting == "W4A4KV4")
    assert config.seed == 2
    trained = name.startswith("flatquant")
    assert config.epochs == (3 if trained else 0)
    untrained = name == "c-hadamard-gptq"  # the system's start
    assert config.clip == (trained or untrained)
    assert BASELINES[name].kind == ("system" if trained else "ablation" if untrained else "baseline")


def test_quarot_works_on_blocks_that_are_found_by_their_paths() -> None:
    model = tiny("llama").eval()
    expected = logits(model)
    for block in decoder_blocks(model)[1]:
        mlp: Any = block.mlp
        mlp.rise = mlp.up_proj
        mlp.forward = types.MethodType(lambda mlp, x: mlp.down_proj(mlp.act_fn(mlp.gate_proj(x)) * mlp.rise(x)), mlp)
        del mlp.up_proj
    names = {"up": "mlp.rise"}
    assert block_paths(decoder_blocks(model, names)[1][0], names).up == "mlp.rise"
    torch.testing.assert_close(logits(rotated(model, module_map=names)), expected, rtol=1e-4, atol=1e-4)


def test_torchao_stands_beside_where_there_is_a_gpu_and_it_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    quantization = types.SimpleNamespace(
        Int4WeightOnlyConfig=lambda group_size: ("weights", group_size),
        Int8DynamicActivationInt4WeightConfig=lambda group_size: ("both", group_size),
    )
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert torchao_schemes() == {}
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert torchao_schemes() == {}
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    monkeypatch.setitem(sys.modules, "torchao", types.ModuleType("torchao"))
    monkeypatch.setitem(sys.modules, "torchao.quantization", quantization)
    assert sorted(torchao_schemes().values()) == [("both", 32), ("weights", 128)]
