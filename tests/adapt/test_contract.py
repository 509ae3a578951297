"""What every method of the room does inside PEFT and Transformers."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from peft import PeftModel, get_peft_model
from safetensors import safe_open
from torch import nn

import fresh
from adapt.cases import METHODS, adapted, gpt2, inside, llama, logits, move, tokens, tuner_of
from linmap.adapt.layer import AdapterLayer
from linmap.adapt.tuner import AdapterConfig, register_with_peft
from typed import of_class

pytestmark = pytest.mark.usefixtures("annotations_unchecked")
every_method = pytest.mark.parametrize("method", METHODS)


def base_weights(model: nn.Module) -> list[torch.Tensor]:
    return [layer.get_base_layer().weight for layer in model.modules() if isinstance(layer, AdapterLayer)]


def layers(model: nn.Module) -> list[AdapterLayer]:
    return [layer for layer in model.modules() if isinstance(layer, AdapterLayer)]


@every_method
@pytest.mark.parametrize("base", [llama, gpt2])
def test_a_new_adapter_leaves_the_model_as_it_is(method, base) -> None:
    x, expected = tokens(), logits(base(), tokens())
    model = adapted(base(), method, trained=False)
    assert len(layers(model)) == {llama: 14, gpt2: 4}[base]
    torch.testing.assert_close(logits(model, x), expected, rtol=0, atol=1e-12)


@every_method
@pytest.mark.parametrize("base", [llama, gpt2])
def test_merged_and_unmerged_models_agree_and_the_base_comes_back_bit_for_bit(method, base) -> None:
    model, x = adapted(base(), method), tokens()
    before, y = [weight.clone() for weight in base_weights(model)], logits(model, x)
    assert (y - logits(base(), x)).abs().max() > 1e-3
    model.merge_adapter()
    torch.testing.assert_close(logits(model, x), y, rtol=0, atol=1e-10)
    model.unmerge_adapter()
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(base_weights(model), before, strict=True))
    torch.testing.assert_close(logits(model, x), y, rtol=0, atol=1e-10)


@every_method
def test_a_fused_optimiser_that_wrote_to_the_merged_weight_is_noticed(method) -> None:
    model = adapted(llama(), method)
    model.merge_adapter()
    weight = layers(model)[0].get_base_layer().weight.requires_grad_()
    optimiser = torch.optim.SGD([weight], lr=0.1, fused=True)
    weight.grad = torch.ones_like(weight)
    optimiser.step()
    with pytest.raises(ValueError, match="the merged weight was changed since the merge"):
        model.unmerge_adapter()


@every_method
def test_the_unmerge_by_algebra_gives_the_base_to_rounding(method) -> None:
    model = adapted(llama(), method)
    before = [weight.clone() for weight in base_weights(model)]
    model.merge_adapter(keep_base=False)
    model.unmerge_adapter()
    for ours, theirs in zip(base_weights(model), before, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-10)


@every_method
@pytest.mark.parametrize("base", [llama, gpt2])
def test_merge_and_unload_leaves_nothing_of_ours(method, base) -> None:
    model, x = adapted(base(), method), tokens()
    y = logits(model, x)
    plain = model.merge_and_unload()
    assert not layers(plain)
    assert plain.state_dict().keys() == base().state_dict().keys()
    torch.testing.assert_close(logits(plain, x), y, rtol=0, atol=1e-10)


@every_method
def test_adapters_are_switched_combined_and_disabled(method) -> None:
    model, x = adapted(llama(), method), tokens()
    first = logits(model, x)
    model.add_adapter("second", METHODS[method](target_modules="all-linear"))
    move(model, "second", seed=2)
    assert torch.equal(logits(model, x), first)
    model.set_adapter("second")
    second = logits(model, x)
    assert (second - first).abs().max() > 1e-3
    tuner_of(model).set_adapter(["default", "second"])
    both = logits(model, x)
    model.merge_adapter()
    torch.testing.assert_close(logits(model, x), both, rtol=0, atol=1e-10)
    with model.disable_adapter():
        torch.testing.assert_close(logits(model, x), logits(llama(), x), rtol=0, atol=1e-12)
    model.delete_adapter("default")
    model.set_adapter("second")
    assert torch.equal(logits(model, x), second)


def test_the_order_of_block_affine_adapters_counts_and_is_kept() -> None:
    model, x = adapted(llama(), "bone bat"), tokens()
    model.add_adapter("second", METHODS["bone bat"](target_modules="all-linear"))
    move(model, "second", seed=2)
    outputs = {}
    for order in (("default", "second"), ("second", "default")):
        tuner_of(model).set_adapter(list(order))
        outputs[order] = logits(model, x)
        model.merge_adapter(adapter_names=list(order))
        torch.testing.assert_close(logits(model, x), outputs[order], rtol=0, atol=1e-10)
        model.unmerge_adapter()
    one, other = outputs.values()
    assert (one - other).abs().max() > 1e-4


SCRIPT = """
import json, sys, torch
from peft import PeftModel
import linmap.adapt
from linmap.adapt import BoneConfig
from adapt.cases import llama, logits, tokens
folder = sys.argv[1]
for name in json.loads(sys.argv[2]):
    for low in (False, True):
        model = PeftModel.from_pretrained(llama(), f"{folder}/{name}", low_cpu_mem_usage=low).eval()
        from safetensors.torch import load_file
        expected = load_file(f"{folder}/{name}.expected")["logits"]
        print(name, low, float((logits(model, tokens()) - expected).abs().max()))
