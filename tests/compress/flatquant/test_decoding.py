"""Blocks for few tokens as one native call: the same numbers, codes and tokens, and no call that it should not take."""

from __future__ import annotations

import copy
import os
import pickle
from collections import OrderedDict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import wraps
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM, StaticCache
from transformers.activations import SiLUActivation
from transformers.models.llama import modeling_llama

from compress.flatquant.models import randomised, tiny, tokens
from compress.flatquant.students import config_for, merged, with_students
from linmap.compress.flatquant import decoding
from linmap.compress.flatquant.facts import of_transformers
from linmap.compress.flatquant.linear import LinearBits, QuantizedLinear
from linmap.compress.flatquant.native import choice
from linmap.compress.flatquant.pretrained import in_format
from linmap.compress.flatquant.transforms import OnlineTransform
from linmap.errors import ArgumentError

BITS: dict[str, Any] = {"k_bits": 4, "v_bits": 4}
SETTINGS: dict[str, dict[str, Any]] = {
    "W4A4KV4": BITS,
    "K8 symmetric, V3": {"k_bits": 8, "v_bits": 3, "k_symmetric": True},
    "W8A8Q8, K2 V8": {"k_bits": 2, "v_bits": 8, "w_bits": 8, "a_bits": 8, "q_bits": 8, "v_symmetric": True},
    "W3A6KV5": {"k_bits": 5, "v_bits": 5, "w_bits": 3, "a_bits": 6},
    "W4A16": BITS | {"a_bits": 16},
    "asymmetric": BITS | {"w_symmetric": False, "a_symmetric": False},
    "no matrices": BITS | {"transform": "none"},
    "hadamard": BITS | {"transform": "hadamard"},
    "no clipping": BITS | {"clip": False},
}


@pytest.fixture(scope="module", autouse=True)
def compiled() -> None:
    """Where there is a compiler; asked for here, and not while tests are collected, for then it works alone."""
    if choice.active().library is None:
        pytest.skip("no compiled kernels on this machine")


def quantised(model: Any, seed: int = 0, **kwargs: Any) -> Any:
    return merged(with_students(model, config_for(model, **(kwargs or BITS)), seed))


@pytest.fixture(scope="module")
def shared() -> Any:
    """A quantised model for tests that leave it as it is."""
    return quantised(tiny())


@pytest.fixture
def model(shared: Any) -> Any:
    return copy.deepcopy(shared)


@contextmanager
def steps(monkeypatch: pytest.MonkeyPatch, allowed: bool = True, whole: bool = True) -> Iterator[list[bool]]:
    """Which calls of blocks were native, alone or all of a decoder at once; none where they are not allowed."""
    taken: list[bool] = []
    step, decoder_step = decoding.step, decoding.decoder_step

    def watched(*args: Any) -> Any:
        y = step(*args) if allowed else None
        taken.append(y is not None)
        return y

    def watched_decoder(decoder: Any, *args: Any) -> Any:
        y = decoder_step(decoder, *args) if allowed and whole else None
        taken.extend([True] * (0 if y is None else len(decoder.layers)))
        return y

    with monkeypatch.context() as patch:
        patch.setattr(decoding, "step", watched)
        patch.setattr(decoding, "decoder_step", watched_decoder)
        yield taken


def continued(model: Any, cache: Any, ids: Tensor, mask: Tensor | None = None, **kwargs: Any) -> Any:
    with torch.no_grad():
        return model(ids, attention_mask=mask, past_key_values=cache, **kwargs)


def begun(model: Any, batch: int = 1, length: int = 20, seed: int = 0) -> DynamicCache:
    """A cache that the ordinary way has begun."""
    cache = DynamicCache(config=model.config)
    with pytest.MonkeyPatch.context() as monkeypatch, steps(monkeypatch, allowed=False):
        continued(model, cache, tokens(batch, length, seed))
    return cache


def both(monkeypatch: pytest.MonkeyPatch, call: Callable[[], Any], native: bool = True) -> tuple[Any, Any]:
    """What a call gives with native steps and without; `native` says whether any, and all, are expected."""
    with steps(monkeypatch) as taken:
        found = call()
    assert taken
    assert all(taken) if native else not any(taken)
    with steps(monkeypatch, allowed=False):
        return found, call()


def assert_same(monkeypatch: pytest.MonkeyPatch, model: Any, native: bool = True, seed: int = 0) -> Tensor:
    """One token after a cache that the ordinary way has begun."""
    cache = begun(model, seed=seed)
    ids = tokens(1, 1, seed + 1)
    found, expected = both(monkeypatch, lambda: continued(model, copy.deepcopy(cache), ids).logits, native)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    return found


