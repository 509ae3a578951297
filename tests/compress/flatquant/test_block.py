"""Blocks with transforms: the function that they keep, and the quantised blocks that they merge to."""

from __future__ import annotations

import copy
from typing import Any, Literal

import pytest
import torch
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedModel

from compress.flatquant.models import CONFIGS, FAMILIES, RenamedModel, randomised, tiny, tokens
from compress.flatquant.students import config_for, exact, merged, with_students
from linmap.compress.architecture import block_paths, decoder_blocks
from linmap.compress.flatquant.attention import PackedLayer, PackedSlidingWindowLayer
from linmap.compress.flatquant.block import StudentBlock, scaled_norm
from linmap.compress.flatquant.config import FlatQuantConfig, ProvenConfig
from linmap.compress.flatquant.kernels import use
from linmap.compress.flatquant.linear import QuantizedLinear
from linmap.compress.flatquant.quantizer import fake_quantize

ALL = [*FAMILIES, "renamed"]
FOUR: dict[str, Any] = {"w_bits": 4, "a_bits": 4, "q_bits": 8, "k_bits": 4, "v_bits": 4}
PLACES: dict[str, Any] = {
    "w_bits": 16,
    "a_bits": 8,
    "q_bits": 8,
    "k_bits": 8,
    "v_bits": 8,
    "clip": False,
}  # transforms everywhere
ONLINE = ("attention", "mlp", "down")


def model_of(family: str, dtype: torch.dtype = torch.float32) -> Any:
    model = randomised(RenamedModel(CONFIGS["llama"]())) if family == "renamed" else tiny(family)
    nn.Module.to(model, dtype)
    return model


def assert_same(found: Tensor, expected: Tensor, family: str, tolerance: float) -> None:
    """Gemma's norms and softmax compute in float32, also in a model of float64."""
    tolerance = max(tolerance, 1e-5) if family.startswith("gemma") else tolerance
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)


@torch.no_grad()
def logits(model: PreTrainedModel, ids: Tensor) -> Tensor:
    return model(ids, use_cache=False).logits


@torch.no_grad()
def decoded(model: PreTrainedModel, ids: Tensor, chunks: list[int]) -> tuple[Tensor, DynamicCache]:
    """Logits of a pass in pieces, through the cache that `generate` would make."""
    cache = DynamicCache(config=model.config)
    parts = [model(part, past_key_values=cache, use_cache=True).logits for part in ids.split(chunks, dim=1)]
    return torch.cat(parts, dim=1), cache


# -- the function is kept (oracle 2) -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.float64, 1e-9)])
@pytest.mark.parametrize("family", ALL)
def test_transforms_keep_the_function(family: str, dtype: torch.dtype, tolerance: float) -> None:
    model, ids = model_of(family, dtype), tokens()
    students = with_students(model, config_for(model, **PLACES))
    assert_same(logits(exact(students), ids), logits(model, ids), family, tolerance)


@pytest.mark.parametrize(
    ("dtype", "tolerance", "online_scales"),
    [(torch.float32, 1e-4, ONLINE), (torch.float64, 1e-9, ()), (torch.float64, 1e-9, ONLINE)],
    ids=["online, float32", "merged", "online"],
)
@pytest.mark.parametrize("family", ALL)
def test_merging_keeps_the_function(
    family: str, dtype: torch.dtype, tolerance: float, online_scales: tuple[str, ...]
) -> None:
    model, ids = model_of(family, dtype), tokens()
    config = config_for(model, **PLACES, online_scales=online_scales)
    quantised = exact(merged(with_students(model, config)))
    expected = logits(model, ids)
    assert_same(logits(quantised, ids), expected, family, tolerance)
    assert_same(decoded(quantised, ids, [5, 1, 1, 5])[0], expected, family, tolerance)


