"""`save_pretrained` and `from_pretrained` of quantised models."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModel, AutoModelForCausalLM, AutoModelForSequenceClassification, PreTrainedModel

from compress.flatquant.models import FAMILIES, RenamedModel, randomised, tiny, tokens
from compress.flatquant.students import config_for, merged, with_students
from compress.test_registration import KEEPS_ITS_LOADER, KNOWN
from linmap.compress.flatquant.config import FlatQuantConfig, ProvenConfig
from linmap.compress.flatquant.linear import QuantizedLinear
from linmap.compress.flatquant.pretrained import finish, install, is_quantised

FOUR: dict[str, Any] = {"w_bits": 4, "a_bits": 4, "k_bits": 4, "v_bits": 4}


def quantised(family: str = "llama", **options: Any) -> Any:
    model = randomised(RenamedModel(tiny().config)) if family == "renamed" else tiny(family)
    return merged(with_students(model, config_for(model, **(FOUR | options))))


@torch.no_grad()
def logits(model: PreTrainedModel, ids: Tensor | None = None, **kwargs: Any) -> Tensor:
    return model(tokens() if ids is None else ids, **kwargs).logits


def generated(model: Any) -> Tensor:
    return model.generate(tokens(2, 5), max_new_tokens=10, do_sample=False, eos_token_id=None)


def tensors(folder: Path) -> dict[str, bytes]:
    with safe_open(folder / "model.safetensors", framework="np") as file:
        return {name: file.get_tensor(name).tobytes() for name in file.keys()}  # noqa: SIM118


# -- the round trip ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_round_trip(family: str, tmp_path: Path) -> None:
    model = quantised(family)
    model.save_pretrained(tmp_path / "a")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "a")
    assert torch.equal(logits(loaded), logits(model))
    assert torch.equal(generated(loaded), generated(model))
    loaded.save_pretrained(tmp_path / "b")
    assert tensors(tmp_path / "a") == tensors(tmp_path / "b")
    assert (tmp_path / "a" / "config.json").read_text() == (tmp_path / "b" / "config.json").read_text()
    assert {path.suffix for path in (tmp_path / "a").iterdir()} == {".json", ".safetensors"}


@pytest.mark.parametrize(
    "options",
    [
        {"w_bits": 3, "w_symmetric": False, "a_bits": 8, "a_symmetric": False},
        {"w_bits": 8, "a_bits": 16, "k_bits": 16, "v_bits": 16, "clip": False},
        {"w_bits": 16, "a_bits": 16},
        {"transform": "none", "scale": False, "clip": False, "q_bits": 4, "k_bits": 8, "v_bits": 16},
        {"transform": "hadamard", "scale": False, "w_bits": 5},
        {"online_scales": ("attention", "mlp", "down"), "factors": {"attention": (2, 12), "down": (2, 4, 5)}},
    ],
    ids=str,
)
def test_round_trip_of_every_setting(options: dict[str, Any], tmp_path: Path) -> None:
    model = quantised("qwen2", **options)
    model.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert torch.equal(logits(loaded), logits(model))
    assert isinstance(loaded.config.quantization_config, ProvenConfig)
    assert loaded.config.quantization_config == model.config.quantization_config


def test_round_trip_with_a_module_map(tmp_path: Path) -> None:
    model = quantised("renamed")
    model.save_pretrained(tmp_path)
    assert torch.equal(logits(RenamedModel.from_pretrained(tmp_path)), logits(model))


def test_round_trip_of_some_blocks_in_shards(tmp_path: Path) -> None:
    config = FlatQuantConfig(**FOUR, blocks=[1])
    model = tiny()
    students = with_students(model, config)
    students.model.layers[0] = model.model.layers[0]
    chosen = merged(students)
    chosen.save_pretrained(tmp_path, max_shard_size="10KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert [is_quantised(block) for block in loaded.model.layers] == [False, True]
    assert torch.equal(logits(loaded), logits(chosen))


def test_the_config_holds_every_setting(tmp_path: Path) -> None:
    quantised().save_pretrained(tmp_path)
    found = json.loads((tmp_path / "config.json").read_text())["quantization_config"]
    assert set(found) >= set(ProvenConfig.__dataclass_fields__) | {"quant_method", "linmap_format"}
    assert found["quant_method"] == "linmap_flatquant"


def test_linear_layers_are_small_on_disk(tmp_path: Path) -> None:
    """At most 0.32 of float16, with scales and matrices, at sizes of a small real model."""
    heads: dict[str, Any] = {"num_attention_heads": 9, "num_key_value_heads": 3, "head_dim": 64}
    original = tiny(**heads, hidden_size=576, intermediate_size=1536, num_hidden_layers=1)
    n = sum(p.numel() for name, p in original.named_parameters() if "_proj.weight" in name)
    merged(with_students(original, FlatQuantConfig(**FOUR))).save_pretrained(tmp_path)
    saved = {k: t for k, t in load_file(tmp_path / "model.safetensors").items() if "layers" in k and "norm" not in k}
    assert sum(t.nbytes for t in saved.values()) <= 0.32 * 2 * n


PROGRAM = """
import sys
{first}
{second}
import torch
from transformers import AutoModelForCausalLM
torch.set_num_threads(1)
model = AutoModelForCausalLM.from_pretrained(sys.argv[1])
ids = torch.tensor([[3, 4, 5, 6, 7]])
with torch.no_grad():
    result = {{"logits": model(ids).logits}}
