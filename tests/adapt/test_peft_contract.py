"""What PEFT expects of any tuner, for every method of the room on every kind of layer that it takes."""

from __future__ import annotations

import copy
import io
import pickle
import warnings
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import (
    PeftModel,
    convert_to_lora,
    get_peft_model,
    get_peft_model_state_dict,
    inject_adapter_in_model,
    set_peft_model_state_dict,
)
from torch import Tensor, nn

from adapt.cases import inside, move, tuner_of
from adapt.kinds import CASES, KINDS, METHODS, adapted, base, config, inputs, layers, output, with_second

pytestmark = [
    pytest.mark.usefixtures("annotations_unchecked"),
    pytest.mark.filterwarnings("ignore:.*fan_in_fan_out:UserWarning"),
]
every_case = pytest.mark.parametrize(("method", "kind"), CASES)
every_method = pytest.mark.parametrize("method", METHODS)
every_kind = pytest.mark.parametrize("kind", KINDS)
HALVES = (torch.float16, torch.bfloat16)


def same(one: Tensor, other: Tensor, tolerance: float = 1e-10) -> None:
    torch.testing.assert_close(one, other, rtol=0, atol=tolerance)


def differ(one: Tensor, other: Tensor) -> None:
    assert (one - other).abs().max() > 1e-4


# -- what a layer shows of itself --------------------------------------------------------------------------------------


@every_case
def test_a_layer_shows_the_sizes_weight_and_bias_of_its_base(method, kind) -> None:
    layer = layers(adapted(method, kind))[0]
    expected = {"Linear": (12, 20), "Conv1D": (12, 20), "Conv2d": (4, 12), "Embedding": (20, 12)}[kind]
    assert (layer.in_features, layer.out_features) == expected
    assert layer.weight is layer.get_base_layer().weight
    assert kind == "Embedding" or layer.bias is layer.get_base_layer().bias


@every_method
def test_sizes_are_those_of_a_lora_layer(method) -> None:
    from peft import LoraConfig

    for kind in [kind for case, kind in CASES if case == method]:
        theirs = get_peft_model(base(kind), LoraConfig(target_modules=["first"]))
        lora = inside(theirs).first
        ours = layers(adapted(method, kind))[0]
        assert (ours.in_features, ours.out_features) == (lora.in_features, lora.out_features)


@every_method
@pytest.mark.parametrize("layer", [nn.Conv1d(4, 4, 1), nn.Conv3d(4, 4, 1), nn.Bilinear(4, 4, 4), nn.LayerNorm(4)])
def test_other_kinds_of_layers_are_refused_by_name(method, layer) -> None:
    model = nn.ModuleDict({"part": layer})
    with pytest.raises(TypeError, match=f"part: a {type(layer).__name__} cannot be adapted"):
        get_peft_model(model, METHODS[method](target_modules=["part"]))


@every_case
def test_the_shapes_of_the_base_layer_are_taken(method, kind) -> None:
    layer, x = layers(adapted(method, kind))[0], inputs(kind)
    for training in (False, True):
        layer.train(training)
        y = layer(x)
        same(layer(x[0]), y[0])
        assert layer(x[:0]).shape == y[:0].shape
        if kind in ("Linear", "Conv1D"):
            same(layer(x.expand(2, 3, *x.shape)), y.expand(2, 3, *y.shape))
            same(layer(x.mT.contiguous().mT), y)
        if kind == "Conv2d":
            same(layer(x.to(memory_format=torch.channels_last)), y)
        if kind == "Embedding":
            same(layer(x.int()), y)


# -- training ----------------------------------------------------------------------------------------------------------


@every_case
def test_training_moves_the_adapter_and_nothing_else(method, kind) -> None:
    model, x = adapted(method, kind).train(), inputs(kind)
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    optimiser = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    losses = []
    for _ in range(3):
        optimiser.zero_grad()
        loss = (model(x) - 1).square().mean()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name]) != ("linmap_" in name), name
    y = output(model.eval(), x)
    model.merge_adapter()
    same(output(model, x), y)