@pytest.mark.parametrize("parametrization", ["exponential", "inverse"])
def test_every_parametrization_keeps_the_function(parametrization: Literal["exponential", "inverse"]) -> None:
    model, ids = model_of("qwen3", torch.float64), tokens()
    config = FlatQuantConfig(**PLACES, parametrization=parametrization)
    students = with_students(model, config)
    expected = logits(model, ids)
    torch.testing.assert_close(logits(exact(students), ids), expected, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(logits(exact(merged(students)), ids), expected, rtol=1e-9, atol=1e-9)


def test_every_transform_acts() -> None:
    """A transform that is left out of the online path, or of the weights, changes the function."""
    model, ids = model_of("llama", torch.float64), tokens()
    config = ProvenConfig(**PLACES, online_scales=ONLINE)
    quantised = exact(merged(with_students(model, config)))
    expected = logits(model, ids)
    buffers = [n for n, _ in quantised.named_buffers() if n.endswith(("factor_0", "factor_1", "scale", "matrix"))]
    inner = [name for name in buffers if "layers.0." in name and "weight_scale" not in name]
    assert len(inner) == 2 * 3 + 1 + 3 + 2  # factors of P_a, P_ug and P_d, P_o, three scales, P_h and its inverse
    for name in inner:
        broken = copy.deepcopy(quantised)
        tensor = broken.get_buffer(name)
        tensor.copy_(torch.eye(len(tensor)) if tensor.dim() == 2 else torch.ones_like(tensor))
        assert (logits(broken, ids) - expected).abs().max() > 1e-3


# -- merging (oracle 7), round to nearest (oracle 4) -------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"w_symmetric": False, "a_symmetric": False, "k_symmetric": True}], ids=str)
@pytest.mark.parametrize("family", ALL)
def test_merging_and_rounding_give_what_training_saw(family: str, options: dict[str, bool]) -> None:
    model, ids = model_of(family, torch.float64), tokens()
    config = config_for(model, **FOUR, **options)
    students = with_students(model, config)
    expected = logits(students, ids)
    assert (expected - logits(model, ids)).abs().max() > 0.1
    assert_same(logits(merged(students), ids), expected, family, 1e-8)


@pytest.mark.parametrize("family", ["llama", "qwen2", "gemma2"])
def test_merging_and_rounding_in_float32(family: str) -> None:
    model, ids = model_of(family), tokens()
    config = FlatQuantConfig(**FOUR)
    students = with_students(model, config)
    torch.testing.assert_close(logits(merged(students), ids), logits(students, ids), rtol=1e-5, atol=1e-5)


def rounded_to_nearest(model: PreTrainedModel, config: FlatQuantConfig) -> PreTrainedModel:
    """The plain method, by hooks on the linear layers of the blocks."""
    model = copy.deepcopy(model)
    for block in decoder_blocks(model, config.module_map)[1]:
        for linear in block.modules():
            if isinstance(linear, nn.Linear):
                linear.weight.data = fake_quantize(linear.weight.data, config.w_bits, config.w_symmetric, per="row")[0]
                linear.register_forward_pre_hook(
                    lambda _, args: fake_quantize(args[0], config.a_bits, config.a_symmetric)[0]
                )
    return model


@torch.no_grad()
def with_identities(model: PreTrainedModel, config: FlatQuantConfig) -> PreTrainedModel:
    model = with_students(model, config)
    for student in model.modules():
        if isinstance(student, StudentBlock):
            for name, p in student.trained().items():  # Cayley's map of 0 is the identity
                p.copy_(torch.ones_like(p) if name.endswith(("scale", "diagonal")) else torch.zeros_like(p))
    return model


@pytest.mark.parametrize("family", ALL)
@pytest.mark.parametrize("options", [{}, {"w_bits": 3, "a_bits": 8, "w_symmetric": False, "a_symmetric": False}])
def test_identities_are_rounding_to_nearest_bit_for_bit(
    family: str, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sums of codes are exact, and so differ from sums of float32 products by the rounding of the latter; where codes
    have zero points both are float32 sums, whose last bits may turn over a code of the next layer."""
    model, ids = model_of(family), tokens()
    config = config_for(model, **{"clip": False} | options)
    expected = logits(rounded_to_nearest(model, config), ids)
    students = with_identities(model, config)
    assert torch.equal(logits(students, ids), expected)
    plain = config_for(model, **{"clip": False, "transform": "none", "scale": False} | options)
    for quantised in (merged(students), merged(with_students(model, plain))):
        if config.w_symmetric:
            torch.testing.assert_close(logits(quantised, ids), expected, rtol=1e-5, atol=1e-5)
        with monkeypatch.context() as patch, use("torch"):
            patch.setattr(QuantizedLinear, "multiplies_codes", False)
            assert torch.equal(logits(quantised, ids), expected)


def test_sixteen_bits_change_nothing() -> None:
    model, ids = model_of("llama"), tokens()
    config = FlatQuantConfig(w_bits=16, a_bits=16)
    quantised = merged(with_students(model, config))
    assert torch.equal(logits(quantised, ids), logits(model, ids))
    assert not any("transform" in name or name.endswith("_max") for name, _ in quantised.named_buffers())


def test_inputs_of_sixteen_bits_are_not_clipped() -> None:
    students = with_students(model_of("llama"), FlatQuantConfig(w_bits=4, a_bits=16))
    names = {name.rpartition(".")[2] for name in students.model.layers[0].trained()}
    assert names >= {"weight_max", "weight_min"}
    assert not names & {"input_max", "input_min"}


# -- decoding ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "chunks", [pytest.param([1] * 18, marks=pytest.mark.slow), [9, 1, 1, 4, 1, 2]], ids=["tokens", "pieces"]
)
@pytest.mark.parametrize("family", ALL)
def test_cached_decoding_is_the_full_pass(family: str, chunks: list[int]) -> None:
    """Longer than the sliding windows, with codes in the cache."""
    model, ids = model_of(family, torch.float64), tokens(3, 18)
    config = config_for(model, **FOUR)
    quantised = merged(with_students(model, config))
    found, cache = decoded(quantised, ids, chunks)
    assert_same(found, logits(quantised, ids), family, 1e-9)
    sliding = [hasattr(layer, "sliding_window") for layer in cache.layers]
    kinds = [PackedSlidingWindowLayer if slides else PackedLayer for slides in sliding]
    assert [type(layer) for layer in cache.layers] == kinds
    assert any(sliding) == (family in ("mistral", "gemma2", "gemma3"))


def test_left_padding_changes_no_other_token() -> None:
    model = model_of("llama", torch.float64)
    config = FlatQuantConfig(**FOUR)
    quantised = merged(with_students(model, config))
    ids = tokens(1, 7)
    padded = torch.cat([torch.zeros(1, 4, dtype=torch.long), ids], dim=1)
    mask = (padded > 0).long()
    with torch.no_grad():
        found = quantised(padded, attention_mask=mask, position_ids=(mask.cumsum(1) - 1).clamp(min=0)).logits[:, 4:]
    torch.testing.assert_close(found, logits(quantised, ids), rtol=1e-8, atol=1e-8)


# -- parts -------------------------------------------------------------------------------------------------------------


def test_the_original_stays_as_it_is() -> None:
    model, ids = model_of("gemma3"), tokens()
    before = logits(model, ids)
    config = FlatQuantConfig(**FOUR)
    for block in decoder_blocks(model)[1]:
        student = StudentBlock(block, config, torch.Generator())
        assert block_paths(block) == student.paths
        assert student.original[0] is block
    assert torch.equal(logits(model, ids), before)
    assert all(isinstance(m, nn.Linear) for n, m in model.named_modules() if n.endswith("_proj"))


def test_trained_parameters_are_the_ones_of_the_paper() -> None:
    model = model_of("llama")
    student = with_students(model, FlatQuantConfig(**FOUR)).model.layers[0]
    n = {name: p.numel() for name, p in student.trained().items()}
    scales = {name: size for name, size in n.items() if name.endswith(".scale")}
    assert scales == {"sites.attention.scale": 24, "sites.mlp.scale": 24, "sites.down.scale": 40}
    assert n["q.weight_max"] == 24
    assert n["v.weight_max"] == 12
    assert n["sites.output.factors.0.left"] == 4 * 4
    assert n["sites.value.factors.0.left"] == n["cache.factor.left"] == 6 * 6
    assert not any(p.requires_grad for name, p in student.named_parameters() if name.endswith("linear.weight"))


@pytest.mark.parametrize("scale", [True, False])
@pytest.mark.parametrize("sizes", [(3, 4), (24, 24), (6,), (2, 3, 3)])
def test_factors_of_another_length_are_refused(sizes: tuple[int, ...], scale: bool) -> None:
    config = FlatQuantConfig(**FOUR, factors={"attention": sizes}, scale=scale)
    with pytest.raises(ValueError, match=r"do not multiply to n = 24; pairs that do: \(1, 24\), .*\(4, 6\)"):
        with_students(model_of("llama"), config)


@pytest.mark.parametrize("norm", [nn.LayerNorm(8), nn.RMSNorm(8)])
def test_scaled_norm(norm: nn.Module) -> None:
    generator = torch.Generator().manual_seed(0)
    for p in norm.parameters():
        p.data = torch.randn(8, generator=generator)
    x, c = torch.randn(5, 8, generator=generator), torch.rand(8, generator=generator).double() + 0.5
    torch.testing.assert_close(scaled_norm(norm, c)(x), norm(x) * c.float())


def test_a_norm_that_takes_no_scale() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(8))

        def forward(self, x: Tensor) -> Tensor:
            return torch.tanh(x * self.weight)

    with pytest.raises(TypeError, match="Odd"):
        scaled_norm(Odd(), torch.full((8,), 2.0))


def test_transforms_of_another_block() -> None:
    model = model_of("llama")
    student, other = (with_students(model, FlatQuantConfig(**o)).model.layers[0] for o in (FOUR, {}))
    tensors = {name: p.detach().clone() for name, p in student.trained().items()}
    student.load_trained(tensors)
    with pytest.raises(ValueError, match="another config"):
        other.load_trained(tensors)
    tensors["q.weight_max"] = torch.ones(7, 1)
    with pytest.raises(ValueError, match=r"\(7, 1\) in the file and \(24, 1\)"):
        student.load_trained(tensors)


def test_weights_are_codes() -> None:
    model = model_of("llama")
    config = FlatQuantConfig(**FOUR)
    layers = [m for m in merged(with_students(model, config)).modules() if isinstance(m, QuantizedLinear)]
    assert len(layers) == 14
    for layer in layers:
        assert layer.weight.dtype == torch.uint8
        assert layer.weight.numel() * 2 == layer.in_features * layer.out_features
        assert len(layer.dequantized_weight()[0].unique()) <= 16
