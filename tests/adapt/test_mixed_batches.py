"""Rows of one batch with adapters of their own: PEFT's `adapter_names`."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from transformers import T5Config, T5ForConditionalGeneration

from adapt.cases import METHODS, adapted, inside, llama, logits, move, tokens
from linmap.adapt import BoneConfig, BoneLinear

pytestmark = pytest.mark.usefixtures("annotations_unchecked")
every_method = pytest.mark.parametrize("method", METHODS)
NAMES = ("default", "second", "__base__")


def two_adapters(method: str, base=llama, **fields):
    model = adapted(base(), method, **fields)
    model.add_adapter("second", METHODS[method](**({"target_modules": "all-linear"} | fields)))
    move(model, "second", seed=2)
    return model.eval()


def alone(model, name: str, x: torch.Tensor) -> torch.Tensor:
    if name == "__base__":
        with model.disable_adapter():
            return logits(model, x)
    model.set_adapter(name)
    return logits(model, x)


@every_method
def test_each_row_is_answered_as_by_its_adapter_alone(method):
    model = two_adapters(method)
    answers = {name: alone(model, name, tokens(5)) for name in NAMES}

    @settings(max_examples=4)
    @given(st.lists(st.sampled_from(NAMES), min_size=5, max_size=5))
    def check(names):
        with torch.no_grad():
            found = model(input_ids=tokens(5), adapter_names=names).logits
        expected = torch.stack([answers[name][i] for i, name in enumerate(names)])
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)

    check()
    assert torch.equal(alone(model, "second", tokens(5)), answers["second"])  # nothing of it stays


@every_method
def test_generation_takes_the_adapter_of_each_row(method):
    model, x = two_adapters(method), tokens(3)
    options = {"max_new_tokens": 4, "do_sample": False, "min_new_tokens": 4}
    answers = {}
    for name in NAMES[:2]:
        model.set_adapter(name)
        answers[name] = model.generate(input_ids=x, **options)
    names = ["second", "default", "second"]
    for beams in (1, 2):
        if beams > 1:
            for name in answers:
                model.set_adapter(name)
                answers[name] = model.generate(input_ids=x, num_beams=2, **options)
        found = model.generate(input_ids=x, adapter_names=names, num_beams=beams, **options)
        assert torch.equal(found, torch.stack([answers[name][i] for i, name in enumerate(names)]))


def t5() -> T5ForConditionalGeneration:
    torch.manual_seed(0)
    start: dict[str, Any] = {"decoder_start_token_id": 0}
    config = T5Config(vocab_size=48, d_model=16, d_kv=8, d_ff=24, num_layers=1, num_heads=2, **start)
    return T5ForConditionalGeneration(config).eval()


def test_beams_of_an_encoder_decoder_have_the_adapter_of_their_row():
    model, x = two_adapters("bone bat", t5, target_modules=["q", "v"]), tokens(3)
    options = {"max_new_tokens": 4, "do_sample": False, "num_beams": 2}
    answers = {}
    for name in NAMES[:2]:
        model.set_adapter(name)
        answers[name] = model.generate(input_ids=x, **options)
    names = ["second", "default", "second"]
    found = model.generate(input_ids=x, adapter_names=names, **options)
    for i, name in enumerate(names):
        assert found[i].tolist()[: len(answers[name][i])] == answers[name][i].tolist()[: len(found[i])]


def test_what_cannot_be_answered_row_by_row_is_refused():
    model, x = two_adapters("bone bat"), tokens(3)
    with pytest.raises(ValueError, match=r"adapter_names has 'third', and the model has 'default', 'second' and"):
        model(input_ids=x, adapter_names=["default", "third", "second"])
    with pytest.raises(ValueError, match="a name for each row, got 2 names for 3 rows"):
        model(input_ids=x, adapter_names=["default", "second"])
    with pytest.raises(TypeError, match="adapter_names must be a list of names"):
        model(input_ids=x, adapter_names="default")
    with pytest.raises(ValueError, match=r"adapter_names is for inference; call model.eval\(\) first"):
        model.train()(input_ids=x, adapter_names=["default"] * 3)
    model.eval().merge_adapter()
    with pytest.raises(ValueError, match="adapter_names cannot be given while default is merged"):
        model(input_ids=x, adapter_names=["default"] * 3)


def test_a_layer_alone_takes_names_too():
    layer = BoneLinear(nn.Linear(8, 8), 4, "bat-row", init_weights=False).eval()
    x = torch.randn(3, 8)
    y = layer(x, adapter_names=["default", "__base__", "default"])
    torch.testing.assert_close(y[[0, 2]], layer(x)[[0, 2]])
    torch.testing.assert_close(y[1], layer.base_layer(x)[1])


def test_modules_trained_whole_are_those_of_the_row():
    from peft import get_peft_model

    config = BoneConfig(r=4, mode="bat", target_modules=["q_proj"], modules_to_save=["lm_head"])
    model = get_peft_model(llama(), config).eval()
    model.add_adapter("second", config)
    move(model, "second", seed=2)
    with torch.no_grad():
        inside(model).lm_head.modules_to_save["second"].weight.mul_(2)
    answers = {name: alone(model, name, tokens(2)) for name in NAMES[:2]}
    with torch.no_grad():
        found = model(input_ids=tokens(2), adapter_names=["second", "default"]).logits
    torch.testing.assert_close(found, torch.stack([answers["second"][0], answers["default"][1]]))