@every_case
def test_active_adapters_are_trained_and_others_are_not(method, kind) -> None:
    model = with_second(adapted(method, kind), method, kind)

    def check(*trained: str) -> None:
        for name, parameter in model.named_parameters():
            active = "linmap_" in name and any(f".{adapter}." in name for adapter in trained)
            assert parameter.requires_grad == active, name

    check("default")
    model.set_adapter("second")
    check("second")
    tuner_of(model).set_adapter(["second", "default"])
    check("second", "default")
    model.set_adapter("default", inference_mode=True)
    check()
    model.set_requires_grad("second")
    check("second")


@every_case
def test_the_status_says_what_is_the_case(method, kind) -> None:
    model = with_second(adapted(method, kind), method, kind)
    status = model.get_model_status()
    assert status.enabled is True
    assert status.active_adapters == ["default"]
    assert status.merged_adapters == []
    assert status.requires_grad == {"default": True, "second": False}
    assert sorted(status.available_adapters) == ["default", "second"]
    assert status.num_adapter_layers == len(layers(model))
    model.merge_adapter(["second"])
    assert model.get_model_status().merged_adapters == ["second"]


@pytest.mark.parametrize(
    ("dtype", "autocast_adapter_dtype"),
    [(torch.float32, True), (torch.float16, True), (torch.float16, False), (torch.bfloat16, False)],
    ids=["float32", "float16", "float16-all", "bfloat16-all"],
)
@every_case
def test_every_number_format_of_the_base_is_taken(method, kind, dtype, autocast_adapter_dtype) -> None:
    exact, tolerance = adapted(method, kind), 1e-5 if dtype == torch.float32 else 0.1
    model: Any = get_peft_model(
        base(kind, dtype),
        config(method, kind),
        autocast_adapter_dtype=autocast_adapter_dtype,
    )
    with torch.no_grad():
        for ours, theirs in zip(layers(model), layers(exact), strict=True):
            for one, other in zip(ours.adapters.parameters(), theirs.adapters.parameters(), strict=True):
                one.copy_(other)
    wanted = torch.float32 if autocast_adapter_dtype else dtype
    assert {p.dtype for layer in layers(model) for p in layer.adapters.parameters()} == {wanted}
    x, expected = inputs(kind, dtype), output(exact, inputs(kind))
    for mixed in [nullcontext()] + [torch.autocast("cpu", half) for half in HALVES if dtype == torch.float32]:
        with mixed:
            loss = model.train()(x).float().square().sum()
        loss.backward()
    gradients = [p.grad for layer in layers(model) for p in layer.adapters.parameters() if p.requires_grad]
    assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients)
    y = output(model.eval(), x)
    assert y.dtype == dtype
    same(y.double(), expected, tolerance)
    model.merge_adapter()
    same(output(model, x).double(), expected, tolerance)
    with model.disable_adapter():
        assert torch.equal(output(model, x), output(base(kind, dtype), x))


@every_case
def test_a_model_may_be_cast_after_the_adapter_was_made(method, kind) -> None:
    model = adapted(method, kind)
    y = output(model, inputs(kind))
    for dtype, tolerance in ((torch.float32, 1e-5), (torch.bfloat16, 0.1)):
        cast = copy.deepcopy(model).to(dtype)
        same(output(cast, inputs(kind, dtype)).double(), y, tolerance)
        cast.train()(inputs(kind, dtype)).float().sum().backward()


@every_case
def test_a_merged_model_that_was_cast_is_unmerged_as_one_that_was_not(method, kind) -> None:
    model = adapted(method, kind)
    model.merge_adapter()
    plain = base(kind)
    for dtype in (torch.float32, torch.bfloat16):
        x = inputs(kind, dtype)
        model.to(dtype)
        with model.disable_adapter():
            assert torch.equal(output(model, x), output(plain.to(dtype), x))
        assert not any(layer.merged for layer in layers(model))
        model.merge_adapter()
    with torch.no_grad():
        layers(model)[0].get_base_layer().weight.add_(1)
    with pytest.raises(ValueError, match="the merged weight was changed since the merge"):
        model.to(torch.float32).unmerge_adapter()


# -- merging, switching, deleting --------------------------------------------------------------------------------------