result["tokens"] = model.generate(ids, max_new_tokens=8, do_sample=False, eos_token_id=None)
from safetensors.torch import save_file
save_file(result, sys.argv[2])
"""


@pytest.mark.parametrize(
    "order",
    [
        ("import linmap", "import transformers"),
        pytest.param(("import transformers", "import linmap"), marks=pytest.mark.slow),  # as in test_registration.py
    ],
)
def test_a_fresh_process_gives_the_same(order: tuple[str, str], tmp_path: Path) -> None:
    model, ids = quantised("qwen3"), torch.tensor([[3, 4, 5, 6, 7]])
    model.save_pretrained(tmp_path / "model")
    program = PROGRAM.format(first=order[0], second=order[1]) + KNOWN
    if order[0] == "import linmap":
        program += KEEPS_ITS_LOADER
    command = [sys.executable, "-c", program, str(tmp_path / "model"), str(tmp_path / "result.safetensors")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    result = load_file(tmp_path / "result.safetensors")
    assert torch.equal(result["logits"], logits(model, ids))
    expected = model.generate(ids, max_new_tokens=8, do_sample=False, eos_token_id=None)
    assert torch.equal(result["tokens"], expected)


# -- how it is loaded --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_attention_functions_are_respected(implementation: str, tmp_path: Path) -> None:
    model = quantised("mistral", a_bits=16)
    model.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path, attn_implementation=implementation)
    assert loaded.config._attn_implementation == implementation
    torch.testing.assert_close(logits(loaded), logits(model), rtol=1e-3, atol=1e-3)
    other = {"eager": "sdpa", "sdpa": "eager"}[implementation]
    loaded.set_attn_implementation(other)
    torch.testing.assert_close(logits(loaded), logits(model), rtol=1e-3, atol=1e-3)
    attentions = logits_and_weights(loaded)[1]
    assert (attentions is not None) == (other == "eager")


@torch.no_grad()
def logits_and_weights(model: PreTrainedModel) -> tuple[Tensor, Any]:
    weights: list[Any] = []
    hook = model.model.layers[0].self_attn.register_forward_hook(lambda module, args, output: weights.append(output[1]))
    result = model(tokens()).logits
    hook.remove()
    return result, weights[0]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_leaves_scales_and_matrices_in_float32(dtype: torch.dtype, tmp_path: Path) -> None:
    model = quantised("llama_biased", a_bits=16, k_bits=8, v_bits=8)
    model.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=dtype)
    assert loaded.dtype == dtype
    state, expected = loaded.state_dict(), model.state_dict()
    for name in state:
        if "weight_scale" in name or "transform" in name or name.endswith(("_max", "_min")):
            assert state[name].dtype == torch.float32
            assert torch.equal(state[name], expected[name])
    assert loaded.model.layers[0].self_attn.q_proj.bias.dtype == dtype
    error = (logits(loaded).float() - logits(model)).abs().max() / logits(model).std()
    assert error < 0.2  # codes of the cache turn over
    loaded.save_pretrained(tmp_path / "again")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "again")
    assert again.dtype == dtype
    assert torch.equal(logits(again), logits(loaded))


@pytest.mark.parametrize("device_map", ["auto", "cpu", {"": "cpu"}])
def test_device_maps(device_map: Any, tmp_path: Path) -> None:
    model = quantised("gemma2")
    model.save_pretrained(tmp_path)
    assert torch.equal(logits(AutoModelForCausalLM.from_pretrained(tmp_path, device_map=device_map)), logits(model))


def test_tied_embeddings_stay_tied(tmp_path: Path) -> None:
    quantised("llama_biased").save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert loaded.get_input_embeddings().weight is loaded.lm_head.weight
    assert "lm_head.weight" not in tensors(tmp_path)


def test_other_heads_over_the_same_blocks(tmp_path: Path) -> None:
    model = quantised("qwen3")
    model.save_pretrained(tmp_path)
    decoder = AutoModel.from_pretrained(tmp_path)
    with torch.no_grad():
        expected = model.model(tokens()).last_hidden_state
        assert torch.equal(decoder(tokens()).last_hidden_state, expected)
    classifier = AutoModelForSequenceClassification.from_pretrained(tmp_path, num_labels=3)
    assert is_quantised(classifier)
    assert logits(classifier, attention_mask=torch.ones(2, 12)).shape == (2, 3)


COMPILED = """
import sys
import linmap, torch
from transformers import AutoModelForCausalLM
torch.set_num_threads(1)
model = AutoModelForCausalLM.from_pretrained(sys.argv[1])
ids = torch.tensor([[3, 4, 5, 6, 7]])
with torch.no_grad():
    expected = model(ids).logits
    whole = torch.compile(model, backend="aot_eager", fullgraph=True)(ids, use_cache=False).logits
    torch.testing.assert_close(whole, expected, rtol=1e-3, atol=1e-3)
    torch._dynamo.reset()
    cached = torch.compile(model, backend="aot_eager")(ids).logits
    torch.testing.assert_close(cached, expected, rtol=1e-3, atol=1e-3)