"""


def test_a_saved_adapter_gives_the_same_output_in_a_fresh_process(tmp_path) -> None:
    from safetensors.torch import save_file

    names = [name.replace(" ", "-") for name in METHODS]
    for method, name in zip(METHODS, names, strict=True):
        model = adapted(llama(), method)
        model.save_pretrained(tmp_path / name)
        save_file({"logits": logits(model, tokens())}, tmp_path / f"{name}.expected")
        assert sorted(file.suffix for file in (tmp_path / name).iterdir()) == [".json", ".md", ".safetensors"]
        with safe_open(tmp_path / name / "adapter_model.safetensors", "pt") as file:
            assert all("linmap_" in key and "base_layer" not in key for key in file.keys())  # noqa: SIM118
    lines = fresh.run(SCRIPT, str(tmp_path), json.dumps(names)).splitlines()
    assert len(lines) == 2 * len(METHODS)
    for line in lines:
        assert float(line.rsplit(" ", 1)[1]) <= 1e-12, line


def gradients(model: nn.Module, x: torch.Tensor) -> dict[str, torch.Tensor]:
    model.zero_grad()
    model(input_ids=x, labels=x).loss.backward()
    return {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}


@every_method
def test_only_the_adapter_is_trained(method) -> None:
    found = gradients(adapted(llama(), method).train(), tokens())
    assert found
    assert all("linmap_" in name for name in found)
    assert all(gradient.abs().max() > 0 for gradient in found.values())


@every_method
@pytest.mark.parametrize("reentrant", [False, True])
def test_gradient_checkpointing_gives_the_same_gradients(method, reentrant) -> None:
    model, x = adapted(llama(), method).train(), tokens()
    expected = gradients(model, x)
    model.enable_input_require_grads()
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": reentrant})
    found = gradients(model, x)
    assert found.keys() == expected.keys()
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-9, atol=1e-12)


@every_method
def test_a_half_precision_base_keeps_its_adapters_in_float32(method) -> None:
    model, exact, x = (
        adapted(llama(dtype=torch.bfloat16), method),
        adapted(llama(dtype=torch.float32), method),
        tokens(),
    )
    for layer in layers(model):
        assert layer.get_base_layer().weight.dtype == torch.bfloat16
        assert all(parameter.dtype == torch.float32 for parameter in layer.adapters["default"].parameters())
    y = logits(model, x)
    assert y.dtype == torch.bfloat16
    assert (y.float() - logits(exact, x)).abs().max() < 0.05
    before = [weight.clone() for weight in base_weights(model)]
    model.merge_adapter()
    assert (logits(model, x) - y).abs().max() < 0.05
    model.unmerge_adapter()
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(base_weights(model), before, strict=True))


@every_method
def test_autocast_runs_and_keeps_the_gradients_in_float32(method) -> None:
    model, x = adapted(llama(dtype=torch.float32), method).train(), tokens()
    exact = gradients(model, x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = gradients(model, x)
    for name, gradient in exact.items():
        assert found[name].dtype == torch.float32
        assert (found[name] - gradient).norm() < 0.1 * gradient.norm() + 1e-3, name


@pytest.mark.parametrize(
    "method",
    [
        pytest.param(method, marks=[] if method in ("bone bat", "triadaptlora", "salt all") else pytest.mark.slow)
        for method in METHODS
    ],
)
def test_compilation_traces_the_layer_whole(method) -> None:
    """Without a graph break; Inductor's own code is PyTorch's to test."""
    torch._dynamo.reset()
    model, x = adapted(llama(dtype=torch.float32), method).train(), torch.randn(3, 9, 24)
    layer = layers(model)[0]
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    expected = [*torch.autograd.grad(layer(x).square().sum(), list(layer.adapters["default"].parameters()))]
    found = [*torch.autograd.grad(compiled(x).square().sum(), list(layer.adapters["default"].parameters()))]
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


@every_method
def test_a_tied_weight_is_merged_only_after_it_is_untied(method) -> None:
    model, x = adapted(llama(tied=True), method, target_modules=["lm_head", "q_proj"]), tokens()
    y = logits(model, x)
    with pytest.raises(ValueError, match=r"lm_head.*shared by.*embed_tokens.*untie=True"):
        model.merge_adapter()
    plain = model.merge_and_unload(untie=True)
    torch.testing.assert_close(logits(plain, x), y, rtol=0, atol=1e-10)
    assert not plain.config.tie_word_embeddings


@every_method
def test_merging_again_changes_nothing_and_a_changed_merged_weight_is_not_lost(method) -> None:
    model = adapted(llama(), method, target_modules=["q_proj"])
    model.merge_adapter()
    merged = [weight.clone() for weight in base_weights(model)]
    with pytest.warns(UserWarning, match="already merged"):
        model.merge_adapter()
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(base_weights(model), merged, strict=True))
    with torch.no_grad():
        base_weights(model)[0].add_(1)
    with pytest.raises(ValueError, match=r"q_proj: the merged weight was changed"):
        model.unmerge_adapter()


@every_method
def test_an_adapter_that_is_not_finite_is_not_merged(method) -> None:
    model = adapted(llama(), method, target_modules=["q_proj"])
    layer = layers(model)[1]
    with torch.no_grad():
        next(layer.adapters["default"].parameters()).fill_(torch.nan)
    before = layer.get_base_layer().weight.clone()
    with pytest.raises(ValueError, match=r"layers.1.self_attn.q_proj: merging adapter 'default'"):
        model.merge_adapter()
    assert torch.equal(layer.get_base_layer().weight, before)


@every_method
def test_weights_that_the_number_format_of_the_base_does_not_hold_are_not_merged(method) -> None:
    model = adapted(llama(dtype=torch.float16), method, target_modules=["q_proj"])
    layer = layers(model)[1]
    with torch.no_grad():
        for parameter in layer.adapters["default"].parameters():
            parameter *= 1e6  # of which float32 holds all that follows from it
    before = layer.get_base_layer().weight.clone()
    with pytest.raises(ValueError, match=r"layers.1.self_attn.q_proj: .* which torch.float16 does not hold"):
        model.merge_adapter()
    assert torch.equal(layer.get_base_layer().weight, before)
    assert not layer.merged


@every_method
def test_an_adapter_changed_since_a_merge_without_the_base_is_refused(method) -> None:
    model = adapted(llama(), method, target_modules=["q_proj"])
    model.merge_adapter(keep_base=False)
    move(model)
    with pytest.raises(ValueError, match="an adapter was changed since it was merged"):
        model.unmerge_adapter()


@every_method
def test_unsupported_layers_are_named(method) -> None:
    model = nn.ModuleDict({"rnn": nn.LSTM(4, 4), "mha": nn.MultiheadAttention(8, 2)})
    with pytest.raises(TypeError, match=r"rnn: a LSTM cannot be adapted"):
        get_peft_model(model, METHODS[method](target_modules=["rnn"]))
    with pytest.raises(TypeError, match=r"mha.out_proj belongs to a torch.nn.MultiheadAttention"):
        get_peft_model(model, METHODS[method](target_modules=["out_proj"]))
    with pytest.raises(ValueError, match="not found in the base model"):
        get_peft_model(llama(), METHODS[method](target_modules=["nowhere"]))


@every_method
def test_an_input_of_another_width_is_named(method) -> None:
    layer = layers(adapted(llama(), method))[0]
    with pytest.raises(ValueError, match=r"q_proj: x must have 24 features .* shape \(2, 23\)"):
        layer(torch.zeros(2, 23, dtype=torch.float64))


@every_method
def test_configurations_survive_their_file_and_modules_to_save_are_saved(method, tmp_path) -> None:
    fields = {"target_modules": ["q_proj", "v_proj"], "modules_to_save": ["lm_head"], "layers_to_transform": [1]}
    model = adapted(llama(), method, **fields)
    assert len(layers(model)) == 2
    with torch.no_grad():
        inside(model).lm_head.modules_to_save["default"].weight.mul_(1.5)
    model.save_pretrained(tmp_path)
    again = PeftModel.from_pretrained(llama(), tmp_path).eval()
    torch.testing.assert_close(logits(again, tokens()), logits(model, tokens()), rtol=0, atol=1e-12)
    ours, theirs = again.peft_config["default"].to_dict(), model.peft_config["default"].to_dict()
    assert {key for key in ours if ours[key] != theirs[key]} <= {"inference_mode", "auto_mapping"}


def test_registration_is_idempotent() -> None:
    from linmap.adapt.bone import BoneModel

    for _ in range(2):
        register_with_peft(METHODS_CONFIG, BoneModel)


METHODS_CONFIG = type(of_class(AdapterConfig, METHODS["bone bat"]()))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"bias": "some"}, "bias must be 'none' or 'all'"),
        ({"target_modules": ".*q_proj", "layers_to_transform": [0]}, "layers_to_transform cannot be given"),
        ({"task_type": "WRITING"}, "Invalid task type"),
    ],
)
@every_method
def test_configurations_refuse_what_does_not_fit(method, fields, message) -> None:
    with pytest.raises(ValueError, match=message):
        METHODS[method](**fields)


@pytest.mark.parametrize("method", [*METHODS, "triadaptlora append"])
def test_transformers_loads_and_saves_the_folder_by_itself(method, tmp_path):
    options: dict[str, Any] = {"storage": "append"} if "append" in method else {}
    model = adapted(llama(), method.removesuffix(" append"), **options)
    model.save_pretrained(tmp_path / "ours")
    alone = llama()
    alone.load_adapter(str(tmp_path / "ours"))
    torch.testing.assert_close(logits(alone, tokens()), logits(model, tokens()), rtol=0, atol=1e-6)
    alone.save_pretrained(tmp_path / "theirs")
    again = llama()
    again.load_adapter(str(tmp_path / "theirs"))
    torch.testing.assert_close(logits(again, tokens()), logits(alone, tokens()))
    alone.disable_adapters()
    torch.testing.assert_close(logits(alone, tokens()), logits(llama(), tokens()))