def assert_same_codes(ours: DynamicCache, theirs: DynamicCache) -> None:
    for a, b in zip(ours.layers, theirs.layers, strict=True):
        for x, y in zip(a.tokens, b.tokens, strict=True):  # pyright: ignore[reportAttributeAccessIssue]
            assert (x.start, x.stop, x.nbytes) == (y.start, y.stop, y.nbytes)
            for ours_part, theirs_part in zip(x.parts, y.parts, strict=True):
                used = [part[..., x.start : x.stop, :] for part in (ours_part, theirs_part)]
                torch.testing.assert_close(*used, rtol=1e-6, atol=0)


# -- the same numbers --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("family", ["llama", "llama_biased", "qwen2", "qwen3"])
def test_padded_batches_of_all_families_write_the_same(
    family: str, attention: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = quantised(tiny(family, attn_implementation=attention), k_bits=4, v_bits=4, a_bits=8, w_bits=4)
    ids = tokens(3, 9)
    mask = torch.ones_like(ids)
    mask[0, :4] = 0

    def written() -> Any:
        return model.generate(
            ids, attention_mask=mask, max_new_tokens=5, do_sample=False, output_logits=True,
            return_dict_in_generate=True,
        )  # fmt: skip

    with steps(monkeypatch) as taken:
        found = written()
    with steps(monkeypatch, allowed=False):
        expected = written()
    assert taken == [True] * 10
    assert torch.equal(found.sequences, expected.sequences)
    torch.testing.assert_close(found.logits, expected.logits, rtol=1e-5, atol=1e-5)
    assert_same_codes(found.past_key_values, expected.past_key_values)


@pytest.mark.parametrize("name", SETTINGS)
def test_all_bits_and_transforms(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = quantised(tiny(), **SETTINGS[name])
    found = continued(model, begun(model), tokens(1, 1))
    assert found.logits.isfinite().all()
    assert_same(monkeypatch, model)


@pytest.mark.parametrize(("size", "native"), [(8, True), (2, False)])
def test_grouped_weights(size: int, native: bool, model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for layer in [module for module in model.modules() if isinstance(module, QuantizedLinear)]:
        layer.weight_scale = layer.weight_scale * torch.linspace(0.5, 2, layer.in_features // size)
    assert_same(monkeypatch, model, native)


@settings(max_examples=12)
@given(
    kv_heads=st.integers(1, 3),
    group=st.integers(1, 3),
    head_dim=st.sampled_from([2, 6, 10, 16, 34]),
    width=st.sampled_from([2, 5, 7]),
    wide=st.sampled_from([7, 33, 50]),
    batch=st.integers(1, 4),
    n=st.integers(1, 4),
    past=st.sampled_from([1, 63, 64, 130]),
    seed=st.integers(0, 99),
)
def test_any_sizes(
    kv_heads: int, group: int, head_dim: int, width: int, wide: int, batch: int, n: int, past: int, seed: int
) -> None:
    config: Any = LlamaConfig(
        vocab_size=64, hidden_size=width * kv_heads * group, intermediate_size=wide, num_hidden_layers=1,
        head_dim=head_dim, num_attention_heads=kv_heads * group, num_key_value_heads=kv_heads,
        attention_bias=seed % 2 > 0,
    )  # fmt: skip
    config._attn_implementation = "eager"
    model = quantised(randomised(LlamaForCausalLM(config), seed), seed, k_bits=4, v_bits=4, a_bits=16)
    cache, ids = begun(model, batch, past, seed), tokens(batch, n, seed + 1)
    with pytest.MonkeyPatch.context() as monkeypatch:
        found, expected = both(monkeypatch, lambda: continued(model, copy.deepcopy(cache), ids).logits)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_short_prompts_begin_a_cache(shared: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def prompt() -> tuple[Tensor, DynamicCache]:
        cache = DynamicCache(config=shared.config)
        return continued(shared, cache, tokens(2, 6)).logits, cache

    (found, ours), (expected, theirs) = both(monkeypatch, prompt)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert_same_codes(ours, theirs)
    assert ours.get_seq_length() == 6


def test_padding_that_sees_nothing_changes_no_other_token(shared: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    ids, mask = tokens(2, 7), torch.ones(2, 7, dtype=torch.long)
    mask[0, :3] = 0
    found, expected = both(monkeypatch, lambda: continued(shared, DynamicCache(config=shared.config), ids, mask).logits)
    torch.testing.assert_close(found[mask > 0], expected[mask > 0], rtol=1e-5, atol=1e-5)


# -- many tokens -------------------------------------------------------------------------------------------------------

PROMPTS = ["W4A4KV4", "K8 symmetric, V3", "W8A8Q8, K2 V8", "W3A6KV5", "no matrices", "no clipping"]


@settings(max_examples=12)
@given(
    name=st.sampled_from(PROMPTS),
    batch=st.integers(1, 3),
    n=st.sampled_from([17, 31, 32, 33, 64, 97]),
    past=st.sampled_from([0, 1, 63, 70]),
    padding=st.sampled_from([0, 0, 3]),
    attention=st.sampled_from(["sdpa", "eager"]),
    seed=st.integers(0, 99),
)
def test_prompts_of_any_length(
    name: str, batch: int, n: int, past: int, padding: int, attention: str, seed: int
) -> None:
    """Logits and codes; a sequence of 97 tokens is three pieces of queries and two chunks of the cache."""
    model = quantised(tiny(attn_implementation=attention, max_position_embeddings=256), seed, **SETTINGS[name])
    ids, mask = tokens(batch, n, seed), torch.ones(batch, past + n, dtype=torch.long)
    mask[0, :padding] = 0

    def prompt() -> tuple[Tensor, DynamicCache]:
        cache = DynamicCache(config=model.config)
        if past:
            with pytest.MonkeyPatch.context() as patch, steps(patch, allowed=False):
                continued(model, cache, tokens(batch, past, seed + 1), mask[:, :past])
        return continued(model, cache, ids, mask).logits, cache

    with pytest.MonkeyPatch.context() as monkeypatch:
        (found, ours), (expected, theirs) = both(monkeypatch, prompt)
    seen = mask[:, past:] > 0
    close = (found - expected)[seen].abs().amax(-1) < 1e-4
    assert close.float().mean() > 0.8  # a code that turns over moves one token, and few that follow
    assert ours.get_seq_length() == theirs.get_seq_length() == past + n


def test_a_prompt_in_pieces(shared: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = tokens(2, 50)

    def prompt() -> tuple[Tensor, DynamicCache]:
        cache = DynamicCache(config=shared.config)
        return continued(shared, cache, ids).logits, cache

    whole, ours = prompt()
    monkeypatch.setattr(decoding, "MOST_TOKENS", 44)
    calls, native = [], decoding._native
    monkeypatch.setattr(decoding, "_native", lambda library: calls.append(library) or native(library))
    pieces, theirs = prompt()
    assert len(calls) == 3  # 22, 22 and 6 tokens of each sequence
    torch.testing.assert_close(whole, pieces, rtol=1e-5, atol=1e-5)
    assert_same_codes(ours, theirs)


def test_prompts_through_numbers_take_the_ordinary_way(monkeypatch: pytest.MonkeyPatch) -> None:
    model = quantised(tiny(), **SETTINGS["W4A16"])
    with steps(monkeypatch) as taken:
        continued(model, DynamicCache(config=model.config), tokens(1, 17))
    assert taken == [False, False]


# -- a whole decoder ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3"])
def test_a_token_is_one_call(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, calls, native = quantised(tiny(family)), [], decoding._native

    def recorded(library: Any) -> Any:
        calls.append(library)
        return native(library)

    monkeypatch.setattr(decoding, "_native", recorded)
    ids = tokens(2, 9)
    model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=5, do_sample=False)
    assert len(calls) == 5


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_blocks_alone_compute_what_they_compute_together(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """In half precision, too: what lies between two blocks is then rounded, and hardly differs."""
    model = in_format(quantised(tiny(), k_bits=8, v_bits=8, w_bits=8, a_bits=16), dtype)
    cache, ids = begun(model, 2), tokens(2, 3, 1)
    together = continued(model, copy.deepcopy(cache), ids).logits
    with steps(monkeypatch, whole=False) as taken:
        alone = continued(model, copy.deepcopy(cache), ids).logits
    assert taken == [True, True]
    exact = dtype is torch.float32
    assert together.dtype == alone.dtype == dtype
    torch.testing.assert_close(together, alone, rtol=1e-5 if exact else 0, atol=1e-5 if exact else 0.1)


def heard_embedding(model: Any) -> None:
    model.model.embed_tokens.register_forward_hook(lambda module, args, y: 2 * y)


def heard_last_norm(model: Any) -> None:
    model.model.norm.register_forward_hook(lambda module, args, y: 2 * y)


def heard_block(model: Any) -> None:
    model.model.layers[1].register_forward_hook(lambda module, args, y: y.flip(-1))


def turned_otherwise(model: Any) -> None:
    model.model.rotary_emb.forward = lambda x, position_ids: (torch.ones(1, 1, 6), torch.zeros(1, 1, 6))


def fewer_blocks(model: Any) -> None:
    model.config.num_hidden_layers = 1


def blocks_in_another_order(model: Any) -> None:
    model.model.layers = nn.ModuleList([model.model.layers[1], model.model.layers[0]])


def the_same_block_twice(model: Any) -> None:
    model.model.layers[1] = model.model.layers[0]


def own_decoder(model: Any) -> None:
    forward = model.model.forward
    model.model.forward = lambda *args, **kwargs: forward(*args, **kwargs | {"position_ids": torch.tensor([[3]])})


def changed_last_norm(model: Any) -> None:
    model.model.norm.weight.data = model.model.norm.weight.data * 2


def other_place(model: Any) -> None:
    weight = model.model.norm.weight
    weight.data = torch.stack([weight.data, 2 * weight.data])[1]


def other_strides(model: Any) -> None:
    model.model.norm.weight.data = model.model.norm.weight.data.neg()[:1].expand(model.model.norm.weight.shape)


def swapped(model: Any) -> None:
    torch.utils.swap_tensors(model.model.norm.weight, nn.Parameter(2 * model.model.norm.weight.detach()))


def other_table_of_hooks(model: Any) -> None:
    norm = model.model.layers[0].input_layernorm
    norm._forward_hooks = OrderedDict()
    norm.register_forward_hook(lambda module, args, y: 2 * y)


def other_parameters(model: Any) -> None:
    norm = model.model.layers[0].input_layernorm
    norm._parameters = {"weight": nn.Parameter(2 * norm.weight.detach())}


def other_attributes(model: Any) -> None:
    norm = model.model.layers[0].input_layernorm
    norm.__dict__ = dict(norm.__dict__, variance_epsilon=10.0)


def own_inner_call(model: Any) -> None:
    model.model.layers[0].mlp._call_impl = lambda x: 2 * x


def own_compiled_call(model: Any) -> None:
    """As `Module.compile` leaves it."""
    model.model.layers[0].mlp._compiled_call_impl = lambda x: 2 * x


OF_DECODERS = [
    other_place, other_strides, swapped, other_table_of_hooks, other_parameters, other_attributes,
    heard_embedding, heard_last_norm, heard_block, turned_otherwise, fewer_blocks, blocks_in_another_order,
    the_same_block_twice, own_decoder, changed_last_norm, own_inner_call, own_compiled_call,
]  # fmt: skip


@pytest.mark.parametrize("change", OF_DECODERS, ids=lambda change: change.__name__)
def test_changes_of_a_decoder_are_seen(change: Any, model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def logits() -> Tensor:
        return continued(model, copy.deepcopy(cache), tokens(1, 1, 1)).logits

    cache = begun(model)
    before = logits()
    change(model)
    after = logits()
    with steps(monkeypatch, allowed=False):
        torch.testing.assert_close(after, logits(), rtol=1e-5, atol=1e-5)
    assert not torch.allclose(before, after, atol=1e-3)


def doubled(module: Any, x: Tensor) -> Tensor:
    return 2 * x


def other_call_of_a_class(model: Any, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(type(model.model.norm), "__call__", doubled)


def other_call_of_all_modules(model: Any, patch: pytest.MonkeyPatch) -> None:
    call = nn.Module.__call__

    def heard(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        y = call(module, *args, **kwargs)
        return 2 * y if module is model.model.layers[0].mlp else y

    patch.setattr(nn.Module, "__call__", heard)


def other_inner_call(model: Any, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(type(model.model.norm), "_call_impl", doubled)


def other_code(model: Any, patch: pytest.MonkeyPatch) -> None:
    """As reloading tools exchange it, in the function that stays."""
    forward = type(model.model.norm).forward
    while hasattr(forward, "__wrapped__"):
        forward = forward.__wrapped__
    patch.setattr(forward, "__code__", doubled.__code__)


def twice(owner: Any, name: str) -> Callable[[Any, pytest.MonkeyPatch], None]:
    """A change that lets a function give twice what it gave, as who wraps it in the place it is called from does."""

    def change(model: Any, patch: pytest.MonkeyPatch) -> None:
        function = getattr(owner, name)

        @wraps(function)
        def doubling(*args: Any, **kwargs: Any) -> Any:
            y = function(*args, **kwargs)
            return 2 * y if isinstance(y, Tensor) else tuple(2 * part for part in y if part is not None)

        patch.setattr(owner, name, doubling)

    change.__name__ = f"{owner.__name__}.{name}"
    return change


def other_mask(model: Any, patch: pytest.MonkeyPatch) -> None:
    """As models of prefixes exchange it: here, only the first token is seen."""
    mask = torch.full((1, 1, 1, 21), float("-inf"))
    mask[..., 0] = 0
    patch.setattr(modeling_llama, "create_causal_mask", lambda *args, **kwargs: mask)


@pytest.mark.parametrize(
    "change",
    [
        other_call_of_a_class, other_call_of_all_modules, other_inner_call, other_code, other_mask,
        twice(QuantizedLinear, "forward"), twice(OnlineTransform, "forward"), twice(SiLUActivation, "forward"),
        twice(F, "silu"), twice(F, "scaled_dot_product_attention"), twice(modeling_llama, "rotate_half"),
    ],
    ids=lambda change: change.__name__,
)  # fmt: skip
def test_changes_of_classes_are_seen(change: Any, model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def logits() -> Tensor:
        return continued(model, copy.deepcopy(cache), tokens(1, 1, 1)).logits

    cache = begun(model)
    before = logits()
    with monkeypatch.context() as patch:
        change(model, patch)
        after = logits()
        with steps(monkeypatch, allowed=False):
            torch.testing.assert_close(after, logits(), rtol=1e-5, atol=1e-5)
    assert not torch.allclose(before, after, atol=1e-3)
    assert torch.equal(logits(), before)  # native again


@pytest.mark.parametrize("function", [modeling_llama.LlamaModel.forward, nn.Module.__call__])
def test_what_was_wrapped_before_is_not_taken_for_the_original(function: Any) -> None:
    @wraps(function)  # says that it is of the same module
    def heard(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    assert of_transformers(function)
    assert of_transformers(heard) == ()


# -- the cache ---------------------------------------------------------------------------------------------------------


def test_both_ways_take_turns_on_one_cache(shared: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    turns, alone = begun(shared, 2), begun(shared, 2)
    for i in range(16):
        ids = tokens(2, 1 + i % 3 * 3, seed=i)
        with steps(monkeypatch, allowed=i % 2 > 0):
            found = continued(shared, turns, ids).logits
        with steps(monkeypatch, allowed=False):
            expected = continued(shared, alone, ids).logits
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert_same_codes(turns, alone)


@pytest.mark.parametrize(
    "change",
    [
        lambda cache: cache.crop(-7),
        lambda cache: cache.reorder_cache(torch.tensor([1, 1])),
        lambda cache: cache.batch_select_indices(torch.tensor([1])),
        lambda cache: cache.batch_repeat_interleave(2),
        lambda cache: cache.layers[0].tokens[0].change(lambda part: part.transpose(0, 1).contiguous().transpose(0, 1)),
        lambda cache: cache.reset(),
    ],
    ids=["crop", "reorder", "select", "repeat", "strides", "reset"],
)
def test_changes_of_the_cache_are_seen(change: Any, shared: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def after() -> tuple[Tensor, DynamicCache]:
        cache = begun(shared, 2)
        continued(shared, cache, tokens(2, 1))
        change(cache)
        rows = 2 if not cache.layers[0].is_initialized else cache.layers[0].tokens[0].parts[0].shape[0]  # pyright: ignore
        return continued(shared, cache, tokens(1, 1).expand(rows, 1)).logits, cache

    with steps(monkeypatch) as taken:
        found, ours = after()
    assert taken[-2:] == [True, True]
    with steps(monkeypatch, allowed=False):
        expected, theirs = after()
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert_same_codes(ours, theirs)


def test_a_copied_cache_is_another(shared: Any) -> None:
    cache = begun(shared)
    continued(shared, cache, tokens(1, 1))
    copied = copy.deepcopy(cache)
    expected = continued(shared, copied, tokens(1, 1, 5)).logits
    continued(shared, cache, tokens(1, 1, 7))
    other = copy.deepcopy(cache)
    other.crop(-1)
    assert torch.equal(continued(shared, other, tokens(1, 1, 5)).logits, expected)


def test_room_grows_rarely(shared: Any) -> None:
    cache, places = begun(shared), set()
    for i in range(100):
        continued(shared, cache, tokens(1, 1, i))
        places.add(cache.layers[0].tokens[0].parts[0].data_ptr())  # pyright: ignore[reportAttributeAccessIssue]
    assert len(places) <= 4


def test_beams_draws_and_assistants_write_the_same(shared: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = tokens(2, 9)
    common: dict[str, Any] = {"attention_mask": torch.ones_like(ids), "max_new_tokens": 6}
    ways: list[dict[str, Any]] = [
        {"num_beams": 3, "do_sample": False},
        {"do_sample": True, "top_k": 5},
        {"do_sample": False, "repetition_penalty": 1.5},
    ]

    def written() -> list[Tensor]:
        torch.manual_seed(0)
        found = [shared.generate(ids, **common, **way) for way in ways]
        one: dict[str, Any] = {"attention_mask": torch.ones(1, 9, dtype=torch.long), "max_new_tokens": 6}
        found.append(shared.generate(ids[:1], **one, do_sample=False, assistant_model=shared))
        return [*found, shared.generate(ids[:1], **one, do_sample=False, prompt_lookup_num_tokens=2)]

    found = written()
    with steps(monkeypatch, allowed=False):
        expected = written()
    for a, b in zip(found, expected, strict=True):
        assert torch.equal(a, b)


# -- changes after the first call --------------------------------------------------------------------------------------


def in_place(model: Any) -> None:
    model.model.layers[1].mlp.up_proj.weight_scale.mul_(1.5)
    model.model.layers[0].self_attn.k_proj.weight.bitwise_xor_(0x31)
    model.model.layers[0].self_attn.cache_transform.key_matrix.mul_(0.7)
    with torch.no_grad():
        model.model.layers[0].input_layernorm.weight.mul_(2)


def through_data(model: Any) -> None:
    layer = model.model.layers[1].self_attn.o_proj
    layer.weight_scale.data = layer.weight_scale.data * 3
    layer.weight.data[:] = layer.weight.data.flip(0)
    matrix = model.model.layers[0].mlp.input_transform.factor_0
    matrix.data = matrix.data.mT.contiguous()


def loaded(model: Any) -> None:
    model.load_state_dict({name: tensor.clone() for name, tensor in quantised(tiny(), 3).state_dict().items()})


def replaced(model: Any) -> None:
    other = quantised(tiny(), 5).model.layers[0]
    model.model.layers[0].self_attn.v_proj = other.self_attn.v_proj
    model.model.layers[0].post_attention_layernorm = other.post_attention_layernorm
    model.model.layers[1].mlp.down_proj.transform.factor_0 = other.mlp.down_proj.transform.factor_0.mT.contiguous()


def other_settings(model: Any) -> None:
    model.model.layers[0].self_attn.scaling = 0.1
    model.model.layers[1].input_layernorm.variance_epsilon = 0.3
    model.model.layers[1].mlp.gate_proj.bits = LinearBits(4, 6)
    model.model.layers[0].self_attn.q_proj.input_max.sub_(2)


def one_bias(model: Any) -> None:
    model.model.layers[0].self_attn.q_proj.bias = torch.linspace(-1, 1, 24)


def moved(model: Any) -> None:
    model.to(torch.float64).to(torch.float32)


CHANGES = [in_place, through_data, loaded, replaced, other_settings, one_bias, moved]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_the_next_call_sees_a_change(change: Any, model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    before = assert_same(monkeypatch, model)
    change(model)
    after = assert_same(monkeypatch, model)
    assert change is moved or not torch.allclose(before, after, atol=1e-3)


def test_a_matrix_that_is_transposed_where_it_lies(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    before = assert_same(monkeypatch, model)
    for block in model.model.layers:
        block.mlp.input_transform.factor_0.data = block.mlp.input_transform.factor_0.data.mT
    assert not torch.allclose(before, assert_same(monkeypatch, model, native=False), atol=1e-3)


def heard(model: Any) -> None:
    model.model.layers[0].self_attn.q_proj.register_forward_hook(lambda module, args, y: 2 * y)


def heard_before(model: Any) -> None:
    model.model.layers[1].mlp.register_forward_pre_hook(lambda module, args: (2 * args[0],))


def other_activation(model: Any) -> None:
    model.model.layers[0].mlp.act_fn = nn.GELU()


def unquantised(model: Any) -> None:
    model.model.layers[0].mlp.up_proj = nn.Linear(24, 40)


def own_forward(model: Any) -> None:
    norm = model.model.layers[0].input_layernorm
    norm.forward = lambda x: 3 * x


def queries_off(model: Any) -> None:
    model.model.layers[0].self_attn.cache_transform.bits["k"] = 16


def other_projection(model: Any) -> None:
    model.model.layers[1].self_attn.q_proj = nn.Sequential(model.model.layers[1].self_attn.q_proj, nn.Tanh())


def low_rank(model: Any) -> None:
    class LowRank(nn.Module):
        def __init__(self, layer: nn.Module) -> None:
            super().__init__()
            self.base_layer = layer

        def forward(self, x: Tensor) -> Tensor:
            return self.base_layer(x) + x.sum(-1, keepdim=True)

    model.model.layers[0].mlp.gate_proj = LowRank(model.model.layers[0].mlp.gate_proj)


REFUSED = [heard, heard_before, other_activation, unquantised, own_forward, queries_off, other_projection, low_rank]


@pytest.mark.parametrize("change", REFUSED, ids=lambda change: change.__name__)
def test_what_is_not_known_takes_the_ordinary_way(change: Any, model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    before = assert_same(monkeypatch, model)
    change(model)
    with steps(monkeypatch) as taken:
        after = continued(model, begun(model), tokens(1, 1, 1)).logits
    assert sorted(taken) == [False, True]  # the other block stays native
    assert not torch.allclose(before, after, atol=1e-3)
    with steps(monkeypatch, allowed=False):
        torch.testing.assert_close(after, continued(model, begun(model), tokens(1, 1, 1)).logits, rtol=1e-5, atol=1e-5)


def test_a_hook_that_went_leaves_the_way_free(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    hook = model.model.layers[0].mlp.register_forward_hook(lambda module, args, y: 2 * y)
    continued(model, begun(model), tokens(1, 1))
    hook.remove()
    assert_same(monkeypatch, model)


# -- who listens -------------------------------------------------------------------------------------------------------


def test_attentions_and_hidden_states_can_be_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    model = quantised(tiny(attn_implementation="eager"))
    cache = begun(model)
    asked: dict[str, Any] = {"output_attentions": True, "output_hidden_states": True}
    with steps(monkeypatch):
        found = continued(model, copy.deepcopy(cache), tokens(1, 1), **asked)
    with steps(monkeypatch, allowed=False):
        expected = continued(model, copy.deepcopy(cache), tokens(1, 1), **asked)
    assert len(found.attentions) == 2
    assert len(found.hidden_states) == 3
    torch.testing.assert_close(found.attentions, expected.attentions)
    torch.testing.assert_close(found.hidden_states, expected.hidden_states)
    assert_same(monkeypatch, model)  # their idle hooks do not keep the way closed


def test_gradients_autocast_and_modes(shared: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with steps(monkeypatch) as taken:
        shared(tokens(1, 1), past_key_values=begun(shared))
        with torch.autocast("cpu", torch.bfloat16):
            continued(shared, begun(shared), tokens(1, 1))
        with FlopCounterMode(display=False):
            continued(shared, begun(shared), tokens(1, 1))
        with torch.no_grad():
            shared(tokens(1, 1), use_cache=False)
    assert not any(taken)


@pytest.mark.parametrize(
    "kwargs", [{"k_bits": 4, "v_bits": 16}, {"k_bits": 16, "v_bits": 4}, {"w_bits": 16, "k_bits": 4, "v_bits": 4}]
)
def test_bits_that_it_does_not_know(kwargs: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert_same(monkeypatch, quantised(tiny(), **kwargs), native=False)


@pytest.mark.parametrize("family", ["mistral", "gemma", "gemma2", "gemma3"])
def test_other_families_take_the_ordinary_way(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert_same(monkeypatch, quantised(tiny(family)), native=False)


def test_mistral_without_a_window(monkeypatch: pytest.MonkeyPatch) -> None:
    assert_same(monkeypatch, quantised(tiny("mistral", sliding_window=None)))


def test_left_out_blocks_and_static_caches(shared: Any, model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model.model.layers[0] = tiny().model.layers[0]
    with steps(monkeypatch) as taken:
        continued(model, begun(model), tokens(1, 1))
    assert taken == [True]
    with steps(monkeypatch) as taken:
        continued(shared, StaticCache(config=shared.config, max_cache_len=20), tokens(1, 5))
    assert not any(taken)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_computes_a_block_in_float32(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """As near to the model in float32 as the ordinary way is; a change of what is kept in half precision is seen."""
    plain = quantised(tiny(), k_bits=8, v_bits=8, w_bits=8, a_bits=16)
    half = in_format(copy.deepcopy(plain), dtype)
    wide = in_format(copy.deepcopy(half), torch.float32)  # the same numbers
    ids, start = tokens(1, 1, 1), tokens(1, 20, 0)

    def logits(model: Any) -> Tensor:
        cache = DynamicCache(config=model.config)
        continued(model, cache, start[:, :5])
        continued(model, cache, start[:, 5:])
        return continued(model, cache, ids).logits

    with steps(monkeypatch) as taken:
        found = logits(half)
    assert sum(taken) == 3 * len(half.model.layers)
    with steps(monkeypatch, allowed=False):
        ordinary, exact = logits(half), logits(wide)
    assert found.dtype == ordinary.dtype == dtype
    errors = [(logits.float() - exact).abs().mean() for logits in (found, ordinary)]
    assert errors[0] <= 1.2 * errors[1]
    assert errors[0] < 0.05 * exact.abs().mean()
    half.model.layers[0].input_layernorm.weight.data.mul_(2)
    wide.model.layers[0].input_layernorm.weight.data.mul_(2)
    again = logits(half)
    with steps(monkeypatch, allowed=False):
        assert (again.float() - logits(wide)).abs().mean() < 0.05 * exact.abs().mean()
    assert (again - found).abs().mean() > 0.05 * exact.abs().mean()


def test_kernels_that_were_not_chosen(shared: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with choice.use("torch"), steps(monkeypatch) as taken:
        continued(shared, begun(shared), tokens(1, 1))
    assert not any(taken)


def test_copies_and_pickles_are_models_of_their_own(shared: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = assert_same(monkeypatch, shared)
    for other in (copy.deepcopy(shared), pickle.loads(pickle.dumps(shared))):
        block = other.model.layers[0]
        assert block.structure is None
        assert type(block) is type(shared.model.layers[0])
        assert type(block).__name__ == "LlamaDecoderLayer"
        assert torch.equal(assert_same(monkeypatch, other), expected)
        block.mlp.gate_proj.weight_scale.mul_(2)
    assert torch.equal(assert_same(monkeypatch, shared), expected)


# -- threads -----------------------------------------------------------------------------------------------------------


def test_what_is_pointed_to_lives_as_long_as_it_is_held() -> None:
    """Another thread may ask for other cosines and sines while the first one's are read."""
    first, second = ((torch.randn(1, 2, 4).bfloat16(), torch.randn(1, 2, 4).bfloat16()) for _ in range(2))
    found = decoding._turned(first, 1, 2, 4)
    assert found is not None
    held, (cosines, sines, *_) = found
    decoding._turned(second, 1, 2, 4)
    assert [part.data_ptr() for part in held] == [cosines, sines]
    assert all(torch.equal(part, own.float()) for part, own in zip(held, first, strict=True))


def test_threads_are_those_that_were_set(shared: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "SPLIT", 0)
    monkeypatch.setattr(choice, "processors", lambda: 3)
    before, cache, found = torch.get_num_threads(), begun(shared, 2), []
    try:
        for n in (1, 2, 3):
            torch.set_num_threads(n)
            found.append(continued(shared, copy.deepcopy(cache), tokens(2, 1)).logits)
            assert torch.get_num_threads() == n
    finally:
        torch.set_num_threads(before)
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


def test_no_more_threads_than_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 64)
    monkeypatch.setenv("LOKY_MAX_CPU_COUNT", "1")
    choice.processors.cache_clear()
    try:
        assert choice.threads() == 1
        monkeypatch.delenv("LOKY_MAX_CPU_COUNT")
        choice.processors.cache_clear()
        assert 1 <= choice.threads() <= len(os.sched_getaffinity(0))
    finally:
        choice.processors.cache_clear()
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    assert choice.threads() == 1


@pytest.mark.parametrize("said", ["", "two", "1.5"])
def test_a_number_of_processors_that_is_none_is_told(said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOKY_MAX_CPU_COUNT", said)
    choice.processors.cache_clear()
    with pytest.raises(ArgumentError, match=f"^LOKY_MAX_CPU_COUNT='{said}' is no whole number; correct or unset it.$"):
        choice.threads()
    choice.processors.cache_clear()


def test_two_generations_at_once(shared: Any) -> None:
    def written(seed: int) -> Tensor:
        ids = tokens(1, 9, seed)
        return shared.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, do_sample=False)

    expected = [written(seed) for seed in range(4)]
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(written, range(4)))
    for a, b in zip(found, expected, strict=True):
        assert torch.equal(a, b)