@every_case
def test_adapters_are_merged_alone_and_together(method, kind) -> None:
    model, x = with_second(adapted(method, kind), method, kind), inputs(kind)
    outputs = {}
    for names in (["default"], ["second"], ["default", "second"]):
        tuner_of(model).set_adapter(names)
        outputs[tuple(names)] = output(model, x)
    first, second, both = outputs.values()
    differ(first, second)
    differ(both, first)
    for names, expected in outputs.items():
        model.merge_adapter(list(names))
        same(output(model, x), expected)
        model.unmerge_adapter()
        same(output(model, x), both)
        plain = copy.deepcopy(model).merge_and_unload(adapter_names=list(names))
        same(output(plain, x), expected)
        assert plain.state_dict().keys() == base(kind).state_dict().keys()
    assert torch.equal(output(model.unload(), x), output(base(kind), x))


@every_case
def test_disabled_adapters_have_no_part_whether_merged_or_not(method, kind) -> None:
    model, x = adapted(method, kind), inputs(kind)
    y, plain = output(model, x), output(base(kind), x)
    differ(y, plain)
    for merged in (False, True):
        if merged:
            model.merge_adapter()
        with model.disable_adapter():
            assert torch.equal(output(model, x), plain)
        same(output(model, x), y)


@every_case
def test_every_row_of_a_batch_may_have_its_own_adapter(method, kind) -> None:
    model, x = with_second(adapted(method, kind), method, kind), inputs(kind)
    names = (["default", "__base__", "second", "second", "default"])[: len(x)]
    found = output(model, x, adapter_names=names)
    outputs = {"__base__": output(base(kind), x)}
    for name in ("default", "second"):
        model.set_adapter(name)
        outputs[name] = output(model, x)
    for row, name in enumerate(names):
        same(found[row], outputs[name][row])


@every_case
def test_an_adapter_with_nan_is_never_merged(method, kind) -> None:
    model = adapted(method, kind)
    layer = layers(model)[0]
    weight = layer.get_base_layer().weight.clone()
    with torch.no_grad():
        next(layer.adapters["default"].parameters()).view(-1)[0] = torch.nan
    for merge in (model.merge_adapter, model.merge_and_unload):
        for safe_merge in (False, True):
            with pytest.raises(ValueError, match="first: merging adapter 'default' would give NaN"):
                merge(safe_merge=safe_merge)
            assert torch.equal(layer.get_base_layer().weight, weight)


@every_case
def test_adapters_are_deleted_and_made_again(method, kind) -> None:
    model, x = with_second(adapted(method, kind), method, kind), inputs(kind)
    first = output(model, x)
    model.set_adapter("second")
    second = output(model, x)
    with pytest.warns(UserWarning, match="second was active"):
        model.delete_adapter("second")
    assert model.active_adapters == ["default"]
    same(output(model, x), first)
    assert not any(".second." in name for name in model.state_dict())
    with pytest.raises(ValueError, match="does not exist"):
        model.delete_adapter("second")
    with_second(model, method, kind)
    same(output(model, x), first)
    model.set_adapter("second")
    same(output(model, x), second)
    model.delete_adapter("default")
    same(output(model, x), second)


@every_case
def test_the_change_of_a_weight_is_that_of_before_any_merge(method, kind) -> None:
    model = with_second(adapted(method, kind), method, kind)
    layer = layers(model)[0]
    change = {name: layer.get_delta_weight(name).detach() for name in ("default", "second")}
    model.merge_adapter(["default"])
    for name, expected in change.items():
        same(layer.get_delta_weight(name), expected)
    same(layer.get_base_layer().weight - dict(base(kind).named_parameters())["first.weight"], change["default"])


@pytest.mark.parametrize("method", ["bone bat", "bone bat-row"])
def test_a_change_that_needs_a_weight_that_was_not_kept_is_refused(method) -> None:
    model = adapted(method, "Linear")
    model.merge_adapter(keep_base=False)
    with pytest.raises(ValueError, match=r"first: the change by adapter 'default' depends on .* keep_base=True"):
        layers(model)[0].get_delta_weight("default")


@every_case
def test_linear_layers_become_lora_and_others_are_refused(method, kind) -> None:
    model, x = adapted(method, kind), inputs(kind)
    if kind not in ("Linear", "Conv1D"):
        assert not model.supports_lora_conversion()
        with pytest.raises(TypeError, match="do not support LoRA conversion"):
            convert_to_lora(model, rank=4)
        return
    lora, state = convert_to_lora(model, rank=1.0)
    converted: Any = get_peft_model(base(kind), lora)
    assert not set_peft_model_state_dict(converted, state).unexpected_keys
    same(output(converted.eval(), x), output(model, x), 1e-3)


