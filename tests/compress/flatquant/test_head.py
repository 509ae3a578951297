"""The vocabulary head in eight bits: its products, where it stands, and how it is saved."""

from __future__ import annotations

import copy
import pickle
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoModel, AutoModelForCausalLM, AutoModelForSequenceClassification

from compress.flatquant.models import tiny, tokens
from linmap.compress.flatquant.calibration import calibrate
from linmap.compress.flatquant.config import FlatQuantConfig
from linmap.compress.flatquant.head import QuantizedEmbedding, QuantizedHead, TiedHead, table_product
from linmap.compress.flatquant.measures import model_tensors, sizes
from linmap.compress.flatquant.pretrained import in_format
from linmap.compress.flatquant.streaming import calibrate_folder
from typed import present

TIED = ("llama_biased", "gemma", "gemma3")
UNTIED = ("llama", "qwen2")
PLAIN: dict[str, Any] = {"transform": "none", "scale": False, "clip": False, "epochs": 0}
config = partial(FlatQuantConfig, head_bits=8)


def quantised(family: str, **options: Any) -> Any:
    """A model with an 8-bit head over blocks in 4 bits, which need no text."""
    return calibrate(tied_as(family), None, config(**(PLAIN | options)))


def tied_as(family: str) -> Any:
    model = tiny(family, tie_word_embeddings=family in TIED)
    assert (model.lm_head.weight is model.get_input_embeddings().weight) == (family in TIED)
    return model


@torch.no_grad()
def logits(model: Any, ids: Tensor | None = None) -> Tensor:
    return model(tokens() if ids is None else ids).logits


def table_of(model: Any) -> Any:
    head = model.get_output_embeddings()
    return head.table[0] if isinstance(head, TiedHead) else head