"""


@pytest.mark.slow
def test_compiled(tmp_path: Path) -> None:
    """In a process of its own: here Dynamo would trace the checks of annotations."""
    quantised("qwen2", a_bits=16).save_pretrained(tmp_path)
    command = [sys.executable, "-c", COMPILED, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


# -- refused -----------------------------------------------------------------------------------------------------------


def saved(folder: Path, family: str = "llama", **options: Any) -> Path:
    quantised(family, **options).save_pretrained(folder)
    return folder


def change_config(folder: Path, **settings: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] |= {k: v for k, v in settings.items() if k in config["quantization_config"]}
    config |= {k: v for k, v in settings.items() if k not in config["quantization_config"]}
    (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"w_bits": 8}, r"down_proj.weight has shape \(24, 20\) in the file and \(24, 40\) in this model"),
        ({"clip": False}, "input_max is unexpected"),
        ({"k_bits": 16, "v_bits": 16}, "cache_transform.k_max is unexpected"),
        ({"transform": "none"}, "factor_0 is unexpected"),
        ({"w_symmetric": False}, "weight_zero is missing"),
        ({"intermediate_size": 44}, r"factor_0 has shape \(5, 5\) in the file and \(4, 4\) in this model"),
        ({"num_hidden_layers": 3}, "layers.2.* is missing"),
        ({"num_hidden_layers": 1}, "layers.1.* is unexpected"),
        ({"attention_bias": True}, "bias is missing"),
        ({"vocab_size": 80}, r"shape \(64, 24\) in the file and \(80, 24\) in this model"),
    ],
    ids=str,
)
def test_files_of_another_model_or_size(settings: dict[str, Any], message: str, tmp_path: Path) -> None:
    change_config(saved(tmp_path), **settings)
    with pytest.raises(ValueError, match=message):
        AutoModelForCausalLM.from_pretrained(tmp_path, ignore_mismatched_sizes=True)


@pytest.mark.parametrize("name", ["model.layers.1.mlp.up_proj.weight_scale", "model.norm.weight", "lm_head.weight"])
def test_a_missing_tensor(name: str, tmp_path: Path) -> None:
    path = saved(tmp_path) / "model.safetensors"
    found = load_file(path)
    found["model.layers.0.odd"] = found.pop(name)
    save_file(found, path, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=f"odd is unexpected; {name} is missing|{name} is missing; .*odd is unexp"):
        AutoModelForCausalLM.from_pretrained(tmp_path)


def test_a_state_dict_of_another_size() -> None:
    state = quantised("llama").state_dict()
    with pytest.raises(RuntimeError, match=r"\[16, 24\].*\[24, 24\]|size mismatch"):
        quantised("gemma").load_state_dict(state)


def test_half_of_a_quantised_model_is_refused() -> None:
    with pytest.raises(ValueError, match="quantized"):
        quantised().half()


def test_blocks_that_are_not_there() -> None:
    with pytest.raises(ValueError, match=r"blocks has \[2\]; this model's blocks are 0 to 1"):
        install(tiny(), FlatQuantConfig(**FOUR, blocks=[0, 2]))


def test_quantised_twice() -> None:
    model = quantised()
    assert is_quantised(model)
    assert not is_quantised(tiny())
    with pytest.raises(RuntimeError, match="already"):
        install(model, FlatQuantConfig(**FOUR))


def test_a_model_without_weights_has_the_structure() -> None:
    """On the meta device, as `from_pretrained` builds it."""
    config = FlatQuantConfig(**FOUR)
    with torch.device("meta"):
        model = install(AutoModelForCausalLM.from_config(tiny().config), config)
    expected = quantised()
    assert {n: (t.shape, t.dtype) for n, t in model.state_dict().items()} == {
        n: (t.shape, t.dtype) for n, t in expected.state_dict().items()
    }
    assert all(t.device.type == "meta" for t in model.state_dict().values())
    assert sum(isinstance(m, QuantizedLinear) for m in model.modules()) == 14
    model.load_state_dict(expected.state_dict(), assign=True)
    assert finish(model, config).config.quantization_config is config