# -- saving and loading ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "kind", "safe_serialization"),
    [(*case, True) for case in CASES] + [(*case, False) for case in CASES if case[1] == "Linear"],
)
def test_a_folder_gives_the_same_model(method, kind, safe_serialization, tmp_path: Path) -> None:
    model, x = adapted(method, kind, dtype=torch.float32), inputs(kind, torch.float32)
    y = output(model, x)
    model.save_pretrained(str(tmp_path), safe_serialization=safe_serialization)
    loaded: Any = PeftModel.from_pretrained(base(kind, torch.float32), tmp_path)
    same(output(loaded.eval(), x), y, 1e-5)
    found = loaded.load_adapter(tmp_path, "other", low_cpu_mem_usage=True)
    assert not found.unexpected_keys
    assert not [key for key in found.missing_keys if "linmap_" in key and ".other." in key]
    loaded.set_adapter("other")
    same(output(loaded.eval(), x), y, 1e-5)
    if method != "salt delta":  # a change that is no longer trained
        trainable = PeftModel.from_pretrained(base(kind, torch.float32), tmp_path, is_trainable=True)
        trainable.train()(x).sum().backward()
        assert any(p.grad is not None for p in trainable.parameters())


@every_case
def test_adapters_are_saved_from_a_merged_model_and_one_by_one(method, kind, tmp_path: Path) -> None:
    model, x = with_second(adapted(method, kind), method, kind), inputs(kind)
    model.set_adapter("second")
    y = output(model, x)
    model.merge_adapter()
    model.save_pretrained(str(tmp_path), selected_adapters=["second"])
    loaded = PeftModel.from_pretrained(base(kind), tmp_path / "second").eval()
    same(output(loaded, x), y)


def copies(model: Any, method: str, kind: str) -> Iterator[tuple[str, Any]]:
    """The model by all the ways in which it is kept."""

    def through_file(value: Any, weights_only: bool) -> Any:
        file = io.BytesIO()
        torch.save(value, file)
        file.seek(0)
        return torch.load(file, weights_only=weights_only)

    def fresh() -> Any:
        return adapted(method, kind, trained=False, dtype=torch.float32)

    (one := fresh()).load_state_dict(through_file(model.state_dict(), weights_only=True))
    yield "state dict", one
    yield "whole", through_file(model, weights_only=False)
    yield "pickle", pickle.loads(pickle.dumps(model))
    yield "deepcopy", copy.deepcopy(model)
    if method != "salt delta":  # what it saves is a change, which no adapter can be trained on
        set_peft_model_state_dict(one := fresh(), through_file(get_peft_model_state_dict(model), weights_only=True))
        yield "state dict of the adapter", one


@every_case
def test_copies_are_equal_and_independent(method, kind) -> None:
    model, x = adapted(method, kind, dtype=torch.float32), inputs(kind, torch.float32)
    y = output(model, x)
    for how, copied in copies(model, method, kind):
        same(output(copied.eval(), x), y, 1e-6)
        move(copied, seed=7)
        differ(output(copied, x), y)
        assert torch.equal(output(model, x), y), how


@pytest.mark.parametrize(("method", "kind"), [case for case in CASES if case[0] != "salt delta"])
def test_an_injected_adapter_takes_the_state_of_another(method, kind) -> None:
    model, x = adapted(method, kind), inputs(kind)
    state = {key.removeprefix("base_model.model."): value for key, value in get_peft_model_state_dict(model).items()}
    injected = inject_adapter_in_model(config(method, kind), base(kind))
    assert not set_peft_model_state_dict(injected, state).unexpected_keys
    same(output(injected.eval(), x), output(model, x))


def test_loading_an_adapter_leaves_the_basis_of_others_as_it_is() -> None:
    """What is loaded is written into buffers, which must not be views of what other adapters use."""
    model = with_second(adapted("salt all", "Linear", dtype=torch.float32), "salt all", "Linear")
    bases = [a.spectral.S.clone() for layer in layers(model) for a in layer.adapters.values()]
    for layer in layers(model):
        for adapter in layer.adapters.values():
            adapter.fingerprint_values.zero_()
    now = [a.spectral.S for layer in layers(model) for a in layer.adapters.values()]
    assert all(torch.equal(*pair) for pair in zip(bases, now, strict=True))