# -- products ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dtype", "error"), [(torch.float64, 1e-12), (torch.float32, 1e-5), (torch.bfloat16, 1e-2), (torch.float16, 1e-3)]
)
@settings(max_examples=25, deadline=None)
@given(st.integers(1, 70), st.integers(1, 70), st.sampled_from([1, 2, 3, 9]), st.booleans(), st.integers(0, 2**20))
def test_products(dtype: torch.dtype, error: float, m: int, n: int, t: int, biased: bool, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    x = (50 * torch.randn(2, t, n, generator=generator)).to(dtype)
    codes = torch.randint(-128, 128, (m, n), generator=generator, dtype=torch.int8)
    scale, bias = torch.rand(m, 1, generator=generator) / 100, torch.randn(m, generator=generator).to(dtype)
    y = table_product(x, codes, scale, bias if biased else None)
    expected = torch.einsum("btn,mn->btm", x.double(), scale.double() * codes) + (bias.double() if biased else 0)
    assert y.dtype == dtype
    largest = torch.einsum("btn,mn->btm", x.double().abs(), scale.double() * codes.double().abs())
    assert ((y.double() - expected).abs() <= error * (largest + 5)).all()


@pytest.mark.parametrize("shape", [(64,), (0, 64), (3, 1, 64)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_shapes_and_strides(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    head = QuantizedHead(10, 64, bias=False, dtype=dtype)
    head.store(torch.randn(10, 64))
    x = torch.randn(*shape, 2).to(dtype)[..., 0]
    torch.testing.assert_close(head(x), head(x.clone()))
    assert head(x).shape == (*shape[:-1], 10)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_gradients_are_those_of_the_dequantised_weight(dtype: torch.dtype) -> None:
    head = QuantizedHead(5000, 32, bias=True, dtype=dtype)  # in two parts
    head.store(torch.randn(5000, 32))
    nn.init.normal_(present(head.bias))
    x, y_grad = torch.randn(3, 32, dtype=dtype), torch.randn(3, 5000, dtype=dtype)
    ours, plain = x.clone().requires_grad_(), x.double().requires_grad_()
    y = head(ours)
    y.backward(y_grad)
    (plain @ head.dequantized_weight(torch.float64).mT).backward(y_grad.double())
    found, expected = present(ours.grad), present(plain.grad)
    assert found.dtype == dtype
    error = (found.double() - expected).norm() / expected.norm()
    assert (
        error < {torch.float64: 1e-6, torch.float32: 1e-5, torch.bfloat16: 1e-2}[dtype]
    )  # scales are float32 or wider
    with torch.no_grad():
        assert torch.equal(head(x), y)


def test_tokens_that_are_not_there() -> None:
    embedding = QuantizedEmbedding(8, 4, 1.0, torch.float32)
    embedding.store(torch.randn(8, 4))
    for ids in ([8], [-1]):
        with pytest.raises(IndexError):
            embedding(torch.tensor(ids))


# -- in a model --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", UNTIED)
def test_logits_are_off_by_half_a_step_of_each_entry(family: str) -> None:
    """|y - y'| <= |x|_1 s / 2, with the same hidden states."""
    model, hidden = quantised(family), []
    plain = calibrate(tied_as(family), None, FlatQuantConfig(**PLAIN))
    model.lm_head.register_forward_pre_hook(lambda module, args: hidden.append(args[0]))
    difference = (logits(model) - logits(plain)).abs()
    bound = hidden[0].abs().sum(-1, keepdim=True) * model.lm_head.weight_scale.mT / 2
    assert (difference <= bound * (1 + 1e-3) + 1e-6).all()
    assert difference.max() > 0
    for name, tensor in plain.state_dict().items():
        assert name == "lm_head.weight" or torch.equal(model.state_dict()[name], tensor)


@pytest.mark.parametrize("family", TIED)
def test_a_tied_table_is_stored_once(family: str) -> None:
    original, model = tied_as(family), quantised(family)
    assert [n for n in model.state_dict() if "lm_head.w" in n] == []
    embedding = model.get_input_embeddings()
    assert table_of(model) is embedding
    table = embedding.weight_scale * embedding.weight
    assert ((table - original.lm_head.weight).abs() <= embedding.weight_scale * 0.501).all()
    factor = getattr(original.get_input_embeddings(), "scalar_embed_scale", 1)
    assert (factor == 24**0.5) == (family != "llama_biased")
    ids = torch.tensor([[3, 0, 63]])
    torch.testing.assert_close(embedding(ids), original.get_input_embeddings()(ids), rtol=0, atol=0.05 * factor)
    torch.testing.assert_close(embedding(ids), table[ids] * factor)
    stored = sizes(model_tensors(original), model_tensors(model)).stored
    half = sizes(model_tensors(original), model_tensors(calibrate(tied_as(family), None, FlatQuantConfig(**PLAIN))))
    assert half.stored - stored == 64 * 24 * 3 - 64 * 4


@pytest.mark.parametrize("family", TIED + UNTIED)
def test_round_trip(family: str, tmp_path: Path) -> None:
    model = quantised(family)
    model.save_pretrained(tmp_path / "a")
    loaded: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "a")
    assert loaded.config.quantization_config.head_bits == 8
    assert torch.equal(logits(loaded), logits(model))
    how: dict[str, Any] = {"max_new_tokens": 8, "do_sample": False, "eos_token_id": None}
    assert torch.equal(loaded.generate(tokens(2, 5), **how), model.generate(tokens(2, 5), **how))
    loaded.tie_weights()
    loaded.save_pretrained(tmp_path / "b")
    first, second = (load_file(tmp_path / name / "model.safetensors") for name in "ab")
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    tables = [name for name, tensor in first.items() if tensor.shape == (64, 24)]
    assert len(tables) == (1 if family in TIED else 2)
    assert {first[name].dtype for name in tables} == ({torch.int8} if family in TIED else {torch.int8, torch.float32})


@pytest.mark.parametrize("family", ["gemma3", "llama"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(family: str, dtype: torch.dtype, tmp_path: Path) -> None:
    model = quantised(family, a_bits=16)
    expected = logits(model)
    model.save_pretrained(tmp_path / "wide")
    in_format(model, dtype).save_pretrained(tmp_path / "half")
    wide = AutoModelForCausalLM.from_pretrained(tmp_path / "wide", dtype=dtype)
    half = AutoModelForCausalLM.from_pretrained(tmp_path / "half")
    for other in (model, wide, half):
        assert other.dtype == dtype
        assert table_of(other).weight_scale.dtype == torch.float32
        assert other.get_input_embeddings()(tokens()).dtype == dtype
        assert logits(other).dtype == dtype
        assert (logits(other).float() - expected).abs().max() < 0.2 * expected.std()


@pytest.mark.parametrize("family", ["llama_biased", "llama"])
def test_a_decoder_without_its_head_and_a_classifier(family: str, tmp_path: Path) -> None:
    model = quantised(family)
    model.save_pretrained(tmp_path)
    decoder = AutoModel.from_pretrained(tmp_path)
    with torch.no_grad():
        expected = model.model(tokens()).last_hidden_state
        assert torch.equal(decoder(tokens()).last_hidden_state, expected)
    classifier = AutoModelForSequenceClassification.from_pretrained(tmp_path, num_labels=3)
    assert isinstance(classifier.get_input_embeddings(), QuantizedEmbedding) == (family == "llama_biased")


def test_a_biased_head_keeps_its_bias(tmp_path: Path) -> None:
    for tied in (True, False):
        model = tiny("llama", tie_word_embeddings=tied)
        model.lm_head.bias = nn.Parameter(torch.randn(64))
        expected = model.lm_head(torch.ones(1, 24))
        calibrate(model, None, config(**PLAIN))
        assert model.lm_head(torch.ones(1, 24)).sub(expected).abs().max() < 0.2
        assert "lm_head.bias" in model.state_dict()
        assert in_format(model, torch.bfloat16).lm_head.bias.dtype == torch.bfloat16


@pytest.mark.parametrize("family", ["llama_biased", "llama"])
def test_copies_have_tables_of_their_own(family: str) -> None:
    model = quantised(family)
    expected = logits(model)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(logits(other), expected)
        table_of(model).weight.neg_()
        assert torch.equal(logits(other), expected)
        table_of(model).weight.neg_()


@pytest.mark.parametrize("family", ["llama_biased", "gemma3", "llama"])
def test_streaming_gives_the_same_model(family: str, tmp_path: Path) -> None:
    tied_as(family).save_pretrained(tmp_path / "source")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "source")
    calibrate(model, None, config(**PLAIN))
    for dtype in (None, torch.bfloat16):
        calibrate_folder(tmp_path / "source", tmp_path / "target", None, config(**PLAIN), dtype=dtype)
        loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "target")
        expected = (model if dtype is None else in_format(model, dtype)).state_dict()
        found = loaded.state_dict()
        assert found.keys() == expected.keys()
        for name, tensor in found.items():
            assert tensor.dtype == expected[name].dtype, name
            assert torch.equal(tensor, expected[name]), name
        assert torch.equal(logits(loaded), logits(model))


def test_the_head_alone(tmp_path: Path) -> None:
    model, original = quantised("llama_biased", w_bits=16, a_bits=16), tied_as("llama_biased")
    assert (logits(model) - logits(original)).abs().max() < 0.15 * logits(original).std()
    model.save_pretrained(tmp_path)
    assert torch.equal(logits(AutoModelForCausalLM.from_pretrained(tmp_path)), logits(model))


def test_eight_bits_are_an_option() -> None:
    model = calibrate(tied_as("llama_biased"), None, FlatQuantConfig(**PLAIN))
    assert type(model.lm_head) is nn.Linear
    assert model.lm_head.weight is model.get_input_embeddings().weight
    saved = {name: value for name, value in FlatQuantConfig(w_bits=3).to_dict().items() if name != "head_bits"}
    assert FlatQuantConfig.from_dict(saved).head_bits == 16  # from before there was a choice


# -- refused -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [4, 7, 0, True])
def test_other_bits(bits: Any) -> None:
    with pytest.raises(ValueError, match="neither 8 nor 16"):
        FlatQuantConfig(head_bits=bits)


def test_a_model_without_a_head_that_is_a_linear_layer() -> None:
    with pytest.raises(ValueError, match="this model has no vocabulary head"):
        calibrate(tiny().model, None, config(**PLAIN))
    model = tiny()
    model.lm_head = nn.Sequential(model.lm_head)
    with pytest.raises(ValueError, match="a Sequential as its vocabulary head"):
        calibrate(model, None, config(**PLAIN))
    assert type(model.model.layers[0].mlp.down_proj) is nn.Linear


@pytest.mark.parametrize("tied", [True, False])
def test_a_config_that_does_not_say_what_is_tied(tied: bool) -> None:
    model = tiny("llama", tie_word_embeddings=tied)
    model.config.tie_word_embeddings = not tied
    with pytest.raises(ValueError, match=f"set it to {tied}"):
        calibrate(model, None, config(**PLAIN))


def test_a_tied_embedding_that_is_more_than_a_table() -> None:
    class Doubled(nn.Embedding):
        def forward(self, input: Tensor) -> Tensor:
            return 2 * super().forward(input)

    model = tiny("llama_biased")
    embedding = Doubled(64, 24)
    embedding.weight = model.lm_head.weight
    model.set_input_embeddings(embedding)
    with pytest.raises(ValueError, match="a Doubled is more than a table"):
        calibrate(model, None, config(**PLAIN))


@pytest.mark.parametrize("family", ["llama_biased", "llama"])
def test_a_vocabulary_of_codes_does_not_grow(family: str, tmp_path: Path) -> None:
    model = quantised(family)
    model.save_pretrained(tmp_path)
    for other in (model, AutoModelForCausalLM.from_pretrained(tmp_path)):
        with pytest.raises(ValueError, match="resize the original model"):
            other.resize_token_embeddings(80)
        assert torch.equal(logits(other), logits(model))


@pytest.mark.parametrize("family", ["llama_biased", "llama"])
def test_files_without_the_scales(family: str, tmp_path: Path) -> None:
    quantised(family).save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    found = load_file(path)
    name = next(name for name in found if name.endswith("_scale") and "layers" not in name)
    del found[name]
    save_file(found, path, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=f"{name} is missing"):
        AutoModelForCausalLM.from_pretrained(tmp_path)