# -- modules trained whole, and biases ---------------------------------------------------------------------------------


@torch.no_grad()
def train_whole(model: Any, adapter: str, *modules: str) -> None:
    for number, name in enumerate(modules, 1):
        for parameter in model.base_model.model.get_submodule(name).modules_to_save[adapter].parameters():
            parameter += 0.1 * number + (0.3 if adapter == "second" else 0)


@every_case
def test_modules_trained_whole_go_along(method, kind, tmp_path: Path) -> None:
    model, x = adapted(method, kind, modules_to_save=["head"]), inputs(kind)
    train_whole(model, "default", "head")
    y = output(model, x)
    model.save_pretrained(str(tmp_path))
    loaded = PeftModel.from_pretrained(base(kind), tmp_path).eval()
    same(output(loaded, x), y)
    with loaded.disable_adapter():
        assert torch.equal(output(loaded, x), output(base(kind), x))
    same(output(loaded.merge_and_unload(), x), y)


@every_method
@pytest.mark.parametrize("order", [["default", "second"], ["second", "default"]])
def test_disjoint_modules_of_several_active_adapters_are_all_used(method, order) -> None:
    model = adapted(method, "Linear", modules_to_save=["head"])
    with_second(model, method, "Linear", modules_to_save=["middle"])
    train_whole(model, "default", "head")
    train_whole(model, "second", "middle")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tuner_of(model).set_adapter(order)
    parts, x = inside(model), inputs("Linear")
    y = parts.last(torch.tanh(parts.first(x)))
    middle, head = parts.middle.modules_to_save["second"], parts.head.modules_to_save["default"]
    same(output(model, x), head(middle(y)).detach())
    assert all(p.requires_grad for part in (middle, head) for p in part.parameters())
    same(output(copy.deepcopy(model).merge_and_unload(), x), output(model, x))


@pytest.mark.parametrize("method", ["salt all", "bone add"])
def test_a_merged_model_has_the_modules_of_the_adapters_that_were_named(method) -> None:
    model = adapted(method, "Linear", modules_to_save=["head"])
    with_second(model, method, "Linear", modules_to_save=["head"])
    train_whole(model, "default", "head")
    train_whole(model, "second", "head")
    x = inputs("Linear")
    model.set_adapter("second")
    y = output(model, x)
    model.set_adapter("default")
    same(output(copy.deepcopy(model).merge_and_unload(adapter_names=["second"]), x), y)
    with pytest.warns(UserWarning, match=r"head is trained whole and stays that of 'default'.*set_adapter\('second'\)"):
        model.merge_adapter(["second"])


@every_method
def test_of_three_active_adapters_one_is_deleted_and_the_others_stay(method) -> None:
    model = adapted(method, "Linear", modules_to_save=["head"])
    with_second(model, method, "Linear", modules_to_save=["middle"])
    model.add_adapter("third", config(method, "Linear"))
    move(model, "third", seed=3)
    train_whole(model, "default", "head")
    train_whole(model, "second", "middle")
    x, tuner = inputs("Linear"), tuner_of(model)  # the PeftModel around it knows of one active adapter only
    tuner.set_adapter(["second", "third"])
    y = output(tuner, x)
    tuner.set_adapter(["default", "second", "third"])
    differ(output(tuner, x), y)
    tuner.delete_adapter("default")
    assert tuner.active_adapters == ["second", "third"]
    same(output(tuner, x), y)


@pytest.mark.parametrize(("method", "kind"), [case for case in CASES if case[1] != "Embedding"])
def test_biases_are_trained_and_saved_where_they_are_asked_for(method, kind, tmp_path: Path) -> None:
    model, x = adapted(method, kind, bias="all"), inputs(kind)
    model.train()(x).sum().backward()
    biases = {name: p for name, p in model.named_parameters() if name.endswith("bias")}
    assert all(p.grad is not None for p in biases.values())
    with torch.no_grad():
        for parameter in biases.values():
            parameter += 0.1
    y = output(model.eval(), x)
    model.save_pretrained(str(tmp_path))
    loaded = PeftModel.from_pretrained(base(kind), tmp_path).eval()
    same(output(loaded, x), y)
